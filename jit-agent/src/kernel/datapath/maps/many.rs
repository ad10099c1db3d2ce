//! Writes many entries in one call (BPF_MAP_UPDATE_BATCH). Where the kernel cannot do that (tries
//! before Linux 5.13), one after another. The order is the same.

use aya::{Pod, maps::lpm_trie::Key};
use jit_common::{GrantEntry, Slot, map};

use super::{
    Maps, fresh_generation, opened,
    read_back::{RawKey, cannot},
};
use crate::{
    kernel::datapath::{
        bpf,
        error::{DatapathError, Failures},
    },
    rules::reconcile::{EntryKey, Write},
};

/// Entries that one call writes at most.
const MOST: usize = 4096;
/// Slots that are read at once may be this many times as many as those that are asked for.
const SPARSE: usize = 4;

impl Maps {
    /// Carries out writes, in their order. All are tried.
    pub fn write_all(&mut self, writes: &[Write]) -> Result<(), Failures> {
        let mut result = Ok(());
        let mut first = 0;
        for run in writes.chunk_by(|one, next| table(one) == table(next)) {
            for part in run.chunks(MOST) {
                Failures::note_all(&mut result, first, self.write_part(part));
                first += part.len();
            }
        }
        result
    }

    /// The same for writes to one table.
    fn write_part(&mut self, part: &[Write]) -> Result<(), Failures> {
        match part.first().and_then(table) {
            Some(map::HOST_GRANTS) => self.set_all(map::HOST_GRANTS, part, |key| match key {
                RawKey::Host(key) => Some(key),
                RawKey::V4(..) | RawKey::V6(..) => None,
            }),
            Some(map::PREFIX_GRANTS_V4) => {
                self.set_all(map::PREFIX_GRANTS_V4, part, |key| match key {
                    RawKey::V4(length, data) => Some(Key::new(length, data)),
                    RawKey::Host(_) | RawKey::V6(..) => None,
                })
            }
            Some(_) => self.set_all(map::PREFIX_GRANTS_V6, part, |key| match key {
                RawKey::V6(length, data) => Some(Key::new(length, data)),
                RawKey::Host(_) | RawKey::V4(..) => None,
            }),
            None => Failures::of(part, |write| self.write(write)),
        }
    }

    fn set_all<K: Pod>(
        &mut self,
        table: &'static str,
        part: &[Write],
        key: impl Fn(RawKey) -> Option<K>,
    ) -> Result<(), Failures> {
        let raw = |write: &Write| match write {
            Write::Set(place, entry) => Some((key(RawKey::of(place))?, GrantEntry::from(*entry))),
            Write::Remove(_) => None,
        };
        let (keys, entries): (Vec<_>, Vec<_>) = part.iter().filter_map(raw).unzip();
        // The bits first: without them an entry is not found.
        let covered = self.cover_all(part.iter().map(place));
        if keys.len() != part.len() || covered.is_err() {
            return Failures::of(part, |write| self.write(write));
        }
        self.write_many(table, &keys, &entries, |maps, place| {
            part.get(place).map_or(Ok(()), |write| maps.write(write))
        })
    }

    /// Writes each of these keys with the value beside it. What the kernel does not take together
    /// with others is written by `alone`, by its place: that also says why it cannot be written.
    pub(super) fn write_many<K: Pod, V: Pod>(
        &mut self,
        table: &'static str,
        keys: &[K],
        values: &[V],
        mut alone: impl FnMut(&mut Self, usize) -> Result<(), DatapathError>,
    ) -> Result<(), Failures> {
        let mut result = Ok(());
        let mut next = 0;
        while let (Some(keys), Some(values)) = (keys.get(next..), values.get(next..))
            && !keys.is_empty()
        {
            let (written, stopped) = match self.descriptors.get(table) {
                Some(table) if keys.len() > 1 => bpf::write_batch(table, keys, values),
                _ => (0, Ok(())),
            };
            let rest = keys.len() - written;
            let one_by_one = match stopped {
                Err(error) if cannot(&error) => rest,
                _ => rest.min(1),
            };
            next += written;
            for place in next..next + one_by_one {
                Failures::note(&mut result, place, alone(self, place));
            }
            next += one_by_one;
        }
        result
    }

