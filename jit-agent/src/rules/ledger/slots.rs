//! Slots, in which the kernel counts connections: which grant has which slot, and how many
//! connections all grants with a limit may have together.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
};

use jit_proto::GrantId;

use crate::rules::{claims::EXEMPT_SLOT, room};

/// Largest number of slots whose last owner is remembered.
const MAX_FORMER: usize = 1024;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    /// Slots that were never taken in their turn. Some may be in use.
    fresh: Range<u32>,
    /// Slots that were given back, the oldest first: a slot rests before it is used again. Some may
    /// be in use.
    free: VecDeque<u32>,
    owners: HashMap<u32, GrantId>,
    /// Slots and their last owners, newest last.
    former: VecDeque<(u32, GrantId)>,
    /// Slots of grants that have a limit and are not used up.
    limited: BTreeSet<u32>,
    /// Slots of ended grants with a limit. Their connections are still in the kernel.
    closed: Vec<u32>,
    /// Sum of the limits of all grants that have one.
    places: u32,
}

impl Slots {
    /// All slots are free. `length`: length of the kernel's table.
    pub(super) fn new(length: u32) -> Self {
        Self {
            fresh: EXEMPT_SLOT + 1..length,
            free: VecDeque::new(),
            owners: HashMap::new(),
            former: VecDeque::new(),
            limited: BTreeSet::new(),
            closed: Vec::new(),
            places: 0,
        }
    }

    pub(super) fn give_room_back(&mut self) {
        room::give_back(&mut self.owners);
    }

    pub(super) const fn places(&self) -> u32 {
        self.places
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.owners.len()
    }

    pub(super) fn owner(&self, slot: u32) -> Option<GrantId> {
        self.owners.get(&slot).copied()
    }

    pub(super) fn last_owner(&self, slot: u32) -> Option<GrantId> {
        self.former.iter().rev().find(|(other, _)| *other == slot).map(|(_, id)| *id)
    }

    /// A slot without an owner. It is the wanted one, if that has no owner.
    pub(super) fn find(&mut self, wanted: Option<u32>) -> Option<u32> {
        let Self { fresh, free: rested, owners, .. } = self;
        let free = |slot: &u32| !owners.contains_key(slot);
        let mut next = std::iter::from_fn(|| fresh.next().or_else(|| rested.pop_front()));
        wanted.filter(free).or_else(|| next.find(free))
    }

    /// Gives a slot to a grant. `places`: its limit; zero: none.
    pub(super) fn own(&mut self, slot: u32, id: GrantId, places: u32) {
        self.owners.insert(slot, id);
        self.places += places;
        if places > 0 {
            self.limited.insert(slot);
        }
    }

    /// Takes a slot back from a grant that [`Slots::own`] gave it to.
    pub(super) fn release(&mut self, slot: u32, id: GrantId, places: u32) {
        self.limited.remove(&slot);
        self.owners.remove(&slot);
        if self.former.len() >= MAX_FORMER {
            self.former.pop_front();
        }
        self.former.push_back((slot, id));
        self.free.push_back(slot);
        self.places -= places;
        if places > 0 {
            self.closed.push(slot);
        }
    }

    /// Notes that the grant of this slot has reached its limit.
    pub(super) fn used_up(&mut self, slot: u32) {
        self.limited.remove(&slot);
    }

    /// Slots after this one of grants that have a limit and are not used up, in their order.
    pub(super) fn limited_after(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        self.limited.range(slot.saturating_add(1)..).copied()
    }

    /// A slot of an ended grant with a limit, if no other grant has got it since. Each slot is
    /// returned once.
    pub(super) fn next_closed(&mut self) -> Option<u32> {
        std::iter::from_fn(|| self.closed.pop()).find(|slot| !self.owners.contains_key(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: GrantId = GrantId([1; 16]);
    const SECOND: GrantId = GrantId([2; 16]);

    #[test]
    fn a_slot_rests_before_it_is_used_again() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.find(None), Some(1), "slot 0 is that of exemptions");
        slots.own(1, FIRST, 0);
        slots.release(1, FIRST, 0);
        assert_eq!(
            [slots.find(None), slots.find(None), slots.find(None)],
            [Some(2), Some(3), Some(1)]
        );
        assert_eq!(slots.find(None), None);
        assert_eq!((slots.owner(1), slots.last_owner(1)), (None, Some(FIRST)));
    }

    #[test]
    fn a_wanted_slot_is_given_once() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.find(Some(1)), Some(1));
        slots.own(1, FIRST, 0);
        assert_eq!(slots.find(Some(1)), Some(2), "1 is taken, also among the free ones");
    }

    #[test]
    fn a_closed_slot_comes_once_and_not_while_another_grant_has_it() {
        let mut slots = Slots::new(4);
        slots.own(1, FIRST, 5);
        slots.own(2, SECOND, 7);
        assert_eq!((slots.places(), slots.limited_after(1).collect()), (12, vec![2]));
        slots.release(1, FIRST, 5);
        slots.release(2, SECOND, 7);
        slots.own(2, FIRST, 0);
        assert_eq!(slots.places(), 0);
        assert_eq!([slots.next_closed(), slots.next_closed()], [Some(1), None]);
    }
}
