//! What false signatures may cost: each peer has a budget of tries, which fills up again over time.
//! Pure: time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The time in which a peer gets one more try of a false signature. A try takes about 0.05 ms by
/// Ed25519 and 0.3 ms by P-256: so in the long run this is a twentieth of one CPU at most.
pub(super) const EACH: Duration = Duration::from_millis(5);
/// The budget of a peer that has sent no false signature lately: this many tries. A batch that was
/// signed with a wrong key gets some hundred clear answers first.
const TRIES: u32 = 2_000;
const FULL: Duration = EACH.saturating_mul(TRIES);

/// The budgets of all peers.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    /// When each budget will be full again. A peer without an entry has a full one.
    full_at: HashMap<String, Instant>,
}

impl Budgets {
    /// Whether nothing of this peer is verified now, and how long that lasts.
    pub(super) fn throttled(&self, by: &str, now: Instant) -> Option<Duration> {
        let owed = self.full_at.get(by)?.saturating_duration_since(now);
        let over = owed.checked_sub(FULL)?;
        (!over.is_zero()).then_some(over)
    }

    /// Whether this peer has sent no false signature lately.
    pub(super) fn is_full(&self, by: &str, now: Instant) -> bool {
        self.full_at.get(by).is_none_or(|full_at| *full_at <= now)
    }

    /// Takes these tries from a peer's budget.
    pub(super) fn charge(&mut self, by: &str, tries: usize, now: Instant) {
        let tries = u32::try_from(tries).unwrap_or(u32::MAX);
        // Only peers that sent false signatures within the last seconds have an entry.
        self.full_at.retain(|_, full_at| *full_at > now);
        let full_at = self.full_at.entry(by.to_owned()).or_insert(now);
        *full_at += EACH.saturating_mul(tries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_wasted_its_budget_waits_until_some_of_it_is_back() {
        let (mut budgets, start) = (Budgets::default(), Instant::now());
        assert_eq!(budgets.throttled("a", start), None);
        for _ in 0..100 {
            budgets.charge("a", 20, start);
        }
        assert_eq!(budgets.throttled("a", start), None, "all of it, and no more");
        budgets.charge("a", 36, start);
        assert_eq!(budgets.throttled("a", start), Some(36 * EACH));
        assert_eq!(budgets.throttled("b", start), None, "another peer's is its own");
        let later = start + 36 * EACH;
        assert_eq!(budgets.throttled("a", later), None);
        budgets.charge("a", 1, later);
        assert_eq!(budgets.throttled("a", later), Some(EACH));
    }

    #[test]
    fn the_budget_is_full_again_after_a_while_and_never_more_than_full() {
        let (mut budgets, start) = (Budgets::default(), Instant::now());
        budgets.charge("a", 10_000, start);
        budgets.charge("b", 1, start);
        let later = start + 100 * FULL;
        budgets.charge("a", 2_000, later);
        assert_eq!(budgets.throttled("a", later), None);
        assert_eq!(budgets.full_at.len(), 1, "a full budget needs no entry");
        budgets.charge("a", 1, later);
        assert_eq!(budgets.throttled("a", later), Some(EACH));
        let full = later + FULL + EACH;
        assert!(!budgets.is_full("a", later));
        assert!(!budgets.is_full("a", full - EACH) && budgets.is_full("a", full));
        assert!(budgets.is_full("b", later), "it got its one try back");
    }
}
