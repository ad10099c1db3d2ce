//! What a client asks for, before it is a proposal.

use std::time::{Duration, UNIX_EPOCH};

use jit_proto::{PortRange, SourcePrefix};
use ulid::Ulid;

use super::DeskError;
use crate::model::{
    Proposal,
    proposal::{MAX_AHEAD, SessionsWord},
};

/// What a client asks for. As in [`Proposal`], without what the controller adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Exact ids of hosts.
    pub hosts: Vec<String>,
    /// Addresses and prefixes that are let in.
    pub sources: Vec<SourcePrefix>,
    /// Ports.
    pub ports: Vec<PortRange>,
    /// How long it lasts, milliseconds.
    pub duration_ms: i64,
    /// When it begins; `None`: when it is approved.
    pub start_ms: Option<i64>,
    /// Why, in words.
    pub reason: String,
    /// Number of the ticket; empty: none.
    pub ticket: String,
    /// What happens to sessions at the end.
    pub sessions: Option<SessionsWord>,
    /// The most connections; 0: any number.
    pub max_connections: u32,
    /// The request that ends when this one begins.
    pub replaces: Option<String>,
}

impl Ask {
    /// What was asked with a proposal.
    pub fn of(proposal: &Proposal) -> Self {
        let Proposal {
            id: _,
            requester: _,
            hosts,
            sources,
            ports,
            duration_ms,
            start_ms,
            reason,
            ticket,
            sessions,
            max_connections,
            replaces,
            created_ms: _,
            approve_until_ms: _,
        } = proposal.clone();
        Self {
            hosts,
            sources,
            ports,
            duration_ms,
            start_ms,
            reason,
            ticket,
            sessions,
            max_connections,
            replaces,
        }
    }

    /// The proposal of this person at this moment.
    pub(super) fn proposal(
        self,
        requester: &str,
        approve_within: Duration,
        now_ms: i64,
    ) -> Result<Proposal, DeskError> {
        let invalid = |field, why: String| Err(DeskError::Invalid { field, why });
        let ahead = i64::try_from(MAX_AHEAD.as_millis()).unwrap_or(i64::MAX);
        if let Some(start) = self.start_ms {
            if start.saturating_add(self.duration_ms) <= now_ms {
                return invalid("start", "it would have ended before now".into());
            }
            if start > now_ms.saturating_add(ahead) {
                return invalid("start", "it is more than 30 days ahead".into());
            }
        }
        let within = i64::try_from(approve_within.as_millis()).unwrap_or(i64::MAX);
        let mut approve_until_ms = now_ms.saturating_add(within);
        if let Some(start) = self.start_ms {
            // People can agree until nothing of its time is left.
            approve_until_ms =
                start.max(approve_until_ms).min(start.saturating_add(self.duration_ms));
        }
        let proposal = Proposal {
            id: new_id(now_ms),
            requester: requester.to_owned(),
            hosts: self.hosts,
            sources: self.sources,
            ports: self.ports,
            duration_ms: self.duration_ms,
            start_ms: self.start_ms,
            reason: self.reason,
            ticket: self.ticket,
            sessions: self.sessions,
            max_connections: self.max_connections,
            replaces: self.replaces,
            created_ms: now_ms,
            approve_until_ms,
        };
        Ok(proposal.checked()?)
    }
}

/// A new ULID of this moment.
pub(crate) fn new_id(now_ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
    Ulid::from_datetime(UNIX_EPOCH + since).to_string()
}
