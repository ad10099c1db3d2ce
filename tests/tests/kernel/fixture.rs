//! Addresses, ports and tables that the tests share, and the host's decision for every comparison.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{
    Address, Decision, Frame, GrantEntry, HostKey, Link, PortKey, PortRule, Protocol, decide,
};
use jit_tests::frames::{Ipv4, Ipv6, Packet, Tcp, Udp};

/// The client that grants are for.
pub(crate) const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// The client that grants are for.
pub(crate) const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
/// The protected host.
pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The protected host.
pub(crate) const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// Protected in both protocols; enforce, cut, host.
pub(crate) const CLOSED: u16 = 22;
/// Protected; enforce, drain, host.
pub(crate) const DRAIN: u16 = 3389;
/// Protected; enforce, drain, forwarded.
pub(crate) const FORWARDED_DRAIN: u16 = 2222;
/// Protected; enforce, cut, forwarded.
pub(crate) const FORWARDED_CUT: u16 = 2223;
/// Protected; observe, cut, host.
pub(crate) const OBSERVED: u16 = 5432;
/// Not protected.
pub(crate) const OPEN: u16 = 80;

/// An hour in nanoseconds.
pub(crate) const HOUR: u64 = 3_600_000_000_000;

/// A TCP port.
pub(crate) const fn tcp(port: u16) -> PortKey {
    PortKey { protocol: Protocol::Tcp, port }
}

/// A UDP port.
pub(crate) const fn udp(port: u16) -> PortKey {
    PortKey { protocol: Protocol::Udp, port }
}

/// An address in the form of the tables.
pub(crate) fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address::v6(v6.octets()),
    }
}

/// A grant until `deadline`, counted in `slot`.
pub(crate) const fn until(deadline: u64, slot: u32) -> GrantEntry {
    GrantEntry::until(deadline, slot)
}

/// Every protected port of the fixture, without a grant.
pub(crate) fn closed() -> MemoryTables {
    let cut = PortRule::default();
    let drain = PortRule { drain: 1, ..cut };
    let ports = [
        (tcp(CLOSED), cut),
        (udp(CLOSED), cut),
        (tcp(DRAIN), drain),
        (tcp(FORWARDED_DRAIN), PortRule { forwarded: 1, ..drain }),
        (tcp(FORWARDED_CUT), PortRule { forwarded: 1, ..cut }),
        (tcp(OBSERVED), PortRule { observe: 1, ..cut }),
    ];
    MemoryTables { ports: ports.into(), ..MemoryTables::default() }
}

/// The same with live grants of the client, over IPv4 and IPv6, to every protected port.
pub(crate) fn granted(now: u64) -> MemoryTables {
    let mut tables = closed();
    for port in tables.ports.keys() {
        for source in [IpAddr::V4(CLIENT_V4), IpAddr::V6(CLIENT_V6)] {
            tables.hosts.insert(HostKey::new(address(source), *port), until(now + HOUR, 3));
        }
    }
    tables
}

/// The two families: a case is written once for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// A segment from the client to the server.
    pub(crate) fn tcp(self, segment: &Tcp) -> Packet {
        match self {
            Self::V4 => v4().tcp(segment),
            Self::V6 => v6().tcp(segment),
        }
    }

    /// A datagram from the client to the server.
    pub(crate) fn udp(self, datagram: &Udp) -> Packet {
        match self {
            Self::V4 => v4().udp(datagram),
            Self::V6 => v6().udp(datagram),
        }
    }

    /// Bytes of the network header.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// From the client to the server.
pub(crate) fn v4() -> Ipv4 {
    Ipv4::new(CLIENT_V4, SERVER_V4)
}

/// From the client to the server.
pub(crate) fn v6() -> Ipv6 {
    Ipv6::new(CLIENT_V6, SERVER_V6)
}

/// The host's decision about an Ethernet frame.
pub(crate) fn on_host(frame: &[u8], tables: &MemoryTables, now: u64) -> Decision {
    decide(&Slice(frame), Link::Ethernet, tables, || now)
}

/// The host's decision about the packet after the Ethernet header, which gives its protocol.
pub(crate) fn after_ethernet(frame: &[u8], tables: &MemoryTables, now: u64) -> Option<Decision> {
    let (header, packet) = frame.split_first_chunk::<14>()?;
    let [.., high, low] = *header;
    let link = Link::Network(u16::from_be_bytes([high, low]));
    Some(decide(&Slice(packet), link, tables, || now))
}

/// For messages: the frame as hex.
pub(crate) fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Slice<'a>(&'a [u8]);

impl Frame for Slice<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}
