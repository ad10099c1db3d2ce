//! `status` while no agent answers: what the kernel enforces now, read from the pins.

use std::{collections::BTreeMap, path::Path};

use jit_common::{ABI_VERSION, PortKey, PortRule, Slot};
use jit_proto::{PortRange, SourcePrefix, v1};
use prost::Message as _;

use crate::{
    config::InterfaceFilter,
    gate::{
        break_glass,
        report::{self, drops, guard_message, interface, open_text},
    },
    kernel::datapath::{
        DatapathError, InterfaceState,
        guard::GuardState,
        view::{Foreign, View},
    },
    oncall::names::Names,
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now},
        everybody,
        problem::ProblemKind,
        reconcile::{Access, Entries, EntryKey},
    },
};

/// States without an agent.
const DEGRADED: &str = "degraded";
const NOT_ENFORCING: &str = "not_enforcing";

/// Why there is no answer of an agent.
#[derive(Clone, Debug)]
pub(super) struct Absent {
    /// The begin of a sentence, such as "no agent answers".
    pub(super) agent: &'static str,
    /// Why its configuration is refused; `None`: it is not, or that is not the cause.
    pub(super) refused: Option<String>,
}

impl Absent {
    /// What to do so that an agent answers again.
    fn cure(&self, command: &str) -> String {
        match &self.refused {
            None => command.to_owned(),
            Some(why) => format!(
                "its configuration is refused ({why}): mend it by `jit-agent check`, then \
                 `systemctl start jit-agent`"
            ),
        }
    }

    /// The problem where every port is open.
    fn open(&self, what: &str) -> String {
        let cure = self.cure("start it with `systemctl start jit-agent`");
        format!("{} and {what}: every port is open; {cure}", self.agent)
    }

    /// The problem of a gate without an agent.
    fn of_gate(&self, attached: bool) -> String {
        if !attached {
            return self.open("no program is attached");
        }
        let cure = self.cure("`systemctl restart jit-agent`, `journalctl -u jit-agent`");
        format!(
            "{}: the kernel holds this and ends every grant on time, but nothing new opens; {cure}",
            self.agent
        )
    }
}

/// The status that the pins show; not enforcing when there are no pins. `wanted` are the interfaces
/// that the configuration gates, `names` the grants that the database has.
pub(super) fn status(
    pins: &Path,
    wanted: &InterfaceFilter,
    absent: &Absent,
    names: &Names,
    now: Now,
) -> Result<v1::StatusResponse, DatapathError> {
    // A takeover makes the tables of its version before it replaces the first program. Until then
    // the gate is still the other version's.
    let own = View::read(pins, wanted);
    if !own.as_ref().is_ok_and(|view| view.as_ref().is_some_and(View::attached))
        && let Some(foreign) = Foreign::read(pins, wanted)?
        && (foreign.attached() || matches!(own, Ok(None)))
    {
        return Ok(of_another_version(foreign, absent));
    }
    let without_pins = || with_problem(NOT_ENFORCING, absent.open("nothing is pinned"));
    Ok(own?.map_or_else(without_pins, |view| of_view(view, absent, names, now)))
}

/// This version's gate.
fn of_view(view: View, absent: &Absent, names: &Names, now: Now) -> v1::StatusResponse {
    let attached = view.attached();
    let View { interfaces, guard, mut ports, entries, slots, counters, settings } = view;
    let clock = || now.boot.0;
    let observes = settings.observes(None, clock);
    for rule in ports.values_mut().filter(|rule| settings.observes(Some(rule), clock)) {
        // Also what was on trial, and was not confirmed in time.
        rule.observe = 1;
    }
    let mut status = with_problem(NOT_ENFORCING, absent.of_gate(attached));
    if observes {
        status.mode = "observe".into();
    }
    status.problems.extend(guard.problem().map(|(kind, text)| kind.sentence(&text)));
    let forwarded: Vec<_> = ports
        .iter()
        .filter(|(_, rule)| rule.forwarded != 0)
        .map(|(port, _)| format!("{}/{}", port.port, port.protocol.word()))
        .collect();
    add_interfaces(&mut status, &interfaces, &guard, &forwarded.join(" "));
    for (port, rule) in &ports {
        let exempt = exempt_sources(&entries, *port, now);
        let open = open_text(&everybody::open_to_all(&exempt));
        status.ports.push(v1::Port {
            exemptions: exemptions(&entries, *port, now),
            open_to_all: open.is_some(),
            ..port_message(*port, rule)
        });
        let port = format!("{}/{}", port.port, port.protocol.word());
        status
            .problems
            .extend(open.map(|text| ProblemKind::OpenToAll.sentence(&format!("{port} {text}"))));
    }
    let state = report::state(observes, &interfaces, &guard, &status.ports, &status.problems);
    status.state = state.into();
    status.grants = live_grants(&entries, &slots, Some(names), now);
    status.soon = break_glass::open(&status.grants);
    status.drops = Some(drops(&counters));
    status
}

/// Another version's gate: its links can be read, its tables cannot.
fn of_another_version(foreign: Foreign, absent: &Absent) -> v1::StatusResponse {
    let state = if foreign.attached() { DEGRADED } else { NOT_ENFORCING };
    let Foreign { version, interfaces, guard } = foreign;
    let cure = absent.cure("`systemctl start jit-agent` takes it over");
    let problem = format!(
        "{}: another version of it (layouts {version}, here {ABI_VERSION}) pinned the gate, and this \
         version cannot read its tables; {cure}",
        absent.agent
    );
    let mut status = with_problem(state, problem);
    // It does not know which ports are forwarded: some may be.
    add_interfaces(&mut status, &interfaces, &guard, "ports");
    status
}

