//! When the gate looks for sessions that have ended, and what it reports about them.
//!
//! The datapath decides about each session by the entries in the kernel's tables. So this part only
//! remembers that something may have ended. A session that opens while its grant ends may not have
//! its socket yet: there is a second look a tick later.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jit_common::{Address, PortRule, Protocol};

use crate::{
    disk::audit::{EventCode, Record},
    gate::{Gate, TICK, alarms::Problem, report::address},
    kernel::{
        datapath::{
            Datapath,
            cut::{Covers, Cut, CutError, CutScope},
        },
        netlink::sock_diag::DiagError,
    },
    rules::{
        clock::{BootNanos, Now},
        reconcile::{Entry, EntryKey},
    },
};

/// Largest number of places that are remembered: the tables hold no more.
const MOST_ENDED: usize = 1 << 23;
/// Between two looks is at least this time, and at least [`RESTS`] times the duration of the first.
/// So looks take at most a quarter of the gate's time.
const REST: Duration = Duration::from_millis(50);
const RESTS: u32 = 3;
/// Largest number of peers and ports that are reported one by one after a look.
const REPORTED: usize = 64;

/// Entries whose sessions may have to be ended since the last look.
#[derive(Debug, Default)]
pub(super) struct Ending {
    fresh: Places,
    /// To be looked at once more at these times, the earliest first.
    again: VecDeque<(BootNanos, Places)>,
    /// Exemptions that ended until then were seen.
    exemptions: BootNanos,
    /// No look before this.
    rest: BootNanos,
    /// Why sessions that have ended may be open still.
    problem: Problem,
}

/// Where sessions may have ended.
#[derive(Clone, Debug, Default)]
struct Places {
    /// Here.
    of: Covers,
    /// Anywhere: what the ports want may be another.
    anywhere: bool,
}

impl Places {
    fn is_empty(&self) -> bool {
        self.of.is_empty() && !self.anywhere
    }

    fn join(&mut self, other: &Self) {
        self.anywhere |= other.anywhere;
        // The list is kept: if a look may not cover everything, only the listed places count.
        if self.of.len() < MOST_ENDED {
            self.of.extend(&other.of);
        } else {
            self.anywhere |= !other.of.is_empty();
        }
    }
}

impl Ending {
    /// Sessions may have ended anywhere: at the start, or because the rules of ports are others.
    pub(super) fn anywhere(&mut self) {
        self.fresh.anywhere = true;
    }

    /// Why sessions that have ended may be open still.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.text()
    }

    /// Sessions may have ended here.
    pub(super) fn at(&mut self, key: EntryKey) {
        if self.fresh.of.len() < MOST_ENDED {
            self.fresh.of.insert(key);
        } else {
            self.fresh.anywhere = true;
        }
    }

    /// When the next look is due; `None`: nothing may have ended.
    fn due(&self) -> Option<BootNanos> {
        let fresh = (!self.fresh.is_empty()).then_some(self.rest);
        let again = self.again.front().map(|(at, _)| self.rest.max(*at));
        fresh.into_iter().chain(again).min()
    }

    /// Where to look at this time.
    fn take(&mut self, now: BootNanos) -> Places {
        let mut places = std::mem::take(&mut self.fresh);
        if !places.is_empty() {
            self.again.push_back((now + TICK, places.clone()));
        }
        while let Some((_, before)) = self.again.pop_front_if(|(at, _)| *at <= now) {
            places.join(&before);
        }
        places
    }

    /// To be looked at once more, because it failed.
    fn retry(&mut self, places: Places, now: BootNanos) {
        match self.again.back_mut() {
            Some((_, last)) => last.join(&places),
            None => self.again.push_back((now + TICK, places)),
        }
    }
}

impl<D: Datapath> Gate<D> {
    /// Ends sessions whose grants have ended, if there may be any. Returns how long until the next
    /// look.
    pub(super) fn end_sessions(&mut self, now: Now) -> Option<Duration> {
        let since = std::mem::replace(&mut self.ending.exemptions, now.boot);
        for key in self.ledger.exemptions_ended(since, now.boot) {
            self.ending.at(key);
        }
        if self.ending.due().is_some_and(|due| due <= now.boot) {
            self.look_at_sessions(now);
        }
        self.ending.due().map(|due| now.until(due))
    }

    fn look_at_sessions(&mut self, now: Now) {
        let places = self.ending.take(now.boot);
        let (ports, half_open) = self.ports_to_look_at();
        // While a policy waits to be confirmed, what was open before it came is only held up: it
        // goes on if the policy returns. And without the socket guard, a session that came by an
        // interface without a gate is nobody's business unless it was a grant's.
        let gate = &self.config.gate;
        let all = !self.policies.waits() && (gate.socket_guard || gate.interfaces.is_all());
        let of = (!places.anywhere || !all).then(|| places.of.clone());
        let among = CutScope { ports, half_open, of };
        let Cut { ended, more, took, problem } = self.datapath.cut(&among, now.boot);
        self.ending.rest = now.boot + took + REST.max(took * RESTS);
        self.report_cut(&ended, now);
        // If only handshakes end, the packet gate handles them.
        let problem = problem.filter(|problem| {
            !half_open || !matches!(problem, CutError::Diag(DiagError::NoDestroy))
        });
        let text = problem.as_ref().map(ToString::to_string);
        self.ending.problem.set("sessions that have ended may be open still", text);
        match problem {
            None if more => self.ending.fresh.join(&places),
            None => {}
            // Another try would not help.
            Some(CutError::Diag(DiagError::NoDestroy)) => self.ending.again.clear(),
            Some(_) => self.ending.retry(places, now.boot),
        }
    }

    /// Ports of TCP at which something may end with a grant, and whether that is handshakes alone:
    /// no port and no grant has sessions that end.
    fn ports_to_look_at(&self) -> (BTreeMap<u16, PortRule>, bool) {
        if self.config.gate.observe {
            return (BTreeMap::new(), true);
        }
        let rules = self.config.policy.rules();
        let ports: BTreeMap<_, _> = rules
            .filter(|(port, rule)| port.protocol == Protocol::Tcp && rule.observe == 0)
            .map(|(port, rule)| (port.port, rule))
            .collect();
        let by_port = ports.values().any(|rule| rule.drain == 0);
        let by_grant = || {
            let accesses = self.tables.installed().values().flat_map(Entry::accesses);
            accesses.into_iter().any(|access| access.cut && access.is_some())
        };
        let half_open = !by_port && !by_grant();
        (ports, half_open)
    }

    fn report_cut(&mut self, ended: &BTreeMap<(Address, u16), u32>, now: Now) {
        for ((peer, port), sessions) in ended.iter().take(REPORTED) {
            let source = address(peer.family as u8, &peer.bytes);
            tracing::info!(source, port, sessions, "sessions cut");
            let record = Record::new(EventCode::ConnectionCut)
                .by("agent")
                .with("source", source)
                .with("port", format!("{port}/tcp"))
                .with("sessions", *sessions);
            self.record(record, now);
        }
        let rest: u32 = ended.values().skip(REPORTED).sum();
        if rest > 0 {
            tracing::info!(sessions = rest, "sessions cut");
            let record = Record::new(EventCode::ConnectionCut).by("agent");
            self.record(record.with("sessions", rest).detail("of many more peers"), now);
        }
    }
}
