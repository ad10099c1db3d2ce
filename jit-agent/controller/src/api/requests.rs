//! Requests: submit, list, read, and wait for what becomes of them.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jit_client::controller::types::{self, NewRequest, RequestSummary, RequestView};
use jit_proto::{PortRange, SourcePrefix};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params, duration_ms, moment_ms},
    problem::Failure,
    sight::Sight,
    state::ApiState,
    view, warnings,
};
use crate::{
    clock,
    desk::Ask,
    model::{Account, Answer, State as RequestState, proposal::SessionsWord},
    rules::Action,
    store::{Delivery, Page, Request, Whole},
};

/// Requests that are looked at for one page of those that the account may see.
const MAX_SCAN: u32 = 500;
/// Longest wait for what becomes of a request.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Longest key that a client may send.
const MAX_KEY: usize = 200;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Only in this state.
    state: Option<String>,
    /// Only about this host.
    host: Option<String>,
    /// Only of this person.
    requester: Option<String>,
    /// Only the caller's own.
    mine: Option<bool>,
    /// Items of a page, 1 to 500; 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Submit {
    /// Only say what would become of it.
    preview: Option<bool>,
    /// `open`: answer when every host has answered, or when it has come to an end.
    wait: Option<String>,
    /// Longest wait, at most `60s`; `30s`.
    timeout: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Read {
    /// `open`: answer when every host has answered, or when it has come to an end.
    wait: Option<String>,
    /// Longest wait, at most `60s`; `30s`.
    timeout: Option<String>,
}

/// Requests that the caller may see, the newest first.
#[utoipa::path(get, path = "/api/v1/requests", tag = "requests", params(List),
    responses((status = 200, body = types::Page<RequestSummary>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let wanted = list.state.as_deref().map(|word| {
        let why = || format!("{word:?} is no state; one of {}", words());
        RequestState::of_word(word).ok_or_else(|| Failure::field("state", why()))
    });
    let requester = match list.mine {
        Some(true) => account.subject.clone(),
        Some(false) | None => list.requester.unwrap_or_default(),
    };
    let page = Page {
        requester,
        state: wanted.transpose()?,
        host: list.host.unwrap_or_default(),
        before: answer::cursor(list.cursor.as_deref())?,
        most,
    };
    let (found, next) = visible(&state, account, page, clock::now_ms(), |_| true).await?;
    Ok(answer::page(&call, found.iter().map(view::summary).collect(), next))
}

/// Requests of this page that an account sees and that are wanted, and where the next page begins;
/// `None`: there is none.
///
/// # Errors
/// Those of the database.
pub(crate) async fn visible(
    state: &ApiState,
    account: &Account,
    mut page: Page,
    now_ms: i64,
    is_wanted: impl Fn(&Request) -> bool,
) -> Result<(Vec<Request>, Option<String>), Failure> {
    let room = usize::try_from(page.most).unwrap_or(usize::MAX);
    page.most = page.most.saturating_add(1);
    let mut sight = Sight::new(state, account, now_ms).await?;
    let (mut items, mut scanned) = (Vec::new(), 0_u32);
    loop {
        let found = state.store().requests(&page).await?;
        sight.prepare(&found).await?;
        let last_chunk = found.len() < usize::try_from(page.most).unwrap_or(usize::MAX);
        for request in found {
            if items.len() == room {
                // There is one more: the next page begins after the last that was looked at.
                return Ok((items, Some(page.before)));
            }
            scanned = scanned.saturating_add(1);
            page.before.clone_from(&request.proposal.id);
            if is_wanted(&request) && sight.request(&request).await? {
                items.push(request);
            }
        }
        if last_chunk {
            return Ok((items, None));
        }
        if scanned >= MAX_SCAN {
            return Ok((items, Some(page.before)));
        }
    }
}

fn words() -> String {
    RequestState::ALL.iter().map(|state| state.word()).collect::<Vec<_>>().join(", ")
}

/// Submits a request, or says what would become of it.
#[utoipa::path(post, path = "/api/v1/requests", tag = "requests", params(Submit,
    ("Idempotency-Key" = Option<String>, Header, description = "The same key is the same request.")),
    request_body = NewRequest,
    responses((status = 201, body = RequestView), (status = 200, body = types::Preview)))]
