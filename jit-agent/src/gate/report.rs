//! What the gate tells about itself: messages for `status`, `list` and watchers.

use std::time::Duration;

use jit_common::{Counter, Event, PortCounters, PortKey, Protocol, Reason};
use jit_proto::v1;

use crate::{
    config::Config,
    gate::{Alarms, Gate},
    kernel::datapath::{
        Counters, Datapath, DatapathError, Drift, InterfaceState,
        guard::{self, GuardState},
    },
    rules::{
        clock::Now,
        grant::{PortRange, Sessions},
        ledger::{HeldGrant, Stage},
        policy::PortPolicy,
    },
};

/// A certificate that ends sooner is to be renewed.
const RENEW_WITHIN: Duration = Duration::from_secs(14 * 86_400);

impl<D: Datapath> Gate<D> {
    /// Everything for `status`.
    pub fn status(&self, now: Now) -> v1::StatusResponse {
        self.status_with(self.datapath.drift(), now)
    }

    /// The same for somebody who asks: what somebody changed is put right, but told as it was found.
    pub(super) fn answer_status(&mut self, now: Now) -> v1::StatusResponse {
        let drift = self.datapath.drift();
        self.check_coverage(now);
        self.status_with(drift, now)
    }

    fn status_with(
        &self,
        drift: Result<Vec<Drift>, DatapathError>,
        now: Now,
    ) -> v1::StatusResponse {
        let Config { host, gate, policy, control, limits, .. } = &self.config;
        let (counters, counter_problem) = match self.datapath.counters() {
            Ok(counters) => (counters, None),
            Err(error) => (Counters::default(), Some(error.to_string())),
        };
        let mut problems = self.problems(now);
        problems.extend(counter_problem);
        let (interfaces, guard, drift) = self.with_drift(drift);
        problems.extend(drift);
        let (hosts, prefixes) = self.ledger.claims().used();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (last_push_ms, last_controller) =
            self.last_push.as_ref().map_or((0, String::new()), |(time, by)| (time.0, by.clone()));
        v1::StatusResponse {
            state: state(gate.observe, &interfaces, &guard, &problems).into(),
            problems,
            version: env!("CARGO_PKG_VERSION").into(),
            host: host.clone(),
            mode: if gate.observe { "observe" } else { "enforce" }.into(),
            interfaces: interfaces.iter().map(|state| interface(state, &guard)).collect(),
            guard: Some(guard_message(&guard)),
            ports: policy.sections().iter().map(port).collect(),
            grants: self.list(false, now),
            drops: Some(drops(&counters)),
            control: control.as_ref().map(|control| v1::Control {
                listen: control.listen.to_string(),
                certificate_not_after_ms: self.certificate_end.map_or(0, |end| end.0),
                last_push_ms,
                last_controller,
            }),
            capacity: Some(v1::Capacity {
                host_entries: count(hosts),
                host_entries_max: limits.hosts,
                prefix_entries: count(prefixes),
                prefix_entries_max: limits.prefixes.saturating_mul(2),
            }),
            soon: [self.soon(hosts, prefixes, now), self.policy_soon(now)].concat(),
            started_at_ms: self.started.0,
            policy: Some(self.policy_state(now)),
        }
    }

    /// Grants, oldest first.
    pub fn list(&self, ended: bool, now: Now) -> Vec<v1::GrantState> {
        let live = self.ledger.grants();
        let over = self.ledger.ended().filter(|_| ended);
        let mut grants: Vec<_> =
            live.chain(over).map(|record| self.grant_state(record, now)).collect();
        grants.sort_by_key(|state| {
            state.grant.as_ref().map(|grant| (grant.issued_at_ms, grant.id.clone()))
        });
        grants
    }

    /// A packet event with the grant that let it in.
    pub(super) fn packet_event(&self, event: &Event) -> v1::PacketEvent {
        let address = |bytes: &[u8; 16]| address_bytes(event.family, bytes).to_vec();
        let granted = event.reason == Reason::Granted as u8;
        let grant = granted.then(|| self.ledger.counted_for(event.slot)).flatten();
        v1::PacketEvent {
            reason: Reason::from_number(event.reason).map_or("", Reason::word).into(),
            source: address(&event.source).into(),
            destination: address(&event.destination).into(),
            source_port: event.source_port.into(),
            protocol: protocol(event.protocol),
            port: event.port.into(),
            grant_id: grant.map(|found| found.grant.id().0.to_vec()).unwrap_or_default().into(),
            observed: event.observed != 0,
            interface_index: event.interface,
        }
    }

