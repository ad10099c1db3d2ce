//! Grants for a number of connections: counted by the decision itself, used up, over restarts and
//! reboots; and slots, which stay with their grant.

use jit_agent::{
    gate::Target,
    kernel::datapath::{Datapath as _, memory::MemoryDatapath, probe::Syn},
    rules::{
        clock::{BootNanos, Now},
        ledger::Admission,
    },
};
use jit_common::{Event, MAX_CONNECTIONS, MAX_PLACES, Reason, Segment};
use jit_proto::{GrantId, Refusal, v1};

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, grant, later, port, v4},
};

const SOURCE: &str = "203.0.113.7";

fn limited(id: u8, source: &str, most: u32) -> v1::Grant {
    v1::Grant { max_connections: most, ..grant(id, &[source]) }
}

impl Host {
    /// A new connection from this port. The kernel reports it if it gets in.
    fn connects(&mut self, source_port: u16, now: Now) -> bool {
        let syn = Syn { source: v4(SOURCE), source_port, port: SSH, sequence: 7 };
        let gets_in = self.kernel.connect(&syn, now.boot);
        if gets_in {
            self.tell_connections(now);
        }
        gets_in
    }

    /// The events of a connection in every slot that lets anybody in.
    fn tell_connections(&mut self, now: Now) {
        let segment = Segment {
            source: v4(SOURCE),
            destination: v4("198.51.100.1"),
            source_port: 40_000,
            port: SSH,
            opens: true,
            sequence: 7,
        };
        for slot in 1..8 {
            let event = Event::new(now.boot.0, 1, false, slot, Reason::Granted, &segment);
            self.gate().saw_packet(&event, now);
        }
    }

    fn state(&mut self, id: u8, now: Now) -> (v1::State, u64) {
        let listed = self.gate().list(true, now);
        let found = listed.iter().find(|state| state.signed().unwrap().id.first() == Some(&id));
        found.map(|state| (state.state(), state.hits)).unwrap()
    }
}

#[test]
fn a_one_shot_grant_lets_one_connection_in() {
    let mut host = Host::start();
    assert_eq!(host.push(&limited(1, SOURCE, 1)), Ok(Admission::Active));
    assert_eq!(host.state(1, NOW), (v1::State::Active, 0));
    assert!(host.connects(40_000, NOW));
    assert_eq!(host.state(1, NOW), (v1::State::Exhausted, 1));
    assert!(host.connects(40_000, NOW), "the same SYN again is the same connection");
    assert!(!host.connects(40_001, NOW));
    assert_eq!(host.state(1, NOW), (v1::State::Exhausted, 1));
    // Its sessions are carried until its end: the entry stands.
    host.gate().advance(later(5_000));
    let tables = host.kernel.tables();
    assert_eq!(tables.hosts.values().filter(|entry| entry.limited.deadline != 0).count(), 1);
    host.gate().advance(later(10 * MINUTE));
    assert_eq!(host.state(1, later(10 * MINUTE)), (v1::State::Expired, 1));
    assert!(host.kernel.tables().hosts.is_empty());
}

#[test]
fn a_limit_never_shortens_a_grant_without_one() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    host.push(&v1::Grant { not_after_ms: NOW.wall.0 + 20 * MINUTE, ..limited(2, SOURCE, 1) })
        .unwrap();
    for source_port in 0..5 {
        assert!(host.connects(40_000 + source_port, NOW));
    }
    assert_eq!(host.state(2, NOW), (v1::State::Active, 0), "what needs no limit uses none up");
    let after = later(11 * MINUTE);
    host.gate().advance(after);
    assert!(host.connects(41_000, after) && !host.connects(41_001, after));
}

#[test]
fn grants_with_limits_add_up() {
    for (first, second) in
        [(SOURCE, SOURCE), (SOURCE, "203.0.113.0/24"), ("203.0.113.0/24", SOURCE)]
    {
        let mut host = Host::start();
        host.push(&limited(1, first, 1)).unwrap();
        host.push(&v1::Grant { not_after_ms: NOW.wall.0 + 9 * MINUTE, ..limited(2, second, 2) })
            .unwrap();
        let mut connections = 0;
        for second in 0..20_i64 {
            let now = later(second * 1_000);
            host.gate().advance(now);
            connections += u32::from(host.connects(40_000 + u16::try_from(second).unwrap(), now));
        }
        assert_eq!(connections, 3, "{first} {second}");
    }
}

