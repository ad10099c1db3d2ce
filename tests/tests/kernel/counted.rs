//! Connections and UDP flows under grants without a limit: the gate that sees one first counts it
//! once, and reports it or counts it as unreported.

use jit_common::{Counter, Event, HostKey, LastCounted, Lookup, PortKey, Reason, Settings};
use jit_tests::{
    frames::{Tcp, Udp},
    kernel::{Kernel, Loaded, boot_nanos, difference, guards, programs},
    lacks,
};

use crate::fixture::{
    CLIENT_V4, CLIENT_V6, CLOSED, HOUR, Ip, SERVER_V4, SERVER_V6, address, closed, tcp, udp, until,
};

const SLOT: u32 = 3;

/// Grants of the client to the closed port, TCP and UDP.
fn granted(kernel: &mut Kernel) {
    let mut tables = closed();
    for (source, port) in [CLIENT_V4.into(), CLIENT_V6.into()]
        .into_iter()
        .flat_map(|source| [tcp(CLOSED), udp(CLOSED)].map(|port| (source, port)))
    {
        let key = HostKey::new(address(source), port);
        tables.hosts.insert(key, until(boot_nanos() + HOUR, SLOT));
    }
    kernel.fill(&tables);
    kernel.forget_counted();
    kernel.set(Settings { grant_events: 1_000, ..Settings::default() });
}

/// Connections since the last call: counted, and reported.
fn more(kernel: &mut Loaded, before: &mut u64) -> (u64, u64) {
    let hits = kernel.hits(SLOT);
    let more = hits - std::mem::replace(before, hits);
    let granted = |event: &Event| event.reason == Reason::Granted as u8 && event.slot == SLOT;
    let events = kernel.events();
    assert!(events.iter().all(granted), "{events:?}");
    (more, u64::try_from(events.len()).unwrap())
}

#[test]
fn a_syn_that_is_sent_again_counts_once_for_two_seconds() {
    for ip in Ip::BOTH {
        for program in programs() {
            let mut kernel = Kernel::load();
            granted(&mut kernel);
            let mut before = kernel.hits(SLOT);
            let syn = |from, sequence| {
                ip.tcp(&Tcp { sequence, ..Tcp::syn(CLOSED).from_port(from) }).frame()
            };
            for (from, sequence, age, counted) in [
                (40_000, 7, 0, 1),
                (40_000, 7, 0, 0),
                (40_001, 7, 0, 1),
                // Another connection in between does not make it a new one.
                (40_000, 7, 0, 0),
                (40_000, 8, 0, 1),
                (40_000, 8, LastCounted::SYN - HOUR / 3600, 0),
                // The same packet two seconds later is a new connection.
                (40_000, 8, LastCounted::SYN, 1),
            ] {
                kernel.age_counted(age);
                assert!(!kernel.drops(program, &syn(from, sequence)));
                let what = format!("{program} {ip:?} {from} {sequence} {age}");
                assert_eq!(more(&mut kernel, &mut before), (counted, counted), "{what}");
            }
        }
    }
}

#[test]
fn a_udp_flow_is_counted_once_a_minute() {
    for ip in Ip::BOTH {
        for program in programs() {
            let mut kernel = Kernel::load();
            granted(&mut kernel);
            let mut before = kernel.hits(SLOT);
            let datagram = ip.udp(&Udp::to(CLOSED)).frame();
            for (age, counted) in [(0, 1), (0, 0), (HOUR / 120, 0), (LastCounted::DATAGRAM, 1)] {
                kernel.age_counted(age);
                assert!(!kernel.drops(program, &datagram));
                let what = format!("{program} {ip:?} {age}");
                assert_eq!(more(&mut kernel, &mut before), (counted, counted), "{what}");
            }
            // TCP between the same ports is another flow.
            let from = Udp::to(CLOSED).source_port;
            assert!(!kernel.drops(program, &ip.tcp(&Tcp::syn(CLOSED).from_port(from)).frame()));
            assert_eq!(more(&mut kernel, &mut before), (1, 1), "{program} {ip:?}");
        }
    }
}

#[test]
fn the_guard_counts_what_the_packet_gate_did_not_see() {
    if lacks::kernel_lacks(lacks::GUARD_TEST_RUN) {
        return;
    }
    for (ip, guard) in Ip::BOTH.into_iter().flat_map(|ip| guards().map(move |name| (ip, name))) {
        for port in [tcp(CLOSED), udp(CLOSED)] {
            let mut kernel = Kernel::load();
            granted(&mut kernel);
            let mut before = kernel.hits(SLOT);
            let lookup = look_up(ip, port, 40_000);
            for (age, counted) in [(0, 1), (0, 0), (LastCounted::DATAGRAM, 1)] {
                kernel.age_counted(age);
                assert!(!kernel.refuses(guard, &lookup));
                let what = format!("{guard} {ip:?} {port:?} {age}");
                assert_eq!(more(&mut kernel, &mut before), (counted, counted), "{what}");
            }
            // A connection that both gates see is counted once.
            let frame = match port == tcp(CLOSED) {
                true => ip.tcp(&Tcp::syn(CLOSED).from_port(41_000)).frame(),
                false => ip.udp(&Udp { source_port: 41_000, ..Udp::to(CLOSED) }).frame(),
            };
            assert!(!kernel.drops(programs().next().unwrap(), &frame));
            assert!(!kernel.refuses(guard, &look_up(ip, port, 41_000)));
            assert_eq!(more(&mut kernel, &mut before), (1, 1), "{guard} {ip:?} {port:?}");
        }
    }
}

#[test]
fn connections_without_an_event_are_counted_and_packets_are_not() {
    for program in programs() {
        let mut kernel = Kernel::load();
        granted(&mut kernel);
        kernel.set(Settings { grant_events: 0, ..Settings::default() });
        let before = kernel.counters();
        for from in 40_000..40_005 {
            let granted = Ip::V4.tcp(&Tcp::syn(CLOSED).from_port(from)).frame();
            assert!(!kernel.drops(program, &granted));
        }
        // Dropped, and no event reports it.
        let denied = Ip::V4.tcp(&Tcp::syn(crate::fixture::DRAIN)).frame();
        assert!(kernel.drops(program, &denied));
        let moved = difference(&before, &kernel.counters());
        let counted = |counter: Counter| moved[counter.index() as usize];
        assert_eq!(counted(Counter::Unreported), 5, "{program}");
        assert_eq!(counted(Counter::EventsSuppressed), 6, "{program}");
        assert_eq!(counted(Counter::UnreportedRecorded), 0, "{program}");
    }
}

fn look_up(ip: Ip, port: PortKey, source_port: u16) -> Lookup {
    let (source, destination) = match ip {
        Ip::V4 => (CLIENT_V4.into(), SERVER_V4.into()),
        Ip::V6 => (CLIENT_V6.into(), SERVER_V6.into()),
    };
    let (source, destination) = (address(source), address(destination));
    Lookup { source, destination, source_port, port, loopback: None }
}
