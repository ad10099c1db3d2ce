//! Traffic that the gate must leave alone: received as without a gate, with each way of attaching
//! it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
};

use jit_common::{HostKey, Reason};
use jit_tests::{
    frames::{Extension, ICMP, ICMPV6, Ipv4, Ipv6, Macs, Packet, Udp},
    kernel::{Counters, Kernel, boot_nanos, difference},
    netns::Namespace,
    raw::Wire,
    sockets::{self, PATIENCE, SILENCE},
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, socket_with};

use crate::{
    fixture::{CLOSED, HOUR, OPEN, address, closed, tcp, until},
    hook::Hook,
};

const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const HOST_V6: &str = "2001:db8:1::1";
const PEER_V6: &str = "2001:db8:1::9";
/// ICMP(v6) echo, GRE, ESP, AH, OSPF, PIM, VRRP, SCTP, UDP-Lite.
const PROTOCOLS: [u8; 9] = [ICMP, 47, 50, 51, 89, 103, 112, 132, 136];
/// MTU of the link after a router: smaller than that of both ends.
const BOTTLENECK: &str = "1400";
const BULK: usize = 1 << 20;
const NO_NEXT_HEADER: u8 = 59;
const UDP: u8 = jit_common::Protocol::Udp as u8;

#[test]
fn other_traffic_passes_as_without_a_gate() {
    let (host, peer) = (Namespace::new(), Namespace::new());
    host.connect(
        "host0",
        &["198.51.100.1/24", "2001:db8:1::1/64"],
        &peer,
        "peer0",
        &["198.51.100.9/24", "2001:db8:1::9/64"],
    );
    let macs = Macs { source: peer.mac("peer0"), destination: host.mac("host0") };
    let all = received(&host, &peer, macs);
    assert_eq!(
        all.len(),
        2 * PROTOCOLS.len() + 6,
        "without a gate everything is received: {all:?}"
    );
    for hook in Hook::ALL {
        let mut kernel = Kernel::load();
        kernel.fill(&closed());
        let _attached = hook.attach(&mut kernel, hook.program(), &host, "host0");
        let before = kernel.counters();
        assert_eq!(received(&host, &peer, macs), all, "{hook:?}");
        nothing_dropped(&difference(&before, &kernel.counters()), hook);
    }
}

/// A router on the way takes smaller packets than the host sends. Only an ICMP message reports
/// that: a filter that drops it stops bulk data for ever.
#[test]
fn large_transfers_find_the_path_mtu_through_the_gate() {
    for hook in Hook::ALL {
        for family in ["4", "6"] {
            let Path { host, client, _router, server, peer } = Path::new(family);
            let mut kernel = Kernel::load();
            let mut tables = closed();
            let grant = until(boot_nanos() + HOUR, 1);
            tables.hosts.insert(HostKey::new(address(peer), tcp(CLOSED)), grant);
            kernel.fill(&tables);
            let _attached = hook.attach(&mut kernel, hook.program(), &host, "host0");
            for port in [OPEN, CLOSED] {
                let to = SocketAddr::new(server, port);
                let listener = host.run(|| sockets::listen(to));
                thread::spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.write_all(&vec![7; BULK]).unwrap();
                });
                let read = client.run(|| {
                    let mut stream =
                        sockets::connect_from(SocketAddr::new(peer, 0), to, PATIENCE).unwrap();
                    let mut bytes = vec![0; BULK];
                    stream.read_exact(&mut bytes).map(|()| bytes.len())
                });
                assert_eq!(read.ok(), Some(BULK), "{hook:?}, IPv{family}, port {port}");
            }
            let counters = kernel.counters();
            let icmp = counters[Reason::OtherProtocol as usize];
            assert!(icmp > 0, "{hook:?}, IPv{family}: no ICMP was needed: {counters:?}");
            nothing_dropped(&counters, hook);
        }
    }
}

fn nothing_dropped(counters: &Counters, hook: Hook) {
    for reason in Reason::ALL.into_iter().filter(|reason| reason.drops()) {
        assert_eq!(counters[reason as usize], 0, "{hook:?}: {reason:?}");
    }
}

/// Sends one packet of each kind. Returns those that sockets on the host received.
fn received(host: &Namespace, peer: &Namespace, macs: Macs) -> Vec<String> {
    let index = peer.index("peer0");
    let wire = peer.run(|| Wire::open(index));
    let (v4, v6) = (Ipv4::new(PEER_V4, HOST_V4), Ipv6::new(ip6(PEER_V6), ip6(HOST_V6)));
    let mut received = Vec::new();
    for protocol in PROTOCOLS {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let over_v4 = family == AddressFamily::INET;
            let number = if protocol == ICMP && !over_v4 { ICMPV6 } else { protocol };
            let socket = host.run(|| raw(family, number));
            let packet = match (over_v4, protocol) {
                (true, ICMP) => jit_tests::frames::echo_request(PEER_V4.into(), HOST_V4.into()),
                (false, ICMP) => {
                    jit_tests::frames::echo_request(ip6(PEER_V6).into(), ip6(HOST_V6).into())
                }
                (true, _) => v4.carry(number, &payload(protocol)),
                (false, _) => v6.carry(number, &payload(protocol)),
            };
            wire.send(&packet.between(macs, &[]));
            if arrives(&socket) {
                received.push(format!("protocol {number} over IPv{}", if over_v4 { 4 } else { 6 }));
            }
        }
    }
    for Datagram { name, to, packets, broadcast } in datagrams() {
        let socket = host.run(|| sockets::udp(to));
        let macs = if broadcast { Macs { destination: [0xff; 6], ..macs } } else { macs };
        for packet in packets {
            wire.send(&packet.between(macs, &[]));
        }
        if sockets::receive(&socket, SILENCE).is_some() {
            received.push(name.to_owned());
        }
    }
    received
}

