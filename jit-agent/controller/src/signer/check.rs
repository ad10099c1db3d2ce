//! Whether a grant is what was agreed to. Pure: the time is an argument, and nothing is believed that
//! can be computed again.

use std::collections::BTreeSet;

use jit_proto::{GrantId, dsse::MAX_ENVELOPE_BYTES, exact, v1};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{SignRequest, narrower, refused::Refused, settings::Limits};
use crate::model::{
    Decision, GrantPart, Outcome, Rule, Ruling, grant,
    proposal::{MAX_AHEAD, MAX_HOSTS},
};

/// How much two clocks may differ, milliseconds.
pub(super) const SKEW_MS: i64 = 60_000;
/// The most people who must agree to one request, and the most decisions on it.
const MAX_PEOPLE: u32 = 256;
/// A request that was made before this time is not signed any more, milliseconds: its beginning is at
/// most 30 days after it.
pub(super) const MAX_AGE_MS: i64 = 40 * 24 * 3_600_000;

/// A grant that may be signed, if the journal does not say otherwise.
#[derive(Debug)]
pub(super) struct Passed {
    /// The grant, made again.
    pub(super) part: GrantPart,
    /// Id of the request, and a hash of what was agreed to, by whom, and when: the same for all of
    /// its grants.
    pub(super) request: (GrantId, [u8; 32]),
    /// The grant that must have been signed before, if nobody had to agree: its id and payload.
    pub(super) narrows: Option<(GrantId, Vec<u8>)>,
}

fn refuse<T>(word: &'static str, detail: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { word, detail: detail.into() })
}

/// Checks all that does not need the journal.
pub(super) fn grant(
    request: &SignRequest,
    limits: &Limits,
    now_ms: i64,
) -> Result<Passed, Refused> {
    let proposal = &request.proposal;
    match proposal.clone().checked() {
        Ok(checked) if checked == *proposal => {}
        Ok(_) => return refuse("malformed", "a list of the proposal is not in order"),
        Err(error) => return refuse("malformed", error.to_string()),
    }
    let Ok(id) = proposal.id.parse::<GrantId>() else {
        return refuse("malformed", "the id of the request is no ULID");
    };
    limits.allow(proposal)?;
    check_times(request, id, now_ms)?;
    if request.shortens.is_none() {
        check_agreement(request)?;
    }
    let replaces = check_replaces(request)?;
    let parts = grant::parts(proposal, &request.approvers, &replaces, request.approved_ms);
    let Some(mut parts) = parts else {
        return refuse("ended", "nothing of its time was left when it was approved");
    };
    if request.number >= parts.len() {
        return refuse(
            "payload_differs",
            format!("the request has {} grants, and no number {}", parts.len(), request.number),
        );
    }
    let part = parts.swap_remove(request.number);
    if part.payload != request.payload {
        return refuse("payload_differs", difference(&part.payload, &request.payload));
    }
    if part.not_after_ms <= now_ms {
        return refuse("ended", "its time has passed");
    }
    let narrows = match &request.shortens {
        Some(old) => Some(check_narrower(request, old)?),
        None => None,
    };
    Ok(Passed { part, request: (id, mark(request)), narrows })
}

/// Checks a policy; the settings decide whether any is signed. Its version may have been signed before:
/// a host takes one policy of a version, and one that it refused is written anew.
pub(super) fn policy(payload: &[u8], limits: &Limits, now_ms: i64) -> Result<(), Refused> {
    if !limits.policies {
        return refuse(
            "policies_off",
            "this signer signs no policies: write `policies = true` under [signer.limits] in \
             controller.toml, where the signer runs, and restart it",
        );
    }
    if payload.len() > MAX_ENVELOPE_BYTES {
        return refuse("malformed", format!("a policy has at most {MAX_ENVELOPE_BYTES} bytes"));
    }
    let policy: v1::Policy = match exact::decode("jit.v1.Policy", payload) {
        Ok(policy) => policy,
        Err(why) => return refuse("malformed", why),
    };
    if policy.hosts.is_empty() || policy.version == 0 || policy.author.is_empty() {
        return refuse("malformed", "a policy has hosts, a version and an author");
    }
    limits.allow_hosts(&policy.hosts)?;
    if policy.issued_at_ms > now_ms.saturating_add(SKEW_MS) {
        return refuse("clock_off", "it was made in the future: check the clock");
    }
    Ok(())
}

