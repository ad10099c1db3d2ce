//! The agent's side of the summary of the grant tables ([`jit_common::Place`]).

use jit_common::{Place, SummarySize};

use crate::rules::reconcile::EntryKey;

/// The bits as the kernel has them. It gives the words that have to be written, and notes them as
/// written: if a write fails, the summary has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    size: SummarySize,
    words: Vec<u64>,
}

/// What has to be written after [`Summary::rebuild`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rebuilt {
    /// Index and value of the words that change.
    pub(super) words: Vec<(u32, u64)>,
    /// A bit of an entry was not set: somebody else has written there.
    pub(super) lacked: bool,
}

impl Summary {
    /// Without a bit.
    pub fn empty(size: SummarySize) -> Self {
        let words = usize::try_from(size.words()).unwrap_or_default();
        Self::new(size, vec![0; words])
    }

    /// From the words of the table.
    pub const fn new(size: SummarySize, words: Vec<u64>) -> Self {
        Self { size, words }
    }

    /// The number of words.
    pub(super) const fn len(&self) -> usize {
        self.words.len()
    }

    /// The indexes of the words that have bits.
    pub(super) fn words_with_bits(&self) -> Vec<u32> {
        let words = (0..).zip(&self.words).filter(|(_, word)| **word != 0);
        words.map(|(index, _)| index).collect()
    }

    /// Notes what the table has there.
    pub(super) fn read(&mut self, index: u32, word: u64) {
        let known = usize::try_from(index).ok().and_then(|index| self.words.get_mut(index));
        known.into_iter().for_each(|known| *known = word);
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
    pub(super) fn rebuild(&mut self, keys: &mut dyn Iterator<Item = EntryKey>) -> Rebuilt {
        let mut wanted = Self::empty(self.size);
        for key in keys {
            wanted.cover(&key);
        }
        let both = (0..).zip(wanted.words.iter().zip(&self.words));
        let mut rebuilt = Rebuilt::default();
        for (index, (wanted, is)) in both.filter(|(_, (wanted, is))| wanted != is) {
            rebuilt.words.push((index, *wanted));
            rebuilt.lacked |= wanted & !is != 0;
        }
        *self = wanted;
        rebuilt
    }

    fn at(&self, place: Place) -> (usize, u64) {
        let (index, bit) = place.word_and_bit(self.size);
        (usize::try_from(index).unwrap_or(usize::MAX), bit)
    }
}

/// The place of an entry.
fn place(key: &EntryKey) -> Place {
    Place::of_prefix(key.source.address(), key.source.length(), key.port)
}

#[cfg(test)]
mod tests {
    use jit_common::{Address, Family, GrantEntry, HostKey, PortKey, Protocol, Tables as _};
    use jit_proto::{SourcePrefix, prefix::bits};
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::datapath::memory::MemoryTables;

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

    const SHORT: SummarySize = SummarySize { hosts: 32, prefixes: 32 };

    #[test]
    fn only_words_that_change_are_written() {
        let mut summary = Summary::empty(SHORT);
        let mut kernel = vec![0; 64];
        let keys = ["192.0.2.1", "192.0.2.2", "10.0.0.0/8", "2001:db8::/32", "2001:db8::7"];
        for source in keys {
            let write_one = summary.cover(&key(source));
            assert!(write_one.is_some(), "{source}");
            write(&mut kernel, write_one);
            assert_eq!(summary.cover(&key(source)), None, "{source}");
        }
        assert_eq!(Summary::new(SHORT, kernel.clone()), summary);
        let rebuilt = summary.rebuild(&mut keys.iter().map(|source| key(source)));
        assert_eq!(rebuilt, Rebuilt::default());
        let left = summary.rebuild(&mut keys.iter().take(1).map(|source| key(source)));
        assert_eq!((left.words.len(), left.lacked), (4, false), "one bit in a word, each");
        write(&mut kernel, left.words);
        assert_eq!(Summary::new(SHORT, kernel), summary);
        let cleared = Summary::empty(SHORT).rebuild(&mut std::iter::once(key("192.0.2.1")));
        assert_eq!((cleared.words.len(), cleared.lacked), (1, true));
        assert!(summary.has(place(&key("192.0.2.1"))) && !summary.has(place(&key("192.0.2.2"))));
    }

