//! Which grants claim which place in the kernel's tables, and what should stand there.
//!
//! The longest prefix shadows: an expired /32 inside a live /24 would drop. Single addresses have a
//! table of their own, which the kernel asks first and whose dead entries hide nothing; among
//! prefixes the desired entry of each is made of all claims of that port that cover it: the latest
//! of those without a limit, and the latest of those with one that is not used up. Claims are
//! counted, so that of two grants for one prefix either may end without the other.

use std::collections::{BTreeMap, HashMap};

use jit_common::{Address, Family, PortKey};
use jit_proto::SourcePrefix;

use crate::rules::{
    clock::BootNanos,
    reconcile::{Claim, Entry, EntryKey},
};

/// Slot of exemptions, whose connections belong to no grant.
pub const EXEMPT_SLOT: u32 = 0;

/// A claim, and how many connections it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Until when, and where it is counted.
    pub claim: Claim,
    /// How many.
    pub kind: Kind,
}

/// For how many connections a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For some more.
    Limited,
    /// For any number.
    Unlimited,
    /// For no more; those that it let in live on.
    UsedUp,
}

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
    hosts: HashMap<EntryKey, Vec<Held>>,
    prefixes: BTreeMap<EntryKey, Vec<Held>>,
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

    /// Whether these keys fit, those that are there already being free, and those of `leaving` that
    /// nobody else claims being gone.
    pub fn fits(
        &self,
        keys: impl IntoIterator<Item = EntryKey>,
        leaving: impl IntoIterator<Item = EntryKey>,
    ) -> Result<(), Full> {
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
        let (mut hosts_freed, mut v4_freed, mut v6_freed) = (0, 0, 0);
        let mut gone = std::collections::HashSet::new();
        for key in leaving {
            let alone = self.claims(&key).is_some_and(|held| held.len() == 1);
            if !alone || !gone.insert(key) {
                continue;
            }
            match (key.source.is_host(), key.source.address().family) {
                (true, _) => hosts_freed += 1,
                (false, Family::V4) => v4_freed += 1,
                (false, Family::V6) => v6_freed += 1,
            }
        }
        let Capacity { hosts: most_hosts, prefixes: most } = self.capacity;
        let prefixes_v6 = self.prefixes.len() - self.prefixes_v4;
        if hosts > 0 && self.hosts.len() + hosts > most_hosts + hosts_freed {
            return Err(Full { most: most_hosts, table: "addresses" });
        }
        if v4 > 0 && self.prefixes_v4 + v4 > most + v4_freed {
            return Err(Full { most, table: "IPv4 prefixes" });
        }
        if v6 > 0 && prefixes_v6 + v6 > most + v6_freed {
            return Err(Full { most, table: "IPv6 prefixes" });
        }
        Ok(())
    }

    /// Adds a claim; the keys whose desired entry may have changed go to `touched`.
    pub fn add(&mut self, key: EntryKey, held: Held, touched: &mut Vec<EntryKey>) {
        if key.source.is_host() {
            self.hosts.entry(key).or_default().push(held);
            touched.push(key);
            return;
        }
        let claims = self.prefixes.entry(key).or_default();
        if claims.is_empty() && key.source.address().family == Family::V4 {
            self.prefixes_v4 += 1;
        }
        claims.push(held);
        touched.extend(self.within(key));
    }

    /// Takes one claim away: that of the same grant, which its slot tells; of an exemption an equal
    /// one.
    pub fn remove(&mut self, key: EntryKey, held: Held, touched: &mut Vec<EntryKey>) {
        let is_it = |other: &Held| {
            let slot = other.claim.slot;
            slot == held.claim.slot && (slot != EXEMPT_SLOT || *other == held)
        };
        let drop_one = |claims: &mut Vec<Held>| {
            if let Some(index) = claims.iter().position(is_it) {
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

    /// Puts one claim in the place of another of the same grant.
    pub fn exchange(&mut self, key: EntryKey, old: Held, new: Held, touched: &mut Vec<EntryKey>) {
        let claims = if key.source.is_host() {
            self.hosts.get_mut(&key)
        } else {
            self.prefixes.get_mut(&key)
        };
        let slot = old.claim.slot;
        if let Some(held) = claims.into_iter().flatten().find(|held| held.claim.slot == slot) {
            *held = new;
        }
        if key.source.is_host() {
            touched.push(key);
        } else {
            touched.extend(self.within(key));
        }
    }

    /// What should stand at this key.
    pub fn desired(&self, key: &EntryKey) -> Option<Entry> {
        let own = self.claims(key)?.iter();
        if key.source.is_host() {
            return Some(entry(own));
        }
        let covering = (0..key.source.length()).flat_map(|length| {
            let wider = EntryKey { source: key.source.widened(length), ..*key };
            self.prefixes.get(&wider).map_or(&[][..], Vec::as_slice)
        });
        Some(entry(own.chain(covering)))
    }

    /// Every key with its desired entry.
    pub fn all(&self) -> impl Iterator<Item = (EntryKey, Option<Entry>)> + '_ {
        self.hosts.keys().chain(self.prefixes.keys()).map(|key| (*key, self.desired(key)))
    }

    /// The claims that cover one address and are not over at this time.
    pub fn covering(
        &self,
        port: PortKey,
        address: Address,
        now: BootNanos,
    ) -> impl Iterator<Item = Held> + '_ {
        let bits = jit_proto::prefix::bits(address.family);
        let host = SourcePrefix::new(address, bits).ok();
        host.into_iter()
            .flat_map(move |host| (0..=bits).map(move |length| host.widened(length)))
            .flat_map(move |source| self.claims(&EntryKey { port, source }).unwrap_or_default())
            .copied()
            .filter(move |held| held.claim.deadline > now)
    }

    fn claims(&self, key: &EntryKey) -> Option<&[Held]> {
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

/// What stands for these claims. Where two end together, the one whose sessions are cut counts, and
/// then the slot, so that the same claims always give the same entry.
fn entry<'h>(claims: impl Iterator<Item = &'h Held>) -> Entry {
    let (mut unlimited, mut limited, mut used_up) = (Claim::NONE, Claim::NONE, Claim::NONE);
    for Held { claim, kind } in claims.filter(|held| held.claim.is_some()) {
        let latest = match kind {
            Kind::Limited => &mut limited,
            Kind::Unlimited => &mut unlimited,
            Kind::UsedUp => &mut used_up,
        };
        *latest = (*latest).max(*claim);
    }
    // What is used up still carries its sessions, unless the place is wanted.
    Entry { unlimited, limited: if limited.is_some() { limited } else { used_up } }
}