    fn grant_state(&self, held: &HeldGrant, now: Now) -> v1::GrantState {
        let HeldGrant { grant, stage, hits } = held;
        let counted = stage.slot().map_or(0, |slot| self.datapath.slot(slot).hits);
        let counted = hits.saturating_add(counted);
        let (state, left, hits) = match stage {
            Stage::Active { deadline, .. } => (v1::State::Active, now.until(*deadline), counted),
            Stage::Exhausted { deadline, .. } => {
                (v1::State::Exhausted, now.until(*deadline), counted)
            }
            Stage::Replaced => (v1::State::Replaced, Default::default(), *hits),
            Stage::Expired => (v1::State::Expired, Default::default(), *hits),
            Stage::Revoked => (v1::State::Revoked, Default::default(), *hits),
            Stage::Scheduled { .. } => {
                (v1::State::Scheduled, grant.not_after().since(now.wall).unwrap_or_default(), 0)
            }
        };
        v1::GrantState {
            grant: Some(grant.message().clone()),
            state: state.into(),
            signers: grant.signers().to_vec(),
            left_ms: i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
            hits,
        }
    }

    /// Interfaces and guard, and what somebody changed about them: what was found is not called protected.
    fn with_drift(
        &self,
        drift: Result<Vec<Drift>, DatapathError>,
    ) -> (Vec<InterfaceState>, GuardState, Vec<String>) {
        let (mut interfaces, mut guard) = (self.interfaces.clone(), self.guard.clone());
        let mut problems = Vec::new();
        match drift {
            Ok(drifts) => {
                for Drift { what, index, gated, why } in drifts {
                    if what == guard::NAME && !gated {
                        guard.attached = false;
                        why.clone_into(&mut guard.note);
                    }
                    for state in
                        interfaces.iter_mut().filter(|state| state.index == index && index != 0)
                    {
                        if !gated {
                            state.hook = None;
                            why.clone_into(&mut state.note);
                        }
                    }
                    problems.push(format!("{what}: {why}"));
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
        (interfaces, guard, problems)
    }

    fn problems(&self, now: Now) -> Vec<String> {
        self.problems_by_name(now).into_iter().map(|(_, text)| text).collect()
    }

    /// What is wrong: a name that stays while the text may change, and the text.
    pub(super) fn problems_by_name(&self, now: Now) -> Vec<(String, String)> {
        let Alarms { coverage, damaged, kernel, misjudged, pins, retired, storage } = &self.alarms;
        let audit = &self.recorder.audit;
        let mut problems: Vec<(String, String)> = [
            ("coverage", coverage.as_deref()),
            ("database", damaged.as_deref()),
            ("kernel", kernel.as_deref()),
            ("pins", pins.as_deref()),
            ("pins of another version", retired.as_deref()),
            ("reserve", self.store.reserve_problem()),
            ("self_test", misjudged.as_deref()),
            ("storage", storage.as_deref()),
            ("sessions", self.ending.problem.as_deref()),
            ("audit", audit.problem()),
            ("audit_damaged", audit.damage()),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), text?.to_owned())))
        .collect();
        let mut add = |name: String, text: String| problems.push((name, text));
        if !self.clock_is_trusted(now) {
            let text = format!(
                "the clock says {}, but it has been {} before: nothing new is opened until it is \
                 right",
                now.wall, self.floor
            );
            add("clock".into(), text);
        }
        if let Some(end) = self.certificate_end.filter(|end| *end <= now.wall) {
            let text = format!(
                "the agent's certificate ended at {end}: no controller can connect, so nothing new \
                 opens and nothing is revoked from there; renew it, then `systemctl reload jit-agent`"
            );
            add("certificate".into(), text);
        }
        for InterfaceState { name, hook, note, behind, .. } in &self.interfaces {
            if *behind {
                add(format!("passed by {name}"), format!("{name}: {note}"));
            }
            if hook.is_none() {
                add(format!("interface {name}"), ungated(name, note, &self.guard));
            }
        }
        for (index, text) in self.policies.problems.iter().enumerate() {
            add(format!("policy {index}"), text.clone());
        }
        if let Some((name, text)) = self.guard.problem() {
            add(name.into(), text);
        }
        for section in self.config.policy.sections().iter().filter(|section| section.observe) {
            let range = section.range;
            let text = format!("{range} is in observe mode: everybody gets in");
            add(format!("observe {range}"), text);
        }
        if self.interfaces.is_empty() {
            let text = "no interface matches [gate] interfaces: nothing is gated";
            add("no_interface".into(), text.into());
        }
        if self.config.policy.sections().is_empty() {
            add("no_port".into(), "no [[port]] section: nothing is protected".into());
        }
        problems
    }

    fn soon(&self, hosts: usize, prefixes: usize, now: Now) -> Vec<String> {
        let most = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let limits = self.config.limits;
        let certificate = self.certificate_end.and_then(|end| {
            let left = Duration::from_millis(u64::try_from(end.0 - now.wall.0).unwrap_or(0));
            let soon = end > now.wall && left < RENEW_WITHIN;
            let left = crate::status::duration_text(left);
            soon.then(|| format!("the agent's certificate ends in {left} ({end})"))
        });
        let full = [
            ("addresses", hosts, most(limits.hosts)),
            ("prefixes", prefixes, most(limits.prefixes)),
        ]
        .into_iter()
        .filter(|(_, used, most)| used.saturating_mul(10) >= most.saturating_mul(9))
        .map(|(what, used, most)| format!("{used} of {most} {what} are in use ([limits])"));
        full.chain(certificate).collect()
    }
}

