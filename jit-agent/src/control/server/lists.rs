//! The room for long answers: a number of grants that may be in answers at once, of one peer and of
//! all.

use tonic::Status;

use crate::{
    control::server::budget::{Budget, Reserved},
    gate::GateHandle,
};

/// Grants in answers at once, in thousands: of one peer, and of all. A list with more than a peer's
/// takes the whole of it. A thousand take about 1 MiB while their answer is made.
const LISTED_OF_PEER: u32 = 16;
const LISTED_OF_ALL: u32 = 3 * LISTED_OF_PEER;
/// A short list counts as this many thousands.
const SHORT_LIST: u32 = 4;

/// The budget of lists. Clones are of the same budget.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    budget: Budget,
    gate: GateHandle,
}

impl Lists {
    pub(super) fn new(gate: GateHandle) -> Self {
        Self { budget: Budget::new(LISTED_OF_PEER, LISTED_OF_ALL), gate }
    }

    /// Waits until the peer may have a list.
    pub(super) async fn reserve(&self, by: &str) -> Result<Reserved, Status> {
        self.budget.reserve_soon(by, share_of_list(self.gate.listed()), "lists").await
    }
}

/// What a list of these many grants takes of the budget.
fn share_of_list(grants: usize) -> u32 {
    u32::try_from(grants.div_ceil(1000)).unwrap_or(u32::MAX).max(SHORT_LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_several_short_lists_at_once_and_one_long_list() {
        let at_once = |grants| LISTED_OF_PEER / share_of_list(grants).min(LISTED_OF_PEER);
        assert_eq!([0, 1, 4_000, 8_000, 8_001, 16_000].map(at_once), [4, 4, 4, 2, 1, 1]);
        assert_eq!([100_000, usize::MAX].map(at_once), [1, 1]);
    }
}