pub(super) async fn submit(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(how): Params<Submit>,
    Body(new): Body<NewRequest>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request)?;
    let wait = wait(how.wait.as_deref(), how.timeout.as_deref())?;
    let key = key(&call)?;
    let now_ms = clock::now_ms();
    let ask = ask(new, &call)?;
    if how.preview == Some(true) {
        return Ok(answer::one(&call, &previewed(&state, account, ask, now_ms).await?));
    }
    let request = state.desk().submit(account, ask, key, now_ms).await?;
    answer_changed(&state, &caller, account, request, wait, now_ms).await
}

/// What would become of a request.
///
/// # Errors
/// A field is wrong, or the database does not answer.
pub(crate) async fn previewed(
    state: &ApiState,
    account: &Account,
    ask: Ask,
    now_ms: i64,
) -> Result<types::Preview, Failure> {
    let preview = state.desk().preview(account, ask, now_ms).await?;
    let warnings = warnings::of(&preview, now_ms);
    Ok(view::preview(preview, warnings, now_ms))
}

/// One request.
#[utoipa::path(get, path = "/api/v1/requests/{id}", tag = "requests", params(Read,
    ("id" = String, Path, description = "Id of the request.")),
    responses((status = 200, body = RequestView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Params(how): Params<Read>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let wait = wait(how.wait.as_deref(), how.timeout.as_deref())?;
    let now_ms = clock::now_ms();
    let request = Sight::new(&state, account, now_ms).await?.find(&id).await?;
    let request = waited(&state, request, wait).await?;
    let may_sign = caller.with(Scope::Signatures).is_ok();
    let full = full(&state, account, may_sign, &request.proposal.id).await?;
    Ok(answer::one(&call, &full))
}

/// The answer to a call that made or changed a request.
pub(super) async fn answer_changed(
    state: &ApiState,
    caller: &Caller,
    account: &Account,
    request: Request,
    wait: Option<Instant>,
    now_ms: i64,
) -> Result<Response, Failure> {
    let is_new = request.proposal.created_ms == now_ms;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let request = waited(state, request, wait).await?;
    let path = format!("/api/v1/requests/{}", request.proposal.id);
    let may_sign = caller.with(Scope::Signatures).is_ok();
    let full = full(state, account, may_sign, &request.proposal.id).await?;
    Ok(answer::made(status, &path, &full))
}

/// A request with all that belongs to it. `may_sign`: the account can add signatures by this way.
///
/// # Errors
/// There is no such request, or the database does not answer.
pub(crate) async fn full(
    state: &ApiState,
    account: &Account,
    may_sign: bool,
    id: &str,
) -> Result<RequestView, Failure> {
    let now_ms = clock::now_ms();
    // Its state and the answers that it follows from belong together.
    let whole = state.store().whole(id).await?;
    let whole = whole.ok_or_else(|| Failure::not_found("request", id))?;
    let Whole { request, decisions, deliveries, grants } = whole;
    let (missing, eligible) = state.desk().open_needs(&request, now_ms).await?;
    let mut may = Vec::new();
    if eligible.iter().any(|one| one.subject == account.subject) {
        may.extend(["approve", "deny"]);
    }
    let is_mine = request.proposal.requester == account.subject;
    let waits = request.is_unfinished();
    if is_mine && waits {
        may.push("withdraw");
    }
    if is_mine && !request.state.is_final() && request.ends_ms != 0 {
        may.push("extend");
    }
    let ends = request.state.is_on_hosts() || (waits && request.state != RequestState::Pending);
    if ends && (is_mine || may_end(state, account, &request, now_ms).await?) {
        may.push("revoke");
        if request.state.is_on_hosts() && request.replaced_by.is_empty() {
            may.push("shorten");
        }
    }
    if request.state == RequestState::AwaitingSignatures
        && may_sign
        && !request.is_asked_by(account)
    {
        may.push("sign");
    }
    Ok(view::request(view::Parts {
        request,
        missing,
        eligible,
        decisions,
        deliveries,
        grants,
        may,
    }))
}

async fn may_end(
    state: &ApiState,
    account: &Account,
    request: &Request,
    now_ms: i64,
) -> Result<bool, Failure> {
    let sight = Sight::new(state, account, now_ms).await?;
    let hosts = state.store().hosts_by_id(&request.proposal.hosts).await?;
    Ok(sight.barred(Action::Revoke, hosts.iter().map(|known| &known.host)).is_none())
}

/// Until when a call waits.
pub(super) fn wait(wait: Option<&str>, timeout: Option<&str>) -> Result<Option<Instant>, Failure> {
    let longest = match timeout {
        None => Duration::from_secs(30),
        Some(_) => {
            let millis = duration_ms("timeout", timeout, None)?.unwrap_or(0);
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        }
    };
    if longest > MAX_WAIT {
        return Err(Failure::field("timeout", "a call waits at most 60s; call again then"));
    }
    match wait {
        None => Ok(None),
        Some("open") => Ok(Some(Instant::now() + longest)),
        Some(other) => {
            Err(Failure::field("wait", format!("{other:?} is not possible; only `open` is")))
        }
    }
}

/// The request when it has come to rest, or as it is at the end of the wait.
async fn waited(
    state: &ApiState,
    mut request: Request,
    until: Option<Instant>,
) -> Result<Request, Failure> {
    let Some(until) = until else { return Ok(request) };
    let mut changes = state.desk().changes();
    let id = request.proposal.id.clone();
    loop {
        // What is committed from here on is noticed below.
        changes.mark_unchanged();
        // The answers first: a state that is read after them knows of them.
        let deliveries = state.store().deliveries_of(&id).await?;
        request = state.store().request(&id).await?.unwrap_or(request);
        if at_rest(&request, &deliveries) {
            return Ok(request);
        }
        match timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            // The time has passed, or the controller ends.
            Ok(Err(_)) | Err(_) => return Ok(request),
        }
    }
}

