//! What this process counts and times as it happens, for its metrics. It decides nothing.
//!
//! Whoever counts pays for an atomic addition, and whoever times for a lock that is held for some
//! instructions, once for each push, transaction or batch. All of it starts at zero with the
//! process, as counters of Prometheus may.

use std::{sync::LazyLock, time::Instant};

use jit_proto::Refusal;
use prometheus_client::metrics::{
    counter::Counter,
    histogram::{Histogram, exponential_buckets},
};

/// Upper bounds of the buckets: 12 of them, from 100 µs, each three times the one before: to 17.7 s.
const SHORTEST: f64 = 0.000_1;
const FACTOR: f64 = 3.0;
const BUCKETS: u16 = 12;

static METERS: LazyLock<Meters> = LazyLock::new(Meters::default);

/// The meters of this process.
pub(crate) fn meters() -> &'static Meters {
    &METERS
}

/// Counters and histograms.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// A push, from the request to its outcome, with its wait for others.
    pub(crate) push: Seconds,
    /// A transaction of the database.
    pub(crate) commit: Seconds,
    /// The writes to the kernel's tables that open the grants of a push.
    pub(crate) opening: Seconds,
    /// The signatures of a push, or of a slice of one.
    pub(crate) signatures: Seconds,
    /// Accepted envelopes.
    pub(crate) admitted: Counter,
    pub(crate) known: Counter,
    pub(crate) scheduled: Counter,
    /// Refused envelopes, by reason.
    refused: [Counter; Refusal::ALL.len()],
    /// Grants that a revocation ended.
    pub(crate) revoked: Counter,
    /// Closings that were made past the agent and carried.
    pub(crate) closings: Counter,
    /// Sessions that were ended.
    pub(crate) sessions_cut: Counter,
    /// Events of the kernel that the gate had no time for.
    pub(crate) events_missed: Counter,
    /// Connections to the port for controllers that did not become a controller's.
    pub(crate) connections_failed: Counter,
}

impl Meters {
    /// The counter of a reason. Every reason has one.
    pub(crate) fn refused(&self, refusal: Refusal) -> Option<&Counter> {
        let at = Refusal::ALL.iter().position(|one| *one == refusal)?;
        self.refused.get(at)
    }
}

/// A histogram of times.
#[derive(Debug)]
pub(crate) struct Seconds(pub(crate) Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(SHORTEST, FACTOR, BUCKETS)))
    }
}

impl Seconds {
    /// Adds the time since this moment.
    pub(crate) fn since(&self, began: Instant) {
        self.0.observe(began.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let meters = Meters::default();
        for refusal in Refusal::ALL {
            meters.refused(refusal).unwrap().inc();
        }
        let counts = Refusal::ALL.map(|refusal| meters.refused(refusal).unwrap().get());
        assert_eq!(counts, [1; Refusal::ALL.len()]);
    }
}