fn check_times(request: &SignRequest, id: GrantId, now_ms: i64) -> Result<(), Refused> {
    let SignRequest { proposal, approved_ms, decisions, .. } = request;
    let latest = now_ms.saturating_add(SKEW_MS);
    let decided = decisions.iter().map(|decision| decision.at_ms).max().unwrap_or(0);
    if (*approved_ms).max(proposal.created_ms).max(decided).max(made_ms(id)) > latest {
        return refuse(
            "clock_off",
            "it was made, decided or approved in the future: check the clocks of the controllers",
        );
    }
    if made_ms(id) < now_ms.saturating_sub(MAX_AGE_MS) {
        return refuse("too_old", "its id is of a time more than 40 days ago; ask again");
    }
    if *approved_ms < proposal.created_ms.saturating_sub(SKEW_MS) {
        return refuse("clock_off", "it was approved before it was made");
    }
    if decided > approved_ms.saturating_add(SKEW_MS) {
        return refuse("clock_off", "a decision came after the approval");
    }
    if *approved_ms > proposal.approve_until_ms {
        return refuse("too_late", "it was approved after the time for that had passed");
    }
    let ahead = i64::try_from(MAX_AHEAD.as_millis()).unwrap_or(i64::MAX);
    if proposal.start_ms.is_some_and(|start| start > now_ms.saturating_add(ahead + SKEW_MS)) {
        return refuse("over_limit", "it begins more than 30 days from now");
    }
    Ok(())
}

