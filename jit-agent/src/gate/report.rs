//! Makes the gate's messages for `status` and watchers.

use jit_common::{Counter, Event, Family, PortCounters, Protocol, Reason};
use jit_proto::{
    GrantId, Hook, PortSection, Sessions,
    v1::{self, event::What},
};

use crate::{
    config::Config,
    gate::{Gate, alarms::Alarms, identity::source_word},
    kernel::datapath::{
        Counters, Datapath, DatapathError, Drift, InterfaceState, guard::GuardState,
    },
    rules::{
        clock::Now,
        everybody,
        ledger::Floors,
        problem::{ProblemKind, ProblemName},
    },
    system::{local_ports::LocalPorts, log},
};

pub(crate) use crate::gate::links::problem;

/// Words of a port.
const FORWARDED: &str = "forwarded";
const OBSERVE: &str = "observe";
/// The note of an interface that is left out while the socket guard is in force.
const GUARDED: &str =
    "the socket guard closes the ports of this host there, not those that it forwards";
/// The note of a socket guard that is off.
const GUARD_OFF: &str = "a new interface is open until the gate is on it, some milliseconds after it \
                         appears, and one that is not gated is open";

impl<D: Datapath> Gate<D> {
    /// Everything for `status`.
    pub fn status(&self, now: Now) -> v1::StatusResponse {
        let status = self.status_with(self.datapath.drift(), now);
        v1::StatusResponse { grants: self.list(false, now), ..status }
    }

