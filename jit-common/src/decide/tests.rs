//! The decision with tables of one entry each.

extern crate std;

use core::cell::{Cell, RefCell};
use std::vec::Vec;

use super::*;
use crate::{Claim, session_has_ended};

const CLIENT: [u8; 4] = [192, 0, 2, 7];
const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const NOW: u64 = 1_000;

struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// One host grant, one prefix of each family, one session at most; port 22 of both protocols.
#[derive(Default)]
struct One {
    rule: PortRule,
    host: Option<GrantEntry>,
    prefix_v4: Option<GrantEntry>,
    prefix_v6: Option<GrantEntry>,
    session: bool,
    /// This host opened it.
    own: bool,
    /// What is asked about is UDP, not TCP.
    udp: bool,
    /// What grants with a limit say, by slot.
    admissions: Vec<Admission>,
    /// A time of a moment ago.
    lately: Option<u64>,
    /// The places that the summary has; `None`: all.
    places: Option<Vec<Place>>,
    /// Slots in which a handshake ended.
    done: RefCell<Vec<u32>>,
}

impl One {
    const fn port(&self) -> PortKey {
        let protocol = if self.udp { Protocol::Udp } else { Protocol::Tcp };
        PortKey { protocol, port: 22 }
    }
}

fn until(deadline: u64, slot: u32) -> Option<GrantEntry> {
    Some(GrantEntry::until(deadline, slot))
}

impl Tables for One {
    fn protected(&self, port: PortKey) -> bool {
        port.port == 22
    }

    fn rule(&self, _: PortKey) -> PortRule {
        self.rule
    }

    fn summarized(&self, place: Place) -> bool {
        self.places.as_ref().is_none_or(|places| places.contains(&place))
    }

    fn lately(&self) -> Option<u64> {
        self.lately
    }

    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        let clients = [Address::v4(CLIENT), Address::v6(CLIENT_V6)];
        assert!(clients.iter().any(|client| *key == HostKey::new(*client, self.port())));
        self.host.as_ref()
    }

    fn prefix_grant_v4(&self, data: PrefixV4) -> Option<&GrantEntry> {
        assert_eq!(data, PrefixV4::new(Address::v4(CLIENT), self.port()));
        self.prefix_v4.as_ref()
    }

    fn prefix_grant_v6(&self, data: PrefixV6) -> Option<&GrantEntry> {
        assert_eq!(data, PrefixV6::new(Address::v6(CLIENT_V6), self.port()));
        self.prefix_v6.as_ref()
    }

    fn session(&self, segment: &Segment) -> Session {
        assert_eq!((segment.source, segment.source_port), (Address::v4(CLIENT), 0x9c40));
        if self.session { Session::Established } else { Session::None }
    }

    fn opened_here(&self, _: &Segment) -> bool {
        self.own
    }

    fn translates_sources(&self) -> bool {
        false
    }

    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        assert!(segment.opens || !self.session);
        self.admissions.get(slot as usize).copied().unwrap_or(Admission::Refused)
    }

    fn admit_lookup(&self, _: u32, _: &Segment, _: bool) -> Admission {
        unreachable!("a packet is no look-up")
    }

    fn handshake_done(&self, slot: u32, segment: &Segment) {
        assert!(!segment.opens && (self.session || self.rule.forwarded != 0));
        self.done.borrow_mut().push(slot);
    }
}

/// IPv4 and TCP from the client's port 40,000 to port 22.
fn segment(flags: u8) -> Vec<u8> {
    let mut packet = std::vec![0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6, 0, 0];
    packet.extend(CLIENT);
    packet.extend([198, 51, 100, 1]);
    packet.extend([0x9c, 0x40, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags]);
    packet.extend([0; 6]);
    packet
}

fn of_ip(packet: Vec<u8>, tables: &One) -> Decision {
    decide(&Bytes(packet), V4, tables, || NOW)
}

const V4: Link = Link::of_ip(0x45);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

