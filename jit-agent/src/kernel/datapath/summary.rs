//! The agent's side of the summary of the grant tables ([`jit_common::Place`]).

use jit_common::Place;

use crate::rules::reconcile::EntryKey;

/// The bits as the kernel has them. It gives the words that have to be written, and notes them as
/// written: if a write fails, the summary has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    words: Vec<u64>,
}

impl Summary {
    /// From the words of the table. Their number is a power of two.
    pub const fn new(words: Vec<u64>) -> Self {
        Self { words }
    }

    /// Whether the bit of a place is set.
    pub(super) fn has(&self, place: Place) -> bool {
        let (index, bit) = self.at(place);
        self.words.get(index).is_none_or(|word| word & bit != 0)
    }

    /// Sets the bit of an entry. Returns the word to write, before the entry itself; `None`: the
    /// bit was set.
    pub fn cover(&mut self, key: &EntryKey) -> Option<(u32, u64)> {
        let (index, bit) = self.at(place(key));
        let word = self.words.get_mut(index)?;
        if *word & bit != 0 {
            return None;
        }
        *word |= bit;
        Some((u32::try_from(index).ok()?, *word))
    }

    /// Sets the bits of these entries and no others. Returns the words to write.
    pub(super) fn rebuild(&mut self, keys: &mut dyn Iterator<Item = EntryKey>) -> Vec<(u32, u64)> {
        let mut wanted = Self { words: vec![0; self.words.len()] };
        for key in keys {
            wanted.cover(&key);
        }
        let both = (0..).zip(wanted.words.iter().zip(&self.words));
        let changed = both.filter(|(_, (wanted, is))| wanted != is);
        let changed = changed.map(|(index, (wanted, _))| (index, *wanted)).collect();
        *self = wanted;
        changed
    }

    fn at(&self, place: Place) -> (usize, u64) {
        let words = u32::try_from(self.words.len()).unwrap_or_default();
        let (index, bit) = place.word_and_bit(words);
        (usize::try_from(index).unwrap_or(usize::MAX), bit)
    }
}

/// The place of an entry.
fn place(key: &EntryKey) -> Place {
    Place::of_prefix(key.source.address(), key.source.length(), key.port)
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    fn key(source: &str) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    /// The words as a kernel would have them.
    fn write(kernel: &mut [u64], writes: impl IntoIterator<Item = (u32, u64)>) {
        for (index, word) in writes {
            kernel[usize::try_from(index).unwrap()] = word;
        }
    }

    #[test]
    fn only_words_that_change_are_written() {
        let mut summary = Summary::new(vec![0; 64]);
        let mut kernel = vec![0; 64];
        let keys = ["192.0.2.1", "192.0.2.2", "10.0.0.0/8", "2001:db8::/32", "2001:db8::7"];
        for source in keys {
            let write_one = summary.cover(&key(source));
            assert!(write_one.is_some(), "{source}");
            write(&mut kernel, write_one);
            assert_eq!(summary.cover(&key(source)), None, "{source}");
        }
        assert_eq!(Summary::new(kernel.clone()), summary);
        assert_eq!(summary.rebuild(&mut keys.iter().map(|source| key(source))), []);
        let left = summary.rebuild(&mut keys.iter().take(1).map(|source| key(source)));
        assert_eq!(left.len(), 4, "one bit in a word, each");
        write(&mut kernel, left);
        assert_eq!(Summary::new(kernel), summary);
        assert!(summary.has(place(&key("192.0.2.1"))) && !summary.has(place(&key("192.0.2.2"))));
    }
}
