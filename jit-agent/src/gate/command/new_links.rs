//! Links that may be new, until the gate takes them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Largest number of new links that are gated before all links are looked at.
const MAX_NEW_LINKS: usize = 64;

/// Indices of links that may be new. They are gated before all links are looked at.
#[derive(Clone, Debug, Default)]
pub(in crate::gate) struct NewLinks(Arc<Mutex<BTreeSet<u32>>>);

impl NewLinks {
    pub(super) fn add(&self, indices: &[u32]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_NEW_LINKS.saturating_sub(held.len());
        held.extend(indices.iter().take(room));
    }

    pub(in crate::gate) fn take(&self) -> BTreeSet<u32> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