#[test]
fn the_last_handshake_keeps_its_place_for_a_moment() {
    let mut host = Host::start();
    let slot_at = |host: &Host| host.kernel.tables().hosts.values().next().unwrap().limited.slot;
    host.push(&limited(1, SOURCE, 1)).unwrap();
    host.push(&v1::Grant { not_after_ms: NOW.wall.0 + MINUTE, ..limited(2, SOURCE, 1) }).unwrap();
    assert_eq!(slot_at(&host), 1, "the one that lasts longest comes first");
    assert!(host.connects(40_000, NOW));
    host.gate().advance(later(1_900));
    assert_eq!(slot_at(&host), 1);
    assert!(host.connects(40_000, later(1_900)), "its SYN again");
    assert!(host.gate().advance(later(1_900)).as_millis() <= 100);
    host.gate().advance(later(2_000));
    assert_eq!(slot_at(&host), 2);
    // When the second has ended, the sessions of the first are carried again, and nothing else.
    host.gate().advance(later(MINUTE));
    assert_eq!(slot_at(&host), 1);
    assert!(!host.connects(40_001, later(MINUTE)));
}

#[test]
fn what_no_event_reported_is_found_in_the_tick() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 2)).unwrap();
    host.kernel.count(1, 2);
    assert_eq!(host.state(1, NOW), (v1::State::Active, 2));
    host.gate().tick(NOW);
    assert_eq!(host.state(1, NOW), (v1::State::Exhausted, 2));
}

#[test]
fn after_a_restart_a_slot_goes_on_counting_for_its_grant() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 2)).unwrap();
    host.push(&grant(2, &["203.0.113.8"])).unwrap();
    assert!(host.connects(40_000, NOW));
    host.kernel.count(2, 5);
    host.kernel.take_writes();
    host.restart("boot-1", later(MINUTE));
    assert_eq!(host.kernel.take_writes(), [], "nothing is written again");
    assert_eq!(host.state(1, later(MINUTE)), (v1::State::Active, 1));
    assert_eq!(host.state(2, later(MINUTE)), (v1::State::Active, 5));
    assert!(host.connects(40_000, later(MINUTE)), "the connection is known");
    assert!(host.connects(40_001, later(MINUTE)));
    assert!(!host.connects(40_002, later(MINUTE)));
    host.restart("boot-1", later(2 * MINUTE));
    assert_eq!(host.state(1, later(2 * MINUTE)), (v1::State::Exhausted, 2));
    assert!(!host.connects(40_003, later(2 * MINUTE)));
}

#[test]
fn after_a_reboot_only_the_connections_are_left_that_were_not_used() {
    for used in 0..=3_u16 {
        let mut host = Host::start();
        host.push(&limited(1, SOURCE, 3)).unwrap();
        for source_port in 0..used {
            assert!(host.connects(40_000 + source_port, NOW));
        }
        host.gate().advance(NOW);
        for boot in 2..4_u8 {
            host.kernel = MemoryDatapath::default();
            let now = Now { boot: BootNanos(u64::from(boot)), ..later(MINUTE) };
            host.restart(&format!("boot-{boot}"), now);
            let state = if used == 3 { v1::State::Exhausted } else { v1::State::Active };
            assert_eq!(host.state(1, now), (state, u64::from(used)));
        }
        let now = Now { boot: BootNanos(4), ..later(MINUTE) };
        let more = (0..5).filter(|n| host.connects(50_000 + n, now)).count();
        assert_eq!(more, usize::from(3 - used));
    }
}

#[test]
fn tables_that_were_lost_give_no_connection_back() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 1)).unwrap();
    assert!(host.connects(40_000, NOW));
    host.gate().advance(NOW);
    // Detached and started again: the same boot, other tables.
    host.kernel = MemoryDatapath::default();
    host.restart("boot-1", later(1));
    assert_eq!(host.state(1, later(1)), (v1::State::Exhausted, 1));
    assert!(!host.connects(40_001, later(1)));
}

#[test]
fn a_slot_that_had_another_grant_starts_from_zero() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 1)).unwrap();
    assert!(host.connects(40_000, NOW));
    let generation = host.kernel.slot(1).generation;
    host.gate().revoke(&Target::All, "test", "", NOW);
    assert_eq!(host.state(1, NOW), (v1::State::Revoked, 1));
    // Killed when the slot was opened for the next grant, which the disk never saw.
    host.kernel.clone().open_slot(1, 7).unwrap();
    assert_ne!(host.kernel.slot(1).generation, generation);
    host.restart("boot-1", NOW);
    let next = v1::Grant { issued_at_ms: NOW.wall.0 + 1, ..limited(2, SOURCE, 1) };
    host.push(&next).unwrap();
    assert!(host.connects(40_000, NOW), "the same ports as a connection of the grant before");
    assert_eq!(host.state(2, NOW), (v1::State::Exhausted, 1));
}

