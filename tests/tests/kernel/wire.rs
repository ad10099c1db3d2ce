//! Raw frames over a veth pair against real listeners, with a program attached by bpf_link:
//! natively, generically, by TC, or the socket guard alone.
//!
//! The effect of a frame is not written here: it is measured without a gate first. With the gate, a
//! frame that the host's decision drops must have no effect. Any other frame must have the same
//! effect as without the gate.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use jit_agent::kernel::datapath::{memory::MemoryTables, object::PROGRAM_TC};
use jit_common::{HostKey, Protocol, Reason};
use jit_tests::{
    frames::{Extension, Ipv4, Ipv6, Macs, Packet, Tcp, flag},
    kernel::{Kernel, boot_nanos, guards, xdp_programs},
    netns::Namespace,
    raw::Wire,
    sockets::{self, PATIENCE},
};

use crate::{
    cases,
    fixture::{
        CLIENT_V4, CLIENT_V6, CLOSED, HOUR, OPEN, SERVER_V4, SERVER_V6, address, closed, granted,
        on_host, until, v4, v6,
    },
    hook::{Attached, Hook},
};

const TCP: u8 = Protocol::Tcp as u8;
const SYN_ACK: u8 = flag::SYN | flag::ACK;
/// Source port of the marker frames: the answer to one shows that all frames before it were
/// handled.
const MARKER: u16 = 60_000;

/// The two stations, and a gate that is not yet attached.
struct Field {
    host: Namespace,
    client: Namespace,
    macs: Macs,
    kernel: Kernel,
}

/// Frames to be sent one after the other, and their name.
struct Sequence {
    name: String,
    frames: Vec<Vec<u8>>,
}

/// TCP flags of the first answer from the destination port of a sequence.
type Answers = BTreeMap<String, Option<u8>>;

#[test]
fn natively_attached_a_frame_is_answered_as_without_a_gate_or_not_at_all() {
    for program in xdp_programs() {
        judge(program, Hook::Native);
    }
}

#[test]
fn generically_attached_a_frame_is_answered_as_without_a_gate_or_not_at_all() {
    for program in xdp_programs() {
        judge(program, Hook::Generic);
    }
}

#[test]
fn by_tc_a_frame_is_answered_as_without_a_gate_or_not_at_all() {
    judge(PROGRAM_TC, Hook::Tc);
}

fn judge(program: &str, hook: Hook) {
    let mut field = Field::new();
    let _listeners = field.listeners();
    let without = field.answers(CLOSED);
    let open_without = field.answers(OPEN);
    let _link = field.attach_program(program, hook);
    let now = boot_nanos();
    let mut counts = Vec::new();
    for (tables, port, without) in [
        (closed(), CLOSED, &without),
        (granted(now), CLOSED, &without),
        (closed(), OPEN, &open_without),
    ] {
        field.kernel.fill(&tables);
        let with = field.answers(port);
        let mut passed = 0;
        for Sequence { name, frames } in sequences(port) {
            let dropped = frames.iter().any(|frame| on_host(frame, &tables, now).reason.drops());
            let expected = if dropped { None } else { without[&name] };
            passed += usize::from(expected.is_some());
            assert_eq!(with[&name], expected, "{program} {hook:?}, port {port}: {name}");
        }
        // Without a grant nothing at all comes from the protected port.
        let nobody = tables.hosts.is_empty() && port == CLOSED;
        assert_eq!(passed == 0, nobody, "{passed} answers, port {port}");
        counts.push(opened(&with));
    }
    enough(&without);
    println!(
        "{program} {hook:?}: {} stimuli; Linux opens to {} of them, with the gate to {} without a \
         grant, to {} with one, to {} at an unprotected port",
        without.len(),
        opened(&without),
        counts[0],
        counts[1],
        counts[2]
    );
    assert_eq!(counts[0], 0);
}

