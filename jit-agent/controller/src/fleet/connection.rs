//! One connection to an agent, whoever has made it, and which machine is at its other end. Pure.

use std::net::SocketAddr;

use jit_client::Agent;
use jit_proto::v1;

use crate::{clock::now_ms, model::Host};

/// A connection to an agent.
pub(super) struct Connection {
    pub(super) agent: Agent,
    /// From where the agent has made it; `None`: it was dialled.
    pub(super) peer: Option<SocketAddr>,
    /// Since when it is there, milliseconds since the Unix epoch.
    pub(super) since_ms: i64,
}

impl Connection {
    /// One that was made to the agent's address.
    pub(super) fn dialled(agent: Agent) -> Self {
        Self { agent, peer: None, since_ms: now_ms() }
    }

    /// One that the agent has made, from this address.
    pub(super) fn arrived(agent: Agent, peer: SocketAddr) -> Self {
        Self { agent, peer: Some(peer), since_ms: now_ms() }
    }

    /// From where the agent has made it, as a hub reports it.
    #[cfg(feature = "nats")]
    pub(super) fn place_at_hub(&self) -> String {
        self.peer.map(|peer| peer.to_string()).unwrap_or_default()
    }

    /// Where the agent is, without the port of a connection that it made.
    pub(super) fn place(&self, host: &Host) -> String {
        self.peer.map_or_else(|| host.address.clone(), |peer| peer.ip().to_string())
    }
}

/// A boot of a machine, and a start of its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    /// The kernel's random id of the boot; empty: an older agent does not name it.
    id: String,
    started_ms: i64,
}

impl Boot {
    pub(super) fn of(status: &v1::StatusResponse) -> Self {
        Self { id: status.boot_id.clone(), started_ms: status.started_at_ms }
    }

    /// Whether both are certainly of one machine: the same boot of it. Of agents that name no boot: the
    /// same start of the agent.
    pub(super) fn is_of_the_machine_of(&self, other: &Self) -> bool {
        match (self.id.as_str(), other.id.as_str()) {
            ("", _) | (_, "") => self.started_ms == other.started_ms,
            (one, other) => one == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_boot_and_an_old_agent_by_its_start() {
        let boot = |id: &str, started_ms| Boot { id: id.into(), started_ms };
        for (one, other, same) in [
            (boot("a", 1), boot("a", 2), true),
            (boot("a", 1), boot("b", 1), false),
            (boot("", 1), boot("", 1), true),
            (boot("", 1), boot("b", 1), true),
            (boot("", 1), boot("", 2), false),
        ] {
            assert_eq!(one.is_of_the_machine_of(&other), same, "{one:?} {other:?}");
        }
    }
}
