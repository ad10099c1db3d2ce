//! What a peer can cause again and again, for the log: one line a peer and minute, and then the number
//! of the others. So nobody can fill the log by failing often.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::rules::clock::BootNanos;

/// A peer's first failure is written. Those that follow in this time are summed.
const SPAN: Duration = Duration::from_secs(60);
/// The most peers that are counted one by one. The others count as one.
const MAX_PEERS: usize = 64;
const OTHERS: &str = "other peers";

/// The peers of the last minute. Clones share one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<HashMap<String, Summed>>>);

#[derive(Debug)]
struct Summed {
    since: BootNanos,
    more: u64,
}

impl Reports {
    /// Whether this failure is written. If not, it is summed.
    pub(crate) fn writes(&self, peer: &str, now: BootNanos) -> bool {
        let mut table = self.lock();
        let known = table.len() < MAX_PEERS || table.contains_key(peer);
        let peer = if known { peer } else { OTHERS };
        match table.get_mut(peer) {
            Some(summed) => {
                summed.more = summed.more.saturating_add(1);
                false
            }
            None => {
                table.insert(peer.to_owned(), Summed { since: now, more: 0 });
                true
            }
        }
    }

    /// The peers whose minute has ended, with the number of failures that were not written.
    pub(crate) fn sums(&self, now: BootNanos) -> Vec<(String, u64)> {
        let mut sums = Vec::new();
        self.lock().retain(|peer, Summed { since, more }| {
            let lasts = now < *since + SPAN;
            if !lasts && *more > 0 {
                sums.push((peer.clone(), *more));
            }
            lasts
        });
        sums
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Summed>> {
        let Self(table) = self;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_writes_one_line_a_minute_and_the_others_are_summed() {
        let (reports, began) = (Reports::default(), BootNanos(7));
        assert!(reports.writes("192.0.2.1", began));
        assert!((0..1_000).all(|_| !reports.writes("192.0.2.1", began)));
        assert!(reports.writes("192.0.2.2", began));
        assert!(reports.sums(began).is_empty());
        assert_eq!(reports.sums(began + SPAN), [("192.0.2.1".into(), 1_000)]);
        assert!(reports.sums(began + SPAN).is_empty());
        assert!(reports.writes("192.0.2.1", began + SPAN));
    }

    #[test]
    fn many_peers_write_few_lines() {
        let (reports, now) = (Reports::default(), BootNanos(7));
        let lines = (0..100_000).filter(|peer| reports.writes(&peer.to_string(), now)).count();
        assert_eq!(lines, MAX_PEERS + 1);
        let sums = reports.sums(now + SPAN);
        assert_eq!(sums, [(OTHERS.to_owned(), 100_000 - 65)]);
    }
}
