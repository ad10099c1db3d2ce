//! Reads the tables back, many entries in one call (BPF_MAP_LOOKUP_BATCH). Where the kernel cannot do
//! that (tries before Linux 5.13), one after another.

use std::io;

use aya::maps::{Array, MapData, lpm_trie::Key};
use jit_common::{
    Address, Family, GrantEntry, HostKey, PortKey, PrefixV4, PrefixV6, Protocol, map,
};
use jit_proto::{SourcePrefix, prefix::bits};

use super::{Maps, failed, gone};
use crate::{
    kernel::datapath::{
        bpf,
        error::DatapathError,
        state::{Cursor, ReadBack},
    },
    rules::{
        clock::BootNanos,
        reconcile::{Access, Entries, Entry, EntryKey},
    },
};

/// The grant tables, in the order in which they are read.
pub(super) const TABLES: [&str; 3] =
    [map::HOST_GRANTS, map::PREFIX_GRANTS_V4, map::PREFIX_GRANTS_V6];
/// Entries that one call reads at most, and at least: a hash gives whole buckets.
const MOST: usize = 4096;
const LEAST: usize = 256;

/// The key of an entry, as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RawKey {
    Host(HostKey),
    V4(u32, PrefixV4),
    V6(u32, PrefixV6),
}

/// Keys and entries as they are in a table.
type RawEntries = Vec<(RawKey, Entry)>;

impl Maps {
    /// Reads about `most` entries of the grant tables, from the cursor on. Removes those of a form
    /// that the agent never writes: an odd prefix may cover every port.
    pub fn read_back(
        &mut self,
        cursor: &mut Cursor,
        most: usize,
    ) -> Result<ReadBack, DatapathError> {
        let mut read = ReadBack::default();
        while let Some(table) = TABLES.get(cursor.tables) {
            let room = most.saturating_sub(read.entries.len());
            if room == 0 {
                return Ok(read);
            }
            // Most tables are small: the first call needs no more room.
            let most = if cursor.from.is_none() { LEAST } else { room.clamp(LEAST, MOST) };
            let (entries, next) = self.some(table, cursor.from.as_deref(), most)?;
            for (key, entry) in entries {
                match key.known() {
                    Some(key) => {
                        // Nothing changes, unless somebody else took the table away.
                        self.cover(&key)?;
                        read.entries.push((key, entry));
                    }
                    None => {
                        self.remove(&key)?;
                        read.odd.push(format!("{key:?} in {table}"));
                    }
                }
            }
            cursor.tables += usize::from(next.is_none());
            cursor.from = next;
        }
        *cursor = Cursor::default();
        read.ended = true;
        Ok(read)
    }

    /// Everything in the grant tables.
    pub fn entries(&self) -> Result<Entries, DatapathError> {
        let mut entries = Entries::new();
        for table in TABLES {
            let mut from = None;
            loop {
                let (some, next) = self.some(table, from.as_deref(), MOST)?;
                let known = some.into_iter().filter_map(|(key, entry)| Some((key.known()?, entry)));
                entries.extend(known);
                let Some(next) = next else { break };
                from = Some(next);
            }
        }
        Ok(entries)
    }

    /// Entries of one table, and where the next ones begin.
    fn some(
        &self,
        table: &'static str,
        from: Option<&[u8]>,
        most: usize,
    ) -> Result<(RawEntries, Option<Vec<u8>>), DatapathError> {
        let Some(descriptor) = self.descriptors.get(table) else {
            return Ok((self.whole(table)?, None));
        };
        let key = RawKey::size(table);
        match bpf::read_batch(descriptor, (key, size_of::<GrantEntry>()), from, most) {
            Ok(batch) => {
                let values = batch.values.chunks_exact(size_of::<GrantEntry>()).map(entry);
                let keys = batch.keys.chunks_exact(key).map(|key| RawKey::read(table, key));
                let entries = keys.zip(values).filter_map(|(key, entry)| Some((key?, entry?)));
                Ok((entries.collect(), batch.next))
            }
            Err(error) if cannot(&error) => Ok((self.whole(table)?, None)),
            Err(error) => Err(DatapathError::Sys { verb: "read a table back", error }),
        }
    }

