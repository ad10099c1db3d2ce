//! Reads from the pins what the kernel enforces now: for `status` when the agent is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use aya::{maps::MapInfo, programs::loaded_programs};
use jit_common::{PortKey, PortRule, Settings, Slot, map};
use jit_proto::Hook;

use crate::{
    config::{InterfaceFilter, Limits},
    kernel::datapath::{
        bpf,
        error::{DatapathError, chain},
        guard::GuardState,
        kernel::lone_twin,
        maps::Maps,
        observe::{self, Found, devices, pinned_since},
        pins::Pins,
        rtnetlink::Device,
        selftest::SHARED,
        socket_guard,
        state::{Counters, InterfaceState},
        verdict::{self, Answers, Question},
    },
    rules::{clock::BootNanos, reconcile::Entries},
};

/// Everything that the pins show.
#[derive(Debug)]
pub struct View {
    /// Interfaces that have a pin of ours or should have one, and whether a program of ours is
    /// really attached.
    pub interfaces: Vec<InterfaceState>,
    /// The socket guard.
    pub guard: GuardState,
    /// Protected ports.
    pub ports: BTreeMap<PortKey, PortRule>,
    /// The grant tables.
    pub entries: Entries,
    /// The counts of the slots in `entries`.
    pub slots: BTreeMap<u32, Slot>,
    /// Counters.
    pub counters: Counters,
    /// Settings.
    pub settings: Settings,
}

/// The pins of another version of the agent. Its tables have another layout.
#[derive(Debug)]
pub struct Foreign {
    /// Version of the layouts.
    pub version: u32,
    /// As in [`View`].
    pub interfaces: Vec<InterfaceState>,
    /// As in [`View`].
    pub guard: GuardState,
}

impl Foreign {
    /// Reads the pins of other versions: of the newest that holds a gate, else of the newest;
    /// `None` when there are none.
    pub fn read(pins: &Path, wanted: &InterfaceFilter) -> Result<Option<Self>, DatapathError> {
        let mut newest = None;
        for other in Pins::new(pins).others()? {
            let version = other.layout_version();
            let (interfaces, guard) = (interfaces(&other, wanted)?, socket_guard::of_pin(&other));
            let foreign = Self { version, interfaces, guard };
            if foreign.attached() {
                return Ok(Some(foreign));
            }
            newest = newest.or(Some(foreign));
        }
        Ok(newest)
    }

    /// Whether a program is in force.
    pub fn attached(&self) -> bool {
        attached(&self.interfaces, &self.guard)
    }
}

impl View {
    /// Whether a program is in force.
    pub fn attached(&self) -> bool {
        attached(&self.interfaces, &self.guard)
    }

    /// Reads the pins; `None` when there are none.
    pub fn read(pins: &Path, wanted: &InterfaceFilter) -> Result<Option<Self>, DatapathError> {
        let pins = Pins::new(pins);
        if !pins.exist() {
            return Ok(None);
        }
        let maps = Maps::from_pins(&pins)?;
        let entries = maps.entries()?;
        let accesses = entries.values().flat_map(|entry| entry.accesses());
        let slots: BTreeSet<_> =
            accesses.filter(|access| access.is_some()).map(|access| access.slot).collect();
        let slots: Vec<_> = slots.into_iter().collect();
        let slots = slots.iter().copied().zip(maps.slots(&slots)).collect();
        Ok(Some(Self {
            interfaces: interfaces(&pins, wanted)?,
            guard: socket_guard::of_pin(&pins),
            ports: maps.protected()?,
            entries,
            slots,
            counters: maps.counters()?,
            settings: maps.settings()?,
        }))
    }
}

/// The protected ports in the pinned tables; `None`: nothing is pinned.
pub fn protected(pins: &Path) -> Result<Option<BTreeMap<PortKey, PortRule>>, DatapathError> {
    let pins = Pins::new(pins);
    if !pins.exist() {
        return Ok(None);
    }
    Maps::from_pins(&pins)?.protected().map(Some)
}

