//! A second opinion from a parser of another make (etherparse): "is this an inbound SYN, or a
//! datagram, as Linux would deliver it, and to which port?". It shares no line with the gate's own
//! parser.
//!
//! It has no opinion about packets that this parser refuses (fragments, chains in an unusual order,
//! more than three tags) or reads in another way than Linux does.

use std::net::IpAddr;

use etherparse::{EtherType, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Address, GrantEntry, HostKey, PortKey, Protocol};

use crate::fixture::address;

/// A packet that would open a connection or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) source: IpAddr,
    pub(crate) port: PortKey,
    /// Nothing unusual about it: no extension headers, and a source that a peer may have.
    pub(crate) plain: bool,
}

/// What covers a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cover {
    /// A live grant.
    Granted,
    /// No live grant, and the port is protected.
    Nobodys,
    /// A live grant, but an ended one of a longer prefix hides it. The agent never leaves the
    /// tables so, and either answer is right.
    Shadowed,
    /// The port is not protected.
    Unprotected,
}

/// The connection or datagram in an Ethernet frame.
pub(crate) fn opening(frame: &[u8]) -> Option<Opening> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let strips = |tag: &LinkExtSlice<'_>| match tag {
        LinkExtSlice::Vlan(tag) => tag.ether_type() != EtherType::VLAN_DOUBLE_TAGGED_FRAME,
        LinkExtSlice::Macsec(_) => false,
    };
    let outermost = frame.get(12..14)? != [0x91, 0x00];
    if !outermost || !packet.link_exts.iter().all(strips) {
        return None;
    }
    let (source, plain) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            // After an authentication header Linux delivers only packets of a security association.
            if ip.extensions().auth.is_some() {
                return None;
            }
            (IpAddr::V4(ip.header().source_addr()), true)
        }
        NetSlice::Ipv6(ip) => {
            let source = ip.header().source_addr();
            let usual = !source.is_multicast()
                && !source.is_unspecified()
                && source.to_ipv4_mapped().is_none();
            (IpAddr::V6(source), usual && ip.extensions().is_empty())
        }
        NetSlice::Arp(_) => return None,
    };
    let port = match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && !tcp.ack() => {
            PortKey { protocol: Protocol::Tcp, port: tcp.destination_port() }
        }
        TransportSlice::Udp(udp) => {
            PortKey { protocol: Protocol::Udp, port: udp.destination_port() }
        }
        _ => return None,
    };
    Some(Opening { source, port, plain })
}

impl Opening {
    /// What the tables say about it. They are read one by one, not in the gate's way.
    pub(crate) fn cover(&self, tables: &MemoryTables, now: u64) -> Cover {
        if !tables.ports.contains_key(&self.port) {
            return Cover::Unprotected;
        }
        // Grants with a limit are all used up here.
        let live = |entry: &GrantEntry| entry.unlimited.deadline > now;
        let source = address(self.source);
        let host = tables.hosts.get(&HostKey::new(source, self.port)).is_some_and(live);
        let mut covering: Vec<(u8, bool)> = tables
            .prefixes
            .iter()
            .filter(|((port, prefix, length), _)| {
                *port == self.port && covers(*prefix, *length, source)
            })
            .map(|((_, _, length), entry)| (*length, live(entry)))
            .collect();
        covering.sort_unstable();
        let longest = covering.last().is_some_and(|(_, live)| *live);
        match (host || longest, covering.iter().any(|(_, live)| *live)) {
            (true, _) => Cover::Granted,
            (false, true) => Cover::Shadowed,
            (false, false) => Cover::Nobodys,
        }
    }
}

fn covers(prefix: Address, length: u8, address: Address) -> bool {
    let bit = |bytes: [u8; 16], at: usize| bytes.get(at / 8).map(|byte| byte >> (7 - at % 8) & 1);
    prefix.family == address.family
        && (0..usize::from(length)).all(|at| bit(prefix.bytes(), at) == bit(address.bytes(), at))
}
