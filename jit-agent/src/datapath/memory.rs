//! The tables in memory: what the decision sees on the host, in tests and comparisons.

use std::collections::{BTreeMap, BTreeSet};

use jit_common::{
    Address, GrantEntry, HostKey, PortKey, PortRule, PrefixV4, PrefixV6, Segment, Session, Tables,
};

use crate::prefix::masked;

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
}

impl MemoryTables {
    /// The longest matching prefix, as a kernel trie answers.
    fn longest(&self, port: PortKey, address: Address, max: u8) -> Option<GrantEntry> {
        (0..=max)
            .rev()
            .find_map(|length| self.prefixes.get(&(port, masked(address, length), length)).copied())
    }
}

impl Tables for MemoryTables {
    fn protected(&self, port: PortKey) -> bool {
        self.ports.contains_key(&port)
    }

    fn rule(&self, port: PortKey) -> PortRule {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    fn host_grant(&self, key: &HostKey) -> Option<GrantEntry> {
        self.hosts.get(key).copied()
    }

    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address::v4(data.address), 32)
    }

    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address::v6(data.address), 128)
    }

    fn session(&self, segment: &Segment) -> Session {
        let tuple = (segment.source, segment.source_port, segment.destination, segment.port.port);
        if self.sessions.contains(&tuple) { Session::Established } else { Session::None }
    }
}

fn port_key(protocol: u8, port: [u8; 2]) -> Option<PortKey> {
    let protocol = jit_common::Protocol::from_number(protocol)?;
    Some(PortKey { protocol, port: u16::from_be_bytes(port) })
}
