//! When the gate looks for sessions that have ended, and what it reports about them.
//!
//! The datapath decides about each session by the entries in the kernel's tables. So this part only
//! remembers that something may have ended. A session that opens while its grant ends may not have
//! its socket yet: there is a second look.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jit_common::{PortRule, Protocol};

use crate::{
    disk::audit::{EventCode, Record},
    gate::{Gate, alarms::Problem, report::address},
    kernel::{
        datapath::{
            Datapath,
            cut::{Covers, Cut, CutError, CutScope, Sockets},
        },
        netlink::sock_diag::DiagError,
    },
    rules::{
        clock::{BootNanos, Now},
        reconcile::EntryKey,
    },
    system::meters::meters,
};

/// Largest number of places that are remembered: the tables hold no more.
const MOST_ENDED: usize = 1 << 23;
/// The second look comes this much later.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks is at least this time, and at least [`RESTS`] times the duration of the first.
/// So looks take at most a quarter of the gate's time.
const REST: Duration = Duration::from_millis(50);
const RESTS: u32 = 3;
/// Largest number of peers and ports that are reported one by one after a look.
const REPORTED: usize = 64;
/// A revocation waits for a look, unless the last one took longer than this and it is not time for
/// another.
const AWAITED: Duration = Duration::from_millis(100);
/// Longest time that a revocation waits for very many sessions to end.
const PATIENCE: Duration = Duration::from_secs(1);

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
    /// The time that the last look took.
    took: Duration,
    /// Why sessions that have ended may be open still.
    problem: Problem,
}

/// Whose sessions the answer to a revocation counts.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// Those of peers that this covers.
    pub(super) of: Covers,
    /// Those of everybody.
    pub(super) everybody: bool,
    /// They end, on ports too where sessions outlive their grant.
    pub(super) cut: bool,
}

/// What the answer to a revocation says about sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The number that goes on.
    pub(super) open: u32,
    /// The number that the revocation ended.
    pub(super) ended: u32,
    /// What is not certain.
    pub(super) warning: Option<String>,
}

