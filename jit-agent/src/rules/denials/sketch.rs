//! The keys that were seen most often, in bounded memory: Space-Saving (Metwally, Agrawal and
//! El Abbadi, "Efficient computation of frequent and top-k elements in data streams", 2005).
//!
//! With room for `k` keys, of `n` sights: every key that was seen more than `n / k` times is held,
//! and of a held key `seen - error <= its sights <= seen`, with `error <= n / k`. Where there is no
//! room, the key with the lowest count goes; of several, the one that was not seen for longest.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use jit_proto::WallTime;

/// The keys and their counts.
#[derive(Clone, Debug)]
pub(super) struct Sketch<K> {
    room: usize,
    counts: HashMap<K, Count>,
    /// The keys by their count and then by their last sight: the first one goes.
    order: BTreeMap<(u64, u64), K>,
    /// Number of the last sight.
    stamp: u64,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Sights, an upper bound.
    pub(crate) seen: u64,
    /// How many of them may be of the keys that had this place before.
    pub(crate) error: u64,
    /// The packets that the sights of this key stand for, as of the last [`Sketch::settle`].
    pub(crate) packets: u64,
    /// The first sight since the key entered the sketch, and the last one.
    pub(crate) first: WallTime,
    pub(crate) last: WallTime,
    /// Observe mode let the last one pass.
    pub(crate) observed: bool,
    /// Sights since the last [`Sketch::settle`].
    fresh: u64,
    stamp: u64,
}

impl Count {
    /// Counts as they were stored; nothing is fresh.
    pub(super) const fn stored(
        (seen, error, packets): (u64, u64, u64),
        (first, last): (WallTime, WallTime),
        observed: bool,
    ) -> Self {
        Self { seen, error, packets, first, last, observed, fresh: 0, stamp: 0 }
    }

    /// The packets that its sights stand for; fresh ones stand for themselves.
    pub(crate) const fn estimate(&self) -> u64 {
        self.packets.saturating_add(self.fresh)
    }
}

impl<K: Clone + Eq + Hash> Sketch<K> {
    /// An empty sketch with room for this many keys.
    pub(super) fn new(room: usize) -> Self {
        Self { room, counts: HashMap::new(), order: BTreeMap::new(), stamp: 0 }
    }

    /// Counts one sight of a key.
    pub(super) fn see(&mut self, key: K, observed: bool, now: WallTime) {
        let before = match self.counts.get(&key) {
            Some(count) => *count,
            None => Count::stored((0, self.make_room(), 0), (now, now), observed),
        };
        let seen = if before.seen == 0 { before.error } else { before.seen };
        let fresh = before.fresh.saturating_add(1);
        let count = Count { seen: seen.saturating_add(1), last: now, observed, fresh, ..before };
        self.put(key, count);
    }

    /// Adds what is known of a key from elsewhere.
    pub(super) fn add(&mut self, key: K, more: Count) {
        let count = match self.counts.get(&key) {
            Some(own) => Count {
                seen: own.seen.saturating_add(more.seen),
                error: own.error.saturating_add(more.error),
                packets: own.packets.saturating_add(more.packets),
                first: own.first.min(more.first),
                last: own.last.max(more.last),
                observed: if own.last < more.last { more.observed } else { own.observed },
                fresh: own.fresh.saturating_add(more.fresh),
                stamp: own.stamp,
            },
            None => {
                let error = self.make_room();
                let (seen, error) =
                    (more.seen.saturating_add(error), more.error.saturating_add(error));
                Count { seen, error, ..more }
            }
        };
        self.put(key, count);
    }

    /// Turns fresh sights into packets: `weigh` says for how many a number of sights of a key
    /// stands.
    pub(super) fn settle(&mut self, weigh: impl Fn(&K, u64) -> u64) {
        for (key, count) in self.counts.iter_mut().filter(|(_, count)| count.fresh > 0) {
            count.packets = count.packets.saturating_add(weigh(key, count.fresh));
            count.fresh = 0;
        }
    }

    /// The keys, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Count)> {
        self.counts.iter()
    }

    fn put(&mut self, key: K, count: Count) {
        self.stamp = self.stamp.saturating_add(1);
        let count = Count { stamp: self.stamp, ..count };
        if let Some(before) = self.counts.insert(key.clone(), count) {
            self.order.remove(&(before.seen, before.stamp));
        }
        self.order.insert((count.seen, count.stamp), key);
    }

    /// Makes room for a key. Returns the count of the one that went: so often the new one may have
    /// been seen before.
    fn make_room(&mut self) -> u64 {
        if self.counts.len() < self.room {
            return 0;
        }
        let Some(((seen, _), key)) = self.order.pop_first() else { return 0 };
        self.counts.remove(&key);
        seen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(room: usize, keys: impl IntoIterator<Item = u32>) -> Sketch<u32> {
        let mut sketch = Sketch::new(room);
        for (time, key) in (0..).zip(keys) {
            sketch.see(key, false, WallTime(time));
        }
        sketch
    }

    proptest! {
        /// The two bounds of the paper, for every stream.
        #[test]
        fn the_error_bounds_hold(room in 1..20_usize, keys in proptest::collection::vec(0..40_u32, 0..600)) {
            let sketch = filled(room, keys.iter().copied());
            let most = u64::try_from(keys.len() / room).unwrap();
            prop_assert!(sketch.counts.len() <= room && sketch.order.len() == sketch.counts.len());
            for key in 0..40 {
                let sights = u64::try_from(keys.iter().filter(|one| **one == key).count()).unwrap();
                match sketch.counts.get(&key) {
                    Some(count) => {
                        prop_assert!(count.seen >= sights && count.seen - count.error <= sights);
                        prop_assert!(count.error <= most, "{} > {most}", count.error);
                    }
                    None => prop_assert!(sights <= most, "{key}: {sights} sights are not held"),
                }
            }
        }

        #[test]
        fn sights_of_two_sketches_add_up(left in proptest::collection::vec(0..9_u32, 0..60), right in proptest::collection::vec(0..9_u32, 0..60)) {
            let mut sketch = filled(16, left.iter().copied());
            for (key, count) in filled(16, right.iter().copied()).iter() {
                sketch.add(*key, *count);
            }
            for (key, count) in sketch.iter() {
                let sights = left.iter().chain(&right).filter(|one| *one == key).count();
                prop_assert_eq!(count.seen, u64::try_from(sights).unwrap());
                prop_assert_eq!((count.error, count.estimate()), (0, count.seen));
            }
        }
    }

    #[test]
    fn a_key_that_was_not_seen_for_long_goes_first() {
        let sketch = filled(2, [1, 2, 1, 2, 3]);
        assert!(sketch.counts.contains_key(&2) && !sketch.counts.contains_key(&1));
        assert_eq!(sketch.counts.get(&3).map(|count| (count.seen, count.error)), Some((3, 2)));
    }
}