    /// The same without grants, for a caller of `status`. A changed attachment is repaired, but
    /// shown as it was found.
    pub(super) fn answer_status(&mut self, now: Now) -> v1::StatusResponse {
        let drift = self.datapath.drift();
        self.check_attachments(now);
        self.review_for_status(now);
        self.read_denials(now);
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
        problems.extend(counter_problem.map(|text| ProblemKind::Counters.sentence(&text)));
        let (interfaces, mut guard, drift) = self.links.with_drift(drift);
        if let Some(note) = self.source_note().filter(|_| guard.attached) {
            let before = std::mem::take(&mut guard.note);
            guard.note = if before.is_empty() { note } else { format!("{before}; {note}") };
        }
        problems.extend(drift.iter().map(|text| ProblemKind::Coverage.sentence(text)));
        let ports: Vec<_> = policy.sections().iter().map(|section| port(section, now)).collect();
        let (hosts, prefixes) = self.ledger.claims().used();
        let logged = log::state();
        let faults = self.faults.all();
        let (not_listening, files) = (
            faults.get(&ProblemKind::Control.into()),
            faults.get(&ProblemKind::ControlFiles.into()),
        );
        let control = control.as_ref();
        let control = control.map(|control| self.about.control(control, not_listening, files));
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        v1::StatusResponse {
            state: state(gate.observe, &interfaces, &guard, &ports, &problems).into(),
            problems,
            version: env!("CARGO_PKG_VERSION").into(),
            host: host.clone(),
            host_id_source: source_word(&self.config).into(),
            mode: if gate.observe { "observe" } else { "enforce" }.into(),
            interfaces: interfaces.iter().map(|state| interface(state, &guard)).collect(),
            guard: Some(guard_message(&guard)),
            ports,
            grants: Vec::new(),
            drops: Some(drops(&counters)),
            control,
            capacity: Some(v1::Capacity {
                host_entries: count(hosts),
                host_entries_max: limits.hosts,
                prefix_entries: count(prefixes),
                prefix_entries_max: limits.prefixes.saturating_mul(2),
            }),
            soon: self.soon(hosts, prefixes, now),
            started_at_ms: self.about.started().0,
            policy: Some(self.policies.state(&self.config, now)),
            configuration: Some(self.configuration.message()),
            log: Some(v1::LogState {
                dropped_lines: logged.dropped,
                problem: logged.problem.unwrap_or_default(),
            }),
            foreign: self.review.mended(),
            revoked_before: Some(floors(self.ledger.floors())),
            refused: self.denials.refused_lately(now),
            recent: Some(self.denials.recent(now)),
            refused_last_hour: self.denials.refused_in_the_last_hour(now),
            trial: self.trials.state(now),
            // Whoever serves controllers knows.
            front: None,
            // As to the rest of it.
            uplink: self.config.uplink.as_ref().map(|_| self.about.uplink()),
            boot_id: self.boot_id.clone(),
            freshness: self.arrivals.message(now),
        }
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

    fn problems(&self, now: Now) -> Vec<String> {
        let named = self.problems_by_name(now).into_iter();
        named.map(|(name, text)| name.kind.sentence(&text)).collect()
    }

    /// The problems. Each has a text, which may change, and a name, which does not.
    pub(super) fn problems_by_name(&self, now: Now) -> Vec<(ProblemName, String)> {
        let mut problems: Vec<_> = self.problems_of_parts().collect();
        let untrusted =
            self.clock.check(now).err().map(|untrusted| {
                format!("the {untrusted}: nothing new is opened until it is right")
            });
        problems.extend(untrusted.map(|text| (ProblemKind::Clock.into(), text)));
        let certificate = self.about.certificate_problem(now);
        problems.extend(certificate.map(|text| (ProblemKind::Certificate.into(), text)));
        problems.extend(self.faults.all());
        problems.extend(self.links.problems(&self.forwarded_ports()));
        let policies = self.policies.problems().iter().enumerate();
        problems
            .extend(policies.map(|(index, text)| (ProblemKind::Policy.of(index), text.clone())));
        problems.extend(self.outside_problem().map(|text| (ProblemKind::Outside.into(), text)));
        problems.extend(self.links.guard().problem().map(|(kind, text)| (kind.into(), text)));
        problems.extend(self.trials.problem(now));
        problems.extend(self.arrivals.problems(now));
        problems.extend(self.problems_of_ports(now));
        problems
    }

    /// The ports that are not closed, or not everywhere.
    fn problems_of_ports(&self, now: Now) -> Vec<(ProblemName, String)> {
        let sections = self.config.policy.sections();
        let mut problems = Vec::new();
        for section in sections {
            let range = section.range;
            if section.observe {
                let text = format!("{range} is in observe mode: everybody gets in");
                problems.push((ProblemKind::Observe.of(range), text));
            }
            if let Some(text) = open_text(&exempt_from_all(section, now)) {
                let text = format!("{range} {text}");
                problems.push((ProblemKind::OpenToAll.of(range), text));
            }
        }
        if sections.is_empty() {
            let text = "no [[port]] section: nothing is protected";
            problems.push((ProblemKind::NoPort.into(), text.into()));
        }
        if !self.links.any_to_gate() {
            let text = "no interface matches [gate] interfaces: nothing is gated";
            problems.push((ProblemKind::NoInterface.into(), text.into()));
        }
        let forwarded = self.forwarded_ports();
        if !forwarded.is_empty() && !self.links.any_gated() {
            let text = format!(
                "no interface has a gate: {forwarded} can be reached, for the socket guard does not \
                 see what this host forwards"
            );
            problems.push((ProblemKind::Forwarded.into(), text));
        }
        problems
    }

    /// The protected ports that this host only forwards, for people; empty: there are none.
    fn forwarded_ports(&self) -> String {
        let sections = self.config.policy.sections().iter().filter(|section| section.forwarded);
        sections.map(|section| section.range.to_string()).collect::<Vec<_>>().join(" ")
    }

    fn problems_of_parts(&self) -> impl Iterator<Item = (ProblemName, String)> {
        let Alarms { damaged, pins, retired } = &self.alarms;
        let [storage, reserve] = self.outbox.problems();
        let [audit, audit_damaged] = self.recorder.problems();
        [
            (ProblemKind::Coverage, self.links.problem()),
            (ProblemKind::Database, damaged.as_deref()),
            (ProblemKind::Kernel, self.tables.problem()),
            (ProblemKind::Pins, pins.text()),
            (ProblemKind::RetiredPins, retired.text()),
            (ProblemKind::Reserve, reserve),
            (ProblemKind::SelfTest, self.self_test.problem()),
            (ProblemKind::Storage, storage),
            (ProblemKind::Sessions, self.ending.problem()),
            (ProblemKind::Audit, audit),
            (ProblemKind::AuditDamaged, audit_damaged),
        ]
        .into_iter()
        .chain(self.review.problems())
        .filter_map(|(kind, text)| Some((kind.into(), text?.to_owned())))
    }

    fn soon(&self, hosts: usize, prefixes: usize, now: Now) -> Vec<String> {
        let most = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let limits = self.config.limits;
        let full = [
            ("addresses", hosts, most(limits.hosts)),
            ("prefixes", prefixes, most(limits.prefixes)),
        ]
        .into_iter()
        .filter(|(_, used, most)| used.saturating_mul(10) >= most.saturating_mul(9))
        .map(|(what, used, most)| format!("{used} of {most} {what} are in use ([limits])"));
        let loud = self.break_glass_open(now).into_iter();
        let mut soon: Vec<_> = loud.chain(full).chain(self.about.certificate_soon(now)).collect();
        soon.extend(self.policies.soon(&self.config, now));
        if let Ok(ports) = LocalPorts::read() {
            soon.extend(ports.warnings(self.config.policy.sections()));
        }
        soon
    }

    pub(super) fn report_grant(&self, event: v1::GrantEvent, now: Now) {
        self.journal.add(now.wall.0, What::Grant(event));
    }
}

/// Something happened to a grant.
pub(super) fn grant_event(kind: &str, id: GrantId, by: &str) -> v1::GrantEvent {
    let grant_id = id.0.to_vec().into();
    v1::GrantEvent { kind: kind.into(), grant_id, by: by.into(), ..v1::GrantEvent::default() }
}

/// `enforcing`, `degraded` or `not_enforcing`. A gate that closes no port at all is not in force.
pub(crate) fn state(
    observe: bool,
    interfaces: &[InterfaceState],
    guard: &GuardState,
    ports: &[v1::Port],
    problems: &[String],
) -> &'static str {
    let gated = interfaces.iter().any(|interface| interface.hook.is_some());
    let is_closed = |port: &v1::Port| {
        // The guard does not see what this host forwards.
        let held = gated || (guard.attached && port.terminates != FORWARDED);
        held && !port.open_to_all && port.mode != OBSERVE
    };
    if observe || !ports.iter().any(is_closed) {
        "not_enforcing"
    } else if problems.is_empty() {
        "enforcing"
    } else {
        "degraded"
    }
}

