//! The frames, each with the answer that it is there for, and the sockets of the sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use jit_common::Reason;
use jit_tests::{
    frames::{Extension, Ipv4, Ipv6, Packet, QINQ, Tcp, Udp, VLAN, flag},
    netns::Namespace,
    sockets::{self, PATIENCE},
};

/// The protected port, of both protocols.
pub(crate) const PORT: u16 = 22;
const OPEN_PORT: u16 = 80;
/// Port of the client at the other end of a session, and one without a session.
const SESSION_PORT: u16 = 40_000;
const STRAY_PORT: u16 = 40_001;

pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// A client without a grant.
const DENIED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const DENIED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
/// Number of further sources without a grant.
const OTHERS: u8 = 35;
/// The first source with a grant of its own; the others follow.
pub(crate) const GRANTED_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
pub(crate) const GRANTED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0);
/// The first source in a prefix with a grant, a /26 and a /64; the next such prefix has no grant.
pub(crate) const IN_PREFIX_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
pub(crate) const IN_PREFIX_V6: Ipv6Addr = Ipv6Addr::new(0x3fff, 0xb, 0, 0, 0, 0, 0, 0);
const BESIDE_PREFIX_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 64);
const BESIDE_PREFIX_V6: Ipv6Addr = Ipv6Addr::new(0x3fff, 0xb, 0, 1, 0, 0, 0, 0);

/// The grants that a row needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    None,
    Host,
    Prefix,
}

/// A frame and what the gate does with it.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    /// The same from other sources. In a large table about one source in nine has its bit in the
    /// summary set by chance: one source alone would show one of the two.
    pub(crate) others: Vec<Vec<u8>>,
    pub(crate) reason: Reason,
    pub(crate) grant: Grant,
    /// The size of the tables may matter for it.
    pub(crate) by_size: bool,
}

/// A source, in both families.
#[derive(Clone, Copy)]
struct Source(Ipv4Addr, Ipv6Addr);

const DENIED: Source = Source(DENIED_V4, DENIED_V6);
const GRANTED: Source = Source(GRANTED_V4, GRANTED_V6);
const IN_PREFIX: Source = Source(IN_PREFIX_V4, IN_PREFIX_V6);
const BESIDE_PREFIX: Source = Source(BESIDE_PREFIX_V4, BESIDE_PREFIX_V6);