/// Whether nothing more is to be expected soon: it has ended, or each host has answered or is
/// silent.
fn at_rest(request: &Request, deliveries: &[Delivery]) -> bool {
    let open = |one: &Delivery| one.answer == Answer::Waiting && one.trouble.is_empty();
    match request.state {
        RequestState::Open | RequestState::Scheduled => true,
        RequestState::Delivering | RequestState::Partly => !deliveries.iter().any(open),
        state => state.is_final(),
    }
}

/// The client's key.
pub(super) fn key(call: &Call) -> Result<&str, Failure> {
    let key = call.header("idempotency-key");
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if key.len() > MAX_KEY || !printable {
        let why = format!("at most {MAX_KEY} printable ASCII letters");
        return Err(Failure::field("Idempotency-Key", why));
    }
    Ok(key)
}

/// What is asked for, from what was sent.
///
/// # Errors
/// The field that is wrong.
pub(crate) fn ask(new: NewRequest, call: &Call) -> Result<Ask, Failure> {
    let duration = duration_ms("duration", new.duration.as_deref(), new.duration_ms)?;
    let duration_ms = duration
        .ok_or_else(|| Failure::field("duration", "say how long: `duration` or `duration_ms`"))?;
    let start_ms = moment_ms("start", new.start.as_deref(), new.start_ms)?;
    let source = |text: &String| match text.as_str() {
        "me" => Ok(SourcePrefix::from(call.origin.address)),
        text => text.parse::<SourcePrefix>().map_err(|why| wrong("sources", text, &why)),
    };
    let port = |text: &String| text.parse::<PortRange>().map_err(|why| wrong("ports", text, &why));
    let sessions = match new.sessions.as_deref() {
        None => None,
        Some("cut") => Some(SessionsWord::Cut),
        Some("drain") => Some(SessionsWord::Drain),
        Some(other) => {
            let why = format!("{other:?} is neither `cut` nor `drain`");
            return Err(Failure::field("sessions", why));
        }
    };
    Ok(Ask {
        hosts: new.hosts,
        sources: new.sources.iter().map(source).collect::<Result<_, _>>()?,
        ports: new.ports.iter().map(port).collect::<Result<_, _>>()?,
        duration_ms,
        start_ms,
        reason: new.reason,
        ticket: new.ticket,
        sessions,
        max_connections: new.max_connections,
        replaces: new.replaces,
    })
}

fn wrong(field: &str, text: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::field(field, format!("{text:?}: {why}"))
}
