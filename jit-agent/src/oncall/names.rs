//! Whose grants the kernel enforces, from the database, while no agent answers; and what root opened
//! past the agent, which the database does not have yet.
//!
//! Reads a copy of the file's bytes: an agent that hangs holds the file's lock, and nothing here may
//! write. What is enforced is by the kernel's tables alone: the database only gives names.

use std::{
    collections::HashMap,
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use jit_common::Slot;
use jit_proto::v1;
use prost::{Message as _, bytes::Bytes};

use crate::{
    config::Paths,
    disk::{
        openings::{self, Opening},
        store::{Store, StoreError, Stored, StoredGrant},
    },
    system::sys,
};

/// The longest wait for the disk.
const DISK: Duration = Duration::from_millis(500);

/// The grants of the database.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the slot, and its generation, in which the kernel counts their connections. Encoded: of
    /// many, few are asked for.
    of_slots: HashMap<(u32, u32), Bytes>,
    /// Those that have not begun.
    waiting: Vec<v1::Grant>,
    /// The slots that they have.
    slots: Vec<u32>,
}

/// Names that are being read, on a thread of their own.
pub(super) struct Reading {
    /// What root opened past the agent, as the runtime directory has it.
    opened: Vec<Opening>,
    kept: Late<(Vec<Opening>, Result<Stored, StoreError>)>,
}

impl Reading {
    /// Begins to read.
    pub(super) fn begin(paths: &Paths) -> Self {
        let (opened, _) = openings::pending(&paths.runtime);
        let state = paths.state.clone();
        let kept = Late::begin(move || (openings::pending(&state).0, Store::peek(&state)));
        Self { opened, kept }
    }

    /// Waits for the names, and says why the database gives none. A disk that hangs is not waited for.
    pub(super) fn end(self) -> (Names, Option<String>) {
        let Self { mut opened, kept } = self;
        let boot = match sys::boot_id() {
            Ok(boot) => boot,
            Err(error) => return (Names::default(), Some(error.to_string())),
        };
        let (stored, why) = match kept.end() {
            Ok((kept, stored)) => {
                opened.extend(kept);
                stored.map_or_else(
                    |error| (Stored::default(), Some(error.to_string())),
                    |stored| (stored, None),
                )
            }
            Err(why) => (Stored::default(), Some(why)),
        };
        (Names::of(stored, opened, &boot), why)
    }
}

impl Names {
    fn of(stored: Stored, opened: Vec<Opening>, boot: &str) -> Self {
        let Stored { grants, progress, .. } = stored;
        let mut names = Self::default();
        for (id, StoredGrant { envelope }) in grants {
            let place = progress.get(&id);
            names.slots.extend(place.filter(|place| place.boot_id == boot).map(|place| place.slot));
            let Some(v1::Envelope { payload, .. }) = envelope else { continue };
            if place.is_none_or(|place| !place.began) {
                names.waiting.extend(v1::Grant::decode(payload));
            } else if let Some(place) = place.filter(|place| place.boot_id == boot) {
                names.of_slots.insert((place.slot, place.generation), payload);
            }
        }
        for opening in opened.into_iter().filter(|opening| opening.boot_id == boot) {
            let Opening { slot, generation, .. } = opening;
            names.slots.push(slot);
            let grant = opening.message(String::new()).encode_to_vec();
            names.of_slots.insert((slot, generation), grant.into());
        }
        names
    }

    /// The slots that grants of the database, and openings by root, have.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().copied()
    }

    /// The grant that is counted in this slot.
    pub(super) fn of_slot(&self, slot: u32, counted: Slot) -> Option<v1::Grant> {
        let encoded = self.of_slots.get(&(slot, counted.generation))?;
        v1::Grant::decode(&**encoded).ok()
    }

    /// The grants that have not begun.
    pub(super) fn waiting(&self) -> &[v1::Grant] {
        &self.waiting
    }
}

/// Something that is done with the disk on a thread of its own, which a disk that hangs keeps alone.
pub(super) struct Late<T>(Receiver<T>);

impl<T: Send + 'static> Late<T> {
    /// Begins.
    pub(super) fn begin(what: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let _late = sender.send(what());
        });
        Self(receiver)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// A sentence for a person: the disk hangs.
    pub(super) fn end(self) -> Result<T, String> {
        let Self(receiver) = self;
        receiver.recv_timeout(DISK).map_err(|_| format!("the disk does not answer within {DISK:?}"))
    }
}

/// Does something with the disk. One that hangs is not waited for.
///
/// # Errors
/// A sentence for a person.
pub(super) fn within_patience<T: Send + 'static>(
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    Late::begin(what).end()
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
        let names = Names::of(stored(), Vec::new(), "now");
        let slot = |generation| Slot { generation, ..Slot::default() };
        assert_eq!(names.of_slot(7, slot(3)).as_ref(), Some(&grant));
        assert_eq!((names.of_slot(7, slot(4)), names.of_slot(8, slot(3))), (None, None));
        assert_eq!(Names::of(stored(), Vec::new(), "before").of_slot(7, slot(3)), None);
        assert!(names.waiting().is_empty());
        let mut later = stored();
        later.progress.clear();
        let names = Names::of(later, Vec::new(), "now");
        assert_eq!((names.of_slot(7, slot(3)), names.waiting()), (None, &[grant.clone()][..]));
    }
}
