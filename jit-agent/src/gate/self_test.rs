//! Tries the loaded programs on a few frames from time to time.

use std::time::Duration;

use jit_common::{Address, PortKey, Protocol};
use jit_proto::{SourcePrefix, prefix::bits};

use crate::{
    config::Config,
    kernel::datapath::probe::Probe,
    rules::{
        clock::{BootNanos, Now},
        reconcile::Entries,
    },
};

const INTERVAL: Duration = Duration::from_secs(10);
/// Senders of the frames: documentation addresses (RFC 5737, RFC 3849). The test uses the first of
/// a family that no grant covers.
const SENDERS_V4: [[u8; 4]; 3] = [[192, 0, 2, 77], [198, 51, 100, 77], [203, 0, 113, 77]];
const SENDER_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];

/// The time of the next test, and the result of the last one.
#[derive(Debug)]
pub(super) struct SelfTest {
    next: BootNanos,
    problem: Option<String>,
}

impl SelfTest {
    pub(super) const fn new(now: Now) -> Self {
        Self { next: now.boot, problem: None }
    }

    /// Whether a test is due. If so, the next one is due after [`INTERVAL`].
    pub(super) fn take_turn(&mut self, now: Now) -> bool {
        let due = now.boot >= self.next;
        if due {
            self.next = now.boot + INTERVAL;
        }
        due
    }

    /// Notes the wrong answers.
    pub(super) fn found(&mut self, wrong: &[String]) {
        self.problem = (!wrong.is_empty()).then(|| wrong.join("; "));
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

/// Frames with the answers that they must get.
pub(super) fn probes(config: &Config, installed: &Entries) -> Vec<Probe> {
    let Config { policy, gate, .. } = config;
    let tcp = |port| PortKey { protocol: Protocol::Tcp, port };
    let mut probes = vec![Probe::arp()];
    let enforced = policy
        .rules()
        .filter(|(port, rule)| port.protocol == Protocol::Tcp && rule.observe == 0)
        .map(|(port, _)| port)
        .next();
    let free = (1..=u16::MAX).map(tcp).find(|port| policy.port(*port).is_none());
    let v4 = SENDERS_V4.map(Address::v4);
    for senders in [v4.as_slice(), &[Address::v6(SENDER_V6)]] {
        let ungranted =
            |port| senders.iter().copied().find(|sender| !is_named(*sender, port, installed));
        if let Some((port, sender)) = enforced.and_then(|port| Some((port, ungranted(port)?))) {
            probes.push(Probe::syn(sender, port, !gate.observe));
        }
        if let (Some(port), Some(sender)) = (free, senders.first()) {
            probes.push(Probe::syn(*sender, port, false));
        }
    }
    probes
}

/// Whether something in the tables is about this source, live or not.
fn is_named(sender: Address, port: PortKey, installed: &Entries) -> bool {
    let Ok(sender) = SourcePrefix::new(sender, bits(sender.family)) else { return true };
    installed.keys().any(|key| key.port == port && key.source.contains(&sender))
}
