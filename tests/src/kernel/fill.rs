//! Fills the programs' tables from those in memory, and empties them.

use std::collections::BTreeMap;

use aya::maps::{PerCpuValues, lpm_trie::Key};
use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{
    Address, FIRST_PORTS, Family, Flow, GrantEntry, InUse, PROTECTED_WORDS, Place, PortCounters,
    PortKey, PortRule, PrefixV4, PrefixV6, Protocol,
};
use jit_proto::prefix::bits;

use super::{Loaded, cpus};

impl Loaded {
    /// Makes the maps contain exactly these tables. Sessions are not in tables: they are sockets of
    /// the network namespace.
    pub fn fill(&mut self, tables: &MemoryTables) {
        self.clear();
        for entry in tables.hosts.values().chain(tables.prefixes.values()) {
            self.counted.extend([entry.unlimited.slot, entry.limited.slot]);
        }
        self.counted.extend(tables.slots.keys());
        let mut words = [0_u64; PROTECTED_WORDS as usize];
        for (place, (port, rule)) in (1..).zip(&tables.ports) {
            let zero = PerCpuValues::try_from(vec![PortCounters::default(); cpus()]);
            let zero = zero.expect("as many values as CPUs");
            // Both tables of counters are in use, unless the rule names its place.
            let counters = match rule.counters {
                0 if port.protocol == Protocol::Tcp && place < FIRST_PORTS => place,
                named => named,
            };
            if counters == 0 {
                self.port_counters.insert(port.index(), zero, 0).expect("make port counters");
            } else {
                self.first_ports.set(counters, zero, 0).expect("clear port counters");
            }
            let rule = PortRule { counters, ..*rule };
            self.port_rules.set(port.index(), rule, 0).expect("write a rule");
            let (word, bit) = port.word_and_bit();
            *words.get_mut(word as usize).expect("below PROTECTED_WORDS") |= bit;
            self.filled.insert(*port, counters);
        }
        for port in self.filled.keys() {
            let (word, _) = port.word_and_bit();
            let bits = *words.get(word as usize).expect("below PROTECTED_WORDS");
            self.protected.set(word, bits, 0).expect("write protected ports");
        }
        for (slot, counted) in &tables.slots {
            self.slots.set(*slot, *counted, 0).expect("write a slot");
        }
        for (key, entry) in &tables.hosts {
            self.hosts.insert(*key, *entry, 0).expect("write a host grant");
        }
        self.summarize(tables);
        for ((port, address, length), entry) in &tables.prefixes {
            self.insert_prefix(*port, *address, *length, *entry);
        }
        for (table, used) in [
            (InUse::Translated, !tables.translated.is_empty()),
            (InUse::OpenedHere, !tables.opened_here.is_empty()),
        ] {
            self.in_use.set(table as u32, u32::from(used), 0).expect("note what is in use");
        }
        for (flow, socket) in &tables.translated {
            self.translated.insert(flow, socket, 0).expect("write a translated connection");
        }
        for (source, source_port, destination, port) in &tables.opened_here {
            let flow = Flow {
                source: source.words,
                destination: destination.words,
                source_port: *source_port,
                port: *port,
                family: source.family as u8,
                reserved: [0; 3],
            };
            self.opened_here.insert(flow, 1, 0).expect("write a connection of the host's own");
        }
    }

    /// Makes the maps contain nothing.
    pub(super) fn clear(&mut self) {
        let hosts: Vec<_> = self.hosts.keys().collect::<Result<_, _>>().expect("read host keys");
        for key in hosts {
            self.hosts.remove(&key).expect("remove a host grant");
        }
        let v4: Vec<_> = self.prefixes_v4.keys().collect::<Result<_, _>>().expect("read IPv4 keys");
        for key in v4 {
            self.prefixes_v4.remove(&key).expect("remove an IPv4 prefix");
        }
        let v6: Vec<_> = self.prefixes_v6.keys().collect::<Result<_, _>>().expect("read IPv6 keys");
        for key in v6 {
            self.prefixes_v6.remove(&key).expect("remove an IPv6 prefix");
        }
        let places: Vec<_> = self.places.keys().collect::<Result<_, _>>().expect("read places");
        for key in places {
            self.places.remove(&key).expect("remove a place");
        }
        let keys: Vec<_> = self.connections.keys().collect::<Result<_, _>>().expect("read them");
        for key in keys {
            self.connections.remove(&key).expect("remove a connection");
        }
        let keys: Vec<_> = self.opened_here.keys().collect::<Result<_, _>>().expect("read them");
        for key in keys {
            self.opened_here.remove(&key).expect("remove a connection of the host's own");
        }
        let keys: Vec<_> = self.translated.keys().collect::<Result<_, _>>().expect("read them");
        for key in keys {
            self.translated.remove(&key).expect("remove a translated connection");
        }
        for index in std::mem::take(&mut self.summarized) {
            self.summary.set(index, 0, 0).expect("clear the summary");
        }
        for (port, counters) in std::mem::take(&mut self.filled) {
            let (word, _) = port.word_and_bit();
            self.protected.set(word, 0, 0).expect("clear protected ports");
            self.port_rules.set(port.index(), PortRule::default(), 0).expect("clear a rule");
            if counters == 0 {
                self.port_counters.remove(&port.index()).expect("remove counters");
            }
        }
    }

    /// Sets the bits of these entries in the summary.
    fn summarize(&mut self, tables: &MemoryTables) {
        let hosts = tables.hosts.keys().map(|key| {
            let family = if key.family == 4 { Family::V4 } else { Family::V6 };
            let protocol = Protocol::from_number(key.protocol).expect("a protocol");
            let port = PortKey { protocol, port: u16::from_be_bytes(key.port) };
            Place::of_host(Address { family, words: key.address }, port)
        });
        let prefixes = tables.prefixes.keys().map(|(port, address, length)| {
            // Also a prefix of one address: this table has it in the trie.
            let length = (*length).min(bits(address.family) - 1);
            Place::of_prefix(*address, length, *port)
        });
        let mut words = BTreeMap::<_, u64>::new();
        for place in hosts.chain(prefixes) {
            let (index, bit) = place.word_and_bit(self.summary_size);
            *words.entry(index).or_default() |= bit;
        }
        for (index, word) in &words {
            self.summary.set(*index, *word, 0).expect("write the summary");
        }
        self.summarized = words.into_keys().collect();
    }

    fn insert_prefix(&mut self, port: PortKey, address: Address, length: u8, entry: GrantEntry) {
        let length = u32::from(length);
        match address.family {
            Family::V4 => {
                let data = PrefixV4::new(address, port);
                self.prefixes_v4.insert(&Key::new(PrefixV4::HEAD_BITS + length, data), entry, 0)
            }
            Family::V6 => {
                let data = PrefixV6::new(address, port);
                self.prefixes_v6.insert(&Key::new(PrefixV6::HEAD_BITS + length, data), entry, 0)
            }
        }
        .expect("write a prefix grant");
    }
}
