//! Opens places of the pinned grant tables while no agent does: for root alone, until a deadline that
//! the kernel enforces (docs/operations.md, section "Breaking the glass").
//!
//! What is written has the form of an agent's own write. An agent that starts, or that hangs and goes
//! on, takes it for its own if the opening was kept before (`disk::openings`).

use std::{collections::BTreeMap, path::Path};

use aya::maps::MapInfo;
use jit_common::{PortKey, PortRule, map};

use crate::{
    config::Limits,
    kernel::datapath::{
        error::{DatapathError, chain},
        maps::Maps,
        pins::Pins,
    },
    rules::{
        clock::BootNanos,
        opening,
        reconcile::{Access, Entries, EntryKey, Write},
        refusal::Refused,
    },
};

/// The pinned tables.
pub struct PinnedTables {
    maps: Maps,
    limits: Limits,
    entries: Entries,
}

/// What will be written.
#[derive(Debug)]
pub struct Planned {
    /// Where the connections are counted.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    writes: Vec<Write>,
}

impl PinnedTables {
    /// Reads the tables; `None`: nothing is pinned.
    pub fn open(pins: &Path) -> Result<Option<Self>, DatapathError> {
        let pins = Pins::new(pins);
        if !pins.exist() {
            return Ok(None);
        }
        let size = |name: &str| {
            let info = MapInfo::from_pin(pins.map(name));
            info.map(|info| info.max_entries()).map_err(|error| DatapathError::Load(chain(&error)))
        };
        let limits =
            Limits { hosts: size(map::HOST_GRANTS)?, prefixes: size(map::PREFIX_GRANTS_V4)? };
        let maps = Maps::from_pins(&pins)?;
        let entries = maps.entries()?;
        Ok(Some(Self { maps, limits, entries }))
    }

    /// The protected ports, as the kernel has them.
    pub fn protected(&self) -> Result<BTreeMap<PortKey, PortRule>, DatapathError> {
        self.maps.protected()
    }

    /// Plans the opening of these places, and begins the count of a slot for it, which opens nothing.
    /// Slots of `taken` are left alone; `skip` as in [`opening::slot`].
    ///
    /// # Errors
    /// The kernel refuses, or (the inner result) there is no room.
    pub fn plan(
        &mut self,
        keys: &[EntryKey],
        (deadline, now): (BootNanos, BootNanos),
        taken: impl Iterator<Item = u32>,
        skip: usize,
    ) -> Result<Result<Planned, Refused>, DatapathError> {
        let Self { maps, limits, entries } = self;
        let mut used = opening::slots(entries);
        used.extend(taken);
        let fresh = |slot| maps.slot(slot).generation == 0;
        let Some(slot) = opening::slot(limits.slots(), &used, skip, fresh) else {
            return Ok(Err(opening::no_slot()));
        };
        let access = Access { deadline, cut: false, slot };
        let writes = match opening::writes(entries, keys, access, (*limits).into(), now) {
            Ok(writes) => writes,
            Err(refused) => return Ok(Err(refused)),
        };
        maps.open_slot(slot, 0)?;
        Ok(Ok(Planned { slot, generation: maps.slot(slot).generation, writes }))
    }

    /// Opens. If the kernel refuses one write, those before it are taken back: nothing is open then.
    pub fn carry_out(&mut self, planned: &Planned) -> Result<(), DatapathError> {
        let mut done = Vec::new();
        for write in &planned.writes {
            if let Err(error) = self.maps.write(write) {
                let undone = done.into_iter().rev().map(|write| undo(write, &self.entries));
                undone.for_each(|write| drop(self.maps.write(&write)));
                return Err(error);
            }
            done.push(write);
        }
        Ok(())
    }
}

/// The write that puts back what was there.
fn undo(write: &Write, entries: &Entries) -> Write {
    let (Write::Remove(key) | Write::Set(key, _)) = write;
    entries.get(key).map_or(Write::Remove(*key), |entry| Write::Set(*key, *entry))
}
