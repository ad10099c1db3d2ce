//! Which grants claim which place in the kernel's tables, and the desired entry of each place.
//!
//! The kernel's look-up takes the longest prefix only. So an expired /32 inside a live /24 would
//! drop. Single addresses have a table of their own: the kernel asks it first, and its dead entries
//! hide nothing. The desired entry of a prefix is made of all claims of that port that cover it:
//! the latest without a limit, and the latest with a limit that is not used up. Claims are counted:
//! if two grants have the same prefix, either may end without the other.
//!
//! Keys whose desired entry may have changed are kept until the gate takes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jit_common::{Address, Family, PortKey};
use jit_proto::SourcePrefix;

use crate::rules::{
    clock::BootNanos,
    few::Few,
    reconcile::{Access, Entry, EntryKey},
    room,
};

/// Slot of exemptions, whose connections belong to no grant.
pub const EXEMPT_SLOT: u32 = 0;

/// The claim of a grant or an exemption at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceClaim {
    /// The entry in the kernel for this claim.
    pub access: Access,
    /// The number of connections that it is for.
    pub kind: Kind,
}

/// The number of connections that a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A limited number, which is not used up.
    Limited,
    /// Any number.
    Unlimited,
    /// No more: it is used up. Connections that it let in stay.
    UsedUp,
}

/// Largest number of entries in each table.
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
    hosts: HashMap<EntryKey, Few<PlaceClaim>>,
    prefixes: BTreeMap<EntryKey, Few<PlaceClaim>>,
    prefixes_v4: usize,
    /// Keys whose desired entry may have changed since they were last taken.
    changed: BTreeSet<EntryKey>,
}

