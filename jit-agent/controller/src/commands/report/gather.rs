//! What a report says, from the database: tables of texts.

use std::collections::{BTreeMap, BTreeSet};

use jit_client::text::duration;
use jit_proto::{WallTime, words::counted};
use serde_json::Value;

use super::period::Period;
use crate::{
    audit::{Code, Line},
    model::{
        State,
        host::{Condition, Observed},
    },
    store::{Opened, Request, Store, StoreError, StoredHost},
};

/// The most names in one cell.
const NAMED: usize = 10;
/// The longest table of those who asked most, and of what took longest.
const TOP: usize = 20;
/// Hosts that are read at once.
const HOSTS: u32 = 1000;

/// A report.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// The time that it is about.
    pub(super) period: Period,
    /// When it was made, milliseconds since the Unix epoch.
    pub(super) made_ms: i64,
    /// Its tables.
    pub(super) tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Its name in files and JSON.
    pub(super) name: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// What it says, and what it does not.
    pub(super) note: String,
    /// Names of the columns.
    pub(super) heads: Vec<&'static str>,
    /// As many cells as there are columns.
    pub(super) rows: Vec<Vec<String>>,
}

/// Reads everything.
pub(super) async fn gather(
    store: &Store,
    period: Period,
    made_ms: i64,
) -> Result<Report, StoreError> {
    let mut known = Known::new(store, period).await?;
    let hosts = hosts(store).await?;
    let opened = store.opened_between(period.from_ms, period.to_ms).await?;
    let tables = vec![
        unused(&mut known, &opened).await?,
        denied(&mut known, period).await?,
        exemptions(&hosts),
        not_enforcing(&hosts),
        slow(&mut known, period).await?,
        askers(&known.submitted),
    ];
    Ok(Report { period, made_ms, tables })
}

/// Requests: those of the time, and others when they are asked for.
struct Known<'s> {
    store: &'s Store,
    submitted: Vec<Request>,
    others: BTreeMap<String, Option<Request>>,
}

impl<'s> Known<'s> {
    async fn new(store: &'s Store, period: Period) -> Result<Self, StoreError> {
        let submitted = store.requests_between(period.from_ms, period.to_ms).await?;
        let others = submitted.iter().map(|one| (one.proposal.id.clone(), Some(one.clone())));
        let others = others.collect();
        Ok(Self { store, submitted, others })
    }

    async fn request(&mut self, id: &str) -> Result<Option<&Request>, StoreError> {
        if !self.others.contains_key(id) {
            let read = self.store.request(id).await?;
            self.others.insert(id.to_owned(), read);
        }
        Ok(self.others.get(id).and_then(Option::as_ref))
    }
}

