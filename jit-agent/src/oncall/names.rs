//! Whose grants the kernel enforces, from the database, while no agent answers.
//!
//! Reads a copy of the file's bytes: an agent that hangs holds the file's lock, and nothing here may
//! write. What is enforced is by the kernel's tables alone: the database only gives names.

use std::{
    collections::HashMap,
    path::Path,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use jit_common::Slot;
use jit_proto::v1;
use prost::Message as _;

use crate::{
    disk::store::{Store, StoreError, Stored, StoredGrant},
    system::sys,
};

/// The longest wait for the disk.
const DISK: Duration = Duration::from_millis(500);

/// The grants of the database.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the slot, and its generation, in which the kernel counts their connections.
    of_slots: HashMap<(u32, u32), v1::Grant>,
    /// Those that have not begun.
    waiting: Vec<v1::Grant>,
}

/// Names that are being read, on a thread of their own.
pub(super) struct Reading(Receiver<Result<Stored, StoreError>>);

impl Reading {
    /// Begins to read.
    pub(super) fn begin(state: &Path) -> Self {
        let directory = state.to_owned();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let _late = sender.send(Store::peek(&directory));
        });
        Self(receiver)
    }

    /// Waits for the names. A disk that hangs is not waited for.
    ///
    /// # Errors
    /// A sentence for a person.
    pub(super) fn end(self) -> Result<Names, String> {
        let boot = sys::boot_id().map_err(|error| error.to_string())?;
        let stored = self.0.recv_timeout(DISK);
        let stored = stored.map_err(|_| format!("the disk does not answer within {DISK:?}"))?;
        Ok(Names::of(stored.map_err(|error| error.to_string())?, &boot))
    }
}

impl Names {
    fn of(stored: Stored, boot: &str) -> Self {
        let Stored { grants, progress, .. } = stored;
        let mut names = Self::default();
        for (id, StoredGrant { envelope }) in grants {
            let Some(grant) = envelope.and_then(|one| v1::Grant::decode(one.payload).ok()) else {
                continue;
            };
            let place = progress.get(&id);
            if place.is_none_or(|place| !place.began) {
                names.waiting.push(grant);
            } else if let Some(place) = place.filter(|place| place.boot_id == boot) {
                names.of_slots.insert((place.slot, place.generation), grant);
            }
        }
        names
    }

    /// The grant that is counted in this slot.
    pub(super) fn of_slot(&self, slot: u32, counted: Slot) -> Option<&v1::Grant> {
        self.of_slots.get(&(slot, counted.generation))
    }

    /// The grants that have not begun.
    pub(super) fn waiting(&self) -> &[v1::Grant] {
        &self.waiting
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::GrantId;

    use super::*;
    use crate::disk::store::StoredProgress;

    #[test]
    fn a_name_counts_only_for_its_slot_generation_and_boot() {
        let grant = v1::Grant { requester: "ana@example.org".into(), ..v1::Grant::default() };
        let payload = grant.encode_to_vec().into();
        let envelope = v1::Envelope { payload, ..v1::Envelope::default() };
        let place = StoredProgress {
            boot_id: "now".into(),
            slot: 7,
            generation: 3,
            began: true,
            ..StoredProgress::default()
        };
        let stored = || {
            let mut stored = Stored::default();
            stored.grants.push((GrantId([1; 16]), StoredGrant::from(envelope.clone())));
            stored.progress.insert(GrantId([1; 16]), place.clone());
            stored
        };
        let names = Names::of(stored(), "now");
        let slot = |generation| Slot { generation, ..Slot::default() };
        assert_eq!(names.of_slot(7, slot(3)), Some(&grant));
        assert_eq!((names.of_slot(7, slot(4)), names.of_slot(8, slot(3))), (None, None));
        assert_eq!(Names::of(stored(), "before").of_slot(7, slot(3)), None);
        assert!(names.waiting().is_empty());
        let mut later = stored();
        later.progress.clear();
        let names = Names::of(later, "now");
        assert_eq!((names.of_slot(7, slot(3)), names.waiting()), (None, &[grant.clone()][..]));
    }
}
