//! What many grants have in common, kept once: requesters, and the keys that signed.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use crate::rules::grant::{Signed, VerifiedGrant};

/// Number of values before the first look for those that no grant has any more.
const FIRST_SWEEP: usize = 256;

/// The values that grants share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    requesters: Values<str>,
    signed: Values<Signed>,
}

impl Shared {
    /// Lets a grant share what another grant has already.
    pub(super) fn share(&mut self, grant: &mut VerifiedGrant) {
        let (requester, signed) = grant.shared_mut();
        self.requesters.share(requester);
        self.signed.share(signed);
    }
}

#[derive(Debug)]
struct Values<T: ?Sized> {
    values: HashSet<Arc<T>>,
    next_sweep: usize,
}

impl<T: ?Sized> Default for Values<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), next_sweep: FIRST_SWEEP }
    }
}

impl<T: ?Sized + Eq + Hash> Values<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(same) = self.values.get(value) {
            *value = Arc::clone(same);
            return;
        }
        if self.values.len() >= self.next_sweep {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.values.shrink_to(2 * self.values.len());
            self.next_sweep = (2 * self.values.len()).max(FIRST_SWEEP);
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{claims::PlaceClaim, few::Few, ledger::HeldGrant};

    /// A host may hold very many grants.
    #[test]
    fn a_grant_and_its_claim_are_small() {
        // With the two counts of its `Arc`, a block of 160 bytes.
        assert!(size_of::<VerifiedGrant>() <= 136, "{}", size_of::<VerifiedGrant>());
        assert!(size_of::<HeldGrant>() <= 32, "{}", size_of::<HeldGrant>());
        assert_eq!(size_of::<Few<PlaceClaim>>(), size_of::<PlaceClaim>());
    }

    #[test]
    fn equal_values_are_kept_once_and_unused_ones_go() {
        let mut values = Values::<str>::default();
        let [mut first, mut second] = ["ana", "ana"].map(Arc::<str>::from);
        values.share(&mut first);
        values.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..10 * FIRST_SWEEP {
            values.share(&mut Arc::from(number.to_string()));
        }
        assert!(values.values.len() <= FIRST_SWEEP, "{}", values.values.len());
        assert!(values.values.contains("ana"));
    }
}
