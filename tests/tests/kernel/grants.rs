//! Grants and port rules: which entry covers a source, until when, and what a port's rule decides
//! about a segment that no entry covers. The same rows run through the host's decision and both
//! programs.

use std::net::IpAddr;

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{GrantEntry, HostKey, PortKey, Reason, Settings};
use jit_tests::{
    frames::{Ipv4, Ipv6, Tcp, Udp, flag},
    kernel::{Kernel, boot_nanos, programs},
};

use crate::fixture::{
    CLOSED, DRAIN, FORWARDED_CUT, FORWARDED_DRAIN, HOUR, OBSERVED, address, closed, hex, on_host,
    tcp, udp, until, v4, v6,
};

/// Grants of a row: prefix, port, deadline relative to now, slot.
type Grants<'a> = &'a [(&'a str, PortKey, Deadline, u32)];

#[derive(Clone, Copy, Debug)]
enum Deadline {
    /// An hour ahead.
    Live,
    /// The moment at which the tables were made: already dead for every later packet.
    Now,
    /// An hour ago, or as far back as the clock goes.
    Past,
    /// The latest that can be written.
    Never,
    /// Zero: an entry that was never given a deadline.
    Zero,
}

impl Deadline {
    fn entry(self, now: u64, slot: u32) -> GrantEntry {
        match self {
            Self::Live => until(now + HOUR, slot),
            Self::Now => until(now, slot),
            Self::Past => until(now.saturating_sub(HOUR), slot),
            Self::Never => until(u64::MAX, slot),
            Self::Zero => until(0, slot),
        }
    }
}

use Deadline::{Live, Never, Now, Past, Zero};

#[test]
fn a_live_host_grant_covers_its_address_port_and_protocol_only() {
    let grants: Grants<'_> = &[("192.0.2.7/32", tcp(CLOSED), Live, 1)];
    rows(&[
        ("the grant", grants, syn("192.0.2.7", CLOSED), Reason::Granted),
        ("another address", grants, syn("192.0.2.8", CLOSED), Reason::Denied),
        ("another port", grants, syn("192.0.2.7", DRAIN), Reason::Denied),
        ("another protocol", grants, datagram("192.0.2.7", CLOSED), Reason::Denied),
        ("the mapped address", grants, syn("::ffff:192.0.2.7", CLOSED), Reason::BadSource),
        ("the compatible address", grants, syn("::192.0.2.7", CLOSED), Reason::Denied),
        ("its bytes as IPv6", grants, syn("c000:207::", CLOSED), Reason::Denied),
    ]);
    let grants: Grants<'_> = &[("2001:db8:7::7/128", udp(CLOSED), Live, 1)];
    rows(&[
        ("the grant", grants, datagram("2001:db8:7::7", CLOSED), Reason::Granted),
        ("another address", grants, datagram("2001:db8:7::8", CLOSED), Reason::Denied),
        ("another protocol", grants, syn("2001:db8:7::7", CLOSED), Reason::Denied),
        ("its first bytes as IPv4", grants, datagram("32.1.13.184", CLOSED), Reason::Denied),
    ]);
}

#[test]
fn a_grant_is_dead_at_its_deadline() {
    for prefix in ["192.0.2.7/32", "192.0.2.0/24"] {
        for (deadline, expected) in [
            (Live, Reason::Granted),
            (Never, Reason::Granted),
            (Now, Reason::Denied),
            (Past, Reason::Denied),
            (Zero, Reason::Denied),
        ] {
            let grants: Grants<'_> = &[(prefix, tcp(CLOSED), deadline, 1)];
            rows(&[("deadline", grants, syn("192.0.2.7", CLOSED), expected)]);
        }
    }
    // The kernel's clock cannot be stopped at a moment; the host's can.
    let deadline = 5_000_000_000;
    let mut tables = closed();
    tables.hosts.insert(HostKey::new(v4().source(), tcp(CLOSED)), until(deadline, 1));
    let frame = syn("192.0.2.7", CLOSED);
    assert_eq!(on_host(&frame, &tables, deadline - 1).reason, Reason::Granted);
    assert_eq!(on_host(&frame, &tables, deadline).reason, Reason::Denied);
}

#[test]
fn a_prefix_grant_covers_exactly_its_addresses() {
    let port = tcp(CLOSED);
    for (prefix, first, last, before, after) in [
        ("192.0.2.0/24", "192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
        ("192.0.2.64/26", "192.0.2.64", "192.0.2.127", "192.0.2.63", "192.0.2.128"),
        ("192.0.2.6/31", "192.0.2.6", "192.0.2.7", "192.0.2.5", "192.0.2.8"),
        ("198.18.0.0/15", "198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
        ("128.0.0.0/1", "128.0.0.0", "255.255.255.255", "127.255.255.255", "0.0.0.0"),
        (
            "2001:db8:7::/48",
            "2001:db8:7::",
            "2001:db8:7:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:6:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:8::",
        ),
        (
            "2001:db8:7:8::/61",
            "2001:db8:7:8::",
            "2001:db8:7:f:ffff:ffff:ffff:ffff",
            "2001:db8:7:7:ffff:ffff:ffff:ffff",
            "2001:db8:7:10::",
        ),
        ("2001:db8:7::6/127", "2001:db8:7::6", "2001:db8:7::7", "2001:db8:7::5", "2001:db8:7::8"),
    ] {
        let grants: Grants<'_> = &[(prefix, port, Live, 1)];
        rows(&[
            ("first", grants, syn(first, CLOSED), Reason::Granted),
            ("last", grants, syn(last, CLOSED), Reason::Granted),
            ("before", grants, syn(before, CLOSED), Reason::Denied),
            ("after", grants, syn(after, CLOSED), Reason::Denied),
            ("another port", grants, syn(first, DRAIN), Reason::Denied),
            ("another protocol", grants, datagram(first, CLOSED), Reason::Denied),
        ]);
    }
}

#[test]
fn the_whole_of_one_family_is_not_the_other() {
    let v4: Grants<'_> = &[("0.0.0.0/0", tcp(CLOSED), Live, 1)];
    let v6: Grants<'_> = &[("::/0", tcp(CLOSED), Live, 1)];
    rows(&[
        ("0.0.0.0/0 and IPv4", v4, syn("203.0.113.9", CLOSED), Reason::Granted),
        ("0.0.0.0/0 and IPv6", v4, syn("2001:db8::9", CLOSED), Reason::Denied),
        ("0.0.0.0/0 and a mapped source", v4, syn("::ffff:203.0.113.9", CLOSED), Reason::BadSource),
        ("0.0.0.0/0, another port", v4, syn("203.0.113.9", DRAIN), Reason::Denied),
        ("::/0 and IPv6", v6, syn("2001:db8::9", CLOSED), Reason::Granted),
        ("::/0 and IPv4", v6, syn("203.0.113.9", CLOSED), Reason::Denied),
        ("::/0 and a mapped source", v6, syn("::ffff:203.0.113.9", CLOSED), Reason::BadSource),
        ("::/0, another protocol", v6, datagram("2001:db8::9", CLOSED), Reason::Denied),
    ]);
}

#[test]
fn one_live_entry_is_enough_except_under_a_longer_dead_prefix() {
    let port = tcp(CLOSED);
    let frame = || syn("192.0.2.7", CLOSED);
    let frame_v6 = || syn("2001:db8:7::7", CLOSED);
    rows(&[
        (
            "dead host in a live prefix",
            &[("192.0.2.7/32", port, Past, 1), ("192.0.2.0/24", port, Live, 2)],
            frame(),
            Reason::Granted,
        ),
        (
            "dead IPv6 host in a live prefix",
            &[("2001:db8:7::7/128", port, Past, 1), ("2001:db8:7::/48", port, Live, 2)],
            frame_v6(),
            Reason::Granted,
        ),
        (
            "live host in a dead prefix",
            &[("192.0.2.7/32", port, Live, 1), ("192.0.2.0/24", port, Past, 2)],
            frame(),
            Reason::Granted,
        ),
        (
            "dead host in a dead prefix",
            &[("192.0.2.7/32", port, Past, 1), ("192.0.2.0/24", port, Now, 2)],
            frame(),
            Reason::Denied,
        ),
        (
            "live long prefix in a dead short one",
            &[("192.0.2.0/28", port, Live, 1), ("192.0.2.0/24", port, Past, 2)],
            frame(),
            Reason::Granted,
        ),
        // The kernel's trie knows only its longest match: this is why user space writes to each
        // prefix the latest deadline of all grants that cover it.
        (
            "dead long prefix in a live short one",
            &[("192.0.2.0/28", port, Past, 1), ("192.0.2.0/24", port, Live, 2)],
            frame(),
            Reason::Denied,
        ),
        (
            "dead long prefix beside the source",
            &[("192.0.2.16/28", port, Past, 1), ("192.0.2.0/24", port, Live, 2)],
            frame(),
            Reason::Granted,
        ),
    ]);
}

#[test]
fn hits_count_in_the_slot_of_the_entry_that_covers() {
    let port = tcp(CLOSED);
    for (grants, slot) in [
        (&[("192.0.2.7/32", port, Live, 11), ("192.0.2.0/24", port, Live, 12)][..], 11),
        (&[("192.0.2.7/32", port, Past, 11), ("192.0.2.0/24", port, Live, 12)][..], 12),
        (&[("192.0.2.0/28", port, Live, 11), ("192.0.2.0/24", port, Live, 12)][..], 11),
    ] {
        let tables = with(grants, boot_nanos());
        let frame = syn("192.0.2.7", CLOSED);
        assert_eq!(on_host(&frame, &tables, boot_nanos()).slot, slot);
        let mut kernel = Kernel::load();
        kernel.fill(&tables);
        for (program, hits) in programs().zip(1..) {
            kernel.forget_counted();
            kernel.drops(program, &frame);
            assert_eq!((kernel.hits(slot), kernel.hits(23 - slot)), (hits, 0), "{grants:?}");
        }
    }
}

#[test]
fn the_rule_of_the_port_decides_about_segments_that_open_nothing() {
    let none: Grants<'_> = &[];
    let ended = |port| [("192.0.2.7/32", tcp(port), Past, 1)];
    for port in [CLOSED, DRAIN, FORWARDED_CUT, FORWARDED_DRAIN] {
        let expected = match port {
            FORWARDED_CUT => Reason::Expired,
            FORWARDED_DRAIN => Reason::Forwarded,
            _ => Reason::NoSession,
        };
        for flags in [flag::ACK, flag::ACK | flag::PSH, flag::RST, flag::FIN | flag::ACK] {
            rows(&[
                ("never granted", none, segment("192.0.2.7", port, flags), expected),
                ("ended", &ended(port), segment("192.0.2.7", port, flags), expected),
                ("IPv6", none, segment("2001:db8:7::7", port, flags), expected),
            ]);
        }
        rows(&[
            ("SYN", none, syn("192.0.2.7", port), Reason::Denied),
            ("SYN, ended", &ended(port), syn("192.0.2.7", port), Reason::Denied),
            ("SYN over IPv6", none, syn("2001:db8:7::7", port), Reason::Denied),
        ]);
    }
}

#[test]
fn a_port_that_only_observes_drops_nothing_and_no_other_port_follows_it() {
    let mut kernel = Kernel::load();
    kernel.fill(&closed());
    kernel.set(Settings { drop_events: 1_000_000, ..Settings::default() });
    for program in programs() {
        for (frame, reason) in [
            (syn("192.0.2.7", OBSERVED), Reason::Denied),
            (segment("192.0.2.7", OBSERVED, flag::ACK), Reason::NoSession),
        ] {
            let before = kernel.port_counters(tcp(OBSERVED));
            let outcome = kernel.run(program, &frame);
            assert_eq!((outcome.reason, outcome.dropped), (reason, false), "{program}");
            assert!(outcome.observed, "{program}");
            let events = kernel.events();
            assert_eq!(events.len(), 1, "{program}");
            assert!(events.iter().all(|event| event.observed != 0), "{program}");
            let after = kernel.port_counters(tcp(OBSERVED));
            assert_eq!(after.observed - before.observed, 1, "{program}");
        }
        let outcome = kernel.run(program, &syn("192.0.2.7", CLOSED));
        assert!(outcome.dropped && !outcome.observed, "{program}");
        assert!(kernel.events().iter().all(|event| event.observed == 0), "{program}");
    }
}

#[test]
fn events_stop_at_their_budget_and_drops_do_not() {
    let mut kernel = Kernel::load();
    kernel.fill(&closed());
    kernel.set(Settings { drop_events: 3, ..Settings::default() });
    let before = kernel.counters();
    let program = programs().next().unwrap();
    // One CPU reports three in one second, and three more in each further second on a slow machine.
    let began = std::time::Instant::now();
    let cpu = rustix::thread::sched_getcpu();
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("stay on one CPU");
    for _ in 0..50 {
        assert!(kernel.drops(program, &syn("192.0.2.7", CLOSED)));
    }
    let most = 3 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 2);
    let events = kernel.events().len();
    let moved = jit_tests::kernel::difference(&before, &kernel.counters());
    let suppressed = moved[jit_common::Counter::EventsSuppressed.index() as usize];
    assert_eq!(moved[Reason::Denied as usize], 50);
    assert_eq!(u64::try_from(events).unwrap() + suppressed, 50);
    assert!((3..=most).contains(&events), "{events} events: a budget of 3, at most {most}");
}

/// Runs rows through the host's decision and both programs.
fn rows(rows: &[(&str, Grants<'_>, Vec<u8>, Reason)]) {
    let mut kernel = Kernel::load();
    for (name, grants, frame, expected) in rows {
        let tables = with(grants, boot_nanos());
        kernel.fill(&tables);
        let what = format!("{name}, {grants:?}: {}", hex(frame));
        assert_eq!(on_host(frame, &tables, boot_nanos()).reason, *expected, "host: {what}");
        for program in programs() {
            let outcome = kernel.run(program, frame);
            assert_eq!(outcome.reason, *expected, "{program}: {what}");
            assert_eq!(outcome.dropped, expected.drops(), "{program}: {what}");
        }
    }
}

/// The closed tables with these grants: full prefixes in the hash, shorter ones in the tries.
fn with(grants: Grants<'_>, now: u64) -> MemoryTables {
    let mut tables = closed();
    for (prefix, port, deadline, slot) in grants {
        let (network, length) = prefix.split_once('/').expect("address/length");
        let network: IpAddr = network.parse().expect("an address");
        let length: u8 = length.parse().expect("a length");
        let entry = deadline.entry(now, *slot);
        if length == if network.is_ipv4() { 32 } else { 128 } {
            tables.hosts.insert(HostKey::new(address(network), *port), entry);
        } else {
            tables.prefixes.insert((*port, address(network), length), entry);
        }
    }
    tables
}

fn syn(source: &str, port: u16) -> Vec<u8> {
    segment(source, port, flag::SYN)
}

fn segment(source: &str, port: u16, flags: u8) -> Vec<u8> {
    let segment = Tcp::with_flags(port, flags);
    match source.parse().expect("an address") {
        IpAddr::V4(source) => Ipv4 { source, ..v4() }.tcp(&segment).frame(),
        IpAddr::V6(source) => Ipv6 { source, ..v6() }.tcp(&segment).frame(),
    }
}

fn datagram(source: &str, port: u16) -> Vec<u8> {
    match source.parse().expect("an address") {
        IpAddr::V4(source) => Ipv4 { source, ..v4() }.udp(&Udp::to(port)).frame(),
        IpAddr::V6(source) => Ipv6 { source, ..v6() }.udp(&Udp::to(port)).frame(),
    }
}
