//! Ids that stay refused: ids of grants, known or not, that were revoked or replaced.

use std::{collections::HashMap, time::Duration};

use jit_proto::{GrantId, Refusal, WallTime};

use crate::rules::{
    clock::{BootNanos, Now, SKEW},
    refusal::Refused,
    room,
};

/// Largest number of tombstones.
const MAX_TOMBSTONES: usize = 1 << 20;
/// How often ended tombstones are removed.
const SWEEP: Duration = Duration::from_secs(60);
/// If a clock was set by more than this, tombstones follow it. Less does not matter: they have
/// [`SKEW`] to spare.
const STEP: Duration = Duration::from_secs(1);

/// The end of an id's refusal: both clocks must have passed it. So a wall clock that is wrong for a
/// while does not bring a grant back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// By the wall clock.
    pub until: WallTime,
    /// By the boot clock of this boot.
    pub boot: BootNanos,
}

impl Tombstone {
    /// A tombstone that ends when the wall clock reads `until`, if nobody sets the clock.
    pub fn new(until: WallTime, now: Now) -> Self {
        Self { until, boot: now.deadline(until) }
    }

    fn has_ended(&self, now: Now) -> bool {
        self.until <= now.wall && self.boot <= now.boot
    }

    /// A tombstone that ends when both have ended.
    pub fn later(self, other: Self) -> Self {
        Self { until: self.until.max(other.until), boot: self.boot.max(other.boot) }
    }
}

/// All tombstones.
#[derive(Debug)]
pub(super) struct Tombstones {
    ids: HashMap<GrantId, Tombstone>,
    next_sweep: WallTime,
    /// No grant that has not been seen yet may end later than this from now.
    unseen: Duration,
}

impl Tombstones {
    pub(super) fn new(unseen: Duration) -> Self {
        Self { ids: HashMap::new(), next_sweep: WallTime(i64::MIN), unseen }
    }

    pub(super) fn give_room_back(&mut self) {
        room::give_back(&mut self.ids);
    }

    pub(super) const fn set_unseen(&mut self, unseen: Duration) {
        self.unseen = unseen;
    }

    pub(super) fn contains(&self, id: GrantId) -> bool {
        self.ids.contains_key(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GrantId, Tombstone)> + '_ {
        self.ids.iter().map(|(id, tombstone)| (*id, *tombstone))
    }

    /// Puts a stored tombstone back.
    pub(super) fn restore(&mut self, id: GrantId, tombstone: Tombstone) {
        self.ids.insert(id, tombstone);
    }

    pub(super) fn remove(&mut self, id: GrantId) {
        self.ids.remove(&id);
    }

    /// Refuses an id. `known_end`: the end of the known grant with this id. There is always room
    /// for the id of a known grant; only unknown ids compete for room.
    pub(super) fn refuse(
        &mut self,
        id: GrantId,
        known_end: Option<WallTime>,
        now: Now,
    ) -> Result<Tombstone, Refused> {
        let until = known_end.unwrap_or(now.wall + self.unseen) + SKEW;
        let fresh = Tombstone::new(until, now);
        let old = self.ids.get(&id);
        if known_end.is_none() && old.is_none() && self.ids.len() >= MAX_TOMBSTONES {
            let detail = format!("{MAX_TOMBSTONES} revoked ids are held already");
            return Err(Refused::new(Refusal::Capacity, detail).of(id));
        }
        let tombstone = old.map_or(fresh, |old| old.later(fresh));
        self.ids.insert(id, tombstone);
        Ok(tombstone)
    }

    /// Extends the refusal of a refused id until the end of a grant with it. `None`: it is not
    /// longer than before.
    pub(super) fn refuse_longer(
        &mut self,
        id: GrantId,
        not_after: WallTime,
        now: Now,
    ) -> Option<Tombstone> {
        let tombstone = self.ids.get_mut(&id)?;
        let until = not_after + SKEW;
        until.since(tombstone.until)?;
        *tombstone = tombstone.later(Tombstone::new(until, now));
        Some(*tombstone)
    }

    /// Handles a wall clock that was set: ids stay refused for the same time as before. Returns
    /// those that changed.
    pub(super) fn follow(&mut self, now: Now) -> Vec<(GrantId, Tombstone)> {
        let mut changed = Vec::new();
        for (id, tombstone) in &mut self.ids {
            let until = now.wall + now.until(tombstone.boot);
            if until.since(tombstone.until).is_some_and(|more| more > STEP) {
                tombstone.until = until;
                changed.push((*id, *tombstone));
            }
        }
        changed
    }

    /// Removes ended tombstones, from time to time.
    pub(super) fn sweep(&mut self, now: Now) -> Vec<GrantId> {
        if now.wall < self.next_sweep {
            return Vec::new();
        }
        self.next_sweep = now.wall + SWEEP;
        let ended = self.ids.extract_if(|_, tombstone| tombstone.has_ended(now));
        ended.map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall: WallTime(1_000_000), boot: BootNanos(5_000) };
    const ID: GrantId = GrantId([1; 16]);
    const DAY: Duration = Duration::from_secs(86_400);

    fn later(by: Duration) -> Now {
        Now { wall: NOW.wall + by, boot: NOW.boot + by }
    }

    #[test]
    fn an_unseen_id_is_refused_for_as_long_as_a_grant_could_last() {
        let mut tombstones = Tombstones::new(DAY);
        let tombstone = tombstones.refuse(ID, None, NOW).unwrap();
        assert_eq!(tombstone.until, NOW.wall + DAY + SKEW);
        assert_eq!(tombstones.sweep(later(DAY)), []);
        assert_eq!(tombstones.sweep(later(DAY + SKEW)), [ID]);
        assert!(!tombstones.contains(ID));
    }

    #[test]
    fn a_second_revocation_never_shortens_the_first() {
        let mut tombstones = Tombstones::new(DAY);
        let first = tombstones.refuse(ID, None, NOW).unwrap();
        assert_eq!(tombstones.refuse(ID, Some(NOW.wall), NOW), Ok(first));
        assert_eq!(tombstones.refuse_longer(ID, NOW.wall, NOW), None);
        let longer = tombstones.refuse_longer(ID, NOW.wall + 2 * DAY, NOW);
        assert_eq!(longer.map(|longer| longer.until), Some(NOW.wall + 2 * DAY + SKEW));
    }

    #[test]
    fn a_clock_that_is_set_forward_lets_no_id_go_early() {
        let mut tombstones = Tombstones::new(DAY);
        tombstones.refuse(ID, None, NOW).unwrap();
        let forward = Now { wall: NOW.wall + 3 * DAY, ..NOW };
        assert_eq!(tombstones.follow(forward).len(), 1);
        assert_eq!(tombstones.sweep(forward), [], "by the boot clock it has a day left");
        assert_eq!(tombstones.follow(forward), []);
    }
}