/// The time in a ULID, milliseconds since the Unix epoch.
pub(super) fn made_ms(GrantId([a, b, c, d, e, f, ..]): GrantId) -> i64 {
    i64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Whether the rules and the people that they name have agreed to exactly this.
fn check_agreement(request: &SignRequest) -> Result<(), Refused> {
    let SignRequest { proposal, verdict, decisions, approvers, .. } = request;
    let hash = proposal.hash();
    let most = usize::try_from(MAX_PEOPLE).unwrap_or(usize::MAX);
    let needed = verdict.needs.0.values().try_fold(0_u32, |sum, count| sum.checked_add(*count));
    if decisions.len() > most || needed.is_none_or(|needed| needed > MAX_PEOPLE) {
        return refuse("malformed", format!("more than {MAX_PEOPLE} people decide"));
    }
    for decision in decisions {
        let Decision { request, subject, account, hash: agreed, .. } = decision;
        if *request != proposal.id {
            let detail = format!("the decision of {subject:?} is of the request {request}");
            return refuse("other_request", detail);
        }
        if *agreed != hash {
            return refuse("hash_differs", format!("{subject:?} has decided on something else"));
        }
        if decision.ruling == Ruling::Deny {
            return refuse("denied", format!("{subject:?} has denied it"));
        }
        if *subject == proposal.requester {
            let detail = format!("{subject:?} has asked, and approves as {account:?}");
            return refuse("self_approval", detail);
        }
    }
    if let Some(most) = verdict.max_duration_ms.filter(|most| proposal.duration_ms > *most) {
        return refuse("over_limit", format!("the rules allow {} s", most / 1000));
    }
    // A part of a request that people must agree to may be one that goes by itself.
    let actions = match verdict.outcome {
        Outcome::Denied => return refuse("denied", verdict.denied.join("; ")),
        Outcome::Automatic if approvers.is_empty() => &["auto_approve"][..],
        Outcome::Automatic => {
            return refuse("approvers_differ", "nobody had to agree, and the grant names people");
        }
        Outcome::Manual => &["initiate", "auto_approve"],
    };
    if !verdict.denied.is_empty() {
        return refuse("denied", verdict.denied.join("; "));
    }
    check_trace(request, actions)?;
    if verdict.outcome == Outcome::Automatic {
        return Ok(());
    }
    if verdict.needs.is_empty() {
        return refuse("approval_missing", "people must agree, and the rules name none");
    }
    let missing = verdict.needs.missing(&proposal.requester, &hash, decisions);
    if !missing.is_empty() {
        return refuse("approval_missing", format!("missing: {}", missing.text()));
    }
    let agreed: BTreeSet<_> = decisions.iter().map(|decision| &decision.subject).collect();
    if approvers.len() != agreed.len() || !approvers.iter().all(|one| agreed.contains(one)) {
        let detail = "the grant names other people than those who have agreed";
        return refuse("approvers_differ", detail);
    }
    Ok(())
}

/// Whether rules that permit one of these actions matched on every host, and none forbids the first one.
/// A long list of hosts is cut in the trace: then their number counts.
fn check_trace(request: &SignRequest, actions: &[&str]) -> Result<(), Refused> {
    let of_actions = |rule: &&Rule| actions.contains(&rule.action.as_str());
    let (mut named, mut total, mut is_cut) = (BTreeSet::new(), 0_usize, false);
    for rule in request.verdict.rules.iter().filter(of_actions) {
        if rule.effect != "permit" {
            if actions.first() == Some(&rule.action.as_str()) {
                return refuse("denied", format!("the rule {:?} forbids it", rule.id));
            }
            continue;
        }
        named.extend(&rule.hosts);
        total = total.saturating_add(rule.hosts_total.min(MAX_HOSTS));
        is_cut |= rule.hosts_total > rule.hosts.len();
    }
    let hosts = &request.proposal.hosts;
    let missing = hosts.iter().find(|host| !named.contains(host));
    match missing {
        Some(_) if is_cut && total >= hosts.len() => Ok(()),
        Some(host) => refuse("not_covered", format!("no rule of the trace permits it on {host:?}")),
        None => Ok(()),
    }
}

/// The grants that end: those of the request that the proposal replaces, by number.
fn check_replaces(request: &SignRequest) -> Result<Vec<GrantId>, Refused> {
    let old = request.proposal.replaces.as_deref().map(str::parse::<GrantId>);
    let mut ids = Vec::new();
    for (number, id) in request.replaces.iter().enumerate() {
        let read = id.parse::<GrantId>().ok();
        let expected = match &old {
            Some(Ok(old)) => Some(grant::nth(*old, number)),
            _ => None,
        };
        match read.filter(|read| Some(*read) == expected) {
            Some(id) => ids.push(id),
            None => {
                let detail = format!("{id} is not a grant of the request that this one replaces");
                return refuse("replaces_differ", detail);
            }
        }
    }
    Ok(ids)
}

fn check_narrower(request: &SignRequest, old: &[u8]) -> Result<(GrantId, Vec<u8>), Refused> {
    if let Err(why) = narrower::narrows(old, &request.payload) {
        return refuse("widens", why);
    }
    let grant = v1::Grant::decode(old).ok();
    let id = grant.as_ref().and_then(|grant| GrantId::from_bytes(&grant.id));
    let (Some(grant), Some(id)) = (grant, id) else {
        return refuse("widens", "what it replaces is no grant");
    };
    if !request.approvers.iter().all(|one| grant.approvers.contains(one)) {
        let detail = "it names people who have not agreed to the grant that it replaces";
        return refuse("approvers_differ", detail);
    }
    Ok((id, old.to_vec()))
}

/// What was agreed to, by whom, and when.
fn mark(request: &SignRequest) -> [u8; 32] {
    let SignRequest { proposal, approved_ms, approvers, replaces, .. } = request;
    let said = serde_json::json!([proposal.hash(), approved_ms, approvers, replaces]);
    Sha256::digest(said.to_string()).into()
}

/// Names the first field that differs.
fn difference(made: &[u8], sent: &[u8]) -> String {
    let Ok(sent) = v1::Grant::decode(sent) else { return "it is no grant".to_owned() };
    let Ok(made) = v1::Grant::decode(made) else { return "it differs".to_owned() };
    let fields = [
        ("id", made.id == sent.id),
        ("hosts", made.hosts == sent.hosts),
        ("sources", made.sources == sent.sources),
        ("ports", made.ports == sent.ports),
        ("issued_at_ms", made.issued_at_ms == sent.issued_at_ms),
        ("not_before_ms", made.not_before_ms == sent.not_before_ms),
        ("not_after_ms", made.not_after_ms == sent.not_after_ms),
        ("requester", made.requester == sent.requester),
        ("approvers", made.approvers == sent.approvers),
        ("justification", made.justification == sent.justification),
        ("ticket", made.ticket == sent.ticket),
        ("sessions", made.sessions == sent.sessions),
        ("max_connections", made.max_connections == sent.max_connections),
        ("replaces", made.replaces == sent.replaces),
    ];
    match fields.iter().find(|(_, same)| !same) {
        Some((field, _)) => format!("`{field}` is not what was agreed to"),
        None => "its encoding is not the one that this version makes".to_owned(),
    }
}

#[cfg(test)]
mod tests;
