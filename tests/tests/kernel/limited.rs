//! Grants for a number of connections: the kernel counts each connection once, whatever program saw
//! its packets and whatever CPU ran it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Claim, GrantEntry, HostKey, Lookup, Reason, Settings, Slot};
use jit_tests::{
    frames::{Tcp, flag},
    kernel::{Kernel, boot_nanos, guards, programs, runs},
    lacks,
};

use crate::{
    fixture::{
        CLIENT_V4, CLIENT_V6, CLOSED, DRAIN, HOUR, Ip, SERVER_V4, address, closed, on_host, tcp,
    },
    sessions::{listener, loopback},
};

/// Slots of the grant for the client's address and of the grant for its network.
const HOST: u32 = 7;
const NETWORK: u32 = 8;

#[test]
fn each_connection_counts_once_and_the_last_one_leaves_no_room() {
    for ip in Ip::BOTH {
        for program in programs() {
            each_connection_counts_once(ip, program, &mut Kernel::load());
        }
    }
}

/// The packet gate's look-ups of sessions reach the guard if there is a listener.
#[test]
fn each_connection_counts_once_with_the_guard_attached_too() {
    for ip in Ip::BOTH {
        for (guard, program) in guards().flat_map(|guard| programs().map(move |name| (guard, name)))
        {
            loopback().run(|| {
                let _listener = listener(ip, CLOSED);
                let mut kernel = Kernel::load();
                let _guard = kernel.attach_guard(guard);
                each_connection_counts_once(ip, program, &mut kernel);
            });
        }
    }
}

fn each_connection_counts_once(ip: Ip, program: &str, kernel: &mut Kernel) {
    let tables = limited(&[(HOST, 2)]);
    fill(kernel, &tables);
    for (source_port, sequence, flags, expected) in [
        (40_000, 1, flag::ACK, Reason::NoSession),
        (40_000, 1, flag::SYN, Reason::Granted),
        (40_000, 1, flag::SYN, Reason::Granted),
        (40_000, 2, flag::ACK, Reason::Granted),
        (40_001, 1, flag::ACK, Reason::NoSession),
        // The same ports again, but not the same connection.
        (40_000, 9, flag::SYN, Reason::Granted),
        (40_001, 1, flag::SYN, Reason::Denied),
        (40_000, 20, flag::SYN, Reason::Denied),
        (40_000, 9, flag::SYN | 0xc0, Reason::Granted),
        (40_001, 1, flag::ACK, Reason::NoSession),
        (40_000, 10, flag::ACK, Reason::Granted),
    ] {
        let segment = Tcp { sequence, ..Tcp::with_flags(CLOSED, flags).from_port(source_port) };
        let frame = ip.tcp(&segment).frame();
        let what = format!("{program} {ip:?} {source_port} {sequence} {flags:#x}");
        assert_eq!(on_host(&frame, &tables, boot_nanos()).reason, expected, "host {what}");
        assert_eq!(kernel.run(program, &frame).reason, expected, "{what}");
    }
    assert_eq!(kernel.hits(HOST), 2, "{program}");
    let events = kernel.events();
    let granted = |event: &&jit_common::Event| event.reason == Reason::Granted as u8;
    assert_eq!(events.iter().filter(granted).count(), 2, "{program}: one event for each");
}

#[test]
fn a_syn_that_is_sent_again_after_its_handshake_is_a_new_connection() {
    for ip in Ip::BOTH {
        for program in programs() {
            let tables = limited(&[(HOST, 1)]);
            let kernel = loaded(&tables);
            for (sequence, flags, expected) in [
                (70, flag::SYN, Reason::Granted),
                // The answer was lost.
                (70, flag::SYN, Reason::Granted),
                (71, flag::ACK, Reason::Granted),
                (70, flag::SYN, Reason::Denied),
                (71, flag::SYN, Reason::Denied),
                (0, flag::SYN, Reason::Denied),
                // The last step was lost.
                (71, flag::ACK, Reason::Granted),
            ] {
                let segment = Tcp { sequence, ..Tcp::with_flags(CLOSED, flags) };
                let frame = ip.tcp(&segment).frame();
                let what = format!("{program} {ip:?} {sequence} {flags:#x}");
                assert_eq!(on_host(&frame, &tables, boot_nanos()).reason, expected, "host {what}");
                assert_eq!(kernel.run(program, &frame).reason, expected, "{what}");
            }
            assert_eq!(kernel.hits(HOST), 1, "{program}");
        }
    }
}