    /// All entries of one table, one after another.
    pub(super) fn whole(&self, table: &'static str) -> Result<RawEntries, DatapathError> {
        let read = |error| failed("read", table)(error);
        match table {
            map::HOST_GRANTS => {
                let all = self.hosts.iter();
                all.map(|item| item.map(|(key, entry)| (RawKey::Host(key), entry.into())))
                    .collect::<Result<_, _>>()
                    .map_err(read)
            }
            map::PREFIX_GRANTS_V4 => {
                let raw = |key: Key<PrefixV4>| RawKey::V4(key.prefix_len(), key.data());
                let all = self.prefixes_v4.iter();
                all.map(|item| item.map(|(key, entry)| (raw(key), entry.into())))
                    .collect::<Result<_, _>>()
                    .map_err(read)
            }
            _ => {
                let raw = |key: Key<PrefixV6>| RawKey::V6(key.prefix_len(), key.data());
                let all = self.prefixes_v6.iter();
                all.map(|item| item.map(|(key, entry)| (raw(key), entry.into())))
                    .collect::<Result<_, _>>()
                    .map_err(read)
            }
        }
    }

    fn remove(&mut self, key: &RawKey) -> Result<(), DatapathError> {
        match *key {
            RawKey::Host(key) => gone(self.hosts.remove(&key), map::HOST_GRANTS),
            RawKey::V4(length, data) => {
                gone(self.prefixes_v4.remove(&Key::new(length, data)), map::PREFIX_GRANTS_V4)
            }
            RawKey::V6(length, data) => {
                gone(self.prefixes_v6.remove(&Key::new(length, data)), map::PREFIX_GRANTS_V6)
            }
        }
    }

    /// Whether the kernel protects a port, and whether it lets all pass there all the same (observe
    /// mode of the gate or the port, or the end of its trial).
    pub fn treats(&self, port: PortKey, now: BootNanos) -> Result<(bool, bool), DatapathError> {
        let (word, bit) = port.word_and_bit();
        let word = self.protected.get(&word, 0).map_err(failed("read", map::PROTECTED))?;
        let rule = self.port_rules.get(&port.index(), 0);
        let rule = rule.map_err(failed("read", map::PORT_RULES))?;
        let observes = self.settings()?.observes(Some(&rule), || now.0);
        Ok((word & bit != 0, observes))
    }

    /// All words of a table of bits.
    pub(super) fn words(
        &self,
        name: &'static str,
        table: &Array<MapData, u64>,
    ) -> Result<Vec<u64>, DatapathError> {
        let words = usize::try_from(table.len()).unwrap_or(usize::MAX);
        let sizes = (size_of::<u32>(), size_of::<u64>());
        let batch = self
            .descriptors
            .get(name)
            .and_then(|table| bpf::read_batch(table, sizes, None, words).ok());
        match batch.filter(|batch| batch.count == words) {
            Some(batch) => {
                let (values, _) = batch.values.as_chunks::<8>();
                Ok(values.iter().map(|word| u64::from_ne_bytes(*word)).collect())
            }
            None => table.iter().collect::<Result<_, _>>().map_err(failed("read", name)),
        }
    }
}

/// Whether this kernel cannot read or write such a table in batches. (`ENOTSUPP` is the kernel's own.)
pub(super) fn cannot(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSPC))
}

impl RawKey {
    /// The table that has such keys.
    pub(super) const fn table(&self) -> &'static str {
        match self {
            Self::Host(_) => map::HOST_GRANTS,
            Self::V4(..) => map::PREFIX_GRANTS_V4,
            Self::V6(..) => map::PREFIX_GRANTS_V6,
        }
    }

    fn size(table: &str) -> usize {
        match table {
            map::HOST_GRANTS => size_of::<HostKey>(),
            map::PREFIX_GRANTS_V4 => size_of::<Key<PrefixV4>>(),
            _ => size_of::<Key<PrefixV6>>(),
        }
    }

    fn read(table: &str, bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let rest = &mut rest;
        Some(match table {
            map::HOST_GRANTS => Self::Host(HostKey {
                address: words(rest)?,
                port: take(rest)?,
                protocol: byte(rest)?,
                family: byte(rest)?,
            }),
            map::PREFIX_GRANTS_V4 => Self::V4(
                u32::from_ne_bytes(take(rest)?),
                PrefixV4 {
                    port: take(rest)?,
                    protocol: byte(rest)?,
                    reserved: byte(rest)?,
                    address: take(rest).map(u32::from_ne_bytes)?,
                },
            ),
            _ => Self::V6(
                u32::from_ne_bytes(take(rest)?),
                PrefixV6 {
                    port: take(rest)?,
                    protocol: byte(rest)?,
                    reserved: byte(rest)?,
                    padding: take(rest).map(u32::from_ne_bytes)?,
                    address: words(rest)?,
                },
            ),
        })
    }

    /// The place, if the agent writes such keys.
    pub(super) fn known(&self) -> Option<EntryKey> {
        let (port, protocol, address, length) = match self {
            Self::Host(key) => {
                let address = match key.family {
                    4 => Address { family: Family::V4, words: key.address },
                    6 => Address { family: Family::V6, words: key.address },
                    _ => return None,
                };
                (key.port, key.protocol, address, u32::from(bits(address.family)))
            }
            Self::V4(length, data) => (
                data.port,
                data.protocol,
                Address { family: Family::V4, words: [data.address, 0, 0, 0] },
                length.checked_sub(PrefixV4::HEAD_BITS)?,
            ),
            Self::V6(length, data) => (
                data.port,
                data.protocol,
                Address { family: Family::V6, words: data.address },
                length.checked_sub(PrefixV6::HEAD_BITS)?,
            ),
        };
        let protocol = Protocol::from_number(protocol)?;
        let port = PortKey { protocol, port: u16::from_be_bytes(port) };
        let source = SourcePrefix::new(address, u8::try_from(length).ok()?).ok()?;
        let key = EntryKey { port, source };
        (Self::of(&key) == *self).then_some(key)
    }

    /// The key that the agent writes for a place.
    pub(super) fn of(key: &EntryKey) -> Self {
        let EntryKey { port, source } = *key;
        let (address, length) = (source.address(), u32::from(source.length()));
        match address.family {
            _ if source.is_host() => Self::Host(HostKey::new(address, port)),
            Family::V4 => Self::V4(PrefixV4::HEAD_BITS + length, PrefixV4::new(address, port)),
            Family::V6 => Self::V6(PrefixV6::HEAD_BITS + length, PrefixV6::new(address, port)),
        }
    }
}