#[test]
fn a_grant_is_dead_at_the_deadline_itself() {
    for (deadline, reason) in [
        (0, Reason::Denied),
        (NOW - 1, Reason::Denied),
        (NOW, Reason::Denied),
        (NOW + 1, Reason::Granted),
        (u64::MAX, Reason::Granted),
    ] {
        let host = One { host: until(deadline, 1), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &host).reason, reason, "host {deadline}");
        let prefix = One { prefix_v4: until(deadline, 2), ..One::default() };
        assert_eq!(of_ip(segment(SYN), &prefix).reason, reason, "prefix {deadline}");
    }
}

#[test]
fn a_dead_host_entry_does_not_hide_a_live_prefix() {
    let tables = One { host: until(NOW, 1), prefix_v4: until(NOW + 1, 2), ..One::default() };
    let decision = of_ip(segment(SYN), &tables);
    assert_eq!((decision.reason, decision.slot), (Reason::Granted, 2));
    let tables = One { host: until(NOW + 1, 1), prefix_v4: until(NOW + 1, 2), ..One::default() };
    assert_eq!(of_ip(segment(SYN), &tables).slot, 1);
}

#[test]
fn a_prefix_of_the_other_family_covers_nothing() {
    let tables = One { prefix_v6: until(u64::MAX, 3), ..One::default() };
    assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied);

    let mut packet = std::vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    packet.extend(CLIENT_V6);
    packet.extend([0; 16]);
    packet.extend(&segment(SYN)[20..]);
    let decide = |tables: &One| decide(&Bytes(packet.clone()), Link::of_ip(0x60), tables, || NOW);
    let decision = decide(&tables);
    assert_eq!((decision.reason, decision.slot), (Reason::Granted, 3));
    let tables = One { prefix_v4: until(u64::MAX, 2), ..One::default() };
    assert_eq!(decide(&tables).reason, Reason::Denied);
}

#[test]
fn what_opens_nothing_is_judged_by_rule_and_session() {
    let rule = |drain, forwarded| PortRule { drain, forwarded, ..PortRule::default() };
    for (rule, session, reason) in [
        (rule(0, 0), false, Reason::NoSession),
        (rule(0, 0), true, Reason::Expired),
        (rule(1, 0), false, Reason::NoSession),
        (rule(1, 0), true, Reason::Established),
        (rule(0, 1), false, Reason::Expired),
        (rule(0, 1), true, Reason::Expired),
        (rule(1, 1), false, Reason::Forwarded),
        (rule(1, 1), true, Reason::Forwarded),
    ] {
        let tables = One { rule, session, ..One::default() };
        for flags in [ACK, 0, 0x04, SYN | ACK, 0xff] {
            assert_eq!(of_ip(segment(flags), &tables).reason, reason, "{rule:?} {flags:#x}");
        }
        for flags in [SYN, SYN | 0xc0, !ACK] {
            assert_eq!(of_ip(segment(flags), &tables).reason, Reason::Denied, "{flags:#x}");
        }
        let granted = One { host: until(u64::MAX, 1), rule, session, ..One::default() };
        assert_eq!(of_ip(segment(ACK), &granted).reason, Reason::Granted);
    }
}

/// Every pair of entries, rule and family: the socket's end and the segment's say the same.
#[test]
fn a_session_has_ended_exactly_when_its_segments_are_dropped() {
    let claims = || {
        [0, NOW, NOW + 1]
            .into_iter()
            .flat_map(|deadline| [0, 1].map(|cut| Claim { cut, ..Claim::until(deadline, 1) }))
    };
    let entries = || {
        let pairs = claims().flat_map(|unlimited| {
            claims().map(move |limited| Some(GrantEntry { unlimited, limited }))
        });
        core::iter::once(None).chain(pairs)
    };
    let (mut ended_ones, mut living) = (0, 0);
    for (host, prefix) in entries().flat_map(|host| entries().map(move |other| (host, other))) {
        for rule in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let rule = PortRule { drain: rule.0, forwarded: rule.1, ..PortRule::default() };
            let tables = One { host, prefix_v4: prefix, rule, session: true, ..One::default() };
            let dropped = of_ip(segment(ACK), &tables).reason == Reason::Expired;
            let ended = session_has_ended(host.as_ref(), prefix.as_ref(), rule, NOW);
            assert_eq!(ended, dropped, "{host:?} {prefix:?} {rule:?}");
            *(if ended { &mut ended_ones } else { &mut living }) += 1;
        }
    }
    assert!(ended_ones > 500 && living > 500, "{ended_ones} {living}");
}