/// The guard cannot distinguish a new connection from a SYN that is sent again, or from the last
/// step of a handshake with SYN cookies. It lets a few of them pass.
#[test]
fn the_guard_lets_a_connection_that_was_counted_pass_a_few_times() {
    if lacks::kernel_lacks(lacks::GUARD_TEST_RUN) {
        return;
    }
    for guard in guards() {
        for seen_by_the_packet_gate in [false, true] {
            let tables = limited(&[(HOST, 2)]);
            let kernel = loaded(&tables);
            let (source, destination) = (address(CLIENT_V4.into()), address(SERVER_V4.into()));
            let lookup = |source_port| {
                let port = tcp(CLOSED);
                Lookup { source, destination, source_port, port, loopback: None }
            };
            if seen_by_the_packet_gate {
                let frame = Ip::V4.tcp(&Tcp::syn(CLOSED)).frame();
                assert!(!kernel.drops(programs().next().unwrap(), &frame));
                on_host(&frame, &tables, boot_nanos());
            }
            let same = lookup(Tcp::syn(CLOSED).source_port);
            let passed = (0..20).take_while(|_| !kernel.refuses(guard, &same)).count();
            // Two places, each for three look-ups.
            assert_eq!(passed, 6, "{guard} {seen_by_the_packet_gate}");
            assert_eq!(kernel.hits(HOST), 2, "{guard}");
            let passes = |_: &usize| {
                let decision = jit_common::guard(&same, &tables, boot_nanos).unwrap();
                !decision.reason.drops()
            };
            assert_eq!((0..20).take_while(passes).count(), 6, "host");
            assert!(kernel.refuses(guard, &lookup(9)), "{guard}: another connection is refused");
        }
    }
}

#[test]
fn an_exhausted_grant_does_not_hide_another_one() {
    let tables = limited(&[(HOST, 1), (NETWORK, 1)]);
    let kernel = loaded(&tables);
    let mut ports = 40_000_u16..;
    for (program, left) in programs().zip([true, true, false]) {
        let segment = Tcp::syn(CLOSED).from_port(ports.next().unwrap());
        let reason = kernel.run(program, &Ip::V4.tcp(&segment).frame()).reason;
        assert_eq!(reason == Reason::Granted, left, "{program}: {reason:?}");
    }
    assert_eq!((kernel.hits(HOST), kernel.hits(NETWORK)), (1, 1));
}

