//! `status` while no agent answers: what the kernel enforces now, read from the pins.

use std::{collections::BTreeMap, path::Path};

use jit_common::{ABI_VERSION, PortKey, PortRule, Slot};
use jit_proto::{SourcePrefix, v1};
use prost::Message as _;

use crate::{
    config::InterfaceFilter,
    gate::report::{self, drops, guard_message, interface, open_text},
    kernel::datapath::{
        DatapathError, InterfaceState,
        guard::GuardState,
        view::{Foreign, View},
    },
    rules::{
        claims::EXEMPT_SLOT,
        clock::{BootNanos, Now},
        everybody,
        reconcile::{Access, Entries, EntryKey},
    },
};

/// States without an agent.
const DEGRADED: &str = "degraded";
const NOT_ENFORCING: &str = "not_enforcing";

/// The status that the pins show; not enforcing when there are no pins. `agent` is the beginning of
/// a sentence, such as "no agent answers"; `wanted` are the interfaces that the
/// configuration gates.
pub fn status(
    pins: &Path,
    wanted: &InterfaceFilter,
    agent: &str,
    now: Now,
) -> Result<v1::StatusResponse, DatapathError> {
    // A takeover makes the tables of its version before it replaces the first program. Until then
    // the gate is still the other version's.
    let own = View::read(pins, wanted);
    if !own.as_ref().is_ok_and(|view| view.as_ref().is_some_and(View::attached))
        && let Some(foreign) = Foreign::read(pins, wanted)?
        && (foreign.attached() || matches!(own, Ok(None)))
    {
        return Ok(of_another_version(foreign, agent));
    }
    Ok(own?.map_or_else(|| without_pins(agent), |view| of_view(view, agent, now)))
}

/// Nothing is in the kernel.
fn without_pins(agent: &str) -> v1::StatusResponse {
    let problem = format!(
        "{agent} and nothing is pinned: every port is open; start it with `systemctl start \
         jit-agent`"
    );
    with_problem(NOT_ENFORCING, problem)
}

/// This version's gate.
fn of_view(view: View, agent: &str, now: Now) -> v1::StatusResponse {
    let attached = view.attached();
    let View { interfaces, guard, ports, entries, slots, counters, settings } = view;
    let observes = settings.observe != 0;
    let mut status = with_problem(NOT_ENFORCING, without_agent(agent, attached));
    if observes {
        status.mode = "observe".into();
    }
    status.problems.extend(guard.problem().map(|(_, text)| text));
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
        status.problems.extend(open.map(|text| format!("{port} {text}")));
    }
    let state = report::state(observes, &interfaces, &guard, &status.ports, &status.problems);
    status.state = state.into();
    status.grants = live_entries(&entries, &slots, now);
    status.drops = Some(drops(&counters));
    status
}

/// Another version's gate: its links can be read, its tables cannot.
fn of_another_version(foreign: Foreign, agent: &str) -> v1::StatusResponse {
    let state = if foreign.attached() { DEGRADED } else { NOT_ENFORCING };
    let Foreign { version, interfaces, guard } = foreign;
    let problem = format!(
        "{agent}: another version of it (layouts {version}, here {ABI_VERSION}) pinned the gate, and \
         this version cannot read its tables; `systemctl start jit-agent` takes it over"
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
        problems: vec![problem],
        ..v1::StatusResponse::default()
    }
}

/// The problem of a gate without an agent.
fn without_agent(agent: &str, attached: bool) -> String {
    if attached {
        format!(
            "{agent}: the kernel holds this and ends every grant on time, but nothing new opens; \
             `systemctl restart jit-agent`, `journalctl -u jit-agent`"
        )
    } else {
        format!(
            "{agent} and no program is attached: every port is open; start it with `systemctl \
             start jit-agent`"
        )
    }
}

fn add_interfaces(
    status: &mut v1::StatusResponse,
    interfaces: &[InterfaceState],
    guard: &GuardState,
    forwarded: &str,
) {
    let gaps = interfaces.iter().filter_map(|state| report::problem(state, guard, forwarded));
    status.problems.extend(gaps);
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

/// What is open now. Requester and reason are in the database, which only the agent reads.
pub(super) fn live_entries(
    entries: &Entries,
    slots: &BTreeMap<u32, Slot>,
    now: Now,
) -> Vec<v1::GrantState> {
    let mut live: Vec<(&EntryKey, Access)> =
        live_accesses(entries, now).filter(|(_, access)| access.slot != EXEMPT_SLOT).collect();
    live.sort_unstable_by_key(|(key, access)| (access.slot, **key));
    let counted = |access: &Access| slots.get(&access.slot).copied().unwrap_or_default();
    live.into_iter()
        .map(|(key, access)| (key, access, counted(&access)))
        .map(|(key, access, Slot { hits, limit, generation: _ })| v1::GrantState {
            grant: v1::Grant {
                sources: vec![(&key.source).into()],
                ports: vec![key.port.into()],
                requester: "(in the kernel)".into(),
                max_connections: limit,
                ..v1::Grant::default()
            }
            .encode_to_vec()
            .into(),
            state: if limit > 0 && hits >= u64::from(limit) {
                v1::State::Exhausted.into()
            } else {
                v1::State::Active.into()
            },
            signers: Vec::new(),
            left_ms: i64::try_from(now.until(access.deadline).as_millis()).unwrap_or(i64::MAX),
            hits,
            outside: String::new(),
        })
        .collect()
}

/// The claims that let somebody in now.
fn live_accesses(entries: &Entries, now: Now) -> impl Iterator<Item = (&EntryKey, Access)> {
    let accesses =
        entries.iter().flat_map(|(key, entry)| entry.accesses().map(move |access| (key, access)));
    accesses.filter(move |(_, access)| access.deadline > now.boot)
}
