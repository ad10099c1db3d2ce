//! Brings a checkpoint to one host. What has not arrived there is sent again.

use std::collections::BTreeSet;

use jit_client::{Agent, CallError};
use jit_proto::{merkle::Hash, v1};

use super::{FleetError, Shared, link::Link};
use crate::{
    checkpoint::mailboxes::{Revocation, Snapshot, item},
    clock::now_ms,
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
    let mut answer = agent.compare_mailbox(request).await?;
    if answer.standing == "list_wanted" {
        let Some(request) = snapshot.request(host, true) else { return Ok(Said::Nothing) };
        answer = agent.compare_mailbox(request.clone()).await?;
        if answer.standing == "missing" {
            // On its way, or lost with a restart of the agent.
            if let Err(trouble) = resend(shared, (host, link), agent, &answer).await {
                tracing::warn!(%trouble, host, "what has not arrived there is not sent again now");
                return Ok(Said::Missing);
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

/// Sends what has not arrived. The host's answers change nothing here: the outbox asks for its own.
async fn resend(
    shared: &Shared,
    (host, link): (&str, &Link),
    agent: &mut Agent,
    answer: &v1::CompareMailboxResponse,
) -> Result<(), FleetError> {
    let missing = missing(answer);
    let store = shared.outbox.store();
    for closing in store.closings_of(host, now_ms()).await? {
        let envelope = closing.envelope.clone();
        let Some(envelope) = envelope.filter(|_| missing.contains(&Revocation::from(closing).item))
        else {
            continue;
        };
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
