//! The counters of the kernel programs.

use crate::Reason;

/// Counters of one protected port, by [`Reason`] number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// Number of packets, by the number of the reason.
    pub packets: [u64; Reason::ALL.len()],
    /// Packets that would have been dropped, but the port or the gate only observes.
    pub observed: u64,
}
const _: () = assert!(size_of::<PortCounters>() == (Reason::ALL.len() + 1) * 8);

/// Entries in the table of the first ports' counters, the first of which is not used. A look-up there
/// takes less time than in the hash of the others.
pub const FIRST_PORTS: u32 = 257;

impl Default for PortCounters {
    fn default() -> Self {
        Self { packets: [0; Reason::ALL.len()], observed: 0 }
    }
}

/// Index into the table of counters: the reasons first, then these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packets with this outcome.
    Reason(Reason),
    /// Packets that would have been dropped, but the port or the gate only observes.
    Observed,
    /// Events not sent because of the rate limit.
    EventsSuppressed,
    /// Events not sent because the ring buffer was full.
    EventsLost,
    /// Look-ups of a listening socket that the socket guard refused, or would have in observe mode.
    Guard,
    /// Connections let in that no event reported: the rate limit, or a full ring buffer.
    Unreported,
    /// The number of [`Counter::Unreported`] that the audit has recorded. Only the agent writes it.
    UnreportedRecorded,
}

/// Length of the table of counters: the reasons, and six more after them.
pub const COUNTERS: u32 = Reason::Unprotected as u32 + 7;

impl Counter {
    /// Index into the table, below [`COUNTERS`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Reason(reason) => reason as u32,
            Self::Observed => COUNTERS - 6,
            Self::EventsSuppressed => COUNTERS - 5,
            Self::EventsLost => COUNTERS - 4,
            Self::Guard => COUNTERS - 3,
            Self::Unreported => COUNTERS - 2,
            Self::UnreportedRecorded => COUNTERS - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_indices_do_not_overlap() {
        let mut seen = [false; COUNTERS as usize];
        let all = Reason::ALL.into_iter().map(Counter::Reason).chain([
            Counter::Observed,
            Counter::EventsSuppressed,
            Counter::EventsLost,
            Counter::Guard,
            Counter::Unreported,
            Counter::UnreportedRecorded,
        ]);
        for counter in all {
            let index = counter.index() as usize;
            assert!(!seen[index]);
            seen[index] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn counters_begin_at_nothing() {
        let PortCounters { packets, observed } = PortCounters::default();
        assert!(packets.iter().chain([&observed]).all(|count| *count == 0));
    }
}