#[test]
fn a_limit_is_for_tcp_and_not_above_1024() {
    let mut host = Host::start();
    let udp = v1::PortRange { protocol: v1::Protocol::Udp.into(), first: 22, last: 22 };
    for (grant, expected) in [
        (limited(1, SOURCE, 1024), Ok(Admission::Active)),
        (limited(2, SOURCE, 1025), Err(Refusal::Malformed)),
        (limited(3, SOURCE, u32::MAX), Err(Refusal::Malformed)),
        (
            v1::Grant { ports: vec![port(22), udp], ..limited(4, SOURCE, 1) },
            Err(Refusal::Malformed),
        ),
    ] {
        assert_eq!(host.push(&grant), expected, "{}", grant.max_connections);
    }
}

#[test]
fn connections_that_no_event_reported_are_in_the_audit_once() {
    let mut host = Host::start();
    let sums = |host: &mut Host| {
        let records = host.records().into_iter().filter(|record| record["code"] == "C002");
        records.map(|record| record["count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    host.gate().tick(NOW);
    assert!(sums(&mut host).is_empty());
    host.kernel.let_in_unreported(7);
    host.gate().tick(NOW);
    host.gate().tick(NOW);
    assert_eq!(sums(&mut host), [7]);
    // While no agent was running.
    host.kernel.let_in_unreported(2);
    host.restart("boot-1", NOW);
    assert_eq!(sums(&mut host), [7, 2]);
}

/// The event of a connection from just before the end is read after the end.
#[test]
fn a_connection_is_reported_with_its_grant_also_when_that_has_ended() {
    for revoked in [false, true] {
        let mut host = Host::start();
        host.push(&grant(1, &[SOURCE])).unwrap();
        let now = if revoked { NOW } else { later(10 * MINUTE) };
        if revoked {
            host.gate().revoke(&Target::All, "test", "", NOW);
        } else {
            host.gate().advance(now);
        }
        host.tell_connections(now);
        let records = host.records();
        let reported: Vec<_> = records.iter().filter(|record| record["code"] == "C001").collect();
        // One is of that grant; nobody had the other slots.
        assert_eq!(reported.len(), 7);
        let of_grant: Vec<_> =
            reported.iter().filter(|record| record["grant"].is_string()).collect();
        assert_eq!(of_grant.len(), 1, "revoked {revoked}");
        assert_eq!(of_grant[0]["requester"], "ana@example.org");
    }
}

/// What all grants with a limit may let in together has room in the kernel: a grant for which there
/// is none is refused, and says so; one that ends makes room.
#[test]
fn no_more_connections_are_given_out_than_the_kernel_has_room_for() {
    let mut host = Host::start();
    let last = u8::try_from(MAX_PLACES / MAX_CONNECTIONS).unwrap();
    let many = |id: u8, most| limited(id, &format!("203.0.113.{id}"), most);
    for id in 1..=last {
        assert_eq!(host.push(&many(id, MAX_CONNECTIONS)), Ok(Admission::Active), "{id}");
    }
    assert_eq!(host.push(&many(100, 1)), Err(Refusal::Capacity));
    assert_eq!(host.push(&grant(101, &["203.0.113.101"])), Ok(Admission::Active), "no limit");
    // In the place of one that it replaces there is room, and no more than that.
    let successor = |id, most| v1::Grant { replaces: many(1, 1).id, ..many(id, most) };
    assert_eq!(host.push(&successor(102, MAX_CONNECTIONS)), Ok(Admission::Active));
    assert_eq!(host.push(&many(103, 1)), Err(Refusal::Capacity));
    host.restart("boot-1", NOW);
    assert_eq!(host.push(&many(103, 1)), Err(Refusal::Capacity), "restored ones count");
    let one = Target::Ids(vec![GrantId(many(2, 1).id.as_ref().try_into().unwrap())]);
    host.gate().revoke(&one, "test", "", NOW);
    assert_eq!(host.push(&many(104, MAX_CONNECTIONS - 1)), Ok(Admission::Active));
    assert_eq!(host.push(&many(105, 2)), Err(Refusal::Capacity));
    assert_eq!(host.push(&many(105, 1)), Ok(Admission::Active));
}

#[test]
fn connections_of_a_grant_that_is_over_take_no_room() {
    let taken = |host: &Host| host.kernel.tables().taken.borrow().len();
    for over in ["revoked", "expired", "replaced", "unseen"] {
        let mut host = Host::start();
        host.push(&limited(1, SOURCE, 2)).unwrap();
        host.push(&limited(2, "203.0.113.8", 1)).unwrap();
        assert!(host.connects(40_000, NOW) && taken(&host) == 1);
        let mut now = NOW;
        match over {
            "revoked" => _ = host.gate().revoke(&Target::All, "test", "", NOW),
            "expired" => now = later(10 * MINUTE),
            "replaced" => {
                let next = v1::Grant { replaces: limited(1, SOURCE, 1).id, ..grant(3, &[SOURCE]) };
                host.push(&next).unwrap();
            }
            _ => host.restart("boot-1", later(10 * MINUTE)),
        }
        if over != "unseen" {
            assert_eq!(taken(&host), 1, "{over}");
            host.gate().advance(now);
        }
        assert_eq!(taken(&host), 0, "{over}");
    }
}

/// A connection that only the kernel has counted: no agent ran.
fn unseen(host: &Host, source_port: u16) -> bool {
    let syn = Syn { source: v4(SOURCE), source_port, port: SSH, sequence: 7 };
    host.kernel.connect(&syn, NOW.boot)
}

#[test]
fn what_another_versions_tables_counted_is_used_up() {
    for (before, during) in [(1, 0), (0, 1), (1, 1)] {
        let mut host = Host::start();
        host.push(&limited(1, SOURCE, 3)).unwrap();
        for source_port in 0..before {
            assert!(unseen(&host, 40_000 + source_port));
        }
        host.kernel.change_layout(true);
        host.kernel.count_elsewhere(during);
        host.restart("boot-1", NOW);
        let used = u64::from(before) + during;
        assert_eq!(host.state(1, NOW), (v1::State::Active, used), "{before} and {during}");
        // The next run counts on from there.
        host.restart("boot-1", NOW);
        assert_eq!(host.state(1, NOW), (v1::State::Active, used), "{before} and {during}");
        let mut left = 3 - used;
        for source_port in 41_000.. {
            if !host.connects(source_port, NOW) {
                break;
            }
            left = left.checked_sub(1).expect("no more than the limit");
        }
        assert_eq!(left, 0, "{before} and {during}");
    }
}

/// While both gates are in force only the one that was there lets anybody in.
#[test]
fn two_gates_at_once_let_in_no_more_than_the_limit() {
    for during in 0..=3 {
        let mut host = Host::start();
        host.push(&limited(1, SOURCE, 3)).unwrap();
        host.kernel.change_layout(true);
        host.kernel.count_elsewhere(during);
        for source_port in 40_000..40_003 {
            let syn = Syn { source: v4(SOURCE), source_port, port: SSH, sequence: 7 };
            host.kernel.come_meanwhile(syn, NOW.boot);
        }
        host.restart("boot-1", NOW);
        assert_eq!(host.kernel.let_in_meanwhile(), 0, "{during}");
        let after = (41_000..41_005).filter(|port| host.connects(*port, NOW)).count();
        assert_eq!(after as u64, 3 - during, "{during}: what is left, and after that nothing");
    }
}

/// Who has no limit is not held back.
#[test]
fn a_grant_without_a_limit_opens_while_two_gates_are_in_force() {
    let mut host = Host::start();
    host.push(&grant(1, &[SOURCE])).unwrap();
    host.kernel.change_layout(true);
    let syn = Syn { source: v4(SOURCE), source_port: 40_000, port: SSH, sequence: 7 };
    host.kernel.come_meanwhile(syn, NOW.boot);
    host.restart("boot-1", NOW);
    assert_eq!(host.kernel.let_in_meanwhile(), 1);
}

#[test]
fn a_takeover_that_uses_a_grant_up_ends_it() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 1)).unwrap();
    host.kernel.change_layout(true);
    host.kernel.count_elsewhere(1);
    host.restart("boot-1", NOW);
    assert_eq!(host.state(1, NOW), (v1::State::Exhausted, 1));
    assert!(!host.connects(40_000, NOW));
}

#[test]
fn what_tables_that_cannot_be_read_may_have_counted_is_used_up() {
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 3)).unwrap();
    host.push(&grant(2, &["203.0.113.9"])).unwrap();
    host.kernel.change_layout(false);
    host.restart("boot-1", NOW);
    assert_eq!(host.state(1, NOW).0, v1::State::Exhausted);
    assert!(!host.connects(40_000, NOW));
    assert_eq!(host.state(2, NOW), (v1::State::Active, 0), "without a limit");
    assert!(host.kernel.opens(SSH, v4("203.0.113.9"), NOW.boot));
    // A grant of an earlier boot was counted by no gate of this one.
    let mut host = Host::start();
    host.push(&limited(1, SOURCE, 3)).unwrap();
    host.kernel.change_layout(false);
    host.restart("boot-2", NOW);
    assert!(host.connects(40_000, NOW));
}