#[test]
fn the_clock_is_read_only_for_protected_ports_and_once() {
    let read = Cell::new(0);
    let clock = || {
        read.set(read.get() + 1);
        NOW
    };
    let mut packet = segment(SYN);
    packet[23] = 80;
    let tables = One::default();
    let decision = decide(&Bytes(packet), V4, &tables, clock);
    assert_eq!((decision.reason, read.get()), (Reason::Unprotected, 0));
    let decision = decide(&Bytes(segment(SYN)), V4, &tables, clock);
    assert_eq!((decision.reason, read.get()), (Reason::Denied, 0));
    let dead = until(NOW, 1);
    let tables = One { host: dead, prefix_v4: dead, ..One::default() };
    let decision = decide(&Bytes(segment(SYN)), V4, &tables, clock);
    assert_eq!((decision.reason, read.get()), (Reason::Denied, 1));
    let tables = One { host: until(NOW + 1, 1), ..One::default() };
    let decision = decide(&Bytes(segment(SYN)), V4, &tables, clock);
    assert_eq!((decision.reason, decision.time, read.get()), (Reason::Granted, NOW, 2));
}

/// The tables have entries of each kind; those are found whose place the summary has.
#[test]
fn an_entry_is_found_by_its_place_in_the_summary() {
    let source = Address::v4(CLIENT);
    let mut tables = One { prefix_v4: until(NOW + 1, 2), ..One::default() };
    let port = tables.port();
    let (host, block, short) = (
        Place::of_host(source, port),
        Place::of_block(source, port),
        Place::of_port(Family::V4, port),
    );
    let nowhere = Place::of_port(Family::V6, port);
    for (places, found) in [
        (std::vec![], false),
        (std::vec![host, nowhere], false),
        (std::vec![block], true),
        (std::vec![short], true),
        (std::vec![block, short], true),
    ] {
        tables.places = Some(places);
        let reason = of_ip(segment(SYN), &tables).reason;
        assert_eq!(reason == Reason::Granted, found, "{:?}", tables.places);
    }
    let mut tables = One { host: until(NOW + 1, 1), ..One::default() };
    for (places, found) in [(std::vec![block, short], false), (std::vec![host], true)] {
        tables.places = Some(places);
        let reason = of_ip(segment(SYN), &tables).reason;
        assert_eq!(reason == Reason::Granted, found, "{:?}", tables.places);
    }
}

