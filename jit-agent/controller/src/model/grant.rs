//! From a proposal that was approved to the grants that say it: bytes that follow from it and from the
//! moment of approval, so that the signer can make them again and compare.

use jit_proto::{GrantId, v1};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{Proposal, proposal::SessionsWord};

/// The most hosts of one grant. An envelope has at most 256 KiB and an id at most 256 bytes.
pub const MAX_HOSTS: usize = 256;

/// A grant for some of a request's hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantPart {
    /// Id of the grant.
    pub id: GrantId,
    /// Hosts that it is for.
    pub hosts: Vec<String>,
    /// When it begins and ends, milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    /// At this very moment it lets nobody in any more.
    pub not_after_ms: i64,
    /// The encoded `jit.v1.Grant` that is signed.
    pub payload: Vec<u8>,
}

impl GrantPart {
    /// SHA-256 of the payload, as 64 hex digits.
    pub fn payload_hash(&self) -> String {
        hex::encode(Sha256::digest(&self.payload))
    }
}

/// The window of a proposal that is approved now: its beginning and its end.
pub fn window(proposal: &Proposal, now_ms: i64) -> (i64, i64) {
    let begin = proposal.start_ms.unwrap_or(now_ms).max(now_ms);
    // A start in the past does not make it longer: the end stays.
    let end = proposal.start_ms.unwrap_or(now_ms).saturating_add(proposal.duration_ms);
    (begin, end)
}

/// The grants of a proposal that was approved at this moment by these people. `replaces`: the ids of
/// the grants of the request that it replaces, part by part.
///
/// Returns `None` if nothing of its time is left.
pub fn parts(
    proposal: &Proposal,
    approvers: &[String],
    replaces: &[GrantId],
    now_ms: i64,
) -> Option<Vec<GrantPart>> {
    let (not_before_ms, not_after_ms) = window(proposal, now_ms);
    if not_after_ms <= not_before_ms {
        return None;
    }
    let first: GrantId = proposal.id.parse().ok()?;
    let part = |(number, hosts): (usize, &[String])| {
        let id = nth(first, number);
        let payload = v1::Grant {
            id: id.0.to_vec().into(),
            hosts: hosts.to_vec(),
            sources: proposal.sources.iter().map(v1::Source::from).collect(),
            ports: proposal.ports.iter().map(|range| v1::PortRange::from(*range)).collect(),
            issued_at_ms: now_ms,
            not_before_ms,
            not_after_ms,
            requester: proposal.requester.clone(),
            approvers: approvers.to_vec(),
            justification: proposal.reason.clone(),
            ticket: proposal.ticket.clone(),
            sessions: proposal.sessions.map_or(v1::Sessions::Unspecified, sessions).into(),
            max_connections: proposal.max_connections,
            replaces: replaces.get(number).map(|id| id.0.to_vec().into()).unwrap_or_default(),
        };
        let payload = payload.encode_to_vec();
        GrantPart { id, hosts: hosts.to_vec(), not_before_ms, not_after_ms, payload }
    };
    Some(proposal.hosts.chunks(MAX_HOSTS).enumerate().map(part).collect())
}

/// The id of a request's grant with this number: the first has the request's own id.
pub fn nth(first: GrantId, number: usize) -> GrantId {
    let step = u128::try_from(number).unwrap_or(0);
    GrantId(u128::from_be_bytes(first.0).wrapping_add(step).to_be_bytes())
}

const fn sessions(word: SessionsWord) -> v1::Sessions {
    match word {
        SessionsWord::Cut => v1::Sessions::Cut,
        SessionsWord::Drain => v1::Sessions::Drain,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::proposal::tests::ssh, *};

    const NOW: i64 = 1_803_888_060_000;

    #[test]
    fn a_request_without_a_start_has_its_whole_time_from_the_approval_on() {
        let [part] = &parts(&ssh(), &["li".into()], &[], NOW).unwrap()[..] else {
            panic!("one part")
        };
        let grant = v1::Grant::decode(part.payload.as_slice()).unwrap();
        assert_eq!((grant.not_before_ms, grant.not_after_ms), (NOW, NOW + 3_600_000));
        assert_eq!((grant.issued_at_ms, grant.approvers), (NOW, vec!["li".to_owned()]));
        assert_eq!(part.id.to_string(), ssh().id);
    }

    #[test]
    fn a_late_approval_does_not_make_a_scheduled_request_longer() {
        let planned = Proposal { start_ms: Some(NOW - 60_000), ..ssh() };
        let part = &parts(&planned, &[], &[], NOW).unwrap()[0];
        assert_eq!((part.not_before_ms, part.not_after_ms), (NOW, NOW - 60_000 + 3_600_000));
        let over = Proposal { start_ms: Some(NOW - 3_600_000), ..ssh() };
        assert_eq!(parts(&over, &[], &[], NOW), None);
    }

    #[test]
    fn many_hosts_have_several_grants_with_ids_of_their_own() {
        let hosts: Vec<_> = (0..600).map(|number| format!("web-{number:03}")).collect();
        let parts = parts(&Proposal { hosts: hosts.clone(), ..ssh() }, &[], &[], NOW).unwrap();
        assert_eq!(parts.iter().map(|part| part.hosts.len()).collect::<Vec<_>>(), [256, 256, 88]);
        let joined: Vec<_> = parts.iter().flat_map(|part| part.hosts.clone()).collect();
        assert_eq!(joined, hosts);
        let mut ids: Vec<_> = parts.iter().map(|part| part.id.to_string()).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn the_same_approval_gives_the_same_bytes() {
        let make = || parts(&ssh(), &["li".into()], &[], NOW).unwrap();
        assert_eq!(make(), make());
    }
}
