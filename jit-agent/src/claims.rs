//! Which grants claim which place in the kernel's tables, and what should stand there.
//!
//! The longest prefix shadows: an expired /32 inside a live /24 would drop. Single addresses have a
//! table of their own, which the kernel asks first and whose dead entries hide nothing; among
//! prefixes the desired deadline of each is the latest of all live claims of that port that cover
//! it. Claims are counted, so that of two grants for one prefix either may end without the other.

use std::collections::{BTreeMap, HashMap};

use jit_common::{Address, Family, PortKey};

use crate::{
    clock::BootNanos,
    prefix::SourcePrefix,
    reconcile::{Entry, EntryKey},
};

/// How many entries each table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Single addresses, both families.
    pub hosts: usize,
    /// Prefixes, for each family.
    pub prefixes: usize,
}

/// All claims.
#[derive(Clone, Debug)]
pub struct Claims {
    capacity: Capacity,
    hosts: HashMap<EntryKey, Vec<Entry>>,
    prefixes: BTreeMap<EntryKey, Vec<Entry>>,
    prefixes_v4: usize,
}

/// Which table has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Entries that it holds at most.
    pub most: usize,
    /// `addresses`, `IPv4 prefixes` or `IPv6 prefixes`.
    pub table: &'static str,
}

impl Claims {
    /// No claims, and room for this many.
    pub fn new(capacity: Capacity) -> Self {
        Self { capacity, hosts: HashMap::new(), prefixes: BTreeMap::new(), prefixes_v4: 0 }
    }

    /// Entries in use: addresses, prefixes of both families.
    pub fn used(&self) -> (usize, usize) {
        (self.hosts.len(), self.prefixes.len())
    }

    /// Whether these keys fit, those that are there already being free.
    pub fn fits(&self, keys: impl IntoIterator<Item = EntryKey>) -> Result<(), Full> {
        let (mut hosts, mut v4, mut v6) = (0, 0, 0);
        let mut fresh = std::collections::HashSet::new();
        for key in keys {
            if self.claims(&key).is_some() || !fresh.insert(key) {
                continue;
            }
            match (key.source.is_host(), key.source.address().family) {
                (true, _) => hosts += 1,
                (false, Family::V4) => v4 += 1,
                (false, Family::V6) => v6 += 1,
            }
        }
        let Capacity { hosts: most_hosts, prefixes: most } = self.capacity;
        let prefixes_v6 = self.prefixes.len() - self.prefixes_v4;
        if hosts > 0 && self.hosts.len() + hosts > most_hosts {
            return Err(Full { most: most_hosts, table: "addresses" });
        }
        if v4 > 0 && self.prefixes_v4 + v4 > most {
            return Err(Full { most, table: "IPv4 prefixes" });
        }
        if v6 > 0 && prefixes_v6 + v6 > most {
            return Err(Full { most, table: "IPv6 prefixes" });
        }
        Ok(())
    }

    /// Adds a claim; the keys whose desired entry may have changed go to `touched`.
    pub fn add(&mut self, key: EntryKey, entry: Entry, touched: &mut Vec<EntryKey>) {
        if key.source.is_host() {
            self.hosts.entry(key).or_default().push(entry);
            touched.push(key);
            return;
        }
        let claims = self.prefixes.entry(key).or_default();
        if claims.is_empty() && key.source.address().family == Family::V4 {
            self.prefixes_v4 += 1;
        }
        claims.push(entry);
        touched.extend(self.within(key));
    }

    /// Takes one claim with this slot away.
    pub fn remove(&mut self, key: EntryKey, slot: u32, touched: &mut Vec<EntryKey>) {
        let drop_one = |claims: &mut Vec<Entry>| {
            if let Some(index) = claims.iter().position(|claim| claim.slot == slot) {
                claims.swap_remove(index);
            }
            claims.is_empty()
        };
        if key.source.is_host() {
            if self.hosts.get_mut(&key).is_some_and(drop_one) {
                self.hosts.remove(&key);
            }
            touched.push(key);
            return;
        }
        touched.extend(self.within(key));
        if self.prefixes.get_mut(&key).is_some_and(drop_one) {
            self.prefixes.remove(&key);
            if key.source.address().family == Family::V4 {
                self.prefixes_v4 -= 1;
            }
        }
    }

    /// What should stand at this key.
    pub fn desired(&self, key: &EntryKey) -> Option<Entry> {
        let own = self.claims(key)?.iter();
        if key.source.is_host() {
            return own.copied().max_by_key(|claim| claim.deadline);
        }
        let covering = (0..key.source.length()).flat_map(|length| {
            let wider = EntryKey { source: key.source.widened(length), ..*key };
            self.prefixes.get(&wider).map_or(&[][..], Vec::as_slice)
        });
        own.chain(covering).copied().max_by_key(|claim| claim.deadline)
    }

    /// Every key with its desired entry.
    pub fn all(&self) -> impl Iterator<Item = (EntryKey, Option<Entry>)> + '_ {
        self.hosts.keys().chain(self.prefixes.keys()).map(|key| (*key, self.desired(key)))
    }

    /// The latest deadline of the live claims that cover one address: what the kernel should find.
    pub fn covering(&self, port: PortKey, address: Address, now: BootNanos) -> Option<Entry> {
        let bits = crate::prefix::bits(address.family);
        let host = SourcePrefix::new(address, bits).ok()?;
        (0..=bits)
            .flat_map(|length| {
                let key = EntryKey { port, source: host.widened(length) };
                self.claims(&key).unwrap_or_default().iter().copied()
            })
            .filter(|claim| claim.deadline > now)
            .max_by_key(|claim| claim.deadline)
    }

    fn claims(&self, key: &EntryKey) -> Option<&[Entry]> {
        if key.source.is_host() {
            self.hosts.get(key).map(Vec::as_slice)
        } else {
            self.prefixes.get(key).map(Vec::as_slice)
        }
    }

    /// Keys of prefixes inside this one, itself among them: their order is by port, address and
    /// length, so they stand in one stretch.
    fn within(&self, key: EntryKey) -> Vec<EntryKey> {
        self.prefixes
            .range(key..)
            .map(|(other, _)| *other)
            .take_while(|other| {
                other.port == key.port && other.source.address() <= key.source.last_address()
            })
            .filter(|other| key.source.contains(&other.source))
            .collect()
    }
}