/// Whatever deadlines there are, and however long ago the time at hand was asked for.
#[test]
fn a_time_of_a_moment_ago_gives_the_same_answer() {
    const NOW: u64 = 10 * LATELY;
    let asked = Cell::new(0);
    let mut by_the_time_at_hand = 0;
    for age in [0, 1, LATELY / 2, LATELY - 1] {
        let lately = NOW - age;
        let deadlines = [0, 1, lately, lately + 1, NOW - 1, NOW, NOW + 1];
        let deadlines =
            deadlines.into_iter().chain([lately + LATELY, lately + LATELY + 1, u64::MAX]);
        let claims: Vec<_> = deadlines.map(|deadline| Claim::until(deadline, 0)).collect();
        let mut entries = std::vec![None];
        for unlimited in &claims {
            let entry = |limited: &Claim| GrantEntry { unlimited: *unlimited, limited: *limited };
            entries.extend(claims.iter().map(|limited| Some(entry(limited))));
        }
        for (host, prefix_v4) in
            entries.iter().flat_map(|host| entries.iter().map(move |p| (host, p)))
        {
            for flags in [SYN, ACK] {
                let exact = One {
                    host: *host,
                    prefix_v4: *prefix_v4,
                    session: true,
                    admissions: std::vec![Admission::Known],
                    ..One::default()
                };
                let answer = |tables: &One| {
                    asked.set(0);
                    let clock = || {
                        asked.set(asked.get() + 1);
                        NOW
                    };
                    let decision = decide(&Bytes(segment(flags)), V4, tables, clock);
                    Decision { time: 0, ..decision }
                };
                let expected = answer(&exact);
                let with = One { lately: Some(lately), ..exact };
                assert_eq!(answer(&with), expected, "{age} {flags} {host:?} {prefix_v4:?}");
                let entry = host.is_some() || prefix_v4.is_some();
                assert!(flags == ACK || !entry || asked.get() == 1, "a SYN has the exact time");
                by_the_time_at_hand += u32::from(entry && asked.get() == 0);
            }
        }
    }
    assert!(by_the_time_at_hand > 1_000, "{by_the_time_at_hand}");
}

#[test]
fn the_device_tells_the_protocol_where_there_is_no_ethernet_header() {
    let tables = One::default();
    assert_eq!(of_ip(Vec::new(), &tables).reason, Reason::Malformed);
    for version in [0, 1, 5, 6, 7, 15_u8] {
        let mut packet = segment(SYN);
        packet[0] = version << 4 | 5;
        let reason = of_ip(packet, &tables).reason;
        assert!(reason.drops(), "version {version}: {reason:?}");
    }
    // An ARP request is not IP, and no IPv4 packet.
    let mut ethernet = std::vec![0; 12];
    ethernet.extend([0x08, 0x06, 0, 1]);
    let arp = decide(&Bytes(ethernet.clone()), Link::Ethernet, &tables, || NOW);
    assert_eq!(arp.reason, Reason::NotIp);
    assert_eq!(of_ip(ethernet, &tables).reason, Reason::Malformed);
    // MPLS in GRE is none of the gate's business, whatever it looks like.
    let mpls = decide(&Bytes(segment(SYN)), Link::Network(0x8847), &tables, || NOW);
    assert_eq!(mpls.reason, Reason::NotIp);
    for (protocol, is_ip) in [(0x0800, true), (0x86dd, true), (0x8847, false), (0, false)] {
        assert_eq!(Link::Network(protocol).is_ip(), is_ip, "{protocol:#06x}");
    }
    assert!(Link::Ethernet.is_ip() && Link::EthernetUntagged.is_ip());
}

#[test]
fn a_packet_cut_anywhere_in_its_headers_is_dropped_also_with_a_grant() {
    let tables = One { host: until(u64::MAX, 1), ..One::default() };
    assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Granted);
    for length in 0..40 {
        let packet = segment(SYN)[..length].to_vec();
        assert_eq!(of_ip(packet, &tables).reason, Reason::Malformed, "{length} bytes");
    }
}

/// An entry with both kinds of grants: deadlines, slots as in [`One`] and 3 more.
fn both(unlimited: u64, limited: u64, slot: u32) -> Option<GrantEntry> {
    Some(GrantEntry {
        unlimited: Claim::until(unlimited, slot),
        limited: Claim::until(limited, slot + 3),
    })
}

const LATER: u64 = NOW + 1;

fn admissions(host: Admission, prefix: Admission) -> Vec<Admission> {
    let mut admissions = std::vec![Admission::Refused; 4];
    admissions.extend([host, prefix]);
    admissions
}