    /// The counts of these slots, in their order; all zero where they cannot be read.
    pub fn slots(&self, slots: &[u32]) -> Vec<Slot> {
        let at_once = self.near_slots(slots);
        at_once.unwrap_or_else(|| slots.iter().map(|slot| self.slot(*slot)).collect())
    }

    /// The same, if they are near to each other and this kernel can read them at once.
    fn near_slots(&self, slots: &[u32]) -> Option<Vec<Slot>> {
        let (first, last) = (*slots.iter().min()?, *slots.iter().max()?);
        let span = usize::try_from(last - first).ok()?;
        if slots.len() < 2 || span / SPARSE >= slots.len() {
            return None;
        }
        // A table of slots is read from the one after this.
        let before = first.checked_sub(1).map(u32::to_ne_bytes);
        let before = before.as_ref().map(<[u8; 4]>::as_slice);
        let sizes = (size_of::<u32>(), size_of::<Slot>());
        let table = self.descriptors.get(map::SLOTS)?;
        let batch = bpf::read_batch(table, sizes, before, span + 1).ok()?;
        let (all, _) = batch.values.as_chunks::<{ size_of::<Slot>() }>();
        let index = |slot: &u32| usize::try_from(slot - first).ok();
        slots.iter().map(|number| slot(all.get(index(number)?)?)).collect()
    }

    /// Opens many slots, each with its limit ([`Maps::open_slot`]). All are tried.
    pub fn open_slots(&mut self, slots: &[(u32, u32)]) -> Result<(), Failures> {
        let mut result = Ok(());
        for (first, part) in (0..).step_by(MOST).zip(slots.chunks(MOST)) {
            Failures::note_all(&mut result, first, self.open_part(part));
        }
        result
    }

    fn open_part(&mut self, part: &[(u32, u32)]) -> Result<(), Failures> {
        let numbers: Vec<_> = part.iter().map(|(slot, _)| *slot).collect();
        let (Some(before), Ok(fresh)) = (self.near_slots(&numbers), fresh_generation()) else {
            return Failures::of(part, |(slot, limit)| self.open_slot(*slot, *limit));
        };
        let counted = before.iter().zip(part);
        // One fresh number serves all: a slot only has to differ from the same one of other tables.
        let counted = counted.map(|(old, (_, limit))| opened(*old, *limit, fresh));
        let counted: Vec<_> = counted.collect();
        let mut result = self.write_many(map::SLOTS, &numbers, &counted, |maps, place| {
            part.get(place).map_or(Ok(()), |(slot, limit)| maps.open_slot(*slot, *limit))
        });
        let failed = result.as_ref().err().map(|failures| failures.at.clone()).unwrap_or_default();
        for (place, (slot, old)) in numbers.iter().zip(before).enumerate() {
            if !failed.contains(&place) {
                Failures::note(&mut result, place, self.forget_connections(*slot, old));
            }
        }
        result
    }
}

/// The table that gets an entry; `None`: an entry is removed.
fn table(write: &Write) -> Option<&'static str> {
    match write {
        Write::Remove(_) => None,
        Write::Set(key, _) => Some(RawKey::of(key).table()),
    }
}

const fn place(write: &Write) -> &EntryKey {
    let (Write::Remove(key) | Write::Set(key, _)) = write;
    key
}

/// A `Slot` from its bytes.
fn slot(bytes: &[u8; size_of::<Slot>()]) -> Option<Slot> {
    let (hits, rest) = bytes.split_first_chunk()?;
    let (limit, rest) = rest.split_first_chunk()?;
    let generation = rest.first_chunk()?;
    Some(Slot {
        hits: u64::from_ne_bytes(*hits),
        limit: u32::from_ne_bytes(*limit),
        generation: u32::from_ne_bytes(*generation),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_from_its_bytes() {
        let mut bytes = [0; size_of::<Slot>()];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&9_u32.to_ne_bytes());
        bytes[12..].copy_from_slice(&5_u32.to_ne_bytes());
        assert_eq!(slot(&bytes), Some(Slot { hits: 7, limit: 9, generation: 5 }));
    }
}
