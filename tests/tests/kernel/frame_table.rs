//! The frame table, over the host's decision and over both loaded programs: the same exact reason
//! everywhere, and a drop exactly where the reason drops.

use std::{collections::BTreeSet, env, fs, path::Path};

use jit_agent::kernel::datapath::{
    memory::MemoryTables,
    object::{PROGRAM_TC, PROGRAM_TC_L3, PROGRAM_XDP_FRAGS},
};
use jit_common::{Protocol, Reason, Settings};
use jit_tests::{
    frames::{Tcp, flag},
    kernel::{Kernel, MIN_FRAME, boot_nanos, programs, runs},
};

use crate::{
    cases::{self, Case},
    fixture::{CLOSED, Ip, OPEN, after_ethernet, closed, granted, hex, on_host, tcp, udp},
};

/// The table never becomes shorter than this.
const ROWS: usize = 250;
/// The table as data. The tests of `jit-common` read it without root and without a kernel.
const COMMITTED: &str = include_str!("../../../jit-common/tests/frames.tsv");
/// Its path from this crate.
const COMMITTED_AT: &str = "../jit-common/tests/frames.tsv";

#[test]
fn without_a_grant_every_case_ends_as_the_table_says() {
    check(&closed(), CLOSED, |case| case.closed);
}

#[test]
fn with_a_grant_every_case_ends_as_the_table_says() {
    check(&granted(boot_nanos()), CLOSED, |case| case.granted);
}

#[test]
fn at_an_unprotected_port_every_case_ends_as_the_table_says() {
    check(&closed(), OPEN, |case| case.unprotected);
}

#[test]
fn the_table_is_long_and_its_names_are_unique() {
    let cases = cases::all();
    assert!(cases.len() >= ROWS, "{} cases", cases.len());
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len());
    for reason in Reason::ALL {
        // These three need a session or a forwarded port: `sessions` and `grants` have them.
        let elsewhere = [Reason::Established, Reason::Expired, Reason::Forwarded];
        let found = cases
            .iter()
            .any(|case| [case.closed, case.granted, case.unprotected].contains(&reason));
        assert!(found != elsewhere.contains(&reason), "{reason:?}");
    }
}

/// Set `JIT_WRITE_TABLE` to write the table again after a change of the rows.
#[test]
fn the_committed_table_says_what_the_rows_say() {
    let mut table =
        String::from("# name\tclosed\tgranted\tunprotected\twhere it comes from\tframe\n");
    for Case { name, why, closed, granted, unprotected, frame } in cases::all() {
        let words = [closed, granted, unprotected].map(Reason::word).join("\t");
        table += &format!("{name}\t{words}\t{why}\t{}\n", hex(&frame(CLOSED)));
    }
    if env::var_os("JIT_WRITE_TABLE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED_AT);
        fs::write(&path, &table).unwrap();
        return;
    }
    for (committed, row) in COMMITTED.lines().zip(table.lines()) {
        assert_eq!(committed, row, "JIT_WRITE_TABLE=1 writes {COMMITTED_AT} again");
    }
    assert_eq!(COMMITTED.lines().count(), table.lines().count());
}

/// The program for devices without an Ethernet header begins at the network header. A test run puts
/// that after the Ethernet header and takes the protocol from it.
#[test]
fn without_an_ethernet_header_the_kernel_gives_the_hosts_answer() {
    let mut kernel = Kernel::load();
    let (mut compared, mut dropped) = (0, 0);
    for (tables, grants) in [(closed(), "none"), (granted(boot_nanos()), "some")] {
        kernel.fill(&tables);
        for case in runnable() {
            let frame = (case.frame)(CLOSED);
            if !runs(PROGRAM_TC, &frame) {
                continue;
            }
            let expected = after_ethernet(&frame, &tables, boot_nanos()).unwrap().reason;
            let outcome = kernel.run(PROGRAM_TC_L3, &frame);
            assert_eq!(outcome.reason, expected, "grants: {grants}: {}", case.name);
            assert_eq!(outcome.dropped, expected.drops(), "grants: {grants}: {}", case.name);
            compared += 1;
            dropped += u32::from(outcome.dropped);
        }
    }
    assert!(compared >= 500 && dropped >= 300, "{compared} compared, {dropped} dropped");
}

#[test]
fn observe_mode_decides_the_same_and_drops_nothing() {
    let mut kernel = Kernel::load();
    kernel.fill(&closed());
    kernel.set(Settings { observe: 1, ..Settings::default() });
    for case in runnable() {
        let frame = (case.frame)(CLOSED);
        for program in programs().filter(|program| runs(program, &frame)) {
            let outcome = kernel.run(program, &frame);
            assert_eq!(outcome.reason, case.closed, "{program}: {}", case.name);
            assert!(!outcome.dropped, "{program}: {}", case.name);
            assert_eq!(outcome.observed, case.closed.drops(), "{program}: {}", case.name);
        }
    }
}