/// The second gate alone: it parses no packet, so every stimulus reaches it as Linux read it.
#[test]
fn the_guard_alone_opens_nothing_without_a_grant_and_with_one_all_that_linux_opens() {
    for program in guards() {
        let mut field = Field::new();
        let _listeners = field.listeners();
        let without = field.answers(CLOSED);
        enough(&without);
        let kernel = &mut field.kernel;
        let _link = field.host.run(|| kernel.attach_guard(program));
        field.kernel.fill(&closed());
        let closed_with = field.answers(CLOSED);
        for (name, flags) in &closed_with {
            assert_ne!(*flags, Some(SYN_ACK), "{program}: {name}");
        }
        field.kernel.fill(&granted(boot_nanos()));
        let granted_with = field.answers(CLOSED);
        for Sequence { name, frames } in sequences(CLOSED) {
            let opens = without[&name] == Some(SYN_ACK) && frames.iter().all(|f| of_the_client(f));
            let with = granted_with[&name] == Some(SYN_ACK);
            assert_eq!(with, opens, "{program}: {name}");
        }
        println!(
            "{program}: {} stimuli; Linux opens to {} of them, with the guard to {} without a grant, \
             to {} with one",
            without.len(),
            opened(&without),
            opened(&closed_with),
            opened(&granted_with)
        );
    }
}

/// Fails unless Linux opened to many: otherwise the comparison proves nothing.
fn enough(without: &Answers) {
    assert!(without.len() >= 150, "{} stimuli", without.len());
    assert!(opened(without) >= 60, "Linux answers only {} with SYN-ACK", opened(without));
    for ip in ["V4", "V6"] {
        let of_it = without.iter().filter(|(name, _)| name.contains(ip)).count();
        assert!(of_it >= 50, "{of_it} stimuli over IP{}", ip.to_lowercase());
    }
}

fn opened(answers: &Answers) -> usize {
    answers.values().filter(|flags| **flags == Some(SYN_ACK)).count()
}

/// Whether a frame comes from the client that grants are for.
fn of_the_client(frame: &[u8]) -> bool {
    let v4 = [CLIENT_V4.octets(), SERVER_V4.octets()].concat();
    let v6 = [CLIENT_V6.octets(), SERVER_V6.octets()].concat();
    [v4, v6].iter().any(|pair| frame.windows(pair.len()).any(|window| window == pair.as_slice()))
}

#[test]
fn fragmented_datagrams_to_an_unprotected_port_are_echoed() {
    for hook in Hook::ALL {
        let mut field = Field::new();
        field.kernel.fill(&closed());
        let _link = field.attach(hook);
        for (server, client) in Field::pairs() {
            assert!(field.echoes_datagram(server, client, OPEN), "{hook:?} {server}");
        }
    }
}

#[test]
fn fragmented_datagrams_to_a_protected_port_need_a_grant() {
    for hook in Hook::ALL {
        let mut field = Field::new();
        let _link = field.attach(hook);
        for (server, client) in Field::pairs() {
            field.kernel.fill(&closed());
            assert!(!field.echoes_datagram(server, client, CLOSED), "{hook:?} {server}");
            let granted = field.granted_to(client);
            field.kernel.fill(&granted);
            assert!(field.echoes_datagram(server, client, CLOSED), "{hook:?} {server}");
        }
    }
}

/// Real ARP and ND find the neighbours here: the test writes no entry.
#[test]
fn arp_neighbour_discovery_and_icmp_pass() {
    for hook in Hook::ALL {
        let mut field = Field::new();
        field.kernel.fill(&closed());
        let _link = field.attach(hook);
        let before = field.kernel.counters();
        for (server, client) in Field::pairs() {
            field.host.ip(&["neigh", "flush", "dev", "host0"]);
            field.client.ip(&["neigh", "flush", "dev", "client0"]);
            assert!(field.connects(server, client, OPEN), "{hook:?}: neighbours are found");
            let request = jit_tests::frames::echo_request(client, server);
            let at = if server.is_ipv4() { (34, 0) } else { (54, 129) };
            let index = field.client.index("client0");
            let reply = field.client.run(|| {
                let wire = Wire::open(index);
                wire.send(&request.between(field.macs, &[]));
                wire.receive(PATIENCE, |frame| frame.get(at.0) == Some(&at.1))
            });
            assert!(reply.is_some(), "{hook:?}: no echo from {server}");
        }
        let moved = jit_tests::kernel::difference(&before, &field.kernel.counters());
        assert!(moved[Reason::NotIp as usize] > 0, "ARP was seen: {moved:?}");
        assert!(moved[Reason::OtherProtocol as usize] > 0, "ICMP was seen: {moved:?}");
    }
}