#[test]
fn no_grant_lets_more_in_than_its_limit_however_many_cpus_ask() {
    const LIMIT: u32 = 300;
    let kernel = loaded(&limited(&[(HOST, LIMIT)]));
    let let_in = AtomicU32::new(0);
    let asked: Vec<_> = programs().collect();
    thread::scope(|scope| {
        for (index, first) in (0..4_usize).zip((10_000_u16..).step_by(1_000)) {
            let (kernel, let_in, program) = (&kernel, &let_in, asked[index % asked.len()]);
            scope.spawn(move || {
                for source_port in first..first + 200 {
                    let frame = Ip::V4.tcp(&Tcp::syn(CLOSED).from_port(source_port)).frame();
                    // A SYN may be refused though there is room, because others were faster: it is
                    // sent again.
                    let opened = (0..3).any(|_| !kernel.drops(program, &frame));
                    let_in.fetch_add(u32::from(opened), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!((let_in.into_inner(), kernel.hits(HOST)), (LIMIT, u64::from(LIMIT)));
}

#[test]
fn the_next_grant_of_a_slot_starts_from_zero() {
    let mut tables = limited(&[(HOST, 1)]);
    let mut kernel = loaded(&tables);
    let frame = Ip::V4.tcp(&Tcp::syn(CLOSED)).frame();
    let program = programs().next().unwrap();
    assert!(!kernel.drops(program, &frame));
    tables.slots.insert(HOST, Slot { hits: 0, limit: 1, generation: 2 });
    kernel.reslot(HOST, tables.slots[&HOST]);
    assert!(!kernel.drops(program, &frame), "counted from zero");
    assert_eq!(kernel.hits(HOST), 1);
    let other = Ip::V4.tcp(&Tcp::syn(CLOSED).from_port(9)).frame();
    assert!(kernel.drops(program, &other));
}

#[test]
fn a_limit_of_zero_or_a_slot_that_does_not_exist_lets_nobody_in() {
    let mut tables = limited(&[(HOST, 0)]);
    let frame = Ip::V4.tcp(&Tcp::syn(CLOSED)).frame();
    for slot in [HOST, u32::MAX] {
        for entry in tables.hosts.values_mut() {
            entry.limited.slot = slot;
        }
        let kernel = loaded(&tables);
        for program in programs().filter(|program| runs(program, &frame)) {
            assert_eq!(kernel.run(program, &frame).reason, Reason::Denied, "{program} {slot}");
        }
    }
}

#[test]
fn datagrams_need_a_grant_without_a_limit() {
    let mut tables = limited(&[(HOST, 5)]);
    for (key, entry) in tables.hosts.clone() {
        tables.hosts.insert(HostKey { protocol: 17, ..key }, entry);
    }
    let kernel = loaded(&tables);
    let frame = Ip::V4.udp(&jit_tests::frames::Udp::to(CLOSED)).frame();
    for program in programs() {
        assert_eq!(kernel.run(program, &frame).reason, Reason::Denied, "{program}");
    }
}

#[test]
fn sessions_of_a_cut_grant_end_on_a_port_that_drains() {
    let mut tables = closed();
    let claim = Claim { cut: 1, ..Claim::until(boot_nanos(), HOST) };
    for source in [CLIENT_V4.into(), CLIENT_V6.into()] {
        let key = HostKey::new(address(source), tcp(DRAIN));
        tables.hosts.insert(key, GrantEntry { unlimited: claim, ..GrantEntry::default() });
        for port in tables.ports.values_mut() {
            // Sessions that end elsewhere need no socket here.
            port.forwarded = 1;
        }
    }
    let kernel = loaded(&tables);
    for ip in Ip::BOTH {
        let frame = ip.tcp(&Tcp::with_flags(DRAIN, flag::ACK)).frame();
        assert_eq!(on_host(&frame, &tables, boot_nanos()).reason, Reason::Expired);
        for program in programs() {
            assert_eq!(kernel.run(program, &frame).reason, Reason::Expired, "{program}");
        }
    }
}

/// Grants of the client to the closed port, by their slots: for its address, or for its network.
fn limited(grants: &[(u32, u32)]) -> MemoryTables {
    let mut tables = closed();
    for (slot, limit) in grants {
        tables.slots.insert(*slot, Slot { hits: 0, limit: *limit, generation: 1 });
        let claim = Claim::until(boot_nanos() + HOUR, *slot);
        let entry = GrantEntry { limited: claim, ..GrantEntry::default() };
        for (source, bits) in [(CLIENT_V4.into(), 24), (CLIENT_V6.into(), 64)] {
            let source = address(source);
            if *slot == HOST {
                tables.hosts.insert(HostKey::new(source, tcp(CLOSED)), entry);
            } else {
                let network = jit_proto::prefix::masked(source, bits);
                tables.prefixes.insert((tcp(CLOSED), network, bits), entry);
            }
        }
    }
    tables
}

fn loaded(tables: &MemoryTables) -> Kernel {
    let mut kernel = Kernel::load();
    fill(&mut kernel, tables);
    kernel
}

fn fill(kernel: &mut Kernel, tables: &MemoryTables) {
    kernel.fill(tables);
    kernel.set(Settings { grant_events: 1_000_000, ..Settings::default() });
}
