//! How somebody who does not answer well is tried again.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

/// How somebody who does not answer well is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// After this time nobody tries any more.
    pub give_up: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3600),
            give_up: Duration::from_secs(24 * 3600),
        }
    }
}

impl Retry {
    /// The pause after so many failures, milliseconds: between half of it and all of it by chance,
    /// so that not all come back at once.
    pub fn pause_ms(self, failures: i64) -> i64 {
        let doubled = u32::try_from(failures).unwrap_or(u32::MAX).min(20);
        let whole = self.first.saturating_mul(1 << doubled).min(self.longest);
        let whole = i64::try_from(whole.as_millis()).unwrap_or(i64::MAX);
        let mut random = [0_u8; 4];
        // Without random bytes it is the whole pause.
        let part = match SystemRandom::new().fill(&mut random) {
            Ok(()) => i64::from(u32::from_le_bytes(random)) * (whole / 2) / i64::from(u32::MAX),
            Err(_) => whole / 2,
        };
        whole / 2 + part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry::default();
        assert!((500..=1000).contains(&retry.pause_ms(0)));
        assert!((4000..=8000).contains(&retry.pause_ms(3)));
        for failures in [12, 20, i64::MAX] {
            assert!((1_800_000..=3_600_000).contains(&retry.pause_ms(failures)), "{failures}");
        }
    }
}