/// The payload of a protocol. That of the authentication header has no next header.
fn payload(protocol: u8) -> Vec<u8> {
    let authentication = Extension::authentication();
    if protocol != authentication.protocol {
        return vec![0; 64];
    }
    let mut bytes = authentication.bytes;
    bytes[0] = NO_NEXT_HEADER;
    bytes
}

/// A datagram of a service that hosts need.
struct Datagram {
    name: &'static str,
    to: SocketAddr,
    packets: Vec<Packet>,
    broadcast: bool,
}

fn datagrams() -> Vec<Datagram> {
    let v4 = |to| Ipv4::new(PEER_V4, to);
    let v6 = || Ipv6::new(ip6(PEER_V6), ip6(HOST_V6));
    let one = |name, to: SocketAddr, from: u16| {
        let datagram = Udp::to(to.port()).from_port(from);
        let packet = match to.ip() {
            IpAddr::V4(address) => v4(address).udp(&datagram),
            IpAddr::V6(_) => v6().udp(&datagram),
        };
        Datagram { name, to, packets: vec![packet], broadcast: false }
    };
    let answer = Udp::to(40_000).from_port(53).payload(&[b'a'; 3000]);
    let offsets = [0, 1448, 2896];
    let (four, six) = (v4(HOST_V4), v6());
    let in_fragments_v4 = {
        let bytes = answer.bytes(four.source(), four.destination());
        four.fragments(UDP, &bytes, &offsets)
    };
    let in_fragments_v6 = {
        let bytes = answer.bytes(six.source(), six.destination());
        six.fragments(&[], UDP, &bytes, &offsets)
    };
    let at = |address: IpAddr, port| SocketAddr::new(address, port);
    let (host_v4, host_v6) = (IpAddr::V4(HOST_V4), IpAddr::V6(ip6(HOST_V6)));
    let dns = |name, to, packets| Datagram { name, to, packets, broadcast: false };
    let mut dhcp = one("DHCP answer to all", at(Ipv4Addr::BROADCAST.into(), 68), 67);
    dhcp.to = at(Ipv4Addr::UNSPECIFIED.into(), 68);
    dhcp.broadcast = true;
    vec![
        dns("DNS answer in IPv4 fragments", at(host_v4, 40_000), in_fragments_v4),
        dns("DNS answer in IPv6 fragments", at(host_v6, 40_000), in_fragments_v6),
        dhcp,
        one("DHCPv6 answer", at(host_v6, 546), 547),
        one("IKE", at(host_v4, 500), 500),
        one("NTP answer", at(host_v6, 123), 123),
    ]
}

/// The host, a router with a bottleneck after it, and a client.
struct Path {
    host: Namespace,
    client: Namespace,
    _router: Namespace,
    server: IpAddr,
    peer: IpAddr,
}

impl Path {
    fn new(family: &str) -> Self {
        let (host, router, client) = (Namespace::new(), Namespace::new(), Namespace::new());
        let [near, near_router, far_router, far] = match family {
            "4" => ["198.51.100.1/24", "198.51.100.254/24", "203.0.113.254/24", "203.0.113.9/24"],
            _ => ["2001:db8:1::1/64", "2001:db8:1::fe/64", "2001:db8:2::fe/64", "2001:db8:2::9/64"],
        };
        host.connect("host0", &[near], &router, "near0", &[near_router]);
        router.connect("far0", &[far_router], &client, "client0", &[far]);
        // The client accepts large packets and says so. The router may not send them.
        router.ip(&["link", "set", "far0", "mtu", BOTTLENECK]);
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        let flag = format!("-{family}");
        let bare = |with_length: &str| with_length.split('/').next().unwrap().to_owned();
        host.ip(&[&flag, "route", "add", "default", "via", &bare(near_router)]);
        client.ip(&[&flag, "route", "add", "default", "via", &bare(far_router)]);
        let (server, peer) = (bare(near).parse().unwrap(), bare(far).parse().unwrap());
        Self { host, client, _router: router, server, peer }
    }
}

fn raw(family: AddressFamily, protocol: u8) -> OwnedFd {
    let protocol = Protocol::from_raw(u32::from(protocol).try_into().unwrap());
    socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap()
}

/// Whether anything arrives in time.
fn arrives(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::set_socket_timeout(
        socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(SILENCE),
    )
    .unwrap();
    let mut buffer = [0; 2048];
    rustix::net::recv(socket, &mut buffer, RecvFlags::empty()).is_ok()
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}
