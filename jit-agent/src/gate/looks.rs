//! When the gate looks at its links: at once after a change, but never so often that it has no time
//! for other work. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two looks is this number times the duration of the first. So looks take at
/// most a quarter of the gate's time, however many links come and go.
const REST: u32 = 3;
/// Longest pause between two looks after a change.
const LONGEST_REST: Duration = Duration::from_millis(250);
/// A gate may fail on a link that is just going, or from which the kernel is just removing the last
/// gate. It is tried once more after this time, then every tick.
const AGAIN: Duration = Duration::from_millis(100);

/// Whether links changed, and when they were looked at. Any number of changes causes one look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    wanted: bool,
    not_before: Option<Instant>,
}

impl Looks {
    /// Something changed.
    pub(super) const fn want(&mut self) {
        self.wanted = true;
    }

    /// When the next look is due, if one is.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.wanted.then(|| self.not_before.map_or(now, |not_before| not_before.max(now)))
    }

    /// Records the begin and end of a look. `failed`: something is missing that was there before.
    pub(super) fn looked(&mut self, began: Instant, ended: Instant, failed: bool) {
        let rest = (ended.saturating_duration_since(began) * REST).min(LONGEST_REST);
        let rest = if failed { rest.max(AGAIN) } else { rest };
        *self = Self { wanted: failed, not_before: Some(ended + rest) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_change_is_looked_at_at_once_and_a_burst_once() {
        let now = Instant::now();
        let mut looks = Looks::default();
        assert_eq!(looks.due(now), None);
        for _ in 0..1_000 {
            looks.want();
        }
        assert_eq!(looks.due(now), Some(now));
        looks.looked(now, now + 5 * MS, false);
        assert_eq!(looks.due(now + 5 * MS), None);
    }

    #[test]
    fn under_a_storm_of_changes_looks_take_a_quarter_of_the_time_at_most() {
        for took in [MS / 10, MS, 40 * MS] {
            let began = Instant::now();
            let (mut now, mut looking) = (began, Duration::ZERO);
            let mut looks = Looks::default();
            for _ in 0..100 {
                looks.want();
                now = looks.due(now).unwrap_or(now);
                looks.looked(now, now + took, false);
                (now, looking) = (now + took, looking + took);
            }
            assert!(looking * 4 <= now - began + 4 * took, "{looking:?} of {:?}", now - began);
        }
    }

    #[test]
    fn after_the_slowest_look_a_change_waits_a_quarter_of_a_second_at_most() {
        let now = Instant::now();
        let mut looks = Looks::default();
        looks.looked(now, now + 9_000 * MS, false);
        looks.want();
        assert_eq!(looks.due(now), Some(now + 9_250 * MS));
    }

    #[test]
    fn what_failed_is_tried_once_more_soon() {
        let now = Instant::now();
        let mut looks = Looks::default();
        looks.looked(now, now + MS, true);
        assert_eq!(looks.due(now + MS), Some(now + 101 * MS));
        looks.looked(now + 101 * MS, now + 102 * MS, false);
        assert_eq!(looks.due(now + 102 * MS), None);
    }
}
