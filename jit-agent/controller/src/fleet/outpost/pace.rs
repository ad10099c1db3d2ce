//! When it is said that hosts have come. When another hub was killed, all of its hosts come here at the same
//! moment, and each report is work for every server of the bus and for the side with the store. What people
//! wait for then is what is signed for a host and what it answers: so of a crowd that comes, the first few are
//! reported at once and the others one after the other.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::super::backoff::{part, random};

/// Hosts that are reported at once.
const AT_ONCE: u32 = 32;
/// Between two others.
const GAP: Duration = Duration::from_millis(15);
/// The longest time until a host is reported. Those for whom it would be later are reported at any time within it.
/// That a hub is dead is noticed later still.
const MOST: Duration = Duration::from_secs(15);

/// The moments at which hosts that have come are reported.
pub(super) struct Pace {
    next: Mutex<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: Mutex::new(Instant::now()) }
    }
}

impl Pace {
    /// When a host that has come now is reported; `None`: at once.
    pub(super) fn moment(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // Unused moments are kept, up to that number.
        let earliest = now.checked_sub(GAP * AT_ONCE).unwrap_or(now);
        let moment = (*next).max(earliest);
        if moment > now + MOST {
            return Some(now + part(MOST, random()));
        }
        *next = moment + GAP;
        (moment > now).then_some(moment)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_are_reported_at_once_and_a_crowd_within_a_bounded_time() {
        let pace = Pace::default();
        advance(MOST).await;
        let now = Instant::now();
        for _ in 0..AT_ONCE {
            assert_eq!(pace.moment(), None);
        }
        assert_eq!(pace.moment(), None, "the one of this moment");
        let mut all = 0;
        let last = loop {
            all += 1;
            let moment = pace.moment().unwrap();
            if moment != now + GAP * all {
                break moment;
            }
        };
        assert_eq!(all, 1001, "as many have a moment of their own");
        for moment in (0..3000).map(|_| pace.moment().unwrap()).chain([last]) {
            assert!(moment >= now && moment <= now + MOST);
        }
        // All were reported: the next one is, at once.
        advance(MOST + 2 * GAP).await;
        assert_eq!(pace.moment(), None);
    }
}
