//! A limit for each address, account or other key, of bounded memory: keys come from outside.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::Mutex,
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

/// Keys that are kept before those that were not seen lately are forgotten.
const KEYS: usize = 10_000;
/// Shortest time between two looks for keys to forget.
const SWEEP: Duration = Duration::from_secs(1);

/// A limit for each key.
pub(crate) struct Keyed<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    swept: Mutex<Instant>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    pub(crate) fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::dashmap(quota), swept: Mutex::new(Instant::now()) }
    }

    /// One of this key, or how long it must wait.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() > KEYS {
            self.sweep();
        }
        let checked = self.limiter.check_key(key);
        checked.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    fn sweep(&self) {
        // Who does not get the lock goes on: another one sweeps.
        if let Ok(mut swept) = self.swept.try_lock()
            && swept.elapsed() >= SWEEP
        {
            self.limiter.retain_recent();
            *swept = Instant::now();
        }
    }
}

/// One customer of an IPv6 provider has at least a /64: it counts as one address.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)))
        }
        address => address,
    }
}
