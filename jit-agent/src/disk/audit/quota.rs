//! A limit on single records, so that a peer that repeats something without end cannot push the
//! history out of the files.
//!
//! In each minute a fixed number of records of a kind is written. The rest is counted, and written
//! as sums. Pure: time is an argument.

use std::collections::BTreeMap;

use jit_proto::WallTime;

use crate::rules::clock::{BootNanos, Now};

/// Length of a window, boot nanoseconds.
const WINDOW_NANOS: u64 = 60_000_000_000;
/// The most sums with a key of their own; the rest goes into one sum without a key.
const MAX_SUMS: usize = 1024;

/// A quota: each `B` has a budget of its own, each `K` a sum of its own.
#[derive(Debug)]
pub(crate) struct Quota<B, K> {
    each: u32,
    window: Option<BootNanos>,
    used: BTreeMap<B, u32>,
    sums: BTreeMap<Option<K>, Sum>,
}

/// The sum of what was not recorded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Number of occurrences.
    pub(crate) count: u64,
    /// Time of the first one.
    pub(crate) first: WallTime,
    /// Time of the last one.
    pub(crate) last: WallTime,
}

impl<B: Ord, K: Ord> Quota<B, K> {
    /// A quota of `each` single records a minute for each `B`.
    pub(crate) const fn new(each: u32) -> Self {
        Self { each, window: None, used: BTreeMap::new(), sums: BTreeMap::new() }
    }

    /// Whether this occurrence gets a record of its own; otherwise it is counted under `key`.
    pub(crate) fn take(&mut self, budget: B, key: K, now: Now) -> bool {
        self.window.get_or_insert(now.boot);
        // There may be too many budgets as well: a new one above the limit has only sums.
        let many = self.used.len() >= MAX_SUMS && !self.used.contains_key(&budget);
        let used = if many { None } else { Some(self.used.entry(budget).or_default()) };
        if let Some(used) = used
            && *used < self.each
        {
            *used += 1;
            return true;
        }
        let room = self.sums.len() < MAX_SUMS;
        let mut key = Some(key);
        if !room && !self.sums.contains_key(&key) {
            key = None;
        }
        let sum = Sum { count: 0, first: now.wall, last: now.wall };
        let sum = self.sums.entry(key).or_insert(sum);
        sum.count = sum.count.saturating_add(1);
        sum.last = now.wall;
        false
    }

    /// The sums of a window that has ended; a new one begins with the next [`Quota::take`].
    pub(crate) fn settle(&mut self, now: Now) -> BTreeMap<Option<K>, Sum> {
        let ended = |start: BootNanos| now.boot.0.saturating_sub(start.0) >= WINDOW_NANOS;
        if self.window.is_some_and(ended) { self.drain() } else { BTreeMap::new() }
    }

    /// All sums, for the end of the agent.
    pub(crate) fn drain(&mut self) -> BTreeMap<Option<K>, Sum> {
        self.window = None;
        self.used.clear();
        std::mem::take(&mut self.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        let wall = WallTime(i64::try_from(seconds).unwrap() * 1000);
        Now { wall, boot: BootNanos(seconds * 1_000_000_000) }
    }

    #[test]
    fn beyond_its_budget_each_is_counted_and_summed_after_a_minute() {
        let mut quota = Quota::new(2);
        let recorded = (0..5).filter(|second| quota.take("ana", "key", at(*second))).count();
        assert_eq!(recorded, 2);
        assert!(quota.take("li", "key", at(5)), "another budget");
        assert!(quota.settle(at(59)).is_empty());
        let sum = Sum { count: 3, first: at(2).wall, last: at(4).wall };
        assert_eq!(quota.settle(at(60)), BTreeMap::from([(Some("key"), sum)]));
        assert!(quota.take("ana", "key", at(61)), "a new minute");
        assert!(quota.settle(at(122)).is_empty(), "nothing was left out");
    }

    #[test]
    fn however_many_keys_come_memory_is_bounded_and_none_is_lost() {
        let mut quota = Quota::new(1);
        for number in 0..5_000_u32 {
            quota.take(number, number, at(0));
        }
        let sums = quota.settle(at(60));
        assert!(sums.len() <= MAX_SUMS + 1);
        let recorded = u64::try_from(MAX_SUMS).unwrap();
        assert_eq!(sums.values().map(|sum| sum.count).sum::<u64>() + recorded, 5_000);
    }
}
