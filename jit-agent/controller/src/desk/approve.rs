//! From enough agreement to what must be signed: the payloads, fixed in the same transaction.

use std::collections::BTreeSet;

use jit_proto::PortRange;
use serde_json::json;

use super::{CONTROLLER, DeskError};
use crate::{
    audit::{self, Code, Record},
    model::{Decision, Ruling, State, grant},
    store::{Request, StoredHost, Tx, grants, requests},
};

/// Approves a request, which these people have agreed to: its grants are made, and nobody has signed them. If
/// nothing of its time is left, it ends instead.
pub(super) async fn approve(
    tx: &mut Tx,
    request: &mut Request,
    hosts: &[StoredHost],
    approvers: &[String],
    now_ms: i64,
) -> Result<(), DeskError> {
    let replaces = match &request.proposal.replaces {
        Some(old) => grants::of_request(tx, old).await?.iter().map(|grant| grant.part.id).collect(),
        None => Vec::new(),
    };
    let Some(parts) = grant::parts(&request.proposal, approvers, &replaces, now_ms) else {
        request.state = State::ExpiredUnapproved;
        request.why = "it was approved after its end".into();
        requests::update(tx, request).await?;
        let record = Record::new(Code::Expired, &request.proposal.id, CONTROLLER, json!({}));
        audit::append(tx, now_ms, &record).await?;
        return Ok(());
    };
    let needed = signatures_needed(hosts, &request.proposal.ports);
    for (number, part) in parts.iter().enumerate() {
        grants::insert(tx, &request.proposal.id, number, part, needed).await?;
    }
    if let Some(old) = &request.proposal.replaces
        && let Some(mut old) = requests::lock(tx, old).await?
    {
        old.replaced_by.clone_from(&request.proposal.id);
        requests::update(tx, &old).await?;
    }
    request.state = State::Approved;
    request.why.clear();
    request.escalate_ms = 0;
    request.ends_ms = parts.first().map_or(0, |part| part.not_after_ms);
    requests::update(tx, request).await?;
    let fields = json!({
        "approvers": approvers,
        "hash": request.hash,
        "rules_version": request.verdict.rules_version,
        "rules": request.verdict.rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(),
        "grants": parts.iter().map(|part| json!({
            "id": part.id.to_string(), "payload_sha256": part.payload_hash(),
        })).collect::<Vec<_>>(),
        "not_after_ms": request.ends_ms,
        "signatures_needed": needed,
    });
    let record = Record::new(Code::Granted, &request.proposal.id, CONTROLLER, fields);
    audit::append(tx, now_ms, &record).await?;
    Ok(())
}

/// Those who agreed, by name.
pub(super) fn approvers(decisions: &[Decision]) -> Vec<String> {
    let agreed = decisions.iter().filter(|decision| decision.ruling == Ruling::Approve);
    let names: BTreeSet<_> = agreed.map(|decision| decision.subject.clone()).collect();
    names.into_iter().collect()
}

/// The most signatures that one of the hosts asks for at one of the ports, as far as it is known.
fn signatures_needed(hosts: &[StoredHost], ports: &[PortRange]) -> u32 {
    let asked = |wanted: &str| {
        let protected = wanted.parse::<PortRange>();
        protected.is_ok_and(|protected| ports.iter().any(|port| overlap(*port, protected)))
    };
    let all = hosts.iter().flat_map(|known| &known.observed.ports);
    all.filter(|port| asked(&port.port)).map(|port| port.approvals).max().unwrap_or(1).max(1)
}

fn overlap(one: PortRange, other: PortRange) -> bool {
    one.ports().any(|port| other.has(port))
}
