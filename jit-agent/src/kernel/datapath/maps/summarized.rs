//! Keeps the summary of the grant tables: its bits are set before an entry is written, and taken out
//! when no entry needs them.

use std::collections::BTreeMap;

use jit_common::map;

use super::{Maps, failed};
use crate::{
    kernel::datapath::{error::DatapathError, summary::Summary},
    rules::reconcile::EntryKey,
};

/// The whole summary is read by one review in this many: about once a minute. The others read the words
/// that have to have bits: a bit that is gone closes what is granted, one too many only costs time.
const WHOLE: u32 = 10;
/// If more than one word in this many has bits, reading all of them at once is cheaper.
const FEW: usize = 8;

/// The summary in the kernel.
#[derive(Debug, Default)]
pub(super) struct Summarized {
    /// What is in it; `None`: it has to be read.
    known: Option<Summary>,
    reviews: u32,
}

impl Summarized {
    /// The words that the next review reads; `None`: all.
    fn take_turn(&mut self) -> Option<Vec<u32>> {
        self.reviews = self.reviews.wrapping_add(1);
        let known = self.known.as_ref().filter(|_| !self.reviews.is_multiple_of(WHOLE))?;
        let words = known.words_with_bits();
        (words.len() <= known.len() / FEW).then_some(words)
    }
}

impl Maps {
    /// Makes the summary say of an entry that it may be there.
    pub(super) fn cover(&mut self, key: &EntryKey) -> Result<(), DatapathError> {
        let changed = self.summarized()?.cover(key);
        self.write_summary(changed)
    }

    /// The same of many entries.
    pub(super) fn cover_all<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a EntryKey>,
    ) -> Result<(), DatapathError> {
        let summary = self.summarized()?;
        // A word that changes more than once is written once, as it is at last.
        let changed: BTreeMap<_, _> = keys.filter_map(|key| summary.cover(key)).collect();
        self.write_summary(changed)
    }

    /// Takes the bits out of the summary that none of these entries needs. Returns whether it
    /// lacked one: somebody else may have written there.
    pub fn summarize(
        &mut self,
        keys: &mut dyn Iterator<Item = EntryKey>,
    ) -> Result<bool, DatapathError> {
        match self.summarized.take_turn() {
            Some(words) => {
                for index in words {
                    let word = self.summary.get(&index, 0).map_err(failed("read", map::SUMMARY))?;
                    self.summarized()?.read(index, word);
                }
            }
            None => self.summarized.known = None,
        }
        let rebuilt = self.summarized()?.rebuild(keys);
        self.write_summary(rebuilt.words)?;
        Ok(rebuilt.lacked)
    }

    fn summarized(&mut self) -> Result<&mut Summary, DatapathError> {
        let known = match self.summarized.known.take() {
            Some(known) => known,
            None => Summary::new(self.words(map::SUMMARY, &self.summary)?),
        };
        Ok(self.summarized.known.insert(known))
    }

    fn write_summary(
        &mut self,
        words: impl IntoIterator<Item = (u32, u64)>,
    ) -> Result<(), DatapathError> {
        let (indexes, words): (Vec<_>, Vec<_>) = words.into_iter().unzip();
        let written = self.write_many(map::SUMMARY, &indexes, &words, |maps, place| {
            let (Some(index), Some(word)) = (indexes.get(place), words.get(place)) else {
                return Ok(());
            };
            maps.summary.set(*index, word, 0).map_err(failed("write to", map::SUMMARY))
        });
        written.map_err(|failures| {
            self.summarized.known = None;
            failures.why
        })
    }
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    fn key(source: String) -> EntryKey {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        EntryKey { port, source: source.parse().unwrap() }
    }

    #[test]
    fn a_review_reads_the_words_with_bits_and_all_of_them_once_a_minute() {
        let mut summarized = Summarized::default();
        assert_eq!(summarized.take_turn(), None, "nothing is known");
        let mut known = Summary::new(vec![0; 64]);
        let (word, _) = known.cover(&key("192.0.2.1".into())).unwrap();
        summarized.known = Some(known);
        let reads: Vec<_> = (0..2 * WHOLE).map(|_| summarized.take_turn()).collect();
        let (all, some): (Vec<_>, Vec<_>) = reads.into_iter().partition(Option::is_none);
        assert_eq!(all.len(), 2);
        assert!(some.iter().all(|words| *words == Some(vec![word])), "{some:?}");
        for number in 0..200 {
            summarized.known.as_mut().unwrap().cover(&key(format!("198.18.0.{number}")));
        }
        assert_eq!(summarized.take_turn(), None, "most words have bits");
    }
}