/// The table without room.
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
        Self {
            capacity,
            hosts: HashMap::new(),
            prefixes: BTreeMap::new(),
            prefixes_v4: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Entries in use: addresses, prefixes of both families.
    pub fn used(&self) -> (usize, usize) {
        (self.hosts.len(), self.prefixes.len())
    }

    pub(super) fn give_room_back(&mut self) {
        room::give_back(&mut self.hosts);
    }

    /// Keys whose desired entry may have changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<EntryKey> {
        std::mem::take(&mut self.changed)
    }

    /// Whether these keys fit. Keys that are already there need no room. Keys of `leaving` that no
    /// other grant claims free theirs.
    pub fn fits(
        &self,
        keys: impl IntoIterator<Item = EntryKey>,
        leaving: impl IntoIterator<Item = EntryKey>,
    ) -> Result<(), Full> {
        let fresh = Counts::of(keys.into_iter().filter(|key| self.claims(key).is_none()));
        let alone = |key: &EntryKey| self.claims(key).is_some_and(|claims| claims.len() == 1);
        let freed = Counts::of(leaving.into_iter().filter(alone));
        let Capacity { hosts, prefixes } = self.capacity;
        let prefixes_v6 = self.prefixes.len() - self.prefixes_v4;
        let tables = [
            ("addresses", hosts, self.hosts.len(), fresh.hosts, freed.hosts),
            ("IPv4 prefixes", prefixes, self.prefixes_v4, fresh.v4, freed.v4),
            ("IPv6 prefixes", prefixes, prefixes_v6, fresh.v6, freed.v6),
        ];
        for (table, most, used, fresh, freed) in tables {
            if fresh > 0 && used + fresh > most + freed {
                return Err(Full { most, table });
            }
        }
        Ok(())
    }

    /// Adds a claim.
    pub fn add(&mut self, key: EntryKey, claim: PlaceClaim) {
        if key.source.is_host() {
            let claims = self.hosts.entry(key).and_modify(|claims| claims.push(claim));
            claims.or_insert(Few::One(claim));
        } else {
            let claims = self.prefixes.entry(key).and_modify(|claims| claims.push(claim));
            claims.or_insert_with(|| {
                if key.source.address().family == Family::V4 {
                    self.prefixes_v4 += 1;
                }
                Few::One(claim)
            });
        }
        self.has_changed(key);
    }

    /// Removes one claim: the one with the same slot, so of the same grant. Exemptions share a
    /// slot: for them it removes an equal claim.
    pub fn remove(&mut self, key: EntryKey, claim: PlaceClaim) {
        self.has_changed(key);
        let is_it = |other: &PlaceClaim| {
            let slot = other.access.slot;
            slot == claim.access.slot && (slot != EXEMPT_SLOT || *other == claim)
        };
        let Some(claims) = self.claims_mut(&key) else { return };
        let index = claims.iter().position(is_it);
        if index.is_none_or(|index| claims.swap_remove(index)) {
            return;
        }
        if key.source.is_host() {
            self.hosts.remove(&key);
        } else {
            self.prefixes.remove(&key);
            if key.source.address().family == Family::V4 {
                self.prefixes_v4 -= 1;
            }
        }
    }

    /// Replaces a claim by another one of the same grant.
    pub fn exchange(&mut self, key: EntryKey, old: PlaceClaim, new: PlaceClaim) {
        let slot = old.access.slot;
        let claims = self.claims_mut(&key).map(Few::as_mut_slice).unwrap_or_default();
        if let Some(claim) = claims.iter_mut().find(|claim| claim.access.slot == slot) {
            *claim = new;
        }
        self.has_changed(key);
    }

    /// The desired entry of this key.
    pub fn desired(&self, key: &EntryKey) -> Option<Entry> {
        let own = self.claims(key)?.iter();
        if key.source.is_host() {
            return Some(entry(own));
        }
        let covering = (0..key.source.length()).flat_map(|length| {
            let wider = EntryKey { source: key.source.widened(length), ..*key };
            self.prefixes.get(&wider).map_or(&[][..], |claims| claims)
        });
        Some(entry(own.chain(covering)))
    }

    /// Every key with its desired entry.
    pub fn all(&self) -> impl Iterator<Item = (EntryKey, Option<Entry>)> + '_ {
        self.hosts.keys().chain(self.prefixes.keys()).map(|key| (*key, self.desired(key)))
    }

    /// The claims that cover one address and have not ended at this time.
    pub fn covering(
        &self,
        port: PortKey,
        address: Address,
        now: BootNanos,
    ) -> impl Iterator<Item = PlaceClaim> + '_ {
        let bits = jit_proto::prefix::bits(address.family);
        let host = SourcePrefix::new(address, bits).ok();
        host.into_iter()
            .flat_map(move |host| (0..=bits).map(move |length| host.widened(length)))
            .flat_map(move |source| self.claims(&EntryKey { port, source }).unwrap_or_default())
            .copied()
            .filter(move |claim| claim.access.deadline > now)
    }

    fn claims(&self, key: &EntryKey) -> Option<&[PlaceClaim]> {
        if key.source.is_host() {
            self.hosts.get(key).map(|claims| &**claims)
        } else {
            self.prefixes.get(key).map(|claims| &**claims)
        }
    }

    fn claims_mut(&mut self, key: &EntryKey) -> Option<&mut Few<PlaceClaim>> {
        if key.source.is_host() { self.hosts.get_mut(key) } else { self.prefixes.get_mut(key) }
    }

    /// Notes a changed key. If it is a prefix, the prefixes inside it have changed, too. Keys are
    /// ordered by port, address and length, so these follow each other.
    fn has_changed(&mut self, key: EntryKey) {
        if key.source.is_host() {
            self.changed.insert(key);
            return;
        }
        let from_here = self.prefixes.range(key..).map(|(other, _)| *other);
        let last = key.source.last_address();
        let inside = from_here
            .take_while(|other| other.port == key.port && other.source.address() <= last)
            .filter(|other| key.source.contains(&other.source));
        self.changed.extend(inside);
    }
}

/// The number of keys for each table.
#[derive(Default)]
struct Counts {
    hosts: usize,
    v4: usize,
    v6: usize,
}

impl Counts {
    /// Each key counts once.
    fn of(keys: impl Iterator<Item = EntryKey>) -> Self {
        let mut counts = Self::default();
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            match (key.source.is_host(), key.source.address().family) {
                (true, _) => counts.hosts += 1,
                (false, Family::V4) => counts.v4 += 1,
                (false, Family::V6) => counts.v6 += 1,
            }
        }
        counts
    }
}

/// The entry for these claims. If two end together, the one that cuts its sessions counts, and then
/// the slot decides. So the same claims always give the same entry.
fn entry<'c>(claims: impl Iterator<Item = &'c PlaceClaim>) -> Entry {
    let (mut unlimited, mut limited, mut used_up) = (Access::NONE, Access::NONE, Access::NONE);
    for PlaceClaim { access, kind } in claims.filter(|one| one.access.is_some()) {
        let latest = match kind {
            Kind::Limited => &mut limited,
            Kind::Unlimited => &mut unlimited,
            Kind::UsedUp => &mut used_up,
        };
        *latest = (*latest).max(*access);
    }
    // A claim that is used up still carries its sessions, unless another one needs the place.
    Entry { unlimited, limited: if limited.is_some() { limited } else { used_up } }
}
