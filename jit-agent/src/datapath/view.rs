//! What the kernel enforces now, read from the pins: for `status` when the agent is dead.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::Path};

use jit_common::{PortKey, PortRule, Settings, Slot};

use crate::{
    datapath::{
        Counters, DatapathError, InterfaceState,
        attach::{devices, pinned_since},
        bpf,
        guard::GuardState,
        maps::Maps,
        pins::Pins,
        readback::{self, Found},
    },
    reconcile::Entries,
};

/// Everything that the pins tell.
#[derive(Debug)]
pub struct View {
    /// Interfaces with a link of ours that is really attached.
    pub interfaces: Vec<InterfaceState>,
    /// The socket guard.
    pub guard: GuardState,
    /// Protected ports.
    pub ports: BTreeMap<PortKey, PortRule>,
    /// The grant tables.
    pub entries: Entries,
    /// What is counted, for the slots in `entries`.
    pub slots: BTreeMap<u32, Slot>,
    /// Counters.
    pub counters: Counters,
    /// Settings.
    pub settings: Settings,
}

/// What the pins of another version of the agent tell, whose tables have another layout.
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
    /// Reads the pins of other versions: of the newest that holds a gate, else of the newest; `None`
    /// when there are none.
    pub fn read(pins: &Path) -> Result<Option<Self>, DatapathError> {
        let mut newest = None;
        for other in Pins::new(pins).others()? {
            let version = other.layout_version();
            let (interfaces, guard) = (interfaces(&other)?, GuardState::of_pin(&other));
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
    pub fn read(pins: &Path) -> Result<Option<Self>, DatapathError> {
        let pins = Pins::new(pins);
        if !pins.exist() {
            return Ok(None);
        }
        let maps = Maps::from_pins(&pins)?;
        let entries = maps.entries()?;
        let claims = entries.values().flat_map(|entry| entry.claims());
        let slots = claims
            .filter(|claim| claim.is_some())
            .map(|claim| (claim.slot, maps.slot(claim.slot)))
            .collect();
        Ok(Some(Self {
            interfaces: interfaces(&pins)?,
            guard: GuardState::of_pin(&pins),
            ports: maps.protected()?,
            entries,
            slots,
            counters: maps.counters()?,
            settings: maps.settings()?,
        }))
    }
}

fn attached(interfaces: &[InterfaceState], guard: &GuardState) -> bool {
    guard.attached || interfaces.iter().any(|interface| interface.hook.is_some())
}

fn interfaces(pins: &Pins) -> Result<Vec<InterfaceState>, DatapathError> {
    let devices = devices()?;
    let mut states = Vec::new();
    for pin in pins.all_links()? {
        let Some((hook, index)) = Pins::parse_link(&pin) else { continue };
        let device = devices.iter().find(|device| device.index == index);
        let link: Option<OwnedFd> = bpf::open_pin(&pin).ok();
        let note = match device.map(|d| readback::read(d, hook, link.as_ref(), &pins.owner())) {
            None => "the interface is gone".into(),
            Some(Ok(Found::InForce { .. })) => String::new(),
            Some(Ok(Found::Lost(why))) => why.into(),
            Some(Err(error)) => format!("cannot read back what is on it: {error}"),
        };
        states.push(InterfaceState {
            name: device.map_or_else(|| format!("interface {index}"), |device| device.name.clone()),
            index,
            hook: note.is_empty().then_some(hook),
            since: pinned_since(&pin),
            note,
            behind: false,
            changes: Vec::new(),
        });
    }
    Ok(states)
}
