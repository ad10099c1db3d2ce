//! Grants that have ended, for lists and for the question whether an id is new.

use std::collections::{HashMap, VecDeque};

use jit_proto::GrantId;

use crate::rules::ledger::HeldGrant;

/// Largest number of them that are remembered.
const MOST: usize = 1024;

/// The grants that ended last.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Oldest first, each id once.
    grants: VecDeque<HeldGrant>,
    /// The numbers of their ids, one after the other: every push asks for an id that is not among
    /// them.
    numbers: HashMap<GrantId, usize>,
    /// The number of the oldest one.
    first: usize,
}

impl Ended {
    /// Adds a grant. The oldest one makes room.
    pub(super) fn add(&mut self, held: HeldGrant) {
        let id = held.grant.id();
        self.remove(id);
        if self.grants.len() >= MOST
            && let Some(oldest) = self.grants.pop_front()
        {
            self.numbers.remove(&oldest.grant.id());
            self.first += 1;
        }
        self.numbers.insert(id, self.first + self.grants.len());
        self.grants.push_back(held);
    }

    pub(super) fn remove(&mut self, id: GrantId) {
        let Some(number) = self.numbers.remove(&id) else { return };
        self.grants.remove(number - self.first);
        self.numbers.values_mut().filter(|other| **other > number).for_each(|other| *other -= 1);
    }

    pub(super) fn find(&self, id: GrantId) -> Option<&HeldGrant> {
        self.grants.get(self.numbers.get(&id)? - self.first)
    }

    pub(super) fn contains(&self, id: GrantId) -> bool {
        self.numbers.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &HeldGrant> {
        self.grants.iter()
    }
}