impl Revoked {
    fn count(&self, sockets: &Sockets) -> u32 {
        let concerned = sockets
            .iter()
            .filter(|((peer, port), _)| self.everybody || self.of.covers(*peer, *port));
        concerned.map(|(_, sessions)| sessions).sum()
    }
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
            self.again.push_back((now + AGAIN, places.clone()));
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
            None => self.again.push_back((now + AGAIN, places)),
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
            self.look_at_sessions(None, now);
        }
        self.ending.due().map(|due| now.until(due))
    }

    /// Ends and counts sessions of what was just closed in the kernel, before the answer. Handshakes
    /// that are not finished end, too: only the socket guard may be there, which does not see their
    /// last step.
    pub(super) fn look_at_revoked(&mut self, revoked: &Revoked, now: Now) -> Sessions {
        let Ending { rest, took, .. } = self.ending;
        if !revoked.cut && took > AWAITED && rest > now.boot {
            let warning = format!(
                "sessions were not counted, and handshakes may finish until the agent looks again, \
                 in {} ms: its last look at all sockets of this host took {} ms",
                now.until(rest).as_millis(),
                took.as_millis()
            );
            return Sessions { warning: Some(warning), ..Sessions::default() };
        }
        let (mut sessions, mut spent) = (Sessions::default(), Duration::ZERO);
        loop {
            let Cut { ended, open, more, took, problem } =
                self.look_at_sessions(Some(revoked), now);
            sessions.ended = sessions.ended.saturating_add(revoked.count(&ended));
            sessions.open = revoked.count(&open);
            spent += took;
            if more && problem.is_none() && spent < PATIENCE {
                continue;
            }
            let drains = !revoked.cut && self.ports_to_look_at().1;
            sessions.warning = match problem {
                // Nobody asked for an end.
                Some(CutError::Diag(DiagError::NoDestroy)) if drains => None,
                Some(why) => Some(format!("sessions may go on: {why}")),
                None if more => Some("more sessions are there: revoke again".into()),
                None => None,
            };
            return sessions;
        }
    }

    /// Ends sessions whose grants have ended, and lists those that go on all the same.
    fn look_at_sessions(&mut self, revoked: Option<&Revoked>, now: Now) -> Cut {
        let places = self.ending.take(now.boot);
        let (ports, handshakes_alone) = self.ports_to_look_at();
        let among = self.scope(&places, (ports, handshakes_alone), revoked);
        let cut = self.datapath.cut(&among, now.boot);
        let Cut { ended, more, took, problem, open: _ } = &cut;
        self.ending.took = *took;
        self.ending.rest = now.boot + *took + REST.max(*took * RESTS);
        self.report_cut(ended, now);
        // If only handshakes end, the packet gate handles them.
        let no_destroy =
            |problem: &&CutError| matches!(problem, CutError::Diag(DiagError::NoDestroy));
        let problem = problem.as_ref().filter(|problem| !handshakes_alone || !no_destroy(problem));
        let text = problem.map(ToString::to_string);
        self.ending.problem.set("sessions that have ended may be open still", text);
        match problem {
            None if *more => self.ending.fresh.join(&places),
            None => {}
            // Another try would not help.
            Some(problem) if no_destroy(&problem) => self.ending.again.clear(),
            Some(_) => self.ending.retry(places, now.boot),
        }
        cut
    }

    /// The sessions to look at: those of places where sessions may have ended, and of what was just
    /// revoked.
    fn scope(
        &self,
        places: &Places,
        (mut ports, handshakes_alone): (BTreeMap<u16, PortRule>, bool),
        revoked: Option<&Revoked>,
    ) -> CutScope {
        if revoked.is_some_and(|revoked| revoked.everybody && revoked.cut) {
            ports.values_mut().for_each(|rule| rule.drain = 0);
        }
        let everybody = revoked.is_some_and(|revoked| revoked.everybody);
        let of = (!places.anywhere && !everybody || !self.may_look_anywhere()).then(|| {
            let mut of = places.of.clone();
            revoked.iter().for_each(|revoked| of.extend(&revoked.of));
            of
        });
        CutScope { ports, half_open: handshakes_alone && revoked.is_none(), of }
    }

    /// While a policy or a configuration waits to be confirmed, what was open before it came is only
    /// held up: it goes on if the one before returns. And without the socket guard, a session that came by an interface
    /// without a gate is nobody's business unless it was a grant's.
    pub(super) fn may_look_anywhere(&self) -> bool {
        let gate = &self.config.gate;
        let waits = self.policies.waits() || self.trials.is_on();
        !waits && (gate.socket_guard || gate.interfaces.is_all())
    }

    /// Ports of TCP at which something may end with a grant, and whether that is handshakes alone:
    /// no port and no grant has sessions that end.
    pub(super) fn ports_to_look_at(&self) -> (BTreeMap<u16, PortRule>, bool) {
        if self.config.gate.observe {
            return (BTreeMap::new(), true);
        }
        let rules = self.config.policy.rules();
        let ports: BTreeMap<_, _> = rules
            .filter(|(port, rule)| port.protocol == Protocol::Tcp && rule.observe == 0)
            .map(|(port, rule)| (port.port, rule))
            .collect();
        let by_port = ports.values().any(|rule| rule.drain == 0);
        let half_open = !by_port && !self.tables.cuts();
        (ports, half_open)
    }

    fn report_cut(&mut self, ended: &Sockets, now: Now) {
        meters().sessions_cut.inc_by(ended.values().copied().map(u64::from).sum());
        for ((peer, port), sessions) in ended.iter().take(REPORTED) {
            let source = address(peer.family as u8, &peer.bytes());
            let code = EventCode::ConnectionCut;
            tracing::info!(source, port, sessions, code = code.code(), "sessions cut");
            let record = Record::new(code)
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