#[test]
fn a_syn_under_a_grant_with_a_limit_needs_a_place() {
    for (host, prefix, reason, slot, fresh) in [
        (Admission::Fresh, Admission::Fresh, Reason::Granted, 4, true),
        (Admission::Known, Admission::Fresh, Reason::Granted, 4, false),
        (Admission::Refused, Admission::Fresh, Reason::Granted, 5, true),
        (Admission::Refused, Admission::Known, Reason::Granted, 5, false),
        (Admission::Refused, Admission::Refused, Reason::Denied, 0, false),
    ] {
        let tables = One {
            host: both(0, LATER, 1),
            prefix_v4: both(NOW, LATER, 2),
            admissions: admissions(host, prefix),
            ..One::default()
        };
        let decision = of_ip(segment(SYN), &tables);
        let got = (decision.reason, decision.slot, decision.fresh, decision.counted);
        assert_eq!(got, (reason, slot, fresh, fresh), "{host:?} {prefix:?}");
    }
}

#[test]
fn a_grant_with_a_limit_is_dead_at_its_deadline_too() {
    let admissions = admissions(Admission::Fresh, Admission::Fresh);
    let tables = One { host: both(NOW, NOW, 1), admissions, ..One::default() };
    assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied);
    let session = One { session: true, ..tables };
    assert_eq!(of_ip(segment(ACK), &session).reason, Reason::Expired);
}

#[test]
fn a_live_grant_without_a_limit_is_asked_first_and_counts_nothing() {
    let admissions = admissions(Admission::Fresh, Admission::Fresh);
    let host = One { host: both(LATER, LATER, 1), admissions, ..One::default() };
    let decision = of_ip(segment(SYN), &host);
    assert_eq!((decision.slot, decision.fresh, decision.counted), (1, true, false));
    let prefix = One { host: both(0, LATER, 1), prefix_v4: until(LATER, 2), ..host };
    let decision = of_ip(segment(SYN), &prefix);
    assert_eq!((decision.slot, decision.fresh, decision.counted), (2, true, false));
    assert!(!of_ip(segment(ACK), &prefix).fresh);
}

#[test]
fn the_last_step_of_a_handshake_passes_only_for_a_connection_that_was_counted() {
    for (admission, reason) in
        [(Admission::Known, Reason::Granted), (Admission::Refused, Reason::NoSession)]
    {
        let admissions = admissions(admission, Admission::Refused);
        let tables = One { host: both(0, LATER, 1), admissions, ..One::default() };
        let decision = of_ip(segment(ACK), &tables);
        assert_eq!((decision.reason, decision.fresh), (reason, false));
    }
}

#[test]
fn a_session_lives_while_any_grant_covers_its_source_used_up_or_not() {
    let rule = |forwarded| PortRule { forwarded, ..PortRule::default() };
    for (rule, session) in [(rule(0), true), (rule(1), false)] {
        let host = One { rule, session, host: both(0, LATER, 1), ..One::default() };
        assert_eq!(of_ip(segment(ACK), &host).reason, Reason::Granted);
        let prefix = One { host: both(0, 0, 1), prefix_v4: both(0, LATER, 2), ..host };
        let decision = of_ip(segment(ACK), &prefix);
        assert_eq!((decision.reason, decision.slot), (Reason::Granted, 5));
        assert_eq!(*prefix.done.borrow(), [4, 5]);
        let both = One { host: both(0, LATER, 1), done: RefCell::default(), ..prefix };
        assert_eq!(of_ip(segment(ACK), &both).slot, 4);
        assert_eq!(*both.done.borrow(), [4, 5], "whichever counted it");
    }
}

#[test]
fn datagrams_are_let_in_by_grants_without_a_limit_alone() {
    let mut datagram = segment(SYN);
    datagram[9] = 17;
    // There would be a place, but nobody asks.
    let admissions = std::vec![Admission::Fresh; 8];
    let limited = One { host: both(NOW, LATER, 1), admissions, udp: true, ..One::default() };
    assert_eq!(of_ip(datagram.clone(), &limited).reason, Reason::Denied);
    let unlimited = One { host: both(LATER, 0, 1), udp: true, ..One::default() };
    let decision = of_ip(datagram, &unlimited);
    assert_eq!((decision.reason, decision.fresh), (Reason::Granted, true));
}

