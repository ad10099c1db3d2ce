//! How often a sign-in may be tried: so that nobody guesses a password, and nobody shuts another
//! out.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::Quota;

use crate::keyed::{Keyed, network};

/// Longest name that is counted by itself.
const LONGEST: usize = 200;

/// The limits of sign-ins.
pub(super) struct Throttle {
    /// Of one name from one network: 5 at once, then one each 30 seconds.
    pairs: Keyed<(String, IpAddr)>,
    /// Of one name from everywhere. It is wide: whoever guesses from elsewhere must not shut its
    /// owner out for long.
    names: Keyed<String>,
    /// From one network.
    networks: Keyed<IpAddr>,
    /// Refusals that are recorded: one a minute for each name and network.
    records: Keyed<(String, IpAddr)>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        let quota = |each_ms: u64, burst: u32| {
            let quota = Quota::with_period(Duration::from_millis(each_ms));
            let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
            quota.expect("the period is not zero").allow_burst(burst)
        };
        Self {
            pairs: Keyed::new(quota(30_000, 5)),
            names: Keyed::new(quota(5_000, 60)),
            networks: Keyed::new(quota(1_000, 60)),
            records: Keyed::new(quota(60_000, 1)),
        }
    }

    /// One attempt, or how long it must wait. It counts the same for names that no account has.
    pub(super) fn attempt(&self, name: &str, from: IpAddr) -> Result<(), Duration> {
        let (name, from) = (counted(name), network(from));
        self.networks.check(&from)?;
        self.pairs.check(&(name.clone(), from))?;
        self.names.check(&name)
    }

    /// One attempt that names nobody, or how long it must wait. What cannot be guessed is tried so.
    pub(super) fn attempt_from(&self, from: IpAddr) -> Result<(), Duration> {
        self.networks.check(&network(from))
    }

    /// Whether a refusal of this name from there is recorded.
    pub(super) fn records(&self, name: &str, from: IpAddr) -> bool {
        self.records.check(&(counted(name), network(from))).is_ok()
    }
}

fn counted(name: &str) -> String {
    name.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_stopped_and_the_owner_elsewhere_is_not() {
        let throttle = Throttle::new();
        let here: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let elsewhere: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..5 {
            assert!(throttle.attempt("ana", here).is_ok());
        }
        assert!(throttle.attempt("ana", neighbour).unwrap_err() <= Duration::from_secs(30));
        assert!(throttle.attempt("nobody", here).is_ok());
        assert!(throttle.attempt("ana", elsewhere).is_ok());
    }

    #[test]
    fn many_names_from_one_network_are_stopped_too() {
        let throttle = Throttle::new();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let passed = (0..200).filter(|n| throttle.attempt(&n.to_string(), here).is_ok()).count();
        assert!(passed < 70, "{passed}");
    }
}
