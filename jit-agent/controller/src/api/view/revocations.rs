//! Signed revocations.

use jit_client::controller::types::{RevocationHostView, RevocationView, RevokedWhat};
use jit_proto::GrantId;

use super::{moment, time};
use crate::store::{Closing, ClosingAnswer, ClosingCounts, closings::Heard};

/// Hosts that an answer names.
const NAMED: usize = 100;

/// A revocation, with what its hosts have answered.
pub(in crate::api) fn revocation(
    of: &Closing,
    counts: &ClosingCounts,
    now_ms: i64,
) -> RevocationView {
    let count =
        |heard| counts.get(&heard).and_then(|count| u64::try_from(*count).ok()).unwrap_or_default();
    let (delivered, refused, waiting) =
        (count(Heard::Delivered), count(Heard::Refused), count(Heard::Waiting));
    let message = &of.message;
    let state = match (of.trouble.is_empty(), of.signed_ms) {
        (false, _) => "signer_refused",
        (true, 0) => "signing",
        (true, _) if refused + waiting == 0 => "delivered",
        (true, _) if message.keep_until_ms <= now_ms => "ended",
        (true, _) => "delivering",
    };
    let (completed, completed_ms) = moment(of.complete_ms);
    let ids = message.grant_ids.iter().filter_map(|id| GrantId::from_bytes(id));
    RevocationView {
        id: of.id.clone(),
        state: state.to_owned(),
        why: of.trouble.clone(),
        every_host: message.every_host,
        hosts: message.hosts.iter().take(NAMED).cloned().collect(),
        what: RevokedWhat {
            all: message.all,
            requester: Some(message.requester.clone()).filter(|name| !name.is_empty()),
            grants: ids.map(|id| id.to_string()).collect(),
        },
        cut: message.cut,
        author: message.author.clone(),
        reason: message.reason.clone(),
        delivered,
        refused,
        waiting,
        made: time(message.issued_before_ms),
        made_ms: message.issued_before_ms,
        completed,
        completed_ms,
        keep_until: time(message.keep_until_ms),
        keep_until_ms: message.keep_until_ms,
    }
}

/// What a host has answered.
pub(in crate::api) fn revocation_host(of: ClosingAnswer) -> RevocationHostView {
    let ClosingAnswer { closing: _, host, heard, word, detail, answered_ms } = of;
    let (answered, answered_ms) = moment(answered_ms);
    RevocationHostView {
        host,
        answer: heard.word().to_owned(),
        word,
        detail,
        answered,
        answered_ms,
    }
}
