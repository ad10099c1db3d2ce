//! One connection to an agent, whoever has made it, and which machine is at its other end.

use std::{future::pending, net::SocketAddr, time::Duration};

use jit_client::Agent;
use jit_proto::v1;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{clock::now_ms, model::Host};

/// No connection is older than this, milliseconds.
const OLDEST_MS: i64 = 25 * 3_600_000;
/// The time in which an agent ends a connection after it has made another one: when its calls are done,
/// and after 10 s at the latest.
pub(super) const LEAVES: Duration = Duration::from_secs(12);

/// A connection to an agent.
pub(super) struct Connection {
    pub(super) agent: Agent,
    /// From where the agent has made it; `None`: it was dialled.
    pub(super) peer: Option<SocketAddr>,
    /// Since when it is there, milliseconds since the Unix epoch.
    pub(super) since_ms: i64,
    /// The certificate with which the agent has made it.
    pub(super) shown: Option<Shown>,
    /// Its turn to begin; `None`: it needs none.
    pub(super) turn: Option<Turn>,
}

/// A turn to begin at a hub. Who has it gives it back by dropping it.
pub(super) struct Turn(#[expect(dead_code, reason = "dropped")] pub(super) oneshot::Sender<()>);

impl Connection {
    /// One that was made to the agent's address.
    pub(super) fn dialled(agent: Agent) -> Self {
        Self { agent, peer: None, since_ms: now_ms(), shown: None, turn: None }
    }

    /// One that the agent has made, from this address, with this certificate.
    pub(super) fn arrived(agent: Agent, peer: SocketAddr, shown: Option<Shown>) -> Self {
        Self { agent, peer: Some(peer), since_ms: now_ms(), shown, turn: None }
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

/// The certificate that an agent has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Serial number, hex.
    pub(super) serial: String,
    not_before_ms: i64,
    not_after_ms: i64,
}

impl Shown {
    /// Of a certificate; `None`: it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        let ms = |at: x509_parser::time::ASN1Time| at.timestamp().saturating_mul(1000);
        Some(Self {
            serial: hex::encode(read.raw_serial()),
            not_before_ms: ms(read.validity().not_before),
            not_after_ms: ms(read.validity().not_after),
        })
    }

    /// Whether half of its time is over before a connection must end that begins now.
    pub(super) fn may_end_soon(&self, now_ms: i64) -> bool {
        let half = self.not_after_ms.saturating_sub(self.not_before_ms) / 2;
        now_ms.saturating_add(OLDEST_MS) >= self.not_before_ms.saturating_add(half)
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

/// A connection that was replaced.
pub(super) struct Former {
    connection: Connection,
    /// Its agent has ended it by then.
    until: Instant,
}

impl Former {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, until: Instant::now() + LEAVES }
    }
}

/// The one that was replaced, when its agent must have ended it.
pub(super) async fn gone(former: &mut Option<Former>) -> Connection {
    let Some(until) = former.as_ref().map(|former| former.until) else { return pending().await };
    sleep_until(until).await;
    match former.take() {
        Some(former) => former.connection,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

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

    #[test]
    fn a_young_certificate_does_not_end_soon() {
        let of = |days: i64| Shown {
            serial: String::new(),
            not_before_ms: 0,
            not_after_ms: days * DAY_MS,
        };
        assert!(!of(7).may_end_soon(2 * DAY_MS) && of(7).may_end_soon(3 * DAY_MS));
        assert!(of(1).may_end_soon(0));
        assert_eq!(Shown::of(b"no certificate"), None);
    }
}
