//! Policies: read, put, removed. What they say comes to the hosts by `provision`.

use std::collections::BTreeSet;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::ETAG},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_client::controller::defender::{List, Machine, Policy, PolicyAnswer, Subscription};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    machines,
    path::{Name, Within, id, small_location},
    sections, show,
    standing::{self, Standing},
    trouble::Trouble,
};
use crate::{
    api::{
        ApiState,
        auth::{Caller, Scope},
        input::{Call, given_back},
        problem::{Failure, Word},
        sight::Sight,
    },
    audit::{self, Code, Record},
    clock,
    desk::new_id,
    model::Account,
    store::{DefenderMachine, DefenderPolicy, Tx, defender, rollouts::OF_DEFENDER},
};

/// Policies of one page. Azure's clients ask for no number.
const PAGE: u32 = 100;
/// Where a page begins, as Azure's addresses name it.
const SKIP: &str = "$skipToken";

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    value: Vec<PolicyAnswer>,
    /// Where it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_link: Option<String>,
}

/// Policies that the caller sees, in pages: a subscription may have thousands.
pub(super) async fn list(
    state: &ApiState,
    caller: &Caller,
    call: &Call,
    within: &Within,
) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Read)?;
    let now_ms = clock::now_ms();
    let mut sight = Sight::new(state, account, now_ms).await?;
    let Within { subscription, group, location } = within;
    let (store, after) = (state.store(), after(call)?);
    let found = store.defender_policies(subscription, group, location, &after, PAGE).await?;
    let is_full = found.len() == usize::try_from(PAGE).unwrap_or(usize::MAX);
    let next_link = found.last().filter(|_| is_full).map(|last| next_link(call, &last.key));
    let mut value = Vec::new();
    for stored in found {
        value.extend(show::policy(store, &mut sight, &stored, now_ms).await?);
    }
    Ok(Json(Listed { value, next_link }).into_response())
}

/// The key after which a page begins.
fn after(call: &Call) -> Result<String, Trouble> {
    let query = call.uri.query().unwrap_or_default();
    let mut named = form_urlencoded::parse(query.as_bytes());
    let Some((_, token)) = named.find(|(name, _)| name.eq_ignore_ascii_case(SKIP)) else {
        return Ok(String::new());
    };
    given_back(&token).ok_or_else(|| {
        let why = "it is not that of a nextLink; begin again without it";
        Trouble::new("InvalidRequestContent", Failure::field(SKIP, why))
    })
}

/// The address of the page after this key, at the name by which the caller came.
fn next_link(call: &Call, key: &str) -> String {
    let query = call.uri.query().unwrap_or_default();
    let mut next = form_urlencoded::Serializer::new(String::new());
    let kept = form_urlencoded::parse(query.as_bytes());
    next.extend_pairs(kept.filter(|(name, _)| !name.eq_ignore_ascii_case(SKIP)));
    next.append_pair(SKIP, &URL_SAFE_NO_PAD.encode(key));
    let host = match call.uri.authority() {
        Some(authority) => authority.as_str(),
        None => call.header("host"),
    };
    let site = if host.is_empty() { String::new() } else { format!("https://{host}") };
    format!("{site}{}?{}", call.uri.path(), next.finish())
}

/// Subscriptions of policies that the caller sees.
pub(super) async fn subscriptions(state: &ApiState, caller: &Caller) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Read)?;
    let sight = Sight::new(state, account, clock::now_ms()).await?;
    let store = state.store();
    let mut value = Vec::new();
    for subscription in store.defender_subscriptions().await? {
        let hosts = store.defender_hosts_of(&subscription).await?;
        let sees = sight.sees_all() || !machines::visible(store, &sight, &hosts).await?.is_empty();
        value.extend(sees.then(|| Subscription::new(&subscription)));
    }
    Ok(Json(List { value }).into_response())
}

/// One policy.
pub(super) async fn read(
    state: &ApiState,
    caller: &Caller,
    name: &Name,
) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Read)?;
    let missing = || Trouble::no_policy(&name.key());
    let stored = state.store().defender_policy(&name.key()).await?.ok_or_else(missing)?;
    answer(state, account, &stored).await?.ok_or_else(missing)
}