/// Asks the loaded programs about a connection, over the pins. Changes nothing. Only for root: the
/// kernel lets nobody else list programs.
pub fn ask(
    pins: &Path,
    question: Question,
    state: (&[InterfaceState], bool),
    now: BootNanos,
) -> Result<Answers, DatapathError> {
    let pins = Pins::new(pins);
    let maps = Maps::from_pins(&pins)?;
    let entries = |name: &str| {
        let info = MapInfo::from_pin(pins.map(name));
        info.map(|info| info.max_entries()).map_err(|error| DatapathError::Load(chain(&error)))
    };
    // The loader would make and pin a table that is not there.
    for name in SHARED {
        entries(name)?;
    }
    let limits =
        Limits { hosts: entries(map::HOST_GRANTS)?, prefixes: entries(map::PREFIX_GRANTS_V4)? };
    let tags: Vec<_> = loaded_programs().filter_map(Result::ok).map(|info| info.tag()).collect();
    let mut twin = lone_twin(&pins, limits)?;
    verdict::ask(&mut twin, &maps, question, state, now, &|_, tag| tags.contains(&tag))
}

/// Whether no other owner's program runs before ours at this hook of an interface. Also where ours is
/// not there.
pub fn is_first(pins: &Path, device: &Device, hook: Hook) -> io::Result<bool> {
    let pins = Pins::new(pins);
    let link: Option<OwnedFd> = bpf::open_pin(&pins.link(device.index, hook)).ok();
    let found = observe::attachment(device, hook, link.as_ref(), &pins.owner())?;
    Ok(!matches!(found, Found::InForce { foreign_first: true, .. }))
}

fn attached(interfaces: &[InterfaceState], guard: &GuardState) -> bool {
    guard.attached || interfaces.iter().any(|interface| interface.hook.is_some())
}

fn interfaces(pins: &Pins, wanted: &InterfaceFilter) -> Result<Vec<InterfaceState>, DatapathError> {
    let devices = devices()?;
    let mut states = Vec::new();
    for pin in pins.all_links()? {
        let Some((hook, index)) = Pins::parse_link(&pin) else { continue };
        // An interface that is gone needs no gate.
        let Some(device) = devices.iter().find(|device| device.index == index) else { continue };
        let link: Option<OwnedFd> = bpf::open_pin(&pin).ok();
        let note = match observe::attachment(device, hook, link.as_ref(), &pins.owner()) {
            Ok(Found::InForce { .. }) => String::new(),
            Ok(Found::Lost(why)) => why.into(),
            Err(error) => observe::unreadable(&error),
        };
        states.push(InterfaceState {
            hook: note.is_empty().then_some(hook),
            since: pinned_since(&pin),
            ..InterfaceState::without(&device.name, index, &note)
        });
    }
    // An interface may have several pins: that of another mode may be left over.
    let gated: Vec<_> = states.iter().filter(|s| s.hook.is_some()).map(|s| s.index).collect();
    states.retain(|state| state.hook.is_some() || !gated.contains(&state.index));
    for device in devices.iter().filter(|device| !device.loopback && wanted.matches(&device.name)) {
        if states.iter().any(|state| state.index == device.index) {
            continue;
        }
        // A classifier stays without its pin.
        let found = observe::attachment(device, Hook::Clsact, None, &pins.owner());
        let hook = matches!(found, Ok(Found::InForce { .. })).then_some(Hook::Clsact);
        let note =
            if hook.is_some() { "its pin is gone" } else { "no program of jit-agent is on it" };
        states.push(InterfaceState {
            hook,
            ..InterfaceState::without(&device.name, device.index, note)
        });
    }
    states.sort_by_key(|state| state.index);
    states.extend(observe::missing(wanted, &devices));
    let gated: Vec<_> = states.iter().map(|state| state.index).collect();
    let left_out = observe::left_out(wanted, &devices);
    states.extend(left_out.filter(|state| !gated.contains(&state.index)));
    Ok(states)
}