#[test]
fn every_denied_frame_is_one_event_and_counts_for_its_port() {
    let mut kernel = Kernel::load();
    kernel.fill(&closed());
    kernel.set(Settings { drop_events: 1_000_000, ..Settings::default() });
    let mut denied = 0;
    for case in runnable() {
        let frame = (case.frame)(CLOSED);
        let expected = on_host(&frame, &closed(), boot_nanos());
        for program in programs().filter(|program| runs(program, &frame)) {
            let ports = [tcp(CLOSED), udp(CLOSED)].map(|port| kernel.port_counters(port));
            kernel.drops(program, &frame);
            let events = kernel.events();
            let after = [tcp(CLOSED), udp(CLOSED)].map(|port| kernel.port_counters(port));
            let Some(segment) = expected.segment else {
                assert_eq!((events, after), (vec![], ports), "{program}: {}", case.name);
                continue;
            };
            let [event] = events[..] else {
                panic!("{program}: {}: {events:?}", case.name);
            };
            denied += 1;
            assert_eq!(event.source, segment.source.bytes(), "{}", case.name);
            assert_eq!(event.destination, segment.destination.bytes(), "{}", case.name);
            assert_eq!(event.family, segment.source.family as u8, "{}", case.name);
            assert_eq!(event.protocol, segment.port.protocol as u8, "{}", case.name);
            assert_eq!((event.source_port, event.port), (segment.source_port, CLOSED));
            assert_eq!(event.reason, case.closed as u8, "{}", case.name);
            assert_eq!((event.slot, event.observed), (0, 0), "{}", case.name);
            assert!(event.time <= boot_nanos());
            let mut want = ports;
            let index = usize::from(segment.port.protocol == Protocol::Udp);
            want[index].packets[case.closed as usize] += 1;
            assert_eq!(after, want, "{program}: {}", case.name);
        }
    }
    assert!(denied > 100, "{denied} events");
}

#[test]
fn only_a_granted_opening_or_datagram_is_a_hit() {
    let mut kernel = Kernel::load();
    let tables = granted(boot_nanos());
    kernel.fill(&tables);
    kernel.set(Settings { grant_events: 1_000_000, ..Settings::default() });
    for case in runnable() {
        let frame = (case.frame)(CLOSED);
        let decision = on_host(&frame, &tables, boot_nanos());
        let opens = decision.reason == Reason::Granted
            && decision
                .segment
                .is_some_and(|segment| segment.opens || segment.port.protocol == Protocol::Udp);
        for program in programs().filter(|program| runs(program, &frame)) {
            let before = kernel.hits(3);
            kernel.forget_counted();
            kernel.drops(program, &frame);
            let events = kernel.events();
            assert_eq!(kernel.hits(3) - before, u64::from(opens), "{program}: {}", case.name);
            assert_eq!(events.len(), usize::from(opens), "{program}: {}", case.name);
            for event in events {
                assert_eq!((event.slot, event.reason), (3, Reason::Granted as u8));
            }
        }
    }
}

#[test]
fn every_flags_byte_is_judged_by_its_syn_and_ack_bits() {
    let mut kernel = Kernel::load();
    let (closed, granted) = (closed(), granted(boot_nanos()));
    for tables in [&closed, &granted] {
        kernel.fill(tables);
        for ip in Ip::BOTH {
            for flags in 0..=u8::MAX {
                for reserved in [0, 1, 15] {
                    let segment = Tcp::with_flags(CLOSED, flags).reserved(reserved);
                    let frame = ip.tcp(&segment).frame();
                    let expected = match flags & (flag::SYN | flag::ACK) {
                        _ if !tables.hosts.is_empty() => Reason::Granted,
                        flag::SYN => Reason::Denied,
                        _ => Reason::NoSession,
                    };
                    compare(&kernel, &format!("flags {flags:#04x}"), &frame, tables, expected);
                }
            }
        }
    }
}

/// A frame above one page has its tail in fragments. Only the program with multi-buffer support
/// sees such frames.
#[test]
fn a_frame_of_nine_thousand_bytes_is_decided_by_its_headers() {
    let frags = || programs().filter(|program| *program == PROGRAM_XDP_FRAGS);
    let mut kernel = Kernel::load();
    for (tables, expected) in [(closed(), Reason::Denied), (granted(boot_nanos()), Reason::Granted)]
    {
        kernel.fill(&tables);
        for ip in Ip::BOTH {
            let frame = ip.tcp(&Tcp::syn(CLOSED).payload(&[0; 8900])).frame();
            for program in frags() {
                assert_eq!(kernel.run(program, &frame).reason, expected, "{ip:?}");
            }
            assert_eq!(on_host(&frame, &tables, boot_nanos()).reason, expected, "{ip:?}");
        }
    }
}

fn check(tables: &MemoryTables, port: u16, expected: impl Fn(&Case) -> Reason) {
    let mut kernel = Kernel::load();
    kernel.fill(tables);
    for case in cases::all() {
        let what = format!("{} ({}) to port {port}", case.name, case.why);
        compare(&kernel, &what, &(case.frame)(port), tables, expected(&case));
    }
}

/// Fails unless the host and both programs give this reason and its verdict.
fn compare(kernel: &Kernel, what: &str, frame: &[u8], tables: &MemoryTables, expected: Reason) {
    let host = on_host(frame, tables, boot_nanos()).reason;
    assert_eq!(host, expected, "{what}, on the host: {}", hex(frame));
    if frame.len() < MIN_FRAME {
        // The kernel does not run a program over less than an Ethernet header.
        return;
    }
    for program in programs().filter(|program| runs(program, frame)) {
        let outcome = kernel.run(program, frame);
        assert_eq!(outcome.reason, expected, "{what}, in {program}: {}", hex(frame));
        assert_eq!(outcome.dropped, expected.drops(), "{what}, in {program}: {}", hex(frame));
    }
}

/// The cases that the kernel can run.
fn runnable() -> impl Iterator<Item = Case> {
    cases::all().into_iter().filter(|case| (case.frame)(CLOSED).len() >= MIN_FRAME)
}