/// Real connections with bulk data, which the kernel sends by segmentation offload and GRO, as
/// super-packets in fragments.
#[test]
fn a_granted_session_carries_bulk_data_and_a_stranger_does_not_connect() {
    for hook in Hook::ALL {
        let mut field = Field::new();
        let _link = field.attach(hook);
        field.serve_tcp(&[CLOSED]);
        for (server, client) in Field::pairs() {
            field.kernel.fill(&closed());
            assert!(!field.connects(server, client, CLOSED), "{hook:?}: closed to {client}");
            let granted = field.granted_to(client);
            field.kernel.fill(&granted);
            field.client.run(|| {
                let mut stream = sockets::connect_from(
                    SocketAddr::new(client, 0),
                    SocketAddr::new(server, CLOSED),
                    PATIENCE,
                )
                .unwrap_or_else(|error| panic!("{hook:?}: open to {client}: {error}"));
                sockets::exchange(&mut stream, 4 << 20);
            });
        }
        // All packets of the session were counted as granted: nothing else passed or was dropped.
        let counters = field.kernel.counters();
        assert!(counters[Reason::Granted as usize] > 100, "{counters:?}");
        assert_eq!(counters[Reason::Malformed as usize], 0, "{counters:?}");
        assert_eq!(counters[Reason::Fragment as usize], 0, "{counters:?}");
    }
}

/// The half-open race: a SYN while granted, then the end of the grant, then the ACK. With SYN
/// cookies off, on demand and always.
#[test]
fn a_handshake_that_began_under_a_grant_does_not_finish_without_it() {
    for cookies in ["0", "1", "2"] {
        for revoked in [false, true] {
            let mut field = Field::new();
            field.host.sysctl("ipv4/tcp_syncookies", cookies);
            let listener =
                field.host.run(|| sockets::listen(SocketAddr::new("::".parse().unwrap(), CLOSED)));
            let _link = field.attach(Hook::Native);
            for ip in crate::fixture::Ip::BOTH {
                field.kernel.fill(&granted(boot_nanos()));
                let index = field.client.index("client0");
                let (macs, kernel) = (field.macs, &mut field.kernel);
                field.client.run(|| {
                    let wire = Wire::open(index);
                    let syn = Tcp::syn(CLOSED);
                    wire.send(&ip.tcp(&syn).between(macs, &[]));
                    let at = 14 + ip.bytes();
                    let answer = wire.receive(PATIENCE, |frame| {
                        frame.get(at + 13) == Some(&(flag::SYN | flag::ACK))
                    });
                    let answer = answer.expect("answered while granted");
                    if revoked {
                        kernel.fill(&closed());
                    }
                    let ack = Tcp {
                        sequence: syn.sequence.wrapping_add(1),
                        acknowledgement: word(&answer, at + 4).wrapping_add(1),
                        ..Tcp::with_flags(CLOSED, flag::ACK)
                    };
                    wire.send(&ip.tcp(&ack).between(macs, &[]));
                });
                let accepted = accepts(&listener);
                assert_eq!(accepted, !revoked, "syncookies {cookies}, {ip:?}");
            }
        }
    }
}

impl Field {
    fn new() -> Self {
        let (host, client) = (Namespace::new(), Namespace::new());
        host.connect(
            "host0",
            &["198.51.100.1/24", "2001:db8:1::1/64"],
            &client,
            "client0",
            &["198.51.100.9/24", "2001:db8:1::9/64"],
        );
        // Room for the longest chains of the frame table, and still below the limit of native XDP
        // without multi-buffer support (3,498 bytes).
        host.ip(&["link", "set", "host0", "mtu", "3000"]);
        client.ip(&["link", "set", "client0", "mtu", "3000"]);
        // The fixture's client is only a source of raw frames: it has no stack that answers.
        for prefix in ["192.0.2.0/24", "2001:db8:7::/48"] {
            host.ip(&["route", "add", prefix, "dev", "host0"]);
        }
        for key in ["all", "host0"] {
            host.sysctl(&format!("ipv4/conf/{key}/rp_filter"), "0");
        }
        // Every sequence is judged alone: there is no limit on the rate of answers.
        host.sysctl("ipv4/tcp_invalid_ratelimit", "0");
        let macs = Macs { source: client.mac("client0"), destination: host.mac("host0") };
        for address in [IpAddr::V4(CLIENT_V4), IpAddr::V6(CLIENT_V6)] {
            host.neighbour("host0", address, macs.source);
        }
        Self { host, client, macs, kernel: Kernel::load() }
    }

    /// Real addresses of both ends, which both stacks know.
    fn pairs() -> [(IpAddr, IpAddr); 2] {
        [("198.51.100.1", "198.51.100.9"), ("2001:db8:1::1", "2001:db8:1::9")]
            .map(|(server, client)| (server.parse().unwrap(), client.parse().unwrap()))
    }

