//! Whether the wall clock can be trusted: it may not be earlier than it has been before. Also
//! refuses grants that were issued before a damage of the database.
//!
//! Pure: time is an argument.

use jit_proto::{Refusal, WallTime};

use crate::rules::{
    clock::{Now, SKEW},
    refusal::Refused,
};

/// A wall clock that moved against the boot clock by more than this was set.
const STEP_MS: u64 = 50;

/// The clock as this host has known it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrustedClock {
    /// The latest wall time that was ever trusted.
    floor: WallTime,
    /// Wall clock minus boot clock, milliseconds.
    offset: i64,
    /// Revocations before this moment are lost.
    lost_before: WallTime,
}

/// The wall clock is earlier than it has been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clock says {wall}, but it has been {floor} before")]
pub(super) struct Untrusted {
    wall: WallTime,
    floor: WallTime,
}

impl From<Untrusted> for Refused {
    fn from(untrusted: Untrusted) -> Self {
        Self::new(Refusal::ClockUntrusted, format!("this host's {untrusted}"))
    }
}

impl TrustedClock {
    /// A clock with the stored values of the time before.
    pub(super) fn new(floor: Option<WallTime>, lost_before: Option<WallTime>, now: Now) -> Self {
        Self {
            floor: floor.unwrap_or(WallTime(0)),
            offset: offset(now),
            lost_before: lost_before.unwrap_or(WallTime(i64::MIN)),
        }
    }

    pub(super) const fn floor(&self) -> WallTime {
        self.floor
    }

    pub(super) const fn lost_before(&self) -> WallTime {
        self.lost_before
    }

    /// What was revoked before this moment is not known.
    pub(super) fn lose_before(&mut self, moment: WallTime) {
        self.lost_before = self.lost_before.max(moment);
    }

    pub(super) fn is_trusted(&self, now: Now) -> bool {
        self.check(now).is_ok()
    }

    pub(super) fn check(&self, now: Now) -> Result<(), Untrusted> {
        if now.wall + SKEW >= self.floor {
            return Ok(());
        }
        Err(Untrusted { wall: now.wall, floor: self.floor })
    }

    /// A grant that was issued before the damage may be one that was revoked.
    pub(super) fn check_issued(&self, issued_at: WallTime) -> Result<(), Refused> {
        if issued_at >= self.lost_before {
            return Ok(());
        }
        let detail = format!(
            "issued {issued_at}, and what was revoked before {} is lost with a database that was \
             damaged: push a new grant",
            self.lost_before
        );
        Err(Refused::new(Refusal::Revoked, detail))
    }

    /// The same moment, by a wall clock that is not before the floor: no end comes later by it.
    pub(super) fn not_before_floor(&self, now: Now) -> Now {
        Now { wall: now.wall.max(self.floor), ..now }
    }

    /// Raises the floor if the clock is trusted, and returns the floor.
    pub(super) fn raise_floor(&mut self, now: Now) -> WallTime {
        if self.is_trusted(now) {
            self.floor = self.floor.max(now.wall);
        }
        self.floor
    }

    /// By how many milliseconds the wall clock was set since this was last asked, if it was.
    pub(super) fn take_step(&mut self, now: Now) -> Option<i64> {
        let offset = offset(now);
        let step = offset.saturating_sub(self.offset);
        if step.unsigned_abs() <= STEP_MS {
            return None;
        }
        self.offset = offset;
        Some(step)
    }
}

/// Wall clock minus boot clock, milliseconds: it changes when the wall clock is set.
fn offset(now: Now) -> i64 {
    now.wall.0.saturating_sub(i64::try_from(now.boot.0 / 1_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rules::clock::BootNanos;

    const NOW: Now = Now { wall: WallTime(1_000_000_000), boot: BootNanos(5_000_000_000) };

    fn at(millis: i64) -> Now {
        Now { wall: WallTime(NOW.wall.0 + millis), ..NOW }
    }

    #[test]
    fn a_clock_may_be_a_minute_earlier_than_it_was_and_no_more() {
        let mut clock = TrustedClock::new(None, None, NOW);
        assert_eq!(clock.raise_floor(NOW), NOW.wall);
        assert_eq!(clock.check(at(-60_000)), Ok(()));
        let untrusted = clock.check(at(-60_001)).unwrap_err();
        assert_eq!(Refused::from(untrusted).refusal, Refusal::ClockUntrusted);
    }

    #[test]
    fn the_floor_never_falls_and_never_follows_a_clock_that_is_not_trusted() {
        let mut clock = TrustedClock::new(Some(NOW.wall), None, NOW);
        assert_eq!(clock.raise_floor(at(-30_000)), NOW.wall);
        assert_eq!(clock.raise_floor(at(-90_000)), NOW.wall);
        assert_eq!(clock.raise_floor(at(5)), at(5).wall);
        assert_eq!(clock.not_before_floor(at(-90_000)), at(5));
    }

    #[test]
    fn a_step_is_reported_once_and_passing_time_is_none() {
        let mut clock = TrustedClock::new(None, None, NOW);
        let second = Duration::from_secs(1);
        let later = Now { wall: NOW.wall + second, boot: NOW.boot + second };
        assert_eq!(clock.take_step(later), None);
        assert_eq!(clock.take_step(at(50)), None);
        assert_eq!(clock.take_step(at(51)), Some(51));
        assert_eq!(clock.take_step(at(51)), None);
        assert_eq!(clock.take_step(NOW), Some(-51));
    }

    #[test]
    fn what_was_issued_before_a_damage_is_refused() {
        let clock = TrustedClock::new(None, Some(NOW.wall), NOW);
        assert_eq!(clock.check_issued(NOW.wall), Ok(()));
        let refused = clock.check_issued(at(-1).wall).unwrap_err();
        assert_eq!(refused.refusal, Refusal::Revoked);
    }
}