/// A `GrantEntry` from its bytes.
fn entry(bytes: &[u8]) -> Option<Entry> {
    let (unlimited, limited) = bytes.split_at_checked(bytes.len() / 2)?;
    Some(Entry { unlimited: access(unlimited)?, limited: access(limited)? })
}

/// A `Claim` from its bytes.
fn access(bytes: &[u8]) -> Option<Access> {
    let mut rest = bytes;
    let rest = &mut rest;
    let deadline = BootNanos(u64::from_ne_bytes(take(rest)?));
    let slot = u32::from_ne_bytes(take(rest)?);
    Some(Access { deadline, slot, cut: byte(rest)? != 0 })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// An address, as [`Address::words`] has it.
fn words(rest: &mut &[u8]) -> Option<[u32; 4]> {
    take(rest).map(|bytes| Address::v6(bytes).words)
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    take::<1>(rest).map(|[byte]| byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };

    fn known(source: &str) -> EntryKey {
        EntryKey { port: SSH, source: source.parse().unwrap() }
    }

    #[test]
    fn a_key_of_the_agents_is_known_again() {
        for source in ["192.0.2.1", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::1", "2001:db8::/32"] {
            let key = known(source);
            assert_eq!(RawKey::of(&key).known(), Some(key), "{source}");
        }
    }

    #[test]
    fn keys_that_the_agent_never_writes_are_odd() {
        let address = Address::v4([192, 0, 2, 1]);
        let data = PrefixV4::new(address, SSH);
        let (host, six) = (HostKey::new(address, SSH), PrefixV6::new(Address::v6([0x20; 16]), SSH));
        for odd in [
            RawKey::V4(0, data),
            RawKey::V4(31, data),
            RawKey::V4(32 + 32, data),
            RawKey::V4(32 + 24, data),
            RawKey::V4(32 + 33, data),
            RawKey::V4(32, PrefixV4 { reserved: 1, ..PrefixV4::new(Address::v4([0; 4]), SSH) }),
            RawKey::V4(32, PrefixV4 { protocol: 1, ..PrefixV4::new(Address::v4([0; 4]), SSH) }),
            RawKey::V6(24, six),
            RawKey::V6(64 + 128, six),
            RawKey::Host(HostKey { family: 5, ..host }),
            RawKey::Host(HostKey { family: 6, address: [u32::MAX; 4], protocol: 0, ..host }),
            RawKey::Host(HostKey { address: [1; 4], ..host }),
        ] {
            assert_eq!(odd.known(), None, "{odd:?}");
        }
    }

    #[test]
    fn an_entry_is_read_from_its_bytes() {
        let half = size_of::<GrantEntry>() / 2;
        let mut bytes = vec![0; 2 * half];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[half + 8..half + 12].copy_from_slice(&9_u32.to_ne_bytes());
        bytes[half + 12] = 1;
        let read = entry(&bytes).unwrap();
        let unlimited = Access { deadline: BootNanos(7), cut: false, slot: 0 };
        assert_eq!(read.unlimited, unlimited);
        assert_eq!(read.limited, Access { deadline: BootNanos(0), cut: true, slot: 9 });
        assert_eq!(entry(&[0; 7]), None);
    }
}
