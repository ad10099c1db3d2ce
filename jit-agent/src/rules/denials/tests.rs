use jit_common::Protocol;

use super::*;
use crate::rules::clock::BootNanos;

const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
const DNS: PortKey = PortKey { protocol: Protocol::Udp, port: 53 };

fn at(millis: u64) -> Now {
    let wall = WallTime(1_780_272_000_000 + i64::try_from(millis).unwrap());
    Now { wall, boot: BootNanos(millis * 1_000_000) }
}

fn denied(number: u32, port: PortKey) -> Denial {
    Denial { source: Address::v4(number.to_be_bytes()), port, reason: Reason::Denied }
}

fn reading(dropped: u64, undelivered: u64) -> Reading {
    Reading { dropped, undelivered, ports: [((SSH, Reason::Denied), dropped)].into() }
}

fn all(history: &History) -> Vec<(Denial, Count)> {
    history.matching(&Query { top: usize::MAX, ..Query::default() }).0
}

/// A stream of numbers (xorshift64) that is the same in each run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One packet in ten is of the heaviest source, one in fifty of the second; all others are of a
/// million sources. The kernel reports the first 256 packets of each second.
#[test]
fn the_heaviest_of_a_million_sources_is_right_within_5_percent() {
    let (mut history, mut state) = (History::default(), 0x9e37_79b9_7f4a_7c15);
    let (mut dropped, mut heaviest, mut reported) = (0_u64, 0_u64, 0_u64);
    history.read(reading(0, 0), at(0));
    for second in 0..240_u64 {
        let packets = 5_000 + random(&mut state) % 10_000;
        for number in 0..packets {
            let dice = random(&mut state) % 1_000;
            let source = match dice {
                0..100 => 1,
                100..120 => 2,
                _ => 1_000 + u32::try_from(random(&mut state) % 1_000_000).unwrap(),
            };
            heaviest += u64::from(source == 1);
            if number < 256 {
                reported += 1;
                history.see(denied(source, SSH), false, at(second * 1_000));
            }
        }
        dropped += packets;
        history.read(reading(dropped, dropped - reported), at(second * 1_000 + 900));
    }
    let denials = all(&history);
    assert_eq!(denials.len(), HELD);
    let (first, second) = (denials[0], denials[1]);
    assert_eq!((first.0, second.0), (denied(1, SSH), denied(2, SSH)));
    let off = first.1.estimate().abs_diff(heaviest);
    println!("{heaviest} packets, {} estimated", first.1.estimate());
    assert!(off * 20 <= heaviest, "{} of {heaviest}", first.1.estimate());
    assert_eq!(history.totals().recorded, reported);
    assert_eq!(history.totals().unrecorded(), dropped - reported);
    let [(source, _)] = history.recent().top(1, at(240_000))[..] else { panic!() };
    assert_eq!(source, denied(1, SSH).source);
}

#[test]
fn while_all_packets_are_reported_counts_are_exact() {
    let mut history = History::default();
    history.read(reading(100, 7), at(0));
    for second in 1..=5 {
        history.see(denied(1, SSH), false, at(second * 1_000));
    }
    assert_eq!(all(&history)[0].1.estimate(), 5, "before a reading, too");
    // One packet was counted, and its event comes later.
    history.read(reading(106, 7), at(6_000));
    let (_, count) = all(&history)[0];
    assert_eq!((count.seen, count.error, count.estimate()), (5, 0, 5));
    assert_eq!((count.first, count.last), (at(1_000).wall, at(5_000).wall));
    assert_eq!(history.totals().unrecorded(), 1);
}

/// A packet at one port does not stand for packets at another.
#[test]
fn each_port_and_reason_is_scaled_by_itself() {
    let mut history = History::default();
    history.read(Reading::default(), at(0));
    for _ in 0..4 {
        history.see(denied(1, SSH), false, at(1));
    }
    history.see(denied(2, DNS), true, at(2));
    let ports = [((SSH, Reason::Denied), 400), ((DNS, Reason::Denied), 1)].into();
    history.read(Reading { dropped: 401, undelivered: 396, ports }, at(3));
    let found: Vec<_> = all(&history).iter().map(|(_, count)| count.estimate()).collect();
    assert_eq!(found, [400, 1]);
    assert_eq!(history.recent().dropped(at(4)), 401);
    assert_eq!(history.recent().top(5, at(4)).len(), 2);
    assert_eq!(history.recent().ports(at(4)).len(), 2);
    assert_eq!(history.recent().dropped(at(301_000)), 0, "five minutes later");
}

#[test]
fn a_restart_keeps_all_and_counts_what_was_dropped_meanwhile() {
    let mut history = History::default();
    history.read(reading(10, 0), at(0));
    let mapped = Address::v6([0x20; 16]);
    history.see(Denial { source: mapped, port: DNS, reason: Reason::Expired }, true, at(5));
    history.see(denied(7, SSH), false, at(6));
    history.read(reading(12, 0), at(7));
    assert!(history.has_changed());
    let stored = history.save();
    assert!(!history.has_changed(), "nothing is new then");
    let mut after = History::default();
    after.restore(stored);
    let counts = |history| {
        let counts = all(history).into_iter();
        counts
            .map(|(d, c)| (d, c.seen, c.estimate(), c.first, c.last, c.observed))
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(&after), counts(&history));
    after.read(reading(15, 0), at(8));
    assert_eq!(after.totals(), Totals { counted: 5, dropped: 15, ..history.totals() });
    // The tables were made anew.
    after.read(reading(2, 0), at(9));
    assert_eq!(after.totals().unrecorded(), 5);
}

/// While no agent ran the kernel counted packets, and held the events of them. The next one reads the
/// counters first, and then takes the events.
#[test]
fn the_last_minutes_are_never_fewer_packets_than_their_sources_sent() {
    for events_first in [false, true] {
        let mut history = History::default();
        if !events_first {
            history.read(reading(100, 0), at(1));
        }
        for _ in 0..100 {
            history.see(denied(7, SSH), false, at(2));
        }
        history.read(reading(100, 0), at(3));
        let recent = history.recent();
        let top = [(denied(7, SSH).source, 100)];
        assert_eq!(recent.top(1, at(4)), top);
        assert_eq!(recent.dropped(at(4)), 100);
        assert_eq!(recent.ports(at(4)), [((SSH, Reason::Denied), 100)].into());
        // An event that comes before its packet is counted is no second packet.
        history.see(denied(7, SSH), false, at(5));
        history.read(reading(100, 0), at(6));
        history.read(reading(101, 0), at(7));
        assert_eq!(history.recent().dropped(at(8)), 101);
    }
}

#[test]
fn what_is_asked_for_is_found() {
    let mut history = History::default();
    history.see(denied(0xc000_0201, SSH), false, at(0));
    history.see(denied(0xc000_0202, DNS), false, at(1_000));
    let found = |query: Query| history.matching(&Query { top: 9, ..query }).1;
    let source = |text: &str| Query { source: Some(text.parse().unwrap()), ..Query::default() };
    assert_eq!(found(Query::default()), 2);
    assert_eq!(found(source("192.0.2.0/24")), 2);
    assert_eq!(found(source("192.0.2.2")), 1);
    assert_eq!(found(source("2001:db8::/32")), 0);
    assert_eq!(found(Query { port: Some("53/udp".parse().unwrap()), ..Query::default() }), 1);
    assert_eq!(found(Query { since: Some(at(500).wall), ..Query::default() }), 1);
    assert_eq!(found(Query { requester: Some("ana".into()), ..Query::default() }), 0);
}