async fn hosts(store: &Store) -> Result<Vec<StoredHost>, StoreError> {
    let mut all: Vec<StoredHost> = Vec::new();
    loop {
        let after = all.last().map(|one| one.host.id.clone()).unwrap_or_default();
        let page = store.hosts(&after, HOSTS, None).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Of each request the hosts where nobody came in.
async fn unused(known: &mut Known<'_>, opened: &[Opened]) -> Result<Table, StoreError> {
    let mut by_request: BTreeMap<&str, Vec<&Opened>> = BTreeMap::new();
    for one in opened {
        by_request.entry(&one.request).or_default().push(one);
    }
    let mut rows = Vec::new();
    for (id, parts) in by_request {
        let idle: Vec<_> = parts.iter().filter(|one| one.hits == Some(0)).collect();
        if idle.is_empty() {
            continue;
        }
        let of = known.request(id).await?;
        let last_look = idle.iter().map(|one| one.seen_ms).min().unwrap_or_default();
        rows.push(vec![
            id.to_owned(),
            of.map(|one| one.proposal.requester.clone()).unwrap_or_default(),
            named(idle.iter().map(|one| one.host.as_str())),
            format!("{} of {}", idle.len(), parts.len()),
            time(idle.iter().map(|one| one.from_ms).min().unwrap_or_default()),
            time(idle.iter().map(|one| one.until_ms).max().unwrap_or_default()),
            time(last_look),
            of.map(|one| one.proposal.reason.clone()).unwrap_or_default(),
        ]);
    }
    let of = |wanted: fn(&Opened) -> bool| opened.iter().filter(|one| wanted(one)).count();
    let note = format!(
        "{} openings on hosts: {} were used, {} were not until the host was asked last, and of {} it \
         is not known.",
        opened.len(),
        of(|one| one.hits.is_some_and(|hits| hits > 0)),
        of(|one| one.hits == Some(0)),
        of(|one| one.hits.is_none()),
    );
    Ok(Table {
        name: "unused",
        title: "Open, and nobody came",
        note,
        heads: vec![
            "Request",
            "Who",
            "Hosts without a connection",
            "How many",
            "Open from",
            "Until",
            "Asked last",
            "Why",
        ],
        rows,
    })
}

async fn denied(known: &mut Known<'_>, period: Period) -> Result<Table, StoreError> {
    let mut lines = Vec::new();
    for code in [Code::Denied, Code::Expired, Code::SigningRefused] {
        lines.extend(known.store.audit_between(code, period.from_ms, period.to_ms).await?);
    }
    lines.sort_by_key(|line| line.seq);
    let mut rows = Vec::new();
    for line in &lines {
        let (who, hosts, state_why) = match known.request(&line.request).await? {
            Some(of) => (
                of.proposal.requester.clone(),
                named(of.proposal.hosts.iter().map(String::as_str)),
                of.why.clone(),
            ),
            None => Default::default(),
        };
        let why = match Code::of_id(&line.code) {
            Some(Code::Denied) => match text(line, "reason") {
                reason if reason.is_empty() => state_why,
                reason => reason,
            },
            Some(Code::Expired) => "nobody agreed in time".to_owned(),
            _ => format!("the signer refused: {state_why}"),
        };
        rows.push(vec![
            time(line.time_ms),
            line.request.clone(),
            who,
            hosts,
            text(line, "by"),
            why,
        ]);
    }
    Ok(Table {
        name: "denied",
        title: "Denied",
        note: format!("{} came to nothing.", counted(rows.len(), "request")),
        heads: vec!["When", "Request", "Who", "Hosts", "By", "Why"],
        rows,
    })
}

fn exemptions(hosts: &[StoredHost]) -> Table {
    let mut rows = Vec::new();
    for StoredHost { host, observed } in hosts {
        for port in &observed.ports {
            for one in &port.exemptions {
                let until =
                    if one.until_ms == 0 { "no end".to_owned() } else { time(one.until_ms) };
                rows.push(vec![
                    host.id.clone(),
                    port.port.clone(),
                    one.source.clone(),
                    one.owner.clone(),
                    until,
                    one.reason.clone(),
                ]);
            }
        }
    }
    let silent = hosts.iter().filter(|one| one.observed.seen_ms == 0).count();
    Table {
        name: "exemptions",
        title: "In without a grant",
        note: format!(
            "{}, as the hosts said when they answered last; hosts that have never answered: {silent} of \
             {}.",
            counted(rows.len(), "exemption"),
            hosts.len()
        ),
        heads: vec!["Host", "Port", "From", "Owner", "Until", "Why"],
        rows,
    }
}

fn not_enforcing(hosts: &[StoredHost]) -> Table {
    let mut rows = Vec::new();
    for StoredHost { host, observed } in hosts {
        let Observed { condition, since_ms, seen_ms, trouble, problems, ports, .. } = observed;
        let open: Vec<_> = ports.iter().filter(|port| port.mode == "observe").collect();
        if *condition == Condition::Enforcing && open.is_empty() {
            continue;
        }
        let mut what: Vec<String> = Vec::new();
        if !open.is_empty() {
            let ports = named(open.iter().map(|port| port.port.as_str()));
            what.push(format!("only observed: {ports}"));
        }
        what.extend(Some(trouble.clone()).filter(|text| !text.is_empty()));
        what.extend(problems.iter().take(NAMED).cloned());
        let moment = |ms: i64| if ms == 0 { "never".to_owned() } else { time(ms) };
        rows.push(vec![
            host.id.clone(),
            condition.word().replace('_', " "),
            moment(*since_ms),
            moment(*seen_ms),
            what.join("; "),
        ]);
    }
    Table {
        name: "not_enforcing",
        title: "Hosts that do not enforce everything",
        note: format!("{} of {}.", rows.len(), counted(hosts.len(), "host")),
        heads: vec!["Host", "State", "Since", "Answered last", "What is wrong"],
        rows,
    }
}

/// What people had to wait for longest.
async fn slow(known: &mut Known<'_>, period: Period) -> Result<Table, StoreError> {
    let lines = known.store.audit_between(Code::Granted, period.from_ms, period.to_ms).await?;
    let mut waits: Vec<(i64, Vec<String>)> = Vec::new();
    for line in &lines {
        let approvers = list(line, "approvers");
        // Nobody waits for what is approved automatically.
        if approvers.is_empty() {
            continue;
        }
        let Some(of) = known.request(&line.request).await? else { continue };
        let waited = line.time_ms.saturating_sub(of.proposal.created_ms);
        let row = vec![
            line.request.clone(),
            of.proposal.requester.clone(),
            named(of.proposal.hosts.iter().map(String::as_str)),
            span(waited),
            named(approvers.iter().map(String::as_str)),
        ];
        waits.push((waited, row));
    }
    let all = waits.len();
    waits.sort_by_key(|(waited, _)| std::cmp::Reverse(*waited));
    let rows: Vec<_> = waits.into_iter().take(TOP).map(|(_, row)| row).collect();
    Ok(Table {
        name: "slow",
        title: "Longest waits for people to agree",
        note: format!("The {} longest of {all}.", rows.len()),
        heads: vec!["Request", "Who", "Hosts", "Waited", "Agreed"],
        rows,
    })
}

fn askers(submitted: &[Request]) -> Table {
    #[derive(Default)]
    struct Count<'r> {
        all: usize,
        refused: usize,
        hosts: BTreeSet<&'r str>,
    }
    let mut counts: BTreeMap<&str, Count<'_>> = BTreeMap::new();
    for Request { proposal, state, .. } in submitted {
        let count = counts.entry(&proposal.requester).or_default();
        count.all += 1;
        let no = matches!(state, State::Denied | State::ExpiredUnapproved | State::Refused);
        count.refused += usize::from(no);
        count.hosts.extend(proposal.hosts.iter().map(String::as_str));
    }
    let people = counts.len();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.all));
    let row = |(who, count): (&str, Count<'_>)| {
        vec![
            who.to_owned(),
            count.all.to_string(),
            count.refused.to_string(),
            count.hosts.len().to_string(),
        ]
    };
    let rows: Vec<_> = counts.into_iter().take(TOP).map(row).collect();
    Table {
        name: "askers",
        title: "Who asked most",
        note: format!(
            "{}; people and programs that asked: {people}.",
            counted(submitted.len(), "request")
        ),
        heads: vec!["Who", "Requests", "Came to nothing", "Hosts"],
        rows,
    }
}

/// The first of them, and how many more there are.
fn named<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    let all: Vec<_> = texts.collect();
    let shown = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn text(line: &Line, field: &str) -> String {
    let record: Value = serde_json::from_str(&line.line).unwrap_or_default();
    record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(line: &Line, field: &str) -> Vec<String> {
    let record: Value = serde_json::from_str(&line.line).unwrap_or_default();
    let all = record.get(field).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn time(ms: i64) -> String {
    WallTime(ms).to_string()
}

fn span(ms: i64) -> String {
    duration(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}
