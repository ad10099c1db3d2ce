//! The decision about a frame, as the host compiles it. The tables are maps in memory, so these
//! figures compare kinds of frames and versions of the code; the kernel's are in the packets' table.

use std::{
    hint::black_box,
    net::{Ipv4Addr, Ipv6Addr},
};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{
    Address, Frame, GrantEntry, HostKey, Link, PortKey, PortRule, Protocol, Reason, decide,
};
use jit_tests::frames::{Extension, Ipv4, Ipv6, Packet, QINQ, Tcp, Udp, VLAN};

use crate::Bench;

const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
const ACK: u8 = 0x10;

struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

pub(crate) fn measure(bench: &mut Bench) {
    let tables = tables();
    let (granted, stranger) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(192, 0, 2, 7));
    let v4 = |source| Ipv4::new(source, Ipv4Addr::new(198, 51, 100, 1));
    let [source, to]: [Ipv6Addr; 2] =
        ["2001:db8::7", "2001:db8::1"].map(|text| text.parse().unwrap());
    let v6 = Ipv6::new(source, to);
    let deep = [Extension::hop_by_hop(), Extension::routing(4), Extension::destination()];
    let syn = Tcp::syn(22);
    let ack = Tcp::with_flags(22, ACK);
    let tagged = v4(stranger).tcp(&syn).tagged(&[(QINQ, 5), (VLAN, 7)]);
    for (name, frame, reason) in [
        (
            "ACK, unprotected port",
            v4(stranger).tcp(&Tcp::with_flags(80, ACK)).frame(),
            Reason::Unprotected,
        ),
        ("SYN denied, IPv4", v4(stranger).tcp(&syn).frame(), Reason::Denied),
        ("SYN denied, IPv6", v6.tcp(&syn).frame(), Reason::Denied),
        ("SYN denied, two VLAN tags", tagged, Reason::Denied),
        (
            "SYN denied, three extension headers",
            v6.clone().chain(&deep).tcp(&syn).frame(),
            Reason::Denied,
        ),
        ("SYN granted", v4(granted).tcp(&syn).frame(), Reason::Granted),
        ("ACK granted", v4(granted).tcp(&ack).frame(), Reason::Granted),
        ("ACK without a session", v4(stranger).tcp(&ack).frame(), Reason::NoSession),
        ("UDP, unprotected port", v4(stranger).udp(&Udp::to(53)).frame(), Reason::Unprotected),
        ("ARP", Packet::new(jit_tests::frames::ARP, [0; 28]).frame(), Reason::NotIp),
    ] {
        let frame = Bytes(frame);
        let once = || decide(black_box(&frame), Link::Ethernet, black_box(&tables), || 1);
        assert_eq!(once().reason, reason, "{name}");
        bench.row(&format!("decide: {name}"), || {
            black_box(once());
        });
    }
}

/// Port 22, and 1,000 grants.
fn tables() -> MemoryTables {
    let mut tables = MemoryTables::default();
    tables.ports.insert(SSH, PortRule { drain: 1, ..PortRule::default() });
    for number in 0..1_000_u32 {
        let source = Address::v4((0x0a00_0000 + number).to_be_bytes());
        tables.hosts.insert(HostKey::new(source, SSH), GrantEntry::until(u64::MAX, 1));
    }
    tables
}
