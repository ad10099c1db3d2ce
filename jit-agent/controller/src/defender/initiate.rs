//! Asking for access by a policy. It becomes a request of the desk for each set of sources, ports
//! and end: the rules judge it, people agree, and the host has the last word.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::defender::{Initiate, InitiatePort, RequestAnswer};
use jit_proto::{PortRange, SourcePrefix};
use serde_json::Value;

use super::{machines, path::Name, sections, show, trouble::Trouble};
use crate::{
    api::{
        ApiState,
        auth::{Caller, Scope},
        input::Call,
        problem::{Failure, Word},
        sight::Sight,
    },
    clock,
    desk::{Ask, new_id},
    model::{Outcome, State},
    store::{DefenderMachine, DefenderPolicy, defender},
};

/// What stands in a request for which nobody said why.
const NO_REASON: &str = "no justification was sent";

/// The most requests that one call becomes.
const MAX_ASKS: usize = 50;

/// What is asked for on one host: sources and end, as their texts, with the ports.
type Wishes = BTreeMap<(Vec<String>, i64), BTreeSet<String>>;

/// Submits what is asked for.
pub(super) async fn initiate(
    state: &ApiState,
    caller: &Caller,
    call: &Call,
    name: &Name,
    body: &Value,
) -> Result<Response, Trouble> {
    let account = caller.with(Scope::Request)?;
    let asked = Initiate::read(body)?;
    let (store, now_ms) = (state.store(), clock::now_ms());
    let missing = || Trouble::no_policy(&name.key());
    let policy = store.defender_policy(&name.key()).await?.ok_or_else(missing)?;
    let sight = Sight::new(state, account, now_ms).await?;
    let hosts: Vec<_> = policy.machines.iter().map(|machine| machine.host.clone()).collect();
    let visible = machines::visible(store, &sight, &hosts).await?;
    let visible: BTreeSet<_> = visible.into_iter().map(|host| host.id).collect();
    if visible.is_empty() {
        return Err(missing());
    }
    let origin = SourcePrefix::from(call.origin.address);
    let mut of_host: BTreeMap<&str, Wishes> = BTreeMap::new();
    for machine in &asked.machines {
        let known = policy.machines.iter().find(|known| {
            known.resource.eq_ignore_ascii_case(&machine.id) && visible.contains(&known.host)
        });
        let known = known.ok_or_else(|| not_a_subset(&policy))?;
        let wishes = of_host.entry(&known.host).or_default();
        for port in &machine.ports {
            let sources = port.sources(origin);
            let ports =
                within(known, port, &sources, now_ms).ok_or_else(|| not_a_subset(&policy))?;
            let mut texts: Vec<_> = sources.iter().map(ToString::to_string).collect();
            texts.sort();
            let ports = ports.iter().map(ToString::to_string);
            wishes.entry((texts, port.ends_ms)).or_default().extend(ports);
        }
    }
    let reason = match asked.justification.as_str() {
        "" => NO_REASON.to_owned(),
        reason => reason.to_owned(),
    };
    let asks = asks(of_host, &reason, now_ms);
    if asks.len() > MAX_ASKS {
        let why = format!(
            "it would become {} requests, one for each set of ports, sources and end; at most {MAX_ASKS}",
            asks.len()
        );
        let failure = Failure::field("virtualMachines", why).next("ask in several calls");
        return Err(Trouble::new("InvalidRequestContent", failure));
    }
    // All of them are looked at first: what is wrong with one is wrong with the whole call.
    let mut denied = None;
    for (index, ask) in asks.iter().enumerate() {
        let preview = state.desk().preview(account, ask.clone(), now_ms).await?;
        if preview.verdict.outcome == Outcome::Denied {
            denied = denied.or(Some(index));
        }
    }
    // What the rules deny is kept with its trace; nothing else of the call happens.
    let asks = match denied {
        Some(index) => asks.into_iter().skip(index).take(1).collect(),
        None => asks,
    };
    let resources: BTreeMap<_, _> = policy
        .machines
        .iter()
        .map(|machine| (machine.host.as_str(), machine.resource.as_str()))
        .collect();
    let mut answer = RequestAnswer {
        virtual_machines: Vec::new(),
        start_time_utc: show::time(now_ms),
        requestor: account.subject.clone(),
        justification: asked.justification.clone(),
    };
    for ask in asks {
        let key = format!("defender:{}", new_id(now_ms));
        let mut tx = store.begin().await?;
        defender::asked(&mut tx, &policy.id, &account.subject, &key, now_ms).await?;
        tx.commit().await.map_err(Failure::from)?;
        let request = state.desk().submit(account, ask, &key, now_ms).await?;
        if request.state == State::Denied {
            let detail = format!("request {}: {}", request.proposal.id, request.why);
            return Err(Failure::new(Word::Forbidden, detail).into());
        }
        let shown = show::request(&request, &resources, |_| None);
        for machine in shown.virtual_machines {
            match answer.virtual_machines.iter_mut().find(|one| one.id == machine.id) {
                Some(one) => one.ports.extend(machine.ports),
                None => answer.virtual_machines.push(machine),
            }
        }
    }
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Azure's own sentence.
fn not_a_subset(policy: &DefenderPolicy) -> Trouble {
    let detail = format!(
        "The given access request is not a subset of policy '{}'. Please make sure that the access \
         request is within the allowed policy properties.",
        policy.name
    );
    let next = "compare machines, ports, sources and end with the policy: GET it by its path";
    Trouble::new("BadRequest", Failure::new(Word::InvalidBody, detail).next(next))
}

/// The ports that are meant; `None`: the policy does not allow it.
fn within(
    machine: &DefenderMachine,
    asked: &InitiatePort,
    sources: &[SourcePrefix],
    now_ms: i64,
) -> Option<Vec<PortRange>> {
    let left_ms = asked.ends_ms.saturating_sub(now_ms);
    let mut ports = Vec::new();
    for port in machine.ports.iter().filter(|port| port.number == asked.number) {
        let allowed = port.sources();
        let is_allowed = |source: &SourcePrefix| allowed.iter().any(|one| one.contains(source));
        if left_ms <= 0 || left_ms > port.longest.millis() || !sources.iter().all(is_allowed) {
            return None;
        }
        ports.extend(sections::ranges(port));
    }
    (!ports.is_empty()).then_some(ports)
}

/// One request for all hosts on which the same is asked for.
fn asks(of_host: BTreeMap<&str, Wishes>, reason: &str, now_ms: i64) -> Vec<Ask> {
    let mut same: BTreeMap<(Vec<String>, i64, BTreeSet<String>), Vec<String>> = BTreeMap::new();
    for (host, wishes) in of_host {
        for ((sources, ends_ms), ports) in wishes {
            same.entry((sources, ends_ms, ports)).or_default().push(host.to_owned());
        }
    }
    let ask = |((sources, ends_ms, ports), hosts): ((Vec<String>, i64, BTreeSet<String>), _)| Ask {
        hosts,
        sources: sources.iter().filter_map(|text| text.parse().ok()).collect(),
        ports: ports.iter().filter_map(|text| text.parse().ok()).collect(),
        // With a beginning the end stays where it was asked for, however late people agree.
        duration_ms: ends_ms.saturating_sub(now_ms),
        start_ms: Some(now_ms),
        reason: reason.to_owned(),
        ticket: String::new(),
        sessions: None,
        max_connections: 0,
        replaces: None,
    };
    same.into_iter().map(ask).collect()
}
