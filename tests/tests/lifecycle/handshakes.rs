//! Handshakes that began under a grant and end without it: half open, or as SYN cookies. They are
//! raw frames of a peer without a kernel, with a real agent.

use std::{
    net::{IpAddr, TcpListener},
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{Site, TO_CLIENT},
    frames::{Ipv4, Ipv6, Macs, Packet, Tcp, flag},
    random::Random,
    raw::Wire,
    sockets,
};
use rustix::process::Signal;

use crate::sessions::{CUT, DRAIN, grant, listen, sections, sockets_of, wait_until};

/// Addresses on the client's interface that no host has.
const GHOST: [&str; 2] = ["198.51.100.77", "2001:db8:1::77"];
const LONG: Duration = Duration::from_secs(600);
/// A sequence number of the peer.
const FIRST: u32 = 0x1000_0000;
/// Number of random segments that the gate must judge, and the longest time for them.
const FLOOD: u64 = 1_000_000;
const FLOOD_TIME: Duration = Duration::from_secs(120);

/// A peer that sends frames.
struct Ghost {
    wire: Wire,
    macs: Macs,
}

impl Ghost {
    fn new(site: &Site) -> Self {
        let macs = Macs { source: site.client.mac("p0"), destination: site.host.mac("c0") };
        for address in GHOST {
            site.host.neighbour("c0", address.parse().unwrap(), macs.source);
        }
        let index = site.client.index("p0");
        Self { wire: site.client.run(|| Wire::open(index)), macs }
    }

    fn send(&self, family: usize, segment: &Tcp) {
        self.wire.send(&packet(family, segment).between(self.macs, &[]));
    }

    /// Sends a SYN. Returns the sequence number of the answer.
    fn ask(&self, family: usize, from: u16, port: u16) -> Option<u32> {
        self.wire.drain();
        let syn = Tcp { sequence: FIRST, ..Tcp::syn(port).from_port(from) };
        self.send(family, &syn);
        let at = 14 + [20, 40][family];
        let answer = self.wire.receive(sockets::SILENCE, |frame| {
            frame.get(at + 13) == Some(&(flag::SYN | flag::ACK))
                && frame.get(at + 2..at + 4) == Some(&from.to_be_bytes())
        });
        answer.map(|frame| u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap()))
    }

    /// The last step of the handshake.
    fn finish(&self, family: usize, from: u16, port: u16, answer: u32) {
        let ack = Tcp {
            sequence: FIRST + 1,
            acknowledgement: answer.wrapping_add(1),
            ..Tcp::with_flags(port, flag::ACK).from_port(from)
        };
        self.send(family, &ack);
    }

    /// Forgets a connection, so that its 4-tuple is free again.
    fn reset(&self, family: usize, from: u16, port: u16) {
        let reset = Tcp::with_flags(port, flag::RST).from_port(from);
        self.send(family, &Tcp { sequence: FIRST + 1, ..reset });
    }
}

fn packet(family: usize, segment: &Tcp) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    match (address(GHOST[family]), address(TO_CLIENT[family])) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ipv4::new(from, to).tcp(segment),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6::new(from, to).tcp(segment),
        mixed => panic!("{mixed:?}"),
    }
}

fn accepts(listener: &TcpListener) -> bool {
    sockets::accept(listener, sockets::SILENCE).is_some()
}

/// A host with these interfaces gated, whose agent runs.
fn site(interfaces: &str) -> Site {
    let mut site = Site::new();
    site.write_config(&[site.base(interfaces, "auto"), sections()].concat());
    site.start();
    site
}

fn admit(site: &Site) {
    site.push(site.sign(&grant(site, &GHOST, LONG))).unwrap();
}

/// With both gates, and with the socket guard alone. The guard does not see the last step of a
/// half-open handshake, so the agent ends that handshake.
#[test]
fn no_handshake_is_finished_after_the_revocation_of_its_grant() {
    for interfaces in ["[\"*\"]", "[\"s0\"]"] {
        let site = site(interfaces);
        let ghost = Ghost::new(&site);
        let listeners = [CUT, DRAIN].map(|port| (port, listen(&site, port)));
        let mut from = 40_000;
        for cookies in ["0", "1", "2"] {
            site.host.sysctl("ipv4/tcp_syncookies", cookies);
            for (port, listener) in &listeners {
                for (family, revoked) in [(0, false), (0, true), (1, false), (1, true)] {
                    let case = format!("{interfaces} syncookies {cookies} port {port} {family}");
                    from += 1;
                    admit(&site);
                    let answer = ghost.ask(family, from, *port);
                    let answer = answer.unwrap_or_else(|| panic!("{case}: granted, no answer"));
                    let half_open = || sockets_of(&site.host, *port, &["03"]);
                    assert_eq!(half_open() == 0, cookies == "2", "{case}");
                    if revoked {
                        assert_eq!(site.revoke_all(), 1);
                        assert_eq!(half_open(), 0, "{case}: when it is answered");
                    }
                    ghost.finish(family, from, *port, answer);
                    assert_eq!(accepts(listener), !revoked, "{case} revoked {revoked}");
                    site.revoke_all();
                    assert_eq!(ghost.ask(family, from + 10_000, *port), None, "{case}");
                }
            }
        }
    }
}

