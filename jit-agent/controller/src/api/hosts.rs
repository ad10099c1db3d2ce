//! Hosts: what administrators say of them, and what their agents answered.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{self, HostInput, HostView};
use serde_json::json;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params},
    problem::{Failure, Word},
    sight::Sight,
    state::ApiState,
    view,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    fleet::import,
    model::{
        Account, Host,
        host::{Condition, Observed},
    },
    rules::Action,
    store::{StoredHost, hosts},
};

/// Hosts that are looked at for one page of those that the account may see.
const MAX_SCAN: usize = 2000;
/// The most labels or groups of a host.
const MAX_WORDS: usize = 64;

#[derive(Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Only in this condition.
    condition: Option<String>,
    /// Only with this label: `env=prod`. It may be there several times: all must fit.
    label: Vec<String>,
    /// Only in this group.
    group: Option<String>,
    /// Only with alarms.
    alarms: Option<bool>,
    /// Items of a page, 1 to 500; 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

impl List {
    /// Reads them one by one, because `label` may be there several times.
    fn of(pairs: Vec<(String, String)>) -> Result<Self, Failure> {
        let mut list = Self::default();
        for (key, value) in pairs {
            let wrong = |why: &str| Failure::field(&key, format!("{value:?} {why}"));
            let whether = || value.parse().map_err(|_| wrong("is neither `true` nor `false`"));
            match key.as_str() {
                "condition" => list.condition = Some(value),
                "label" if value.contains('=') => list.label.push(value),
                "label" => return Err(wrong("is not KEY=VALUE")),
                "group" => list.group = Some(value),
                "alarms" => list.alarms = Some(whether()?),
                "limit" => list.limit = Some(value.parse().map_err(|_| wrong("is no number"))?),
                "cursor" => list.cursor = Some(value),
                _ => {
                    let detail = format!("there is no parameter {key:?}");
                    return Err(Failure::new(Word::InvalidQuery, detail));
                }
            }
        }
        Ok(list)
    }

    fn has(&self, known: &StoredHost) -> bool {
        let mut labels = self.label.iter().filter_map(|label| label.split_once('='));
        labels.all(|(key, value)| known.host.labels.get(key).is_some_and(|have| have == value))
            && self.group.as_ref().is_none_or(|group| known.host.groups.contains(group))
            && self.alarms.is_none_or(|wanted| wanted != known.observed.alarms.is_empty())
    }
}

