//! The tables in memory: what the decision sees on the host, and a datapath over them, for tests
//! and comparisons.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jit_common::{
    Address, ConnectionKey, Family, Flow, GrantEntry, HostKey, PortKey, PortRule, PrefixV4,
    PrefixV6, Segment, Session, Settings, Slot, Tables, Ticket,
};

use crate::{
    clock::BootNanos,
    datapath::{Counters, Coverage, Datapath, DatapathError, InterfaceState},
    prefix::masked,
    reconcile::{Entries, EntryKey, Write},
};

/// An in-memory twin of the kernel's tables.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// Protected ports and their rules.
    pub ports: BTreeMap<PortKey, PortRule>,
    /// Grants for one address.
    pub hosts: BTreeMap<HostKey, GrantEntry>,
    /// Grants for prefixes: port, network address with host bits zero, length in bits.
    pub prefixes: BTreeMap<(PortKey, Address, u8), GrantEntry>,
    /// Established TCP sessions: source and its port, destination and its port.
    pub sessions: BTreeSet<(Address, u16, Address, u16)>,
    /// Limits of the grants that have one, by slot.
    pub slots: BTreeMap<u32, Slot>,
    /// What those grants let in, with the sequence number of the SYN.
    pub connections: RefCell<BTreeMap<ConnectionKey, u32>>,
    /// How many each of them let in, by slot and generation.
    pub taken: RefCell<BTreeMap<(u32, u32), u32>>,
}

impl MemoryTables {
    /// The longest matching prefix, as a kernel trie answers.
    fn longest(&self, port: PortKey, address: Address, max: u8) -> Option<&GrantEntry> {
        (0..=max)
            .rev()
            .find_map(|length| self.prefixes.get(&(port, masked(address, length), length)))
    }
}

impl Tables for MemoryTables {
    fn protected(&self, port: PortKey) -> bool {
        self.ports.contains_key(&port)
    }

    fn rule(&self, port: PortKey) -> PortRule {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        self.hosts.get(key)
    }

    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address::v4(data.address), 32)
    }

    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address::v6(data.address), 128)
    }

    fn session(&self, segment: &Segment) -> Session {
        let tuple = (segment.source, segment.source_port, segment.destination, segment.port.port);
        if self.sessions.contains(&tuple) { Session::Established } else { Session::None }
    }

    fn ticket(&self, slot: u32, segment: &Segment) -> Ticket {
        let Slot { limit, generation, .. } = self.slots.get(&slot).copied().unwrap_or_default();
        let key = ConnectionKey { flow: Flow::of(segment), slot, generation };
        let mut connections = self.connections.borrow_mut();
        match connections.get(&key) {
            Some(sequence) if !segment.opens || *sequence == segment.sequence => {
                return Ticket::Known;
            }
            _ if !segment.opens => return Ticket::Refused,
            _ => {}
        }
        let mut taken = self.taken.borrow_mut();
        let taken = taken.entry((slot, generation)).or_default();
        if *taken >= limit {
            return Ticket::Refused;
        }
        *taken += 1;
        connections.insert(key, segment.sequence);
        Ticket::Fresh
    }
}

fn port_key(protocol: u8, port: [u8; 2]) -> Option<PortKey> {
    let protocol = jit_common::Protocol::from_number(protocol)?;
    Some(PortKey { protocol, port: u16::from_be_bytes(port) })
}

/// A datapath in memory, shared with the test that made it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDatapath {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Entries,
    rules: BTreeMap<PortKey, PortRule>,
    hits: BTreeMap<u32, u64>,
    writes: Vec<Write>,
    refuse: Option<bool>,
}

impl MemoryDatapath {
    /// Everything that was written since the last call.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// What the kernel would decide about a SYN: the decision's own lookups over these entries.
    pub fn opens(&self, port: PortKey, source: Address, now: BootNanos) -> bool {
        let tables = self.tables();
        let live = |grant: Option<&GrantEntry>| {
            grant.is_some_and(|grant| grant.unlimited.live(now.0) || grant.limited.live(now.0))
        };
        live(tables.host_grant(&HostKey::new(source, port)))
            || live(match source.family {
                Family::V4 => tables.prefix_grant_v4(PrefixV4::new(source.first_four(), port)),
                Family::V6 => tables.prefix_grant_v6(PrefixV6::new(source.bytes, port)),
            })
    }

    /// From now on writes fail, as in a full table (`Some(true)`) or otherwise (`Some(false)`).
    pub fn refuse(&self, full: Option<bool>) {
        self.lock().refuse = full;
    }

    /// Counts connections in a slot.
    pub fn count(&self, slot: u32, hits: u64) {
        *self.lock().hits.entry(slot).or_default() += hits;
    }

    /// The entries as the decision sees them.
    pub fn tables(&self) -> MemoryTables {
        let inner = self.lock();
        let mut tables = MemoryTables { ports: inner.rules.clone(), ..MemoryTables::default() };
        for (EntryKey { port, source }, entry) in &inner.entries {
            let entry = GrantEntry::from(*entry);
            if source.is_host() {
                tables.hosts.insert(HostKey::new(source.address(), *port), entry);
            } else {
                tables.prefixes.insert((*port, source.address(), source.length()), entry);
            }
        }
        tables
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Datapath for MemoryDatapath {
    fn entries(&mut self) -> Result<Entries, DatapathError> {
        Ok(self.lock().entries.clone())
    }

    fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        let mut inner = self.lock();
        if let Some(full) = inner.refuse {
            let cause = "refused by the test".to_owned();
            return Err(DatapathError::Map { verb: "write to", table: "entries", cause, full });
        }
        inner.writes.push(*write);
        match *write {
            Write::Remove(key) => inner.entries.remove(&key),
            Write::Set(key, entry) => inner.entries.insert(key, entry),
        };
        Ok(())
    }

    fn protect(&mut self, rules: &BTreeMap<PortKey, PortRule>) -> Result<(), DatapathError> {
        self.lock().rules.clone_from(rules);
        Ok(())
    }

    fn settings(&mut self, _: Settings) -> Result<(), DatapathError> {
        Ok(())
    }

    fn hits(&self, slot: u32) -> u64 {
        self.lock().hits.get(&slot).copied().unwrap_or(0)
    }

    fn open_slot(&mut self, slot: u32, _: u32) -> Result<(), DatapathError> {
        self.lock().hits.remove(&slot);
        Ok(())
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::default())
    }

    fn cover(&mut self, _: &Coverage) -> Result<Vec<InterfaceState>, DatapathError> {
        Ok(Vec::new())
    }
}
