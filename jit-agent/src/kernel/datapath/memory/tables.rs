//! The tables in memory, as the decision sees them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use jit_common::{
    Address, Admission, ConnectionKey, Family, Flow, GrantEntry, Handshake, HostKey, Place,
    PortKey, PortRule, PrefixV4, PrefixV6, Protocol, Segment, Session, Slot, Tables,
};
use jit_proto::prefix::masked;

use crate::kernel::datapath::summary::Summary;

/// An in-memory twin of the kernel's tables.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// Protected ports and their rules.
    pub ports: BTreeMap<PortKey, PortRule>,
    /// Grants for one address.
    pub hosts: BTreeMap<HostKey, GrantEntry>,
    /// Grants for prefixes: port, network address with host bits zero, length in bits.
    pub prefixes: BTreeMap<(PortKey, Address, u8), GrantEntry>,
    /// The summary of the two; `None`: it says nothing.
    pub summary: Option<Summary>,
    /// Established TCP sessions: source and its port, destination and its port.
    pub sessions: BTreeSet<(Address, u16, Address, u16)>,
    /// Of these, the ones that this host opened.
    pub opened_here: BTreeSet<(Address, u16, Address, u16)>,
    /// Connected UDP sockets, in the same form.
    pub connected: BTreeSet<(Address, u16, Address, u16)>,
    /// TCP connections that are translated on the way to their sockets.
    pub translated: BTreeMap<Flow, Flow>,
    /// This host translates sources.
    pub translates_sources: bool,
    /// Limits of the grants that have one, by slot.
    pub slots: BTreeMap<u32, Slot>,
    /// The connections that those grants let in, until they are sessions.
    pub connections: RefCell<BTreeMap<ConnectionKey, Handshake>>,
    /// The number of connections that each of them let in, by slot and generation.
    pub taken: RefCell<BTreeMap<(u32, u32), u32>>,
}

impl MemoryTables {
    /// The longest matching prefix, as a kernel trie answers.
    pub(in crate::kernel::datapath) fn longest(
        &self,
        port: PortKey,
        address: Address,
        max: u8,
    ) -> Option<&GrantEntry> {
        (0..=max)
            .rev()
            .find_map(|length| self.prefixes.get(&(port, masked(address, length), length)))
    }

    fn key(&self, slot: u32, segment: &Segment) -> ConnectionKey {
        let generation = self.slots.get(&slot).map_or(0, |slot| slot.generation);
        ConnectionKey { flow: Flow::of(segment), slot, generation }
    }

    /// A place for a new connection, if there is one.
    fn take_place(&self, slot: u32, segment: &Segment, handshake: Handshake) -> Admission {
        let Slot { limit, generation, .. } = self.slots.get(&slot).copied().unwrap_or_default();
        let mut taken = self.taken.borrow_mut();
        let taken = taken.entry((slot, generation)).or_default();
        if *taken >= limit {
            return Admission::Refused;
        }
        *taken += 1;
        self.connections.borrow_mut().insert(self.key(slot, segment), handshake);
        Admission::Fresh
    }
}

impl Tables for MemoryTables {
    fn protected(&self, port: PortKey) -> bool {
        self.ports.contains_key(&port)
    }

    fn rule(&self, port: PortKey) -> PortRule {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    fn summarized(&self, place: Place) -> bool {
        self.summary.as_ref().is_none_or(|summary| summary.has(place))
    }

    fn lately(&self) -> Option<u64> {
        None
    }

    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        self.hosts.get(key)
    }

    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address { family: Family::V4, words: [data.address, 0, 0, 0] }, 32)
    }

    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry> {
        let port = port_key(data.protocol, data.port)?;
        self.longest(port, Address { family: Family::V6, words: data.address }, 128)
    }

    fn session(&self, segment: &Segment) -> Session {
        let tuple = ends(segment);
        let found = match segment.port.protocol {
            Protocol::Udp => self.connected.contains(&tuple),
            Protocol::Tcp => {
                let translated = self.translated.get(&Flow::of(segment));
                self.sessions.contains(&tuple)
                    || translated.and_then(flow_ends).is_some_and(|to| self.sessions.contains(&to))
            }
        };
        if found { Session::Established } else { Session::None }
    }

    fn opened_here(&self, segment: &Segment) -> bool {
        self.opened_here.contains(&ends(segment))
    }

    fn translates_sources(&self) -> bool {
        self.translates_sources
    }

    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        if let Some(handshake) = self.connections.borrow_mut().get_mut(&self.key(slot, segment)) {
            if !segment.opens {
                *handshake = handshake.answered();
                return Admission::Known;
            }
            if handshake.repeats(segment.sequence) {
                return Admission::Known;
            }
        }
        if !segment.opens {
            return Admission::Refused;
        }
        self.take_place(slot, segment, Handshake::of_syn(segment.sequence))
    }

    fn admit_lookup(&self, slot: u32, segment: &Segment, fresh: bool) -> Admission {
        if fresh {
            return self.take_place(slot, segment, Handshake::of_lookup());
        }
        let mut connections = self.connections.borrow_mut();
        let Some(known) = connections.get_mut(&self.key(slot, segment)) else {
            return Admission::Refused;
        };
        let Some(more) = known.with_lookup() else { return Admission::Refused };
        *known = more;
        Admission::Known
    }

    fn handshake_done(&self, slot: u32, segment: &Segment) {
        self.connections.borrow_mut().remove(&self.key(slot, segment));
    }
}

fn ends(segment: &Segment) -> (Address, u16, Address, u16) {
    (segment.source, segment.source_port, segment.destination, segment.port.port)
}

fn flow_ends(flow: &Flow) -> Option<(Address, u16, Address, u16)> {
    let (source, destination) = flow.ends()?;
    Some((source, flow.source_port, destination, flow.port))
}

fn port_key(protocol: u8, port: [u8; 2]) -> Option<PortKey> {
    let protocol = Protocol::from_number(protocol)?;
    Some(PortKey { protocol, port: u16::from_be_bytes(port) })
}
