//! Room of hash tables: they grow by themselves, and never shrink.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// Room that a table may keep, entries.
const KEPT: usize = 1_024;
/// A table that could hold this many times as much gives room back.
const SPARSE: usize = 8;

/// Gives back the room of a table that was much longer once. The next entries find room all the
/// same, so a table whose length goes up and down is not copied each time.
pub(crate) fn give_back<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if table.capacity() > KEPT && table.len() < table.capacity() / SPARSE {
        table.shrink_to(2 * table.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_long_gives_its_room_back() {
        let mut table: HashMap<_, _> = (0..100_000).map(|number| (number, ())).collect();
        let long = table.capacity();
        give_back(&mut table);
        assert_eq!(table.capacity(), long);
        table.retain(|number, ()| *number < 5_000);
        give_back(&mut table);
        assert!((10_000..40_000).contains(&table.capacity()), "{}", table.capacity());
        table.clear();
        give_back(&mut table);
        assert!(table.capacity() < KEPT);
    }
}