/// Hosts that the caller may see, by id.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", params(List),
    responses((status = 200, body = types::Page<HostView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(pairs): Params<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let list = List::of(pairs)?;
    let room = usize::try_from(answer::page_size(list.limit)?).unwrap_or(usize::MAX);
    let condition = list.condition.as_deref();
    if condition.is_some_and(|word| Condition::of_word(word).word() != word) {
        let why = "one of enforcing, degraded, not_enforcing, unreachable, unknown";
        return Err(Failure::field("condition", why));
    }
    let mut after = answer::cursor(list.cursor.as_deref())?;
    let sight = Sight::new(&state, account, clock::now_ms()).await?;
    let (mut items, mut scanned) = (Vec::new(), 0);
    let chunk = u32::try_from(room).unwrap_or(u32::MAX).saturating_add(1);
    loop {
        let found = state.store().hosts(&after, chunk, condition).await?;
        let is_last = found.len() <= room;
        for known in found {
            if items.len() == room {
                return Ok(answer::page(&call, items, Some(after)));
            }
            scanned += 1;
            after.clone_from(&known.host.id);
            if list.has(&known) && sight.host(&known.host) {
                items.push(view::host(known));
            }
        }
        if is_last {
            return Ok(answer::page(&call, items, None));
        }
        if scanned >= MAX_SCAN {
            return Ok(answer::page(&call, items, Some(after)));
        }
    }
}

/// One host.
#[utoipa::path(get, path = "/api/v1/hosts/{id}", tag = "hosts",
    params(("id" = String, Path, description = "Id of the host.")),
    responses((status = 200, body = HostView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    Ok(answer::one(&call, &view::host(find(&state, account, &id).await?)))
}

/// Adds a host, or replaces what was said of it.
#[utoipa::path(put, path = "/api/v1/hosts/{id}", tag = "hosts",
    params(("id" = String, Path, description = "Id of the host.")),
    request_body = HostInput, responses((status = 200, body = HostView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Body(new): Body<HostInput>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Hosts)?;
    let HostInput { address, server_name, labels, groups } = new;
    let new = checked(Host { id, address, server_name, labels, groups })?;
    let now_ms = clock::now_ms();
    let before = state.store().host(&new.id).await?;
    // Who may configure the host as it is, and as it would be: nobody labels himself into a rule.
    let was = before.as_ref().map_or(&new, |known| &known.host);
    configures(&state, account, &[was, &new], now_ms).await?;
    if before.as_ref().is_none_or(|known| known.host != new) {
        let mut tx = state.store().begin().await?;
        hosts::put(&mut tx, &new).await?;
        let fields = json!({
            "account": account.name, "host": new.id, "address": new.address,
            "server_name": new.server_name, "labels": new.labels, "groups": new.groups,
            "is_new": before.is_none(),
        });
        let record = Record::new(Code::HostChanged, "", &account.subject, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await?;
    }
    let observed = before.map_or_else(Observed::default, |known| known.observed);
    Ok(answer::one(&call, &view::host(StoredHost { host: new, observed })))
}

/// Removes a host. What is open there stays open until its end: revoke it before.
#[utoipa::path(delete, path = "/api/v1/hosts/{id}", tag = "hosts",
    params(("id" = String, Path, description = "Id of the host.")), responses((status = 204)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Hosts)?;
    let now_ms = clock::now_ms();
    let known = find(&state, account, &id).await?;
    configures(&state, account, &[&known.host], now_ms).await?;
    let mut tx = state.store().begin().await?;
    if hosts::remove(&mut tx, &id).await? {
        let fields = json!({ "account": account.name, "host": id });
        let record = Record::new(Code::HostRemoved, "", &account.subject, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Says that a person has looked at a host's alarms.
#[utoipa::path(delete, path = "/api/v1/hosts/{id}/alarms", tag = "hosts",
    params(("id" = String, Path, description = "Id of the host.")), responses((status = 204)))]
pub(super) async fn clear_alarms(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Hosts)?;
    acknowledge(&state, account, &id, i64::MAX).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The same for alarms until a moment: later ones nobody has seen.
pub(crate) async fn acknowledge(
    state: &ApiState,
    account: &Account,
    id: &str,
    until_ms: i64,
) -> Result<(), Failure> {
    let now_ms = clock::now_ms();
    let known = find(state, account, id).await?;
    configures(state, account, &[&known.host], now_ms).await?;
    let mut tx = state.store().begin().await?;
    let mut words = Vec::new();
    if let Some(mut observed) = hosts::lock_observed(&mut tx, id).await? {
        let mut seen = observed.alarms.clone();
        seen.retain(|alarm| alarm.at_ms <= until_ms);
        observed.alarms.retain(|alarm| alarm.at_ms > until_ms);
        words = seen.into_iter().map(|alarm| alarm.word).collect();
        hosts::set_observed(&mut tx, id, &observed).await?;
    }
    let fields = json!({ "account": account.name, "host": id, "alarms": words });
    let record = Record::new(Code::HostAlarmsCleared, "", &account.subject, fields);
    audit::append(&mut tx, now_ms, &record).await?;
    Ok(state.commit(tx).await?)
}

/// A host that the account may see.
pub(crate) async fn find(
    state: &ApiState,
    account: &Account,
    id: &str,
) -> Result<StoredHost, Failure> {
    let missing = || Failure::not_found("host", id);
    let known = state.store().host(id).await?.ok_or_else(missing)?;
    let sight = Sight::new(state, account, clock::now_ms()).await?;
    if sight.host(&known.host) { Ok(known) } else { Err(missing()) }
}

/// A host that the account may see, or ask for access to.
pub(crate) async fn find_to_ask(
    state: &ApiState,
    account: &Account,
    id: &str,
) -> Result<StoredHost, Failure> {
    let missing = || Failure::not_found("host", id);
    let known = state.store().host(id).await?.ok_or_else(missing)?;
    let sight = Sight::new(state, account, clock::now_ms()).await?;
    let may = sight.host(&known.host) || sight.may(Action::Initiate, &known.host);
    if may { Ok(known) } else { Err(missing()) }
}

/// Refuses an account that may not configure one of these hosts.
pub(super) async fn configures(
    state: &ApiState,
    account: &Account,
    hosts: &[&Host],
    now_ms: i64,
) -> Result<(), Failure> {
    let sight = Sight::new(state, account, now_ms).await?;
    match sight.barred(Action::Configure, hosts.iter().copied()) {
        None => Ok(()),
        Some(host) => Err(Failure::new(
            Word::Forbidden,
            format!("the rules do not let {} configure {host}", account.name),
        )),
    }
}

/// Checks what administrators say of a host.
fn checked(host: Host) -> Result<Host, Failure> {
    for (field, count) in [("labels", host.labels.len()), ("groups", host.groups.len())] {
        if count > MAX_WORDS {
            return Err(Failure::field(
                field,
                format!("{count} of them; {MAX_WORDS} are possible"),
            ));
        }
    }
    match import::check(&host) {
        Ok(()) => Ok(host),
        Err(wrongs) => {
            let first = wrongs.into_iter().next();
            let (field, text) = first.map(|wrong| (wrong.path, wrong.text)).unwrap_or_default();
            Err(Failure::field(&field, text))
        }
    }
}
