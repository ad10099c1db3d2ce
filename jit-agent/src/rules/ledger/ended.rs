//! Grants that have ended, for lists and for the question whether an id is new.

use std::collections::{HashSet, VecDeque};

use jit_proto::GrantId;

use crate::rules::ledger::HeldGrant;

/// Largest number of them that are remembered.
const MOST: usize = 1024;

/// The grants that ended last.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Oldest first, each id once.
    grants: VecDeque<HeldGrant>,
    /// Their ids: every push asks for one that is not among them.
    ids: HashSet<GrantId>,
}

impl Ended {
    /// Adds a grant. The oldest one makes room.
    pub(super) fn add(&mut self, held: HeldGrant) {
        let id = held.grant.id();
        self.remove(id);
        if self.grants.len() >= MOST
            && let Some(oldest) = self.grants.pop_front()
        {
            self.ids.remove(&oldest.grant.id());
        }
        self.ids.insert(id);
        self.grants.push_back(held);
    }

    pub(super) fn remove(&mut self, id: GrantId) {
        if self.ids.remove(&id) {
            self.grants.retain(|held| held.grant.id() != id);
        }
    }

    pub(super) fn find(&self, id: GrantId) -> Option<&HeldGrant> {
        let known = self.ids.contains(&id);
        known.then(|| self.iter().find(|held| held.grant.id() == id)).flatten()
    }

    pub(super) fn contains(&self, id: GrantId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &HeldGrant> {
        self.grants.iter()
    }
}