    /// The closed tables with grants of one real client.
    fn granted_to(&self, client: IpAddr) -> MemoryTables {
        let mut tables = closed();
        let deadline = boot_nanos() + HOUR;
        for port in tables.ports.keys() {
            tables.hosts.insert(HostKey::new(address(client), *port), until(deadline, 1));
        }
        tables
    }

    /// Listeners at both ports, of both families.
    fn listeners(&self) -> [TcpListener; 2] {
        self.host.run(|| {
            [CLOSED, OPEN].map(|port| sockets::listen(SocketAddr::new("::".parse().unwrap(), port)))
        })
    }

    /// Attaches the program that the agent would choose.
    fn attach(&mut self, hook: Hook) -> Attached {
        self.attach_program(hook.program(), hook)
    }

    fn attach_program(&mut self, program: &str, hook: Hook) -> Attached {
        hook.attach(&mut self.kernel, program, &self.host, "host0")
    }

    fn serve_tcp(&self, ports: &[u16]) {
        for port in ports {
            let address = SocketAddr::new("::".parse().unwrap(), *port);
            let listener = self.host.run(|| sockets::listen(address));
            std::thread::spawn(move || sockets::serve_tcp_echo(listener));
        }
    }

    fn connects(&self, server: IpAddr, client: IpAddr, port: u16) -> bool {
        let address = SocketAddr::new("::".parse().unwrap(), port);
        // An own listener, unless there is one already.
        let _listener = self.host.run(|| TcpListener::bind(address));
        self.client.run(|| {
            let (from, to) = (SocketAddr::new(client, 0), SocketAddr::new(server, port));
            sockets::opens(from, to, sockets::SILENCE)
        })
    }

    fn echoes_datagram(&self, server: IpAddr, client: IpAddr, port: u16) -> bool {
        let address = SocketAddr::new(server, port);
        let echo = self.host.run(|| sockets::udp(address));
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(4096).collect();
        self.client.run(|| {
            let socket = sockets::udp(SocketAddr::new(client, 0));
            socket.send_to(&sent, address).expect("send a datagram");
            sockets::echo_one(&echo);
            sockets::receive(&socket, sockets::SILENCE).is_some_and(|back| back == sent)
        })
    }

    /// Sends every sequence and returns what the port answers.
    fn answers(&self, port: u16) -> Answers {
        let index = self.client.index("client0");
        self.client.run(|| {
            let wire = Wire::open(index);
            sequences(port)
                .into_iter()
                .zip(0..)
                .map(|(Sequence { name, frames }, number)| {
                    wire.drain();
                    for frame in &frames {
                        wire.send(&to_station(frame, self.macs));
                    }
                    (name, self.first_answer(&wire, port, number))
                })
                .collect()
        })
    }

    /// Flags of the first answer from `port` before the answer to a marker, which is a SYN to the
    /// unprotected port: frames of one sender arrive in order, so there is no need to wait for
    /// silence.
    fn first_answer(&self, wire: &Wire, port: u16, number: u16) -> Option<u8> {
        let source_port = MARKER + number;
        let marker = v4().tcp(&Tcp::syn(OPEN).from_port(source_port));
        wire.send(&marker.between(self.macs, &[]));
        let mut first: Option<Answer> = None;
        let mut marked: Option<Answer> = None;
        wire.receive(PATIENCE, |frame| {
            let Some(answer) = Answer::read(frame) else { return false };
            if answer.from == OPEN && answer.to == source_port {
                marked = Some(answer);
            } else if answer.from == port {
                first.get_or_insert(answer);
            }
            marked.is_some()
        });
        let marked = marked.unwrap_or_else(|| panic!("no answer to the marker's SYN"));
        for answer in first.into_iter().chain([marked]) {
            // Ends the half-open request, so that the next sequence finds a fresh listener.
            for ip in crate::fixture::Ip::BOTH {
                let reset = Tcp {
                    sequence: answer.number,
                    ..Tcp::with_flags(answer.from, flag::RST).from_port(answer.to)
                };
                wire.send(&ip.tcp(&reset).between(self.macs, &[]));
            }
        }
        first.map(|answer| answer.flags)
    }
}

/// A TCP segment from the host.
#[derive(Clone, Copy, Debug)]
struct Answer {
    from: u16,
    to: u16,
    flags: u8,
    /// The acknowledgement: the sequence number that the host expects next.
    number: u32,
}