/// Makes a policy, or replaces all machines of it. `only_these`: machines that the body does not
/// name stay, and one without ports goes; Defender has no such call.
pub(super) async fn put(
    state: &ApiState,
    caller: &Caller,
    call: &Call,
    name: &Name,
    body: &Value,
    only_these: bool,
) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Policy)?;
    let mut policy = Policy::read(body)?;
    fits(name, &policy)?;
    let (store, now_ms) = (state.store(), clock::now_ms());
    let mut sight = Sight::new(state, account, now_ms).await?;
    let before = store.defender_policy(&name.key()).await?;
    if only_these {
        let missing = || Trouble::no_policy(&name.key());
        let before = before.as_ref().ok_or_else(missing)?;
        // Who does not see it hears nothing of it.
        show::policy(store, &mut sight, before, now_ms).await?.ok_or_else(missing)?;
        policy.machines = changed(before, policy.machines);
    }
    may_replace(state, &sight, before.as_ref()).await?;
    precondition(call, before.as_ref())?;
    let hosts = machines::hosts(store, &sight, &policy.machines).await?;
    if hosts.is_empty() && before.is_none() && !sight.sees_all() {
        let detail = "a policy without machines is an administrator's: name at least one";
        return Err(Failure::new(Word::Forbidden, detail).into());
    }
    let machine = |(machine, host): (Machine, &String)| DefenderMachine {
        resource: machine.id,
        host: host.clone(),
        ports: machine.ports,
    };
    let old_hosts = before.iter().flat_map(|old| &old.machines).map(|old| old.host.clone());
    let touched: BTreeSet<_> = old_hosts.chain(hosts.iter().cloned()).collect();
    let fresh = DefenderPolicy {
        id: new_id(now_ms),
        key: name.key(),
        subscription: name.subscription.clone(),
        resource_group: name.group.clone(),
        location: name.location.clone(),
        name: name.policy.clone(),
        kind: policy.kind,
        revision: 1,
        changed_by: account.subject.clone(),
        changed_ms: now_ms,
        machines: policy.machines.into_iter().zip(&hosts).map(machine).collect(),
    };
    let new = match before {
        None => fresh,
        Some(DefenderPolicy {
            id, subscription, resource_group, location, name, revision, ..
        }) => {
            let revision = revision.saturating_add(1);
            DefenderPolicy { id, subscription, resource_group, location, name, revision, ..fresh }
        }
    };
    // What has failed is tried again by the same policy.
    let ports = new.machines.iter();
    let ports = ports.map(|machine| (machine.host.as_str(), machine.ports.as_slice()));
    let standings = standing::of_hosts(store, ports).await?.into_iter();
    let failed = standings.filter(|(_, standing)| *standing == Standing::Failed);
    let failed: BTreeSet<_> = failed.map(|(host, _)| host.to_owned()).collect();
    let mut tx = store.begin().await?;
    record(&mut tx, account, &new, "put", now_ms).await?;
    defender::put(&mut tx, &new).await?;
    want(&mut tx, &new, touched, &failed).await?;
    state.commit(tx).await?;
    let shown = answer(state, account, &new).await?;
    shown.ok_or_else(|| Trouble::no_policy(&new.key))
}

/// Removes a policy. Its ports are again what they were before it came.
pub(super) async fn remove(
    state: &ApiState,
    caller: &Caller,
    call: &Call,
    name: &Name,
) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Policy)?;
    let (store, now_ms) = (state.store(), clock::now_ms());
    let mut sight = Sight::new(state, account, now_ms).await?;
    let nothing = || StatusCode::NO_CONTENT.into_response();
    let Some(old) = store.defender_policy(&name.key()).await? else { return Ok(nothing()) };
    if show::policy(store, &mut sight, &old, now_ms).await?.is_none() {
        return Ok(nothing());
    }
    may_replace(state, &sight, Some(&old)).await?;
    precondition(call, Some(&old))?;
    let touched = old.machines.iter().map(|machine| machine.host.clone()).collect();
    let mut tx = store.begin().await?;
    let gone = DefenderPolicy { changed_by: account.subject.clone(), ..old };
    record(&mut tx, account, &gone, "delete", now_ms).await?;
    defender::remove(&mut tx, &gone).await?;
    want(&mut tx, &gone, touched, &BTreeSet::new()).await?;
    state.commit(tx).await?;
    Ok(StatusCode::OK.into_response())
}

async fn answer(
    state: &ApiState,
    account: &Account,
    stored: &DefenderPolicy,
) -> Result<Option<Response>, Trouble> {
    let now_ms = clock::now_ms();
    let mut sight = Sight::new(state, account, now_ms).await?;
    let Some(shown) = show::policy(state.store(), &mut sight, stored, now_ms).await? else {
        return Ok(None);
    };
    let mut response = Json(shown).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(stored)) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(Some(response))
}