fn with_problem(state: &str, problem: String) -> v1::StatusResponse {
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        mode: "enforce".into(),
        state: state.into(),
        problems: vec![ProblemKind::NoAgent.sentence(&problem)],
        ..v1::StatusResponse::default()
    }
}

fn add_interfaces(
    status: &mut v1::StatusResponse,
    interfaces: &[InterfaceState],
    guard: &GuardState,
    forwarded: &str,
) {
    let gaps = interfaces.iter().filter_map(|state| report::problem(state, guard, forwarded));
    status.problems.extend(gaps.map(|text| ProblemKind::Interface.sentence(&text)));
    status.interfaces = interfaces.iter().map(|state| interface(state, guard)).collect();
    status.guard = Some(guard_message(guard));
}

pub(super) fn port_message(port: PortKey, rule: &PortRule) -> v1::Port {
    v1::Port {
        range: Some(port.into()),
        mode: if rule.observe != 0 { "observe" } else { "enforce" }.into(),
        sessions: if rule.drain != 0 { v1::Sessions::Drain } else { v1::Sessions::Cut }.into(),
        terminates: if rule.forwarded != 0 { "forwarded" } else { "host" }.into(),
        ..v1::Port::default()
    }
}

/// The sources that need no grant on this port now.
fn exempt_sources(entries: &Entries, port: PortKey, now: Now) -> Vec<SourcePrefix> {
    let all = live_accesses(entries, now);
    all.filter(|(key, access)| key.port == port && access.slot == EXEMPT_SLOT)
        .map(|(key, _)| key.source)
        .collect()
}

/// Sources that need no grant on this port. Only the configuration or policy has reason and owner.
fn exemptions(entries: &Entries, port: PortKey, now: Now) -> Vec<v1::Exemption> {
    let of_port =
        |(key, access): &(&EntryKey, Access)| key.port == port && access.slot == EXEMPT_SLOT;
    let mut exempt: Vec<_> = live_accesses(entries, now).filter(of_port).collect();
    exempt.sort_unstable_by_key(|(key, _)| **key);
    exempt
        .into_iter()
        .map(|(key, access)| v1::Exemption {
            source: Some((&key.source).into()),
            reason: "(in the kernel)".into(),
            owner: String::new(),
            until_ms: match access.deadline {
                BootNanos(u64::MAX) => 0,
                deadline => (now.wall + now.until(deadline)).0,
            },
        })
        .collect()
}

/// What is open now: by the kernel's tables. Who asked for it, and why, is by the database.
pub(super) fn live_grants(
    entries: &Entries,
    slots: &BTreeMap<u32, Slot>,
    names: Option<&Names>,
    now: Now,
) -> Vec<v1::GrantState> {
    let mut live: BTreeMap<(u32, BootNanos), Vec<EntryKey>> = BTreeMap::new();
    for (key, access) in live_accesses(entries, now) {
        if access.slot != EXEMPT_SLOT {
            live.entry((access.slot, access.deadline)).or_default().push(*key);
        }
    }
    let mut grants = Vec::new();
    for ((slot, deadline), mut keys) in live {
        keys.sort_unstable();
        let counted = slots.get(&slot).copied().unwrap_or_default();
        let named = names.and_then(|names| names.of_slot(slot, counted));
        match named {
            Some(grant) if opens_just(&grant, &keys) => {
                grants.push(live_grant(grant, counted, deadline, now));
            }
            named => grants.extend(keys.into_iter().map(|key| {
                let grant = of_entry(named.as_ref(), key, counted.limit);
                live_grant(grant, counted, deadline, now)
            })),
        }
    }
    grants
}

/// Whether these entries are all that a grant opens.
fn opens_just(grant: &v1::Grant, keys: &[EntryKey]) -> bool {
    let sources = grant.sources.iter().filter_map(|source| SourcePrefix::try_from(source).ok());
    let sources: Vec<_> = sources.collect();
    let ranges = grant.ports.iter().filter_map(|range| PortRange::try_from(range).ok());
    let mut opened: Vec<_> = ranges
        .flat_map(PortRange::ports)
        .flat_map(|port| sources.iter().map(move |source| EntryKey { source: *source, port }))
        .take(keys.len() + 1)
        .collect();
    opened.sort_unstable();
    opened == keys
}

/// One entry of the tables, with the names of its grant where they are known.
fn of_entry(named: Option<&v1::Grant>, key: EntryKey, limit: u32) -> v1::Grant {
    let unknown = || v1::Grant {
        requester: "(in the kernel)".into(),
        max_connections: limit,
        ..v1::Grant::default()
    };
    v1::Grant {
        sources: vec![(&key.source).into()],
        ports: vec![key.port.into()],
        ..named.cloned().unwrap_or_else(unknown)
    }
}

fn live_grant(grant: v1::Grant, counted: Slot, deadline: BootNanos, now: Now) -> v1::GrantState {
    let Slot { hits, limit, generation: _ } = counted;
    v1::GrantState {
        grant: grant.encode_to_vec().into(),
        state: if limit > 0 && hits >= u64::from(limit) {
            v1::State::Exhausted.into()
        } else {
            v1::State::Active.into()
        },
        signers: Vec::new(),
        left_ms: i64::try_from(now.until(deadline).as_millis()).unwrap_or(i64::MAX),
        hits,
        outside: String::new(),
    }
}

/// The claims that let somebody in now.
fn live_accesses(entries: &Entries, now: Now) -> impl Iterator<Item = (&EntryKey, Access)> {
    let accesses =
        entries.iter().flat_map(|(key, entry)| entry.accesses().map(move |access| (key, access)));
    accesses.filter(move |(_, access)| access.deadline > now.boot)
}
