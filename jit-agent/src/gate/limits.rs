//! `max_connections`: reads the kernel's count of each grant, finds grants that are used up, and
//! clears slots.

use std::time::Duration;

use jit_common::Slot;
use jit_proto::GrantId;

use crate::{
    disk::store::StoredProgress,
    gate::{Gate, report::grant_event, takeover::Carried},
    kernel::datapath::Datapath,
    rules::{clock::Now, ledger::HeldGrant},
};

/// Number of slots of grants with a limit that are looked at in a tick: an event may have been
/// lost.
const LOOKS: usize = 512;
/// Number of slots of ended grants that are cleared at a time.
const CLOSES: usize = 1024;

/// Looks at the slots of grants with a limit in turn, some in each tick.
#[derive(Debug, Default)]
pub(super) struct LimitScan {
    /// The last slot that was looked at.
    cursor: u32,
}

impl LimitScan {
    /// The next slots after the cursor. After the last slot it begins again.
    fn next(&mut self, limited_after: impl FnOnce(u32) -> Vec<u32>) -> Vec<u32> {
        let slots = limited_after(self.cursor);
        let is_last = slots.len() < LOOKS;
        self.cursor = if is_last { 0 } else { slots.last().copied().unwrap_or(0) };
        slots
    }
}

impl<D: Datapath> Gate<D> {
    /// The kernel's count in the slot of a grant.
    pub(super) fn hits(&self, id: GrantId) -> u64 {
        let slot = self.ledger.grant(id).and_then(|held| held.stage.slot());
        slot.map_or(0, |slot| self.datapath.slot(slot).hits)
    }

    /// Handles a connection that was let in. If its grant has a limit, the count goes to the disk
    /// soon, so that a reboot does not give the connection back.
    pub(super) fn count(&mut self, slot: u32, now: Now) {
        let Some(id) = self.ledger.owner(slot) else { return };
        if self.ledger.grant(id).is_none_or(|held| held.grant.limit().is_none()) {
            return;
        }
        self.outbox.progress(id);
        self.outbox.write_soon(now);
        let hits = self.datapath.slot(slot).hits;
        if let Some(id) = self.ledger.count(slot, hits, now) {
            if let Some(held) = self.ledger.grant(id) {
                self.recorder.exhausted(held, now);
            }
            self.report_grant(grant_event("exhausted", id, "agent"), now);
            tracing::info!(grant = %id, "grant used up: no more connections");
        }
    }

    /// Looks at some of the grants that have a limit: the event of a connection may have been lost.
    pub(super) fn look_at_limits(&mut self, now: Now) {
        let ledger = &self.ledger;
        for slot in self.limit_scan.next(|slot| ledger.limited_after(slot).take(LOOKS).collect()) {
            let Some(id) = self.ledger.owner(slot) else { continue };
            let Some(limit) = self.ledger.grant(id).map(HeldGrant::limit) else { continue };
            let counted = self.datapath.slot(slot);
            // While another version's gate also counts, the slot lets in less.
            if counted.limit != limit && self.takeover.of(id).is_none() {
                self.restore_limit((id, slot), [counted.limit, limit], now);
            }
            if counted.hits >= u64::from(limit) {
                self.count(slot, now);
            }
        }
    }

    /// Forgets connections of ended grants with a limit, to make room for others. It takes some
    /// slots at a time, and goes on at once if there are more.
    pub(super) fn close_slots(&mut self) -> Option<Duration> {
        for _ in 0..CLOSES {
            let slot = self.ledger.next_closed()?;
            if let Err(error) = self.datapath.close_slot(slot) {
                tracing::warn!(slot, "{error}: its connections take room until the next start");
            }
        }
        Some(Duration::ZERO)
    }

    /// Likewise of grants that ended while no agent was running.
    pub(super) fn close_slots_of_the_past(&mut self) {
        let ledger = &self.ledger;
        let held = |slot| ledger.owner(slot).is_some();
        if let Err(error) = self.datapath.close_slots_but(&held) {
            tracing::warn!("{error}: connections of grants that have ended take room");
        }
    }

    /// The progress of those of these grants that are held, for the disk.
    pub(super) fn progress(
        &self,
        ids: impl Iterator<Item = GrantId>,
    ) -> Vec<(GrantId, StoredProgress)> {
        let held: Vec<_> = ids.filter_map(|id| self.ledger.grant(id)).collect();
        let (held, slots): (Vec<_>, Vec<_>) =
            held.into_iter().filter_map(|held| Some((held, held.stage.slot()?))).unzip();
        let counted = self.datapath.slots(&slots).into_iter().zip(slots);
        held.into_iter()
            .zip(counted)
            .map(|(held, (counted, slot))| (held.grant.id(), self.progress_of(held, slot, counted)))
            .collect()
    }

    fn progress_of(&self, held: &HeldGrant, slot: u32, counted: Slot) -> StoredProgress {
        let Slot { hits, limit: _, generation } = counted;
        // If this takeover breaks off, each version must find the count of the other's gate.
        let (slot, generation, before) = match self.takeover.of(held.grant.id()) {
            Some(Carried { slot, generation, before, .. }) => (*slot, *generation, *before),
            None => (slot, generation, held.hits),
        };
        StoredProgress {
            boot_id: self.boot_id.clone(),
            deadline: held.stage.deadline().map_or(0, |deadline| deadline.0),
            slot,
            generation,
            before,
            began: held.stage.deadline().is_some(),
            hits: held.hits.saturating_add(hits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_comes_up_however_many_there_are() {
        let limited: Vec<u32> = (1..=1_300).collect();
        let after = |slot: u32| -> Vec<u32> {
            limited.iter().copied().filter(|other| *other > slot).take(LOOKS).collect()
        };
        let mut scan = LimitScan::default();
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.extend(scan.next(after));
        }
        assert_eq!(seen, limited);
        assert_eq!(scan.next(after).first(), Some(&1), "and begins again");
    }
}
