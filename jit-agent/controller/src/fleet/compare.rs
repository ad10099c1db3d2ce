//! Brings a checkpoint to one host. What has not arrived there is sent again.

use std::collections::BTreeSet;

use jit_client::{Agent, CallError};
use jit_proto::{merkle::Hash, v1};

use super::{FleetError, Shared, link::Link};
use crate::{
    checkpoint::mailboxes::{Snapshot, item},
    clock::now_ms,
};

/// The host answers so when its configuration has no `[freshness]`.
const UNWANTED: &str = "not_permitted";

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

/// Sends what has not arrived. The host's answers change nothing here: the outbox asks for its own.
async fn resend(
    shared: &Shared,
    (host, link): (&str, &Link),
    agent: &mut Agent,
    answer: &v1::CompareMailboxResponse,
) -> Result<(), FleetError> {
    let (missing, _) = answer.first_missing.as_chunks();
    let missing: BTreeSet<&Hash> = missing.iter().collect();
    let store = shared.outbox.store();
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
