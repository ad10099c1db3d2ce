//! Brings a checkpoint to one host. What has not arrived there is sent again.

use std::collections::BTreeSet;

use jit_client::{Agent, CallError};
use jit_proto::{merkle::Hash, v1};

use super::{FleetError, Shared, link::Link};
use crate::{
    checkpoint::mailboxes::{Revocation, Snapshot, item},
    clock::now_ms,
    store::Delivery,
};

/// The host answers so when its configuration has no `[freshness]`.
const UNWANTED: &str = "not_permitted";

/// Most pieces that are sent again for one checkpoint: an agent names no more.
const AGAIN: usize = 64;

/// What a host said of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It contradicts another one: the word.
    Contradiction(String),
    /// Something has not arrived, also not when it was sent again.
    Missing,
    /// All has arrived, or it cannot be said.
    Nothing,
    /// It expects no checkpoints.
    Unwanted,
}

/// Asks the host, with the list if it wants that.
pub(super) async fn compare(
    shared: &Shared,
    (host, link): (&str, &Link),
    agent: &mut Agent,
    snapshot: &Snapshot,
) -> Said {
    match ask(shared, (host, link), agent, snapshot).await {
        Ok(said) => said,
        Err(CallError::Refused { word, .. }) if word == UNWANTED => Said::Unwanted,
        Err(error) => {
            tracing::debug!(%error, host, "what has arrived there is not known");
            Said::Nothing
        }
    }
}

async fn ask(
    shared: &Shared,
    (host, link): (&str, &Link),
    agent: &mut Agent,
    snapshot: &Snapshot,
) -> Result<Said, CallError> {
    let Some(request) = snapshot.request(host, false) else { return Ok(Said::Nothing) };
    let since_ms = now_ms();
    let mut answer = agent.compare_mailbox(request).await?;
    if answer.standing == "list_wanted" {
        let Some(request) = snapshot.request(host, true) else { return Ok(Said::Nothing) };
        answer = agent.compare_mailbox(request.clone()).await?;
        if answer.standing == "missing" {
            // On its way, or lost with a restart of the agent.
            match resend(shared, (host, link), agent, (&answer, since_ms)).await {
                Ok(true) => {}
                Ok(false) => return Ok(Said::Nothing),
                Err(trouble) => {
                    tracing::warn!(%trouble, host, "what has not arrived there is not sent again now");
                    return Ok(Said::Missing);
                }
            }
            answer = agent.compare_mailbox(request).await?;
        }
    }
    Ok(match answer.standing.as_str() {
        "forked" | "rolled_back" => Said::Contradiction(answer.standing),
        "list_wanted" | "missing" => Said::Missing,
        _ => Said::Nothing,
    })
}

/// What has not arrived, of a host's answer.
fn missing(answer: &v1::CompareMailboxResponse) -> BTreeSet<&Hash> {
    let (missing, _) = answer.first_missing.as_chunks();
    missing.iter().take(AGAIN).collect()
}

/// Whether something that a host did not have at that moment comes without being sent again: its first
/// attempt is to come, or the host has answered to it since then.
fn is_on_its_way(row: &Delivery, since_ms: i64) -> bool {
    (row.pending && row.attempts == 0) || row.answered_ms >= since_ms
}

/// Sends what has not arrived, but not what is on its way: while very much ends, a checkpoint doubles nothing.
/// The host's answers change nothing here: the outbox asks for its own. Returns `false` if all is on its way.
async fn resend(
    shared: &Shared,
    (host, link): (&str, &Link),
    agent: &mut Agent,
    (answer, since_ms): (&v1::CompareMailboxResponse, i64),
) -> Result<bool, FleetError> {
    let missing = missing(answer);
    let store = shared.outbox.store();
    let mut sent = missing.is_empty();
    let closings = store.closings_of(host, now_ms()).await?;
    let due =
        if closings.is_empty() { Vec::new() } else { store.closings_due(host, now_ms()).await? };
    for closing in closings.into_iter().filter(|closing| !due.contains(&closing.id)) {
        let envelope = closing.envelope.clone();
        let Some(envelope) = envelope.filter(|_| missing.contains(&Revocation::from(closing).item))
        else {
            continue;
        };
        sent = true;
        let what = Some(v1::revoke_request::What::Signed(envelope));
        match agent.revoke(v1::RevokeRequest { what, ..v1::RevokeRequest::default() }).await {
            // It is asked again by the closer, who also keeps its answer.
            Err(CallError::Refused { word, .. }) => {
                tracing::debug!(word, host, "a revocation has not arrived there, and is refused");
            }
            other => drop(other?),
        }
    }
    let mut envelopes = Vec::new();
    for mail in store.mail_of(host, now_ms()).await? {
        if !missing.contains(&item(&mail)) {
            continue;
        }
        let row = store.delivery(&mail.grant_id.to_string(), host).await?;
        if row.is_some_and(|row| is_on_its_way(&row, since_ms)) {
            continue;
        }
        sent = true;
        if mail.ended {
            let what = v1::revoke_request::What::GrantId(mail.grant_id.0.to_vec().into());
            let reason = "the controller has ended it".into();
            agent.revoke(v1::RevokeRequest { what: Some(what), reason, cut: false }).await?;
        } else if !link.may_be_disputed() {
            let grant = store.grant(&mail.grant_id.to_string()).await?;
            envelopes.extend(grant.and_then(|grant| grant.envelope));
        }
    }
    if !envelopes.is_empty() {
        agent.push_batch(envelopes).await?;
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Answer, store::Wanted};

    #[test]
    fn what_waits_for_its_first_attempt_or_was_answered_meanwhile_is_on_its_way() {
        let row = |pending, attempts, answered_ms| Delivery {
            grant_id: "01J00000000000000000000000".into(),
            host: "web-1".into(),
            request: "R".into(),
            wanted: Wanted::Revoke,
            pending,
            answer: Answer::Open,
            word: String::new(),
            detail: String::new(),
            trouble: String::new(),
            trouble_since_ms: 0,
            attempts,
            next_ms: 0,
            answered_ms,
            until_ms: i64::MAX,
        };
        for (row, expected) in [
            (row(true, 0, 0), true),
            // It has failed before: this may be sooner than the next attempt.
            (row(true, 1, 0), false),
            (row(false, 0, 1000), true),
            // The host has answered, and has lost it since then.
            (row(false, 0, 999), false),
        ] {
            assert_eq!(is_on_its_way(&row, 1000), expected, "{row:?}");
        }
    }

    #[test]
    fn a_host_that_names_very_much_causes_little_work() {
        let of = |bytes: Vec<u8>| v1::CompareMailboxResponse {
            first_missing: bytes.into(),
            ..v1::CompareMailboxResponse::default()
        };
        let many =
            (0..=u16::MAX).flat_map(|number| [[0; 30].as_slice(), &number.to_be_bytes()].concat());
        assert_eq!(missing(&of(many.collect())).len(), AGAIN);
        assert_eq!(missing(&of(vec![7; 3 * 32 + 5])), BTreeSet::from([&[7; 32]]));
        assert!(missing(&of(vec![7; 31])).is_empty());
    }
}
