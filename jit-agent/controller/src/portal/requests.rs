//! *Requests*: lists of them, and one with each host's own answer.

use askama::Template;
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jit_client::controller::types::RequestView;
use jit_proto::words::{self as text, counted};

use super::{
    files,
    guard::Fields,
    page::{Shell, page},
    words,
};
use crate::{
    api::{self, ApiState, Failure, Sight},
    clock,
    model::{Account, Answer, State as RequestState},
    people::session::SignedIn,
    store::{Page, Request},
};

/// Requests of one page.
const ROWS: u32 = 25;
/// Hosts and answers that one page shows.
const HOSTS: usize = 200;
/// Requests of somebody that an approver sees beside the one to decide.
const HISTORY: u32 = 10;

#[derive(Template)]
#[template(path = "requests.html")]
struct List {
    shell: Shell,
    which: &'static str,
    state: String,
    /// Only about this host; empty: about any.
    host: String,
    states: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
    /// The address of the next page; empty: there is none.
    next: String,
    live: String,
    script: &'static str,
}

/// One line of a list.
pub(super) struct Row {
    id: String,
    what: String,
    who: String,
    reason: String,
    state: &'static str,
    tone: &'static str,
    when: String,
    /// Time left; empty: it is not open.
    left: String,
}

#[derive(Template)]
#[template(path = "request.html")]
struct One {
    shell: Shell,
    view: RequestView,
    state: &'static str,
    tone: &'static str,
    left: String,
    answers: Vec<HostAnswer>,
    hosts_more: usize,
    history: Vec<Row>,
    key: String,
    live: String,
    script: &'static str,
}

/// What a host says.
struct HostAnswer {
    host: String,
    tone: &'static str,
    text: String,
}

impl One {
    fn moment(&self, ms: &i64) -> String {
        clock::moment(*ms)
    }

    fn may(&self, what: &str) -> bool {
        self.view.may.iter().any(|may| may == what)
    }
}

/// A list: `which` is `mine`, `decide` or `all`.
pub(super) async fn list(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let which = match fields.text("which") {
        "decide" => "decide",
        "all" => "all",
        _ => "mine",
    };
    let wanted = match which {
        "decide" => Some(RequestState::Pending),
        _ => RequestState::of_word(fields.text("state")),
    };
    let before = fields.text("before");
    let is_id = before.is_empty() || before.parse::<ulid::Ulid>().is_ok();
    let asked = Page {
        requester: if which == "mine" { account.subject.clone() } else { String::new() },
        state: wanted,
        host: fields.text("host").to_owned(),
        before: if is_id { before.to_owned() } else { String::new() },
        most: ROWS,
    };
    let (tip, _) = state.store().audit_tip().await?;
    let is_wanted = |request: &Request| which != "decide" || may_count(account, request);
    let (found, next) = api::visible(&state, account, asked, now_ms, is_wanted).await?;
    let address = |before: &str| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("which", which);
        for name in ["state", "host"] {
            if !fields.text(name).is_empty() {
                query.append_pair(name, fields.text(name));
            }
        }
        format!("/requests?{}", query.append_pair("before", before).finish())
    };
    let states = RequestState::ALL.iter().map(|state| (state.word(), words::state(*state)));
    let list = List {
        shell: Shell::of(&signed_in, if which == "decide" { "decide" } else { "requests" }),
        which,
        state: wanted.map_or(String::new(), |state| state.word().to_owned()),
        host: fields.text("host").to_owned(),
        states: states.collect(),
        rows: found.iter().map(|request| row(request, now_ms)).collect(),
        next: next.as_deref().map(address).unwrap_or_default(),
        live: format!("/live?after={tip}"),
        script: files::live(),
    };
    page(StatusCode::OK, &list)
}

/// Whether somebody's agreement may count for a request. Its own page asks the rules.
fn may_count(account: &Account, request: &Request) -> bool {
    let verdict = &request.verdict;
    let escalated = verdict.escalate.iter().map(|escalation| &escalation.group);
    !request.is_asked_by(account)
        && verdict.needs.0.keys().chain(escalated).any(|group| account.groups.contains(group))
}