/// What is wrong with an interface that has no program.
pub(crate) fn ungated(name: &str, note: &str, guard: &GuardState) -> String {
    let is = if guard.attached {
        "is left to the socket guard, which does not see what this host forwards"
    } else {
        "is not gated"
    };
    format!("{name} {is}: {note}")
}

/// `enforcing`, `degraded` or `not_enforcing`.
pub(crate) fn state(
    observe: bool,
    interfaces: &[InterfaceState],
    guard: &GuardState,
    problems: &[String],
) -> &'static str {
    let gated = guard.attached || interfaces.iter().any(|interface| interface.hook.is_some());
    if observe || !gated {
        "not_enforcing"
    } else if problems.is_empty() {
        "enforcing"
    } else {
        "degraded"
    }
}

pub(crate) fn interface(state: &InterfaceState, guard: &GuardState) -> v1::Interface {
    let InterfaceState { name, index, hook, since, note, behind: _, changes: _ } = state;
    let none = if guard.attached { "guard_only" } else { "none" };
    v1::Interface {
        name: name.clone(),
        index: *index,
        hook: hook.map_or(none, |hook| hook.word()).into(),
        since_ms: since.map_or(0, |since| since.0),
        note: note.clone(),
        attached: hook.is_some(),
    }
}

/// The socket guard as a message.
pub(crate) fn guard_message(state: &GuardState) -> v1::SocketGuard {
    let GuardState { wanted, attached, since, note, others: _, held_by: _, changes: _ } = state;
    v1::SocketGuard {
        wanted: *wanted,
        attached: *attached,
        since_ms: since.map_or(0, |since| since.0),
        note: note.clone(),
    }
}

/// Counters as a message.
pub(crate) fn drops(counters: &Counters) -> v1::Drops {
    let by_port =
        counters.ports.iter().map(|(port, PortCounters { packets, .. })| v1::PortCounter {
            protocol: protocol(port.protocol as u8),
            port: port.port.into(),
            by_reason: Reason::ALL
                .into_iter()
                .zip(packets)
                .filter(|(_, packets)| **packets > 0)
                .map(|(reason, packets)| counter(reason, *packets))
                .collect(),
        });
    v1::Drops {
        by_reason: counters
            .drops()
            .filter(|(_, packets)| *packets > 0)
            .map(|(reason, packets)| counter(reason, packets))
            .collect(),
        by_port: by_port.filter(|port| !port.by_reason.is_empty()).collect(),
        observed: counters.total(Counter::Observed),
        events_suppressed: counters.total(Counter::EventsSuppressed),
        events_lost: counters.total(Counter::EventsLost),
        guard: counters.total(Counter::Guard),
    }
}

/// The bytes of an event's address that count: 4 or 16.
fn address_bytes(family: u8, bytes: &[u8; 16]) -> &[u8] {
    let length = if family == 4 { 4 } else { 16 };
    bytes.get(..length).unwrap_or(bytes)
}

/// An event's address as people write it.
pub(super) fn address(family: u8, bytes: &[u8; 16]) -> String {
    crate::status::address_text(address_bytes(family, bytes))
}

/// A port range as a message.
pub(crate) fn port_range(range: PortRange) -> v1::PortRange {
    v1::PortRange {
        protocol: protocol(range.protocol as u8),
        first: range.first.into(),
        last: range.last.into(),
    }
}

/// One port, likewise.
pub(crate) fn one_port(port: PortKey) -> v1::PortRange {
    port_range(PortRange { protocol: port.protocol, first: port.port, last: port.port })
}

fn counter(reason: Reason, packets: u64) -> v1::Counter {
    v1::Counter { reason: reason.word().into(), packets }
}

fn protocol(number: u8) -> i32 {
    match Protocol::from_number(number) {
        Some(Protocol::Tcp) => v1::Protocol::Tcp.into(),
        Some(Protocol::Udp) => v1::Protocol::Udp.into(),
        None => v1::Protocol::Unspecified.into(),
    }
}

fn port(section: &PortPolicy) -> v1::Port {
    v1::Port {
        range: Some(port_range(section.range)),
        mode: if section.observe { "observe" } else { "enforce" }.into(),
        sessions: match section.sessions {
            Sessions::Cut => v1::Sessions::Cut.into(),
            Sessions::Drain => v1::Sessions::Drain.into(),
        },
        terminates: if section.forwarded { "forwarded" } else { "host" }.into(),
        max_duration_ms: i64::try_from(section.max_duration.as_millis()).unwrap_or(i64::MAX),
        exemptions: section.exemptions.iter().map(v1::Exemption::from).collect(),
    }
}
