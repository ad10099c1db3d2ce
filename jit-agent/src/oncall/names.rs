//! Whose grants the kernel enforces, from the database, while no agent answers; and what root opened
//! past the agent, which the database does not have yet.
//!
//! Reads a copy of the file's bytes: an agent that hangs holds the file's lock, and nothing here may
//! write. What is enforced is by the kernel's tables alone: the database only gives names.

use std::{collections::HashMap, sync::mpsc, thread, time::Duration};

use jit_common::Slot;
use jit_proto::v1;
use prost::Message as _;

use crate::{
    config::Paths,
    disk::{
        openings::{self, Opening},
        store::{Store, Stored, StoredGrant},
    },
    system::sys,
};

/// The longest wait for the disk.
const DISK: Duration = Duration::from_millis(500);

/// Grants by the slot, and its generation, in which the kernel counts their connections.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<(u32, u32), v1::Grant>);

impl Names {
    /// Reads the names, and why the database gives none. A disk that hangs is not waited for.
    pub(super) fn read(paths: &Paths) -> (Self, Option<String>) {
        let boot = match sys::boot_id() {
            Ok(boot) => boot,
            Err(error) => return (Self::default(), Some(error.to_string())),
        };
        let ((mut opened, _), state) = (openings::pending(&paths.runtime), paths.state.clone());
        let read = within_patience(move || (openings::pending(&state).0, Store::peek(&state)));
        let (stored, why) = match read {
            Ok((kept, stored)) => {
                opened.extend(kept);
                stored.map_or_else(
                    |error| (Stored::default(), Some(error.to_string())),
                    |stored| (stored, None),
                )
            }
            Err(why) => (Stored::default(), Some(why)),
        };
        (Self::of(stored, opened, &boot), why)
    }

    fn of(stored: Stored, opened: Vec<Opening>, boot: &str) -> Self {
        let Stored { grants, progress, .. } = stored;
        let named = grants.into_iter().filter_map(|(id, StoredGrant { envelope })| {
            let place = progress.get(&id).filter(|place| place.boot_id == boot)?;
            let grant = v1::Grant::decode(envelope?.payload).ok()?;
            Some(((place.slot, place.generation), grant))
        });
        let of_boot = opened.into_iter().filter(|opening| opening.boot_id == boot);
        let by_root = of_boot
            .map(|opening| ((opening.slot, opening.generation), opening.message(String::new())));
        Self(named.chain(by_root).collect())
    }

    /// The slots that grants of the database have.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.keys().map(|(slot, _)| *slot)
    }

    /// The grant that is counted in this slot.
    pub(super) fn of_slot(&self, slot: u32, counted: Slot) -> Option<&v1::Grant> {
        self.0.get(&(slot, counted.generation))
    }
}

/// Does something with the disk on a thread of its own, which a disk that hangs keeps alone.
///
/// # Errors
/// A sentence for a person.
pub(super) fn within_patience<T: Send + 'static>(
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _late = sender.send(what());
    });
    receiver.recv_timeout(DISK).map_err(|_| format!("the disk does not answer within {DISK:?}"))
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
        assert_eq!(names.of_slot(7, slot(3)), Some(&grant));
        assert_eq!((names.of_slot(7, slot(4)), names.of_slot(8, slot(3))), (None, None));
        assert_eq!(Names::of(stored(), Vec::new(), "before").of_slot(7, slot(3)), None);
    }
}
