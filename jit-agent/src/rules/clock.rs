//! Wall time and boot time as values.
//!
//! Grants name wall time; the kernel compares CLOCK_BOOTTIME. [`Now::deadline`] is the only
//! conversion. A grant is converted when it begins, and again after a restart or when somebody sets
//! the wall clock: then it may only end sooner. Nothing here reads a clock (`sys::now` does).

use std::{ops::Add, time::Duration};

use jit_proto::WallTime;

/// Boot clock: nanoseconds of CLOCK_BOOTTIME, which counts through suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNanos(pub u64);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: WallTime,
    /// The boot clock.
    pub boot: BootNanos,
}

/// How far the clocks of controller and host may differ (docs/grants.md, section "Time").
pub const SKEW: Duration = Duration::from_secs(60);

impl Now {
    /// The boot time at which the wall clock will show `at`, if nobody sets the clock. For a moment
    /// in the past it is the present: such a grant ends at once.
    pub fn deadline(&self, at: WallTime) -> BootNanos {
        let left = u64::try_from(at.0.saturating_sub(self.wall.0)).unwrap_or(0);
        BootNanos(self.boot.0.saturating_add(left.saturating_mul(1_000_000)))
    }

    /// The time left until a deadline; zero when it has passed.
    pub fn until(&self, deadline: BootNanos) -> Duration {
        Duration::from_nanos(deadline.0.saturating_sub(self.boot.0))
    }
}

impl Add<Duration> for BootNanos {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall: WallTime(1_000_000), boot: BootNanos(5_000) };

    #[test]
    fn a_deadline_is_as_far_ahead_as_the_wall_time() {
        assert_eq!(NOW.deadline(WallTime(1_002_000)), BootNanos(2_000_005_000));
        assert_eq!(NOW.until(BootNanos(2_000_005_000)), Duration::from_secs(2));
    }

    #[test]
    fn a_moment_in_the_past_is_a_deadline_that_has_passed() {
        assert_eq!(NOW.deadline(WallTime(999_999)), NOW.boot);
        assert_eq!(NOW.deadline(WallTime(i64::MIN)), NOW.boot);
        assert_eq!(NOW.until(BootNanos(1)), Duration::ZERO);
    }

    #[test]
    fn absurd_years_saturate() {
        assert_eq!(NOW.deadline(WallTime(i64::MAX)), BootNanos(u64::MAX));
        assert_eq!(WallTime(i64::MAX) + SKEW, WallTime(i64::MAX));
        assert_eq!(WallTime(i64::MAX).since(WallTime(i64::MIN)), None);
        assert!(WallTime(i64::MAX).to_string().contains("ms since 1970"));
    }
}