/// By the guard alone, and many revocations right after each other.
#[test]
fn in_a_burst_of_revocations_no_handshake_is_finished_after_its_answer() {
    const BURST: u16 = 40;
    let site = site("[\"s0\"]");
    site.host.sysctl("ipv4/tcp_syncookies", "0");
    let ghost = Ghost::new(&site);
    let listener = listen(&site, DRAIN);
    let mut finished = 0;
    for number in 0..BURST {
        let (family, from) = (usize::from(number % 2), 40_000 + number);
        admit(&site);
        let answer = ghost.ask(family, from, DRAIN).expect("an answer while granted");
        assert_eq!(site.revoke_all(), 1);
        ghost.finish(family, from, DRAIN, answer);
    }
    while accepts(&listener) {
        finished += 1;
    }
    assert_eq!(finished, 0, "of {BURST}");
}

/// What a revocation costs with very many handshakes at once.
#[test]
fn a_thousand_handshakes_end_before_the_answer_to_a_revocation() {
    const HANDSHAKES: u16 = 1_000;
    let site = site("[\"s0\"]");
    for key in ["core/somaxconn", "ipv4/tcp_max_syn_backlog"] {
        site.host.sysctl(key, "4096");
    }
    site.host.sysctl("ipv4/tcp_syncookies", "0");
    let ghost = Ghost::new(&site);
    let listener = listen(&site, DRAIN);
    // It takes as many handshakes as its backlog has room for.
    rustix::net::listen(&listener, 4096).unwrap();
    let half_open = || sockets_of(&site.host, DRAIN, &["03"]);
    admit(&site);
    for number in 0..HANDSHAKES {
        let syn = Tcp { sequence: FIRST, ..Tcp::syn(DRAIN).from_port(20_000 + number) };
        ghost.send(usize::from(number % 2), &syn);
    }
    wait_until(|| half_open() == usize::from(HANDSHAKES));
    let began = Instant::now();
    assert_eq!(site.revoke_all(), 1);
    let took = began.elapsed();
    println!("a revocation that ends {HANDSHAKES} handshakes is answered within {took:?}");
    assert_eq!(half_open(), 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A segment with the right cookie opens a connection without any SYN, but not without a grant.
/// After `detach` the same segment opens one: so it was the gate that refused it.
#[test]
fn a_cookie_from_before_a_revocation_opens_nothing_however_often_it_is_sent() {
    for interfaces in ["[\"*\"]", "[\"s0\"]"] {
        let mut site = site(interfaces);
        site.host.sysctl("ipv4/tcp_syncookies", "2");
        let ghost = Ghost::new(&site);
        let listener = listen(&site, DRAIN);
        for (family, from) in [(0, 40_000), (1, 40_001)] {
            admit(&site);
            let cookie = ghost.ask(family, from, DRAIN).expect("an answer while granted");
            for _ in 0..2 {
                ghost.finish(family, from, DRAIN, cookie);
                assert!(accepts(&listener), "{interfaces} {family}: also the second time");
                ghost.reset(family, from, DRAIN);
                wait_until(|| sockets_of(&site.host, DRAIN, &["01", "04", "05", "08"]) == 0);
            }
            site.revoke_all();
            for _ in 0..3 {
                ghost.finish(family, from, DRAIN, cookie);
            }
            assert!(!accepts(&listener), "{interfaces} {family}");
            site.end(Signal::TERM);
            assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
            ghost.finish(family, from, DRAIN, cookie);
            assert!(accepts(&listener), "{interfaces} {family}: without a gate");
            ghost.reset(family, from, DRAIN);
            site.start();
        }
    }
}

/// A guest sends the packets of its one connection again after it is closed: the SYN, and the last
/// step, which with SYN cookies opens a connection by itself. The socket guard sees neither flags
/// nor sequence numbers. Alone it lets three look-ups pass for each connection.
#[test]
fn a_one_shot_grant_lets_in_no_more_when_its_packets_are_repeated() {
    for (interfaces, most) in [("[\"*\"]", 1), ("[\"s0\"]", 3)] {
        let site = site(interfaces);
        let ghost = Ghost::new(&site);
        let listener = listen(&site, DRAIN);
        let mut from = 40_000;
        for (cookies, family) in [("0", 0), ("0", 1), ("2", 0), ("2", 1)] {
            site.host.sysctl("ipv4/tcp_syncookies", cookies);
            let case = format!("{interfaces} syncookies {cookies} {family}");
            from += 1;
            let one = v1::Grant { max_connections: 1, ..grant(&site, &GHOST, LONG) };
            site.push(site.sign(&one)).unwrap();
            let mut connections = 0;
            let mut answer = ghost.ask(family, from, DRAIN).expect("an answer while granted");
            for _ in 0..5 {
                ghost.finish(family, from, DRAIN, answer);
                if accepts(&listener) {
                    connections += 1;
                    ghost.reset(family, from, DRAIN);
                    wait_until(|| sockets_of(&site.host, DRAIN, &["01", "04", "05", "08"]) == 0);
                }
                // The same SYN with the same sequence number.
                answer = ghost.ask(family, from, DRAIN).unwrap_or(answer);
            }
            assert!((1..=most).contains(&connections), "{case}: {connections}");
            assert!(ghost.ask(family, from + 10_000, DRAIN).is_none(), "{case}");
            site.revoke_all();
        }
    }
}

/// Frames that differ in the source port, sequence and acknowledgement number.
struct Guesses {
    frame: Vec<u8>,
    /// Where the TCP header begins.
    at: usize,
    /// The checksum of that header with zeros in their places.
    sum: u16,
}

impl Guesses {
    fn new(ghost: &Ghost, family: usize) -> Self {
        let blank = Tcp { sequence: 0, ..Tcp::with_flags(DRAIN, flag::ACK).from_port(0) };
        let frame = packet(family, &blank).between(ghost.macs, &[]);
        let at = 14 + [20, 40][family];
        let sum = u16::from_be_bytes([frame[at + 16], frame[at + 17]]);
        Self { frame, at, sum }
    }

    fn next(&self, random: &mut Random) -> Vec<u8> {
        self.with(std::array::from_fn(|_| random.short()))
    }

    fn with(&self, numbers: [u16; 5]) -> Vec<u8> {
        let Self { frame, at, sum } = self;
        let mut frame = frame.clone();
        let mut total = u32::from(!sum);
        for (word, place) in numbers.into_iter().zip([0, 4, 6, 8, 10]) {
            frame[at + place..at + place + 2].copy_from_slice(&word.to_be_bytes());
            total += u32::from(word);
        }
        // Twice: the first carry may make another.
        for _ in 0..2 {
            let [carry, low] = halves(total);
            total = u32::from(carry) + u32::from(low);
        }
        let [_, sum] = halves(!total);
        frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
        frame
    }
}

/// Source port, sequence and acknowledgement number as 16-bit words.
fn words([from, sequence, acknowledgement]: [u32; 3]) -> [u16; 5] {
    let [_, from] = halves(from);
    let ([a, b], [c, d]) = (halves(sequence), halves(acknowledgement));
    [from, a, b, c, d]
}

fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// While the host answers every SYN with a cookie, a million guesses at one are refused. The right
/// one is refused too. It opens after `detach`.
#[test]
fn no_random_acknowledgement_of_a_million_is_accepted_in_cookie_mode() {
    let mut site = site("[\"*\"]");
    site.host.sysctl("ipv4/tcp_syncookies", "2");
    let ghost = Ghost::new(&site);
    let listener = listen(&site, DRAIN);
    let mut random = Random::new(7);
    let guesses = [0, 1].map(|family| Guesses::new(&ghost, family));
    let cookie = |from| {
        admit(&site);
        let cookie = ghost.ask(0, from, DRAIN).expect("an answer while granted");
        site.revoke_all();
        cookie
    };
    // From now on the host accepts cookies.
    cookie(39_999);
    let (began, mut sent) = (Instant::now(), 0_u64);
    let judged = || {
        let (status, _) = site.status();
        status["dropped"]["by_reason"]["no_session"].as_u64().unwrap_or(0)
    };
    while judged() < FLOOD {
        assert!(began.elapsed() < FLOOD_TIME, "{} of {sent} judged", judged());
        for batch in 0..1_000 {
            let frames: Vec<_> = (0..128).map(|_| guesses[batch % 2].next(&mut random)).collect();
            ghost.wire.send_all(&frames);
            sent += 128;
        }
    }
    println!("{} of {sent} random segments judged in {:?}", judged(), began.elapsed());
    assert!(!accepts(&listener));
    assert_eq!(sockets_of(&site.host, DRAIN, &["01", "03"]), 0);
    let right = cookie(40_000);
    ghost.finish(0, 40_000, DRAIN, right);
    assert!(!accepts(&listener), "the right cookie opens nothing");
    site.end(Signal::TERM);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    // Built as the guesses were: so their checksums are right.
    let numbers = [40_000, FIRST + 1, right.wrapping_add(1)];
    ghost.wire.send_all(&[guesses[0].with(words(numbers))]);
    assert!(accepts(&listener), "without a gate");
}