    /// Few addresses and lengths, so that prefixes cover sources often.
    fn addresses() -> impl Strategy<Value = Address> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(0x80), any::<u8>()];
        let v4 = proptest::array::uniform4(byte.clone()).prop_map(Address::v4);
        prop_oneof![v4, proptest::array::uniform16(byte).prop_map(Address::v6)]
    }

    fn keys() -> impl Strategy<Value = EntryKey> {
        (addresses(), any::<u8>(), 0..3_u16, any::<bool>()).prop_map(
            |(address, length, port, udp)| {
                let whole = bits(address.family);
                let length = if length > 180 { whole } else { length % (whole + 1) };
                let address = jit_proto::prefix::masked(address, length);
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                let source = SourcePrefix::new(address, length).unwrap();
                EntryKey { port: PortKey { protocol, port }, source }
            },
        )
    }

    fn tables(keys: &[EntryKey], summary: Option<Summary>) -> MemoryTables {
        let mut tables = MemoryTables { summary, ..MemoryTables::default() };
        let entry = GrantEntry::until(u64::MAX, 1);
        for EntryKey { port, source } in keys {
            if source.is_host() {
                tables.hosts.insert(HostKey::new(source.address(), *port), entry);
            } else {
                tables.prefixes.insert((*port, source.address(), source.length()), entry);
            }
        }
        tables
    }

    /// Whether the decision would find an entry, asking the summary first.
    fn finds(tables: &MemoryTables, source: Address, port: PortKey) -> bool {
        let host = tables.summarized(Place::of_host(source, port))
            && tables.host_grant(&HostKey::new(source, port)).is_some();
        let prefix = (tables.summarized(Place::of_block(source, port))
            || tables.summarized(Place::of_port(source.family, port)))
            && tables.longest(port, source, bits(source.family)).is_some();
        host || prefix
    }

    /// Lengths of a part of the summary, words.
    fn parts() -> impl Strategy<Value = u32> {
        prop_oneof![Just(1), Just(2), Just(64), Just(2_048)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// After any history of entries that come and go, with the bits of those that went and
        /// without, the summary hides no entry.
        #[test]
        fn no_entry_is_ever_hidden(
            come in proptest::collection::vec(keys(), 1..12),
            go in proptest::collection::vec(any::<bool>(), 12),
            hosts in parts(),
            prefixes in parts(),
            sources in proptest::collection::vec(addresses(), 8),
        ) {
            let mut summary = Summary::empty(SummarySize { hosts, prefixes });
            for key in &come {
                summary.cover(key);
            }
            let left: Vec<_> =
                come.iter().zip(go).filter_map(|(key, go)| (!go).then_some(*key)).collect();
            for rebuilt in [false, true] {
                if rebuilt {
                    summary.rebuild(&mut left.iter().copied());
                }
                let (with, without) =
                    (tables(&left, Some(summary.clone())), tables(&left, None));
                let ends = come.iter().flat_map(|key| {
                    [key.source.address(), key.source.last_address()]
                });
                for source in ends.chain(sources.iter().copied()) {
                    for port in come.iter().map(|key| key.port) {
                        let found = finds(&without, source, port);
                        prop_assert_eq!(finds(&with, source, port), found, "{:?}", source);
                    }
                }
            }
        }
    }

    /// Sources without an entry are ruled out at once: at least seven of eight.
    #[test]
    fn most_sources_without_an_entry_need_no_look_up() {
        const HOSTS: u32 = 50_000;
        let mut summary = Summary::empty(SummarySize::for_grants(HOSTS, HOSTS));
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        for number in 0..HOSTS {
            let address = Address::v4((0x0a00_0000 + number).to_be_bytes());
            let source = SourcePrefix::new(address, 32).unwrap();
            summary.cover(&EntryKey { port, source });
        }
        let strangers = (0..HOSTS).map(|number| Address::v4((0xc000_0000 + number).to_be_bytes()));
        let asked = strangers.filter(|source| summary.has(Place::of_host(*source, port))).count();
        assert!(asked < 50_000 / 8, "{asked} of 50,000");
        println!("{asked} of 50,000 strangers are looked up");
    }

    /// However many hosts there are, no source is looked up among the prefixes for them, and none
    /// among the hosts for prefixes.
    #[test]
    fn hosts_and_prefixes_share_no_bit() {
        let size = SummarySize::for_grants(1 << 20, 1 << 14);
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        for number in 0..100_000_u32 {
            let address = Address::v4(number.to_be_bytes());
            let (host, _) = Place::of_host(address, port).word_and_bit(size);
            let (block, _) = Place::of_block(address, port).word_and_bit(size);
            assert!(host < size.hosts, "{host}");
            assert!((size.hosts..size.words()).contains(&block), "{block}");
        }
        let (short, _) = Place::of_port(Family::V6, port).word_and_bit(size);
        assert!((size.hosts..size.words()).contains(&short), "{short}");
    }
}