/// The machines of a policy after a change of some.
fn changed(before: &DefenderPolicy, changes: Vec<Machine>) -> Vec<Machine> {
    let is_named = |old: &&DefenderMachine| {
        changes.iter().any(|new| new.id.eq_ignore_ascii_case(&old.resource))
    };
    let kept = before.machines.iter().filter(|old| !is_named(old));
    let kept = kept.map(|old| Machine { id: old.resource.clone(), ports: old.ports.clone() });
    let mut machines: Vec<_> = kept.collect();
    machines.extend(changes.into_iter().filter(|new| !new.ports.is_empty()));
    machines
}

/// Whether a body belongs to its path.
fn fits(name: &Name, policy: &Policy) -> Result<(), Trouble> {
    let wrong = |field: &str, why: String| -> Result<(), Trouble> {
        Err(Trouble::new("InvalidRequestContent", Failure::field(field, why)))
    };
    let location = &policy.location;
    if !location.is_empty() && small_location(location) != small_location(&name.location) {
        let why = format!("{location:?} is not the location of the path, {:?}", name.location);
        return wrong("location", why);
    }
    if !policy.name.is_empty() && !policy.name.eq_ignore_ascii_case(&name.policy) {
        return wrong("name", format!("{:?} is not the name of the path", policy.name));
    }
    Ok(())
}

/// Who replaces a policy must be able to configure all that it protects now.
async fn may_replace(
    state: &ApiState,
    sight: &Sight<'_>,
    before: Option<&DefenderPolicy>,
) -> Result<(), Trouble> {
    let Some(before) = before else { return Ok(()) };
    let hosts: Vec<_> = before.machines.iter().map(|machine| machine.host.clone()).collect();
    if hosts.is_empty() && !sight.sees_all() {
        let detail = "a policy without machines is an administrator's";
        return Err(Failure::new(Word::Forbidden, detail).into());
    }
    machines::may_configure_all(state.store(), sight, &hosts).await
}

fn tag(policy: &DefenderPolicy) -> String {
    format!("\"{}\"", policy.revision)
}

/// `If-Match` against lost updates; `If-None-Match: *` makes a policy, and replaces none.
fn precondition(call: &Call, before: Option<&DefenderPolicy>) -> Result<(), Trouble> {
    let (wanted, none) = (call.header("if-match"), call.header("if-none-match"));
    let matches = |wanted: &str| {
        let tag = before.map(tag);
        wanted.split(',').map(str::trim).any(|one| match &tag {
            None => false,
            Some(tag) => one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag,
        })
    };
    if (!wanted.is_empty() && !matches(wanted)) || (!none.is_empty() && matches(none)) {
        let detail = match before {
            Some(before) => format!("the policy has the ETag {}", tag(before)),
            None => "there is no such policy".to_owned(),
        };
        return Err(Failure::new(Word::PreconditionFailed, detail).into());
    }
    Ok(())
}

/// The first of a change: who comes later waits at the audit, so that what hosts should protect
/// follows from all policies.
async fn record(
    tx: &mut Tx,
    account: &Account,
    policy: &DefenderPolicy,
    action: &str,
    now_ms: i64,
) -> Result<(), Trouble> {
    let machine = |machine: &DefenderMachine| json!({ "host": machine.host, "machine": machine.resource, "ports": machine.ports });
    let fields = json!({
        "account": account.name, "action": action, "policy": policy.key,
        "revision": policy.revision,
        "machines": policy.machines.iter().map(machine).collect::<Vec<_>>(),
    });
    let record = Record::new(Code::DefenderChanged, "", &account.subject, fields);
    audit::append(tx, now_ms, &record).await?;
    Ok(())
}

/// Sets what each of these hosts should protect by all policies.
async fn want(
    tx: &mut Tx,
    policy: &DefenderPolicy,
    hosts: BTreeSet<String>,
    again: &BTreeSet<String>,
) -> Result<(), Trouble> {
    let why = format!("{OF_DEFENDER}{}", id(policy));
    for host in hosts {
        let mut wanted: Vec<jit_client::controller::defender::Port> = Vec::new();
        for (key, ports) in defender::ports_of_host(tx, &host).await? {
            for port in ports {
                let meant = sections::ranges(&port);
                let taken = |other| sections::ranges(other).iter().any(|one| meant.contains(one));
                if wanted.iter().any(taken) {
                    let number = port.number;
                    let detail = format!("port {number} of {host} is in another policy too: {key}");
                    return Err(Failure::new(Word::Conflict, detail)
                        .next("name each port of a host in one policy only")
                        .into());
                }
                wanted.push(port);
            }
        }
        wanted.sort_by_key(|port| (port.number, port.protocol.word()));
        let again = again.contains(&host);
        defender::want(tx, &host, &wanted, &policy.changed_by, &why, again).await?;
    }
    Ok(())
}