impl Source {
    fn tcp(self, segment: &Tcp) -> [(&'static str, Packet); 2] {
        let (v4, v6) = self.headers();
        [("IPv4", v4.tcp(segment)), ("IPv6", v6.tcp(segment))]
    }

    fn udp(self, datagram: &Udp) -> [(&'static str, Packet); 2] {
        let (v4, v6) = self.headers();
        [("IPv4", v4.udp(datagram)), ("IPv6", v6.udp(datagram))]
    }

    /// The source whose addresses are this number higher.
    fn higher(self, by: u8) -> Self {
        let (v4, v6) = (u32::from(self.0), u128::from(self.1));
        Self((v4 + u32::from(by)).into(), (v6 + u128::from(by)).into())
    }

    fn headers(self) -> (Ipv4, Ipv6) {
        (Ipv4::new(self.0, SERVER_V4), Ipv6::new(self.1, SERVER_V6))
    }
}

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    let ack = |port, from| Tcp::with_flags(port, flag::ACK).from_port(from);
    let (syn, stray) = (Tcp::syn(PORT), ack(PORT, STRAY_PORT));
    let (open, session) = (ack(OPEN_PORT, STRAY_PORT), ack(PORT, SESSION_PORT));
    let datagram = Udp::to(PORT);
    use Grant::{Host, None, Prefix};
    use Reason::{Denied, Established, Granted, NoSession, Unprotected};
    let plain = [
        ("ACK to an unprotected port", DENIED.tcp(&open), Unprotected, None),
        ("SYN denied", DENIED.tcp(&syn), Denied, None),
        ("SYN denied, source beside a prefix", BESIDE_PREFIX.tcp(&syn), Denied, Prefix),
        ("SYN granted by host", GRANTED.tcp(&syn), Granted, Host),
        ("SYN granted by prefix", IN_PREFIX.tcp(&syn), Granted, Prefix),
        ("ACK under a grant", GRANTED.tcp(&stray), Granted, Host),
        ("ACK under a grant by prefix", IN_PREFIX.tcp(&stray), Granted, Prefix),
        ("ACK of an established session", DENIED.tcp(&session), Established, None),
        ("ACK without a session", DENIED.tcp(&stray), NoSession, None),
        ("UDP denied", DENIED.udp(&datagram), Denied, None),
        ("UDP granted", GRANTED.udp(&datagram), Granted, Host),
    ];
    let mut rows: Vec<_> = plain
        .into_iter()
        .flat_map(|(name, packets, reason, grant)| {
            packets.map(|(ip, packet)| Row {
                name: format!("{name}, {ip}"),
                frame: packet.frame(),
                others: Vec::new(),
                reason,
                grant,
                by_size: true,
            })
        })
        .collect();
    for row in rows.iter_mut().filter(|row| row.name.starts_with("SYN denied, IP")) {
        row.others = (1..=OTHERS)
            .flat_map(|by| DENIED.higher(by).tcp(&syn))
            .filter(|(ip, _)| row.name.ends_with(ip))
            .map(|(_, packet)| packet.frame())
            .collect();
    }
    let row = |name, frame| Row {
        name,
        frame,
        others: Vec::new(),
        reason: Denied,
        grant: None,
        by_size: false,
    };
    for (ip, packet) in DENIED.tcp(&syn) {
        rows.push(row(format!("SYN denied, VLAN, {ip}"), packet.tagged(&[(VLAN, 7)])));
        let tags = [(QINQ, 7), (VLAN, 8)];
        rows.push(row(format!("SYN denied, QinQ, {ip}"), packet.tagged(&tags)));
    }
    let options = Ipv4::new(DENIED_V4, SERVER_V4).options(&[1; 40]).tcp(&syn);
    rows.push(row("SYN denied, 40 bytes of options, IPv4".to_owned(), options.frame()));
    let chain = [
        Extension::hop_by_hop(),
        Extension::destination(),
        Extension::routing(4),
        Extension::authentication(),
        Extension::destination(),
    ];
    let deep = Ipv6::new(DENIED_V6, SERVER_V6).chain(&chain).tcp(&syn);
    rows.push(row("SYN denied, five extension headers, IPv6".to_owned(), deep.frame()));
    rows
}

/// A namespace with the addresses of the server and of the client without a grant.
pub(crate) fn namespace() -> Namespace {
    let namespace = Namespace::new();
    for (address, length) in [
        (IpAddr::V4(SERVER_V4), 32),
        (IpAddr::V4(DENIED_V4), 32),
        (IpAddr::V6(SERVER_V6), 128),
        (IpAddr::V6(DENIED_V6), 128),
    ] {
        namespace.address("lo", &format!("{address}/{length}"));
    }
    namespace
}

/// A listener and an established session to it, for both families. Call it in [`namespace`].
pub(crate) fn sessions() -> Vec<(TcpListener, TcpStream, TcpStream)> {
    let ends: [(IpAddr, IpAddr); 2] =
        [(DENIED_V4.into(), SERVER_V4.into()), (DENIED_V6.into(), SERVER_V6.into())];
    ends.into_iter()
        .map(|(client, server)| {
            let to = SocketAddr::new(server, PORT);
            let listener = sockets::listen(to);
            let from = SocketAddr::new(client, SESSION_PORT);
            let client = sockets::connect_from(from, to, PATIENCE).unwrap();
            let (server, _) = listener.accept().unwrap();
            (listener, client, server)
        })
        .collect()
}