impl Answer {
    /// Reads what Linux sends: no options in front of TCP.
    fn read(frame: &[u8]) -> Option<Self> {
        let at = match (frame.get(12..14)?, frame.get(23)?, frame.get(20)?) {
            ([0x08, 0x00], 6, _) => 34,
            ([0x86, 0xdd], _, 6) => 54,
            _ => return None,
        };
        let short = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        Some(Self {
            from: short(at)?,
            to: short(at + 2)?,
            flags: *frame.get(at + 13)?,
            number: word(frame, at + 8),
        })
    }
}

/// The frame table's frames, and packets that are dangerous only together.
fn sequences(port: u16) -> Vec<Sequence> {
    let mut sequences: Vec<_> = cases::all()
        .into_iter()
        // A single fragment would wait for the rest and join the fragments of another row. Frames
        // below the minimum are not sent.
        .filter(|case| !case.name.contains("fragment") && (case.frame)(port).len() >= 14)
        .map(|case| Sequence { name: case.name.clone(), frames: vec![(case.frame)(port)] })
        .collect();
    for (name, packets) in fragmented(port) {
        let frames = packets.iter().map(Packet::frame).collect();
        sequences.push(Sequence { name: name.to_owned(), frames });
    }
    sequences
}

/// A SYN in pieces. Every packet has an identification of its own.
fn fragmented(port: u16) -> Vec<(&'static str, Vec<Packet>)> {
    let mut identification: u8 = 100;
    let mut next = || {
        identification += 1;
        identification
    };
    let mut ipv4 = |flags: u16, offsets: &[usize]| {
        let ip = Ipv4 { identification: u16::from(next()), fragment: flags, ..v4() };
        let segment = Tcp::syn(port).options(&[1; 20]).bytes(ip.source(), ip.destination());
        ip.fragments(TCP, &segment, offsets)
    };
    let mut sequences = vec![
        ("8 bytes first", ipv4(0, &[0, 8])),
        ("16 bytes first", ipv4(0, &[0, 16])),
        ("24 bytes first", ipv4(0, &[0, 24])),
        ("three times 8", ipv4(0, &[0, 8, 16])),
        ("8 bytes first, DF and MF", ipv4(Ipv4::DF, &[0, 8])),
        ("24 bytes first, DF and MF", ipv4(Ipv4::DF, &[0, 24])),
        ("five times 8", ipv4(0, &[0, 8, 16, 24, 32])),
    ];
    for (name, offsets) in
        [("8 bytes first, reversed", &[0, 8][..]), ("three times 8, reversed", &[0, 8, 16])]
    {
        let mut packets = ipv4(0, offsets);
        packets.reverse();
        sequences.push((name, packets));
    }
    let mut identification: u8 = 200;
    let mut ipv6 = |inner: &[Extension], offsets: &[usize]| {
        identification += 1;
        let ip = Ipv6 { identification, ..v6() };
        let segment = Tcp::syn(port).options(&[1; 20]).bytes(ip.source(), ip.destination());
        ip.fragments(inner, TCP, &segment, offsets)
    };
    let chain = [Extension::destination()];
    sequences.extend([
        ("IPv6, 8 bytes first", ipv6(&[], &[0, 8])),
        ("IPv6, 16 bytes first", ipv6(&[], &[0, 16])),
        ("IPv6, 24 bytes first", ipv6(&[], &[0, 24])),
        ("IPv6, three times 8", ipv6(&[], &[0, 8, 16])),
        ("IPv6, chain split over two", ipv6(&chain, &[0, 8])),
        ("IPv6, header split after the chain", ipv6(&chain, &[0, 24])),
        ("IPv6, chain and header in the first", ipv6(&chain, &[0, 32])),
    ]);
    let mut reversed = ipv6(&[], &[0, 8]);
    reversed.reverse();
    sequences.push(("IPv6, 8 bytes first, reversed", reversed));
    sequences
}

/// The frame with the hardware addresses of the two stations.
fn to_station(frame: &[u8], macs: Macs) -> Vec<u8> {
    let rest = frame.get(12..).expect("an Ethernet header");
    [&macs.destination[..], &macs.source[..], rest].concat()
}

fn word(frame: &[u8], at: usize) -> u32 {
    let bytes = frame.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_be_bytes(*bytes.expect("a whole segment"))
}

/// Whether a connection waits to be accepted, now or within the time that silence takes.
fn accepts(listener: &TcpListener) -> bool {
    sockets::accept(listener, Duration::from_millis(300)).is_some()
}