#[test]
fn the_grant_that_ended_last_says_whether_sessions_are_cut_on_a_port_that_drains() {
    let claim = |deadline, cut| Claim { cut, ..Claim::until(deadline, 1) };
    let entry = |unlimited, limited| Some(GrantEntry { unlimited, limited });
    let none = claim(0, 1);
    let drain = PortRule { drain: 1, ..PortRule::default() };
    for (host, prefix, reason) in [
        (None, None, Reason::Established),
        (entry(none, none), entry(none, none), Reason::Established),
        (entry(claim(5, 1), none), None, Reason::Expired),
        (entry(none, claim(5, 1)), None, Reason::Expired),
        (entry(claim(5, 1), claim(6, 0)), None, Reason::Established),
        (entry(claim(5, 0), claim(6, 1)), None, Reason::Expired),
        (None, entry(claim(NOW, 1), none), Reason::Expired),
        (entry(claim(5, 1), none), entry(claim(6, 0), none), Reason::Established),
        (entry(claim(5, 0), none), entry(claim(6, 1), none), Reason::Expired),
    ] {
        let tables = One { rule: drain, host, prefix_v4: prefix, session: true, ..One::default() };
        assert_eq!(of_ip(segment(ACK), &tables).reason, reason, "{host:?} {prefix:?}");
        let forwarded = PortRule { forwarded: 1, ..drain };
        let tables = One { rule: forwarded, session: false, ..tables };
        let expected =
            if reason == Reason::Established { Reason::Forwarded } else { Reason::Expired };
        assert_eq!(of_ip(segment(ACK), &tables).reason, expected, "{host:?} {prefix:?}");
    }
}

#[test]
fn a_tag_that_the_kernel_took_off_counts_as_one() {
    let tables = One::default();
    for (tags, link, reason) in [
        (4, Link::Ethernet, Reason::Denied),
        (5, Link::Ethernet, Reason::VlanDepth),
        (3, Link::EthernetUntagged, Reason::Denied),
        (4, Link::EthernetUntagged, Reason::VlanDepth),
    ] {
        let mut frame = std::vec![0; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend([0x08, 0]);
        frame.extend(segment(SYN));
        let decision = decide(&Bytes(frame), link, &tables, || NOW);
        assert_eq!(decision.reason, reason, "{tags} {link:?}");
    }
}

#[test]
fn the_peer_of_a_connection_that_this_host_opened_answers_without_a_grant() {
    let cut = PortRule::default();
    for (rule, session, own, reason) in [
        (cut, true, true, Reason::Established),
        (cut, true, false, Reason::Expired),
        (cut, false, false, Reason::NoSession),
        (PortRule { forwarded: 1, ..cut }, true, true, Reason::Expired),
    ] {
        let tables = One { rule, session, own, ..One::default() };
        assert_eq!(of_ip(segment(ACK), &tables).reason, reason, "{rule:?} {session} {own}");
        assert_eq!(of_ip(segment(SYN), &tables).reason, Reason::Denied, "a SYN is no answer");
    }
}

#[test]
fn a_datagram_to_a_connected_socket_is_a_session_in_drain() {
    let drain = PortRule { drain: 1, ..PortRule::default() };
    let cut = Some(GrantEntry {
        unlimited: Claim { cut: 1, ..Claim::until(NOW, 1) },
        ..GrantEntry::default()
    });
    for (rule, host, session, reason) in [
        (drain, None, true, Reason::Established),
        (drain, cut, true, Reason::Denied),
        (drain, None, false, Reason::Denied),
        (PortRule { forwarded: 1, ..drain }, None, true, Reason::Denied),
        (PortRule::default(), None, true, Reason::Denied),
    ] {
        let mut datagram = segment(0);
        datagram[9] = 17;
        datagram[24..26].copy_from_slice(&[0, 20]);
        let tables = One { rule, host, session, udp: true, ..One::default() };
        let decision = of_ip(datagram, &tables);
        assert_eq!(decision.reason, reason, "{rule:?} {host:?} {session}");
        assert!(!decision.fresh && decision.slot == 0);
    }
}