/// One request.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let (account, now_ms) = (signed_in.account(), clock::now_ms());
    let (tip, _) = state.store().audit_tip().await?;
    let request = Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let may_sign = state.settings().relying_party().is_ok();
    let view = api::full(&state, account, may_sign, &id).await?;
    let now = RequestState::of_word(&view.state).unwrap_or(request.state);
    let decides = view.may.iter().any(|may| may == "approve");
    let history = match decides {
        true => history(&state, account, &request, now_ms).await?,
        false => Vec::new(),
    };
    let live = format!("/live?after={tip}&request={}", view.id);
    let one = One {
        shell: Shell::of(&signed_in, if decides { "decide" } else { "requests" }),
        state: words::state(now),
        tone: words::tone(now),
        left: left(now, view.ends_ms.unwrap_or(0), now_ms),
        answers: answers(&view),
        hosts_more: view.hosts.len().saturating_sub(HOSTS),
        history,
        key: ulid::Ulid::generate().to_string(),
        live,
        script: files::live(),
        view,
    };
    page(StatusCode::OK, &one)
}

/// What each host says, what needs a look first.
fn answers(view: &RequestView) -> Vec<HostAnswer> {
    let one = |answer: &jit_client::controller::types::AnswerView| {
        let detail = match (answer.word.as_str(), answer.detail.as_str()) {
            ("", "") => String::new(),
            (word, "") => format!(": {word}"),
            ("", detail) => format!(": {detail}"),
            (word, detail) => format!(": {detail} ({word})"),
        };
        let (rank, tone, text) = match Answer::of_word(&answer.answer) {
            Some(Answer::Refused) => (0, "bad", format!("refused{detail}")),
            _ if !answer.trouble.is_empty() => {
                (1, "bad", format!("does not answer: {}", answer.trouble))
            }
            Some(Answer::Waiting) | None => (2, "warn", "has not answered yet".to_owned()),
            Some(Answer::Open) if answer.pending => (3, "warn", "open, has to close".to_owned()),
            Some(Answer::Open) => (4, "good", "open".to_owned()),
            Some(Answer::Scheduled) => (5, "good", "accepted, begins later".to_owned()),
            Some(Answer::Closed) => (6, "", format!("closed{detail}")),
        };
        (rank, HostAnswer { host: answer.host.clone(), tone, text })
    };
    let mut all: Vec<_> = view.answers.iter().map(one).collect();
    all.sort_by_key(|(rank, _)| *rank);
    all.into_iter().map(|(_, answer)| answer).take(HOSTS).collect()
}

/// What this person asked for before.
async fn history(
    state: &ApiState,
    account: &Account,
    request: &Request,
    now_ms: i64,
) -> Result<Vec<Row>, Failure> {
    let page = Page {
        requester: request.proposal.requester.clone(),
        before: request.proposal.id.clone(),
        most: HISTORY,
        ..Page::default()
    };
    let (found, _) = api::visible(state, account, page, now_ms, |_| true).await?;
    Ok(found.iter().map(|request| row(request, now_ms)).collect())
}

fn row(request: &Request, now_ms: i64) -> Row {
    let asked = &request.proposal;
    let hosts = match asked.hosts.as_slice() {
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} and {}", counted(rest.len() as u64, "more host")),
        [] => String::new(),
    };
    let ports: Vec<_> = asked.ports.iter().take(4).map(ToString::to_string).collect();
    let ports = format!("{}{}", ports.join(", "), if asked.ports.len() > 4 { ", ..." } else { "" });
    Row {
        id: asked.id.clone(),
        what: format!("{ports} on {hosts}"),
        who: asked.requester.clone(),
        reason: asked.reason.chars().take(120).collect(),
        state: words::state(request.state),
        tone: words::tone(request.state),
        when: format!("{} ago", text::duration(now_ms.saturating_sub(asked.created_ms))),
        left: left(request.state, request.ends_ms, now_ms),
    }
}

fn left(state: RequestState, ends_ms: i64, now_ms: i64) -> String {
    if !state.is_on_hosts() || ends_ms <= now_ms {
        return String::new();
    }
    text::duration(ends_ms.saturating_sub(now_ms))
}