pub(crate) fn interface(state: &InterfaceState, guard: &GuardState) -> v1::Interface {
    let InterfaceState { name, index, hook, since, note, left_out, .. } = state;
    let note = match left_out {
        Some(_) if guard.attached => GUARDED,
        _ => note,
    };
    v1::Interface {
        excluded: left_out.clone().unwrap_or_default(),
        name: name.clone(),
        index: *index,
        hook: hook_word(*hook, left_out.is_some(), guard).into(),
        since_ms: since.map_or(0, |since| since.0),
        note: note.to_owned(),
        attached: hook.is_some(),
    }
}

/// The word for an interface's hook, or for what it has in its place.
pub(crate) fn hook_word(hook: Option<Hook>, left_out: bool, guard: &GuardState) -> &'static str {
    let none = match (left_out, guard.attached) {
        (true, _) => "excluded",
        (false, true) => "guard_only",
        (false, false) => "none",
    };
    hook.map_or(none, Hook::word)
}

/// The socket guard as a message.
pub(crate) fn guard_message(state: &GuardState) -> v1::SocketGuard {
    let GuardState { wanted, attached, since, note, others: _, held_by: _, changes: _ } = state;
    let off = !attached && !wanted && note.is_empty();
    v1::SocketGuard {
        wanted: *wanted,
        attached: *attached,
        since_ms: since.map_or(0, |since| since.0),
        note: if off { GUARD_OFF.into() } else { note.clone() },
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

/// Floors of revocations as a message.
fn floors(floors: &Floors) -> v1::RevocationFloor {
    let by_requester = floors.by_requester().iter().map(|(name, at)| (name.clone(), at.0));
    v1::RevocationFloor {
        all_ms: floors.all().map_or(0, |at| at.0),
        by_requester: by_requester.collect(),
    }
}

/// The bytes of an event's address that count: 4 or 16.
pub(super) fn address_bytes(family: u8, bytes: &[u8; 16]) -> &[u8] {
    let length = if family == 4 { 4 } else { 16 };
    bytes.get(..length).unwrap_or(bytes)
}

/// An event's address as people write it.
pub(super) fn address(family: u8, bytes: &[u8; 16]) -> String {
    jit_proto::words::address_text(address_bytes(family, bytes))
}

pub(super) fn counter(reason: Reason, packets: u64) -> v1::Counter {
    v1::Counter { reason: reason.word().into(), packets }
}

pub(super) fn protocol(number: u8) -> i32 {
    match Protocol::from_number(number) {
        Some(Protocol::Tcp) => v1::Protocol::Tcp.into(),
        Some(Protocol::Udp) => v1::Protocol::Udp.into(),
        None => v1::Protocol::Unspecified.into(),
    }
}

/// The families of which everybody is let in to a port without a grant.
fn exempt_from_all(section: &PortSection, now: Now) -> Vec<Family> {
    let live = section.exemptions.iter();
    let live = live.filter(|exemption| exemption.until.is_none_or(|until| until > now.wall));
    everybody::open_to_all(&live.map(|exemption| exemption.source).collect::<Vec<_>>())
}

/// Why a port is open to all; `None`: it is not.
pub(crate) fn open_text(families: &[Family]) -> Option<String> {
    let over = match families {
        [] => return None,
        [Family::V4] => " over IPv4",
        [Family::V6] => " over IPv6",
        _ => "",
    };
    Some(format!("is open to all{over}: its exemptions let everybody in without a grant"))
}

pub(super) fn port(section: &PortSection, now: Now) -> v1::Port {
    v1::Port {
        range: Some(section.range.into()),
        mode: if section.observe { OBSERVE } else { "enforce" }.into(),
        open_to_all: !exempt_from_all(section, now).is_empty(),
        sessions: match section.sessions {
            Sessions::Cut => v1::Sessions::Cut.into(),
            Sessions::Drain => v1::Sessions::Drain.into(),
        },
        terminates: if section.forwarded { FORWARDED } else { "host" }.into(),
        max_duration_ms: i64::try_from(section.max_duration.as_millis()).unwrap_or(i64::MAX),
        exemptions: section.exemptions.iter().map(v1::Exemption::from).collect(),
        sources_allowed: u32::try_from(section.sources.len()).unwrap_or(u32::MAX),
        approvals: u32::try_from(section.approvals).unwrap_or(u32::MAX),
    }
}
