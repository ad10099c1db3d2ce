//! When something is tried again: after a random part of a time that doubles ("full jitter", so that many
//! who failed at once do not come back at once).

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};

/// First and longest time of a row of attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) most: Duration,
}

impl Backoff {
    /// The time until the next attempt, when so many have failed in a row. `random`: any number.
    pub(super) fn pause(self, failed: u32, random: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let most = self.first.saturating_mul(doubled).min(self.most);
        // Never at once: a peer that refuses at once must not be asked without a pause.
        (self.first / 10).max(part(most, random))
    }
}

/// A random part of a time.
pub(super) fn part(most: Duration, random: u32) -> Duration {
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A random number; from the clock where the kernel has none to give.
pub(super) fn random() -> u32 {
    let mut bytes = [0; 4];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_doubles_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(60) };
        let longest = |failed| backoff.pause(failed, u32::MAX).as_millis();
        assert_eq!(
            [1, 2, 3, 9, 10, 33, 5000].map(longest),
            [200, 400, 800, 51_200, 60_000, 60_000, 60_000]
        );
        assert_eq!(backoff.pause(9, 0), Duration::from_millis(20));
        assert_eq!(backoff.pause(9, u32::MAX / 2).as_secs(), 25);
    }
}
