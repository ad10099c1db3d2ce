//! *Hosts*: what somebody must look at first, then by name.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    guard::Fields,
    host_words,
    page::{Shell, page},
    text::{Moment, address, segment},
    words,
};
use crate::{
    api::{ApiState, Failure, Sight},
    clock,
    model::{Host, host::Condition},
    people::session::SignedIn,
    store::{
        StoredHost,
        hosts::{ByNeed, Needy},
    },
};

/// Hosts of one page.
const ROWS: usize = 50;
/// Hosts of one question to the database.
const CHUNK: u32 = 100;
/// Hosts that are looked at for one page of those that the account may see.
const MAX_SCAN: usize = 1000;
/// Ports and labels that a row names.
const NAMED: usize = 6;
/// Longest text that is looked for, characters.
const LONGEST: usize = 200;

#[derive(Template)]
#[template(path = "hosts.html")]
struct List {
    shell: Shell,
    text: String,
    condition: String,
    conditions: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
    /// Where the list goes on; empty: it has ended.
    next: String,
    /// It is not the first page.
    is_later: bool,
}

struct Row {
    id: String,
    link: String,
    tone: &'static str,
    state: &'static str,
    /// What is wrong, a sentence each.
    wrong: Vec<String>,
    ports: String,
    labels: Vec<String>,
    seen: Option<Moment>,
}

/// What is looked for: parts of ids, labels (`env=prod`), groups (`group:web`).
struct Wanted<'t> {
    /// In the id: the database looks for the first, the rest is compared here.
    parts: Vec<String>,
    labels: Vec<(&'t str, &'t str)>,
    groups: Vec<&'t str>,
}

impl<'t> Wanted<'t> {
    fn of(text: &'t str) -> Self {
        let mut wanted = Self { parts: Vec::new(), labels: Vec::new(), groups: Vec::new() };
        for word in text.split_whitespace() {
            if let Some(group) = word.strip_prefix("group:") {
                wanted.groups.push(group);
            } else if let Some(label) = word.split_once('=') {
                wanted.labels.push(label);
            } else {
                wanted.parts.push(word.to_lowercase());
            }
        }
        wanted
    }

    fn has(&self, host: &Host) -> bool {
        let id = host.id.to_lowercase();
        let label =
            |(key, value): &(&str, &str)| host.labels.get(*key).is_some_and(|have| have == value);
        self.parts.iter().all(|part| id.contains(part))
            && self.labels.iter().all(label)
            && self.groups.iter().all(|group| host.groups.contains(*group))
    }
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let text: String = fields.text("q").chars().take(LONGEST).collect();
    let condition = fields.text("condition");
    let condition = match Condition::of_word(condition).word() {
        word if word == condition => word,
        _ => "",
    };
    let after = place(fields.text("after"))?;
    let sight = Sight::new(&state, signed_in.account(), clock::now_ms()).await?;
    let (found, next) = search(&state, &sight, &text, condition, after).await?;
    let now_ms = clock::now_ms();
    let next = next.map_or_else(String::new, |(place, id)| {
        let after = format!("{place}:{id}");
        address("/hosts", &[("q", &text), ("condition", condition), ("after", &after)])
    });
    let list = List {
        shell: Shell::of(&signed_in, "hosts"),
        condition: condition.to_owned(),
        conditions: host_words::ALL
            .iter()
            .map(|one| (one.word(), words::condition(*one)))
            .collect(),
        rows: found.into_iter().map(|known| row(known, now_ms)).collect(),
        next,
        is_later: !fields.text("after").is_empty(),
        text,
    };
    page(StatusCode::OK, &list)
}

/// Where a list goes on: place and id of the last host before.
fn place(text: &str) -> Result<(i64, String), Failure> {
    if text.is_empty() {
        return Ok((-1, String::new()));
    }
    let found = text.split_once(':').and_then(|(place, id)| Some((place.parse().ok()?, id)));
    let (place, id) = found.ok_or_else(|| {
        Failure::field("after", "it is not the address of a next page; begin with the first one")
    })?;
    Ok((place, id.to_owned()))
}

/// Hosts that the account sees, and where the list goes on.
async fn search(
    state: &ApiState,
    sight: &Sight<'_>,
    text: &str,
    condition: &str,
    mut after: (i64, String),
) -> Result<(Vec<StoredHost>, Option<(i64, String)>), Failure> {
    let wanted = Wanted::of(text);
    let part = wanted.parts.first().map_or("", String::as_str);
    let (mut found, mut scanned) = (Vec::new(), 0);
    loop {
        let question = ByNeed { text: part, condition, after: (after.0, &after.1), most: CHUNK };
        let some = state.store().hosts_by_need(&question).await?;
        let is_last = some.len() < usize::try_from(CHUNK).unwrap_or(usize::MAX);
        for Needy { place, known } in some {
            let fits = wanted.has(&known.host) && sight.host(&known.host);
            if fits && found.len() == ROWS {
                return Ok((found, Some(after)));
            }
            scanned += 1;
            after = (place, known.host.id.clone());
            if fits {
                found.push(known);
            }
        }
        if is_last {
            return Ok((found, None));
        }
        if scanned >= MAX_SCAN {
            return Ok((found, Some(after)));
        }
    }
}

fn row(known: StoredHost, now_ms: i64) -> Row {
    let StoredHost { host, observed } = known;
    let mut ports: Vec<_> =
        observed.ports.iter().take(NAMED).map(|port| port.port.as_str()).collect();
    if observed.ports.len() > NAMED {
        ports.push("...");
    }
    let labels = host.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let groups = host.groups.iter().map(|group| format!("group:{group}"));
    Row {
        link: format!("/host/{}", segment(&host.id)),
        tone: host_words::tone(&observed),
        state: words::condition(observed.condition),
        wrong: host_words::wrong(&observed),
        ports: ports.join(", "),
        labels: labels.chain(groups).take(NAMED).collect(),
        seen: Moment::of(observed.seen_ms, now_ms),
        id: host.id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_of_parts_labels_and_groups_together() {
        let host = Host {
            id: "Web-1.example.org".into(),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            groups: ["web".to_owned()].into(),
            ..Host::default()
        };
        for good in ["", "web", "WEB example", "env=prod", "1 env=prod group:web"] {
            assert!(Wanted::of(good).has(&host), "{good}");
        }
        for bad in ["db", "web db", "env=test", "env=", "group:db", "web group:db"] {
            assert!(!Wanted::of(bad).has(&host), "{bad}");
        }
    }

    #[test]
    fn a_list_goes_on_after_a_host_with_any_name() {
        assert_eq!(place("").unwrap(), (-1, String::new()));
        assert_eq!(place("3:a:b<script>").unwrap(), (3, "a:b<script>".to_owned()));
        assert!(place("web-1").is_err() && place("x:web-1").is_err());
    }
}
