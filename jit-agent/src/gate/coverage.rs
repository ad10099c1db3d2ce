//! Whether the gate is where it should be, and judges as it should: looked at again and again, put
//! right, and told.

use std::collections::BTreeSet;

use jit_common::{Address, PortKey, Protocol};
use jit_proto::{
    SourcePrefix,
    prefix::bits,
    v1::{self, event::What},
};

use crate::{
    gate::Gate,
    kernel::datapath::{
        Datapath, InterfaceState, LinkChange, Wanted, guard::GuardState, probe::Probe,
    },
    rules::clock::{BootNanos, Now},
};

/// How often the programs are tried on frames, boot nanoseconds.
const SELF_TEST_NANOS: u64 = 10_000_000_000;
/// Who sends the frames: addresses that are nobody's (RFC 5737, RFC 3849), those of the first family
/// that no grant covers.
const SENDERS_V4: [[u8; 4]; 3] = [[192, 0, 2, 77], [198, 51, 100, 77], [203, 0, 113, 77]];
const SENDER_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];

impl<D: Datapath> Gate<D> {
    /// Reads back what is on the interfaces and the socket guard, and restores what is missing.
    pub fn check_coverage(&mut self, now: Now) {
        self.guard = self.datapath.guard(self.config.gate.socket_guard);
        self.tell_guard(now);
        self.keep_tables(now);
        self.retire(now);
        self.recorder.audit.check(now);
        let _new_gaps = self.cover_links(now);
    }

    /// Tables whose pins are gone are pinned again.
    fn keep_tables(&mut self, now: Now) {
        match self.datapath.keep_tables() {
            Ok(restored) => {
                self.alarms.pins = None;
                if !restored.is_empty() {
                    let names = restored.join(" ");
                    for change in [LinkChange::Lost, LinkChange::Restored] {
                        self.tell_link(change, "tables", "pins", &names, now);
                    }
                }
            }
            Err(error) => {
                let text = Some(error.to_string());
                if self.alarms.pins != text {
                    tracing::error!("cannot look after the pins of the tables: {error}");
                }
                self.alarms.pins = text;
            }
        }
    }

    /// What another version of the agent left has done its part, once what it counted is known.
    pub(super) fn retire(&mut self, now: Now) {
        self.count_carried(now);
        let error = self.datapath.retire().err().map(|error| error.to_string());
        if let Some(text) = &error
            && self.alarms.retired != error
        {
            tracing::error!("cannot remove the pins of another version: {text}");
        }
        self.alarms.retired = error;
        self.count_carried(now);
    }

    /// Reads back the interfaces alone. Whether one has no gate that was not told of before.
    pub(crate) fn cover_links(&mut self, now: Now) -> bool {
        let before = ungated(&self.interfaces);
        match self.datapath.attach(&self.coverage()) {
            Ok(interfaces) => {
                self.alarms.coverage = None;
                self.interfaces = interfaces;
                self.tell_links(now);
            }
            Err(error) => {
                let text = error.to_string();
                if self.alarms.coverage.as_deref() != Some(&text) {
                    tracing::error!("cannot check the interfaces: {text}");
                }
                self.alarms.coverage = Some(text);
            }
        }
        self.record_alarms(now);
        ungated(&self.interfaces).difference(&before).next().is_some()
    }

    /// Tries the loaded programs on a few frames. A wrong answer raises an alarm; what the tables
    /// should say is written to them again.
    pub(super) fn self_test(&mut self, now: Now) {
        if now.boot < self.next_self_test {
            return;
        }
        self.next_self_test = BootNanos(now.boot.0.saturating_add(SELF_TEST_NANOS));
        let wrong = self.datapath.self_test(&self.probes());
        self.alarms.misjudged = (!wrong.is_empty()).then(|| wrong.join("; "));
        if let Some(text) = &self.alarms.misjudged {
            tracing::error!("self-test: {text}");
            if let Err(error) = self.apply_policy() {
                tracing::error!("{error}");
            }
        }
        self.record_alarms(now);
    }

    /// Frames with the answers that they must get.
    fn probes(&self) -> Vec<Probe> {
        let policy = &self.config.policy;
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
                |port| senders.iter().copied().find(|sender| !self.is_installed(*sender, port));
            if let Some((port, sender)) = enforced.and_then(|port| Some((port, ungranted(port)?))) {
                probes.push(Probe::syn(sender, port, !self.config.gate.observe));
            }
            if let (Some(port), Some(sender)) = (free, senders.first()) {
                probes.push(Probe::syn(*sender, port, false));
            }
        }
        probes
    }

    /// Whether something in the tables is about this source, live or not.
    fn is_installed(&self, sender: Address, port: PortKey) -> bool {
        let Ok(sender) = SourcePrefix::new(sender, bits(sender.family)) else { return true };
        self.installed.keys().any(|key| key.port == port && key.source.contains(&sender))
    }

    pub(super) fn coverage(&self) -> Wanted {
        Wanted { filter: self.config.gate.interfaces.clone(), hook: self.config.gate.hook }
    }

    pub(super) fn tell_links(&mut self, now: Now) {
        for state in std::mem::take(&mut self.interfaces) {
            let InterfaceState { name, hook, note, changes, .. } = &state;
            for change in changes {
                self.tell_link(*change, name, hook.map_or("none", |hook| hook.word()), note, now);
            }
            self.interfaces.push(state);
        }
    }

    pub(super) fn tell_guard(&mut self, now: Now) {
        let GuardState { note, changes, .. } = self.guard.clone();
        for change in changes {
            self.tell_link(change, "network namespace", "socket_guard", &note, now);
        }
    }

    fn tell_link(&mut self, change: LinkChange, name: &str, hook: &str, note: &str, now: Now) {
        self.recorder.link(change, name, hook, note, now);
        match change {
            LinkChange::Restored => {
                tracing::warn!(interface = name, hook, "the gate was missing: restored");
            }
            LinkChange::Lost => tracing::error!(interface = name, hook, note, "the gate is lost"),
            LinkChange::SteppedDown => {
                tracing::warn!(interface = name, hook, note, "not by the best hook");
            }
            LinkChange::Adopted | LinkChange::Attached => {
                tracing::info!(interface = name, hook, note, "gate {}", change.word());
            }
        }
        let event = v1::GateEvent {
            kind: change.word().into(),
            interface: name.to_owned(),
            detail: format!("{hook} {note}").trim_end().to_owned(),
        };
        self.journal.add(now.wall.0, What::Gate(event));
    }
}

/// Indices of the interfaces without a gate.
fn ungated(interfaces: &[InterfaceState]) -> BTreeSet<u32> {
    let without = interfaces.iter().filter(|state| state.hook.is_none());
    without.map(|state| state.index).collect()
}
