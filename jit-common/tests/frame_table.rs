//! The frame table against the host's decision, from `frames.tsv`: name, reasons without a grant,
//! with one and where nothing is protected, where the frame comes from, and the frame in hex.
//!
//! `tests/` builds the same rows from readable parts, runs them through the loaded kernel programs,
//! and checks that this file is the same. Here they need neither root nor a kernel, and every cut
//! and every flipped bit of a row is tried too.

use std::collections::BTreeSet;

use jit_common::{
    Address, Admission, Decision, Frame, GrantEntry, HostKey, Link, PortKey, PortRule, PrefixV4,
    PrefixV6, Reason, Segment, Session, Tables, decide,
};

const TABLE: &str = include_str!("frames.tsv");
/// The table never becomes shorter than this.
const ROWS: usize = 250;
const NOW: u64 = 1_000;
const PORT: u16 = 22;
const LIVE: GrantEntry = GrantEntry::until(NOW + 1, 3);
/// Bytes of the Ethernet header.
const ETHERNET: usize = 14;

struct Row {
    name: &'static str,
    closed: Reason,
    granted: Reason,
    unprotected: Reason,
    frame: Vec<u8>,
}

/// Port 22 of both protocols, and grants of the table's client.
#[derive(Clone, Copy)]
struct Port22 {
    protected: bool,
    granted: bool,
}

const CLOSED: Port22 = Port22 { protected: true, granted: false };
const GRANTED: Port22 = Port22 { protected: true, granted: true };
const UNPROTECTED: Port22 = Port22 { protected: false, granted: false };

impl Tables for Port22 {
    fn protected(&self, port: PortKey) -> bool {
        self.protected && port.port == PORT
    }

    fn rule(&self, _: PortKey) -> PortRule {
        PortRule::default()
    }

    fn lately(&self) -> Option<u64> {
        None
    }

    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        let v6 = [0x20, 1, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let clients = [Address::v4([192, 0, 2, 7]), Address::v6(v6)];
        let covers = clients.iter().any(|client| {
            [6, 17].contains(&key.protocol)
                && (key.address, key.family) == (client.words, client.family as u8)
                && key.port == PORT.to_be_bytes()
        });
        (self.granted && covers).then_some(&LIVE)
    }

    fn prefix_grant_v4(&self, _: PrefixV4) -> Option<&GrantEntry> {
        None
    }

    fn prefix_grant_v6(&self, _: PrefixV6) -> Option<&GrantEntry> {
        None
    }

    fn session(&self, _: &Segment) -> Session {
        Session::None
    }

    fn opened_here(&self, segment: &Segment) -> bool {
        panic!("there is no session: {segment:?}")
    }

    fn translates_sources(&self) -> bool {
        panic!("a packet's source is the one on the wire")
    }

    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        panic!("no grant here has a limit: slot {slot}, {segment:?}")
    }

    fn admit_lookup(&self, slot: u32, segment: &Segment, _: bool) -> Admission {
        panic!("no grant here has a limit: slot {slot}, {segment:?}")
    }

    fn handshake_done(&self, slot: u32, segment: &Segment) {
        panic!("no grant here has a limit: slot {slot}, {segment:?}")
    }
}

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

fn judge(frame: &[u8], tables: Port22) -> Decision {
    decide(&Bytes(frame), Link::Ethernet, &tables, || NOW)
}

fn rows() -> Vec<Row> {
    TABLE.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn row(line: &'static str) -> Row {
    let [name, closed, granted, unprotected, _why, hex] =
        line.split('\t').collect::<Vec<_>>().try_into().expect("six columns");
    let reason = |word: &str| {
        let found = Reason::ALL.into_iter().find(|reason| reason.word() == word);
        found.unwrap_or_else(|| panic!("{name}: no reason is called {word:?}"))
    };
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    Row {
        name,
        closed: reason(closed),
        granted: reason(granted),
        unprotected: reason(unprotected),
        frame: (0..hex.len()).step_by(2).map(byte).collect(),
    }
}

#[test]
fn every_row_ends_as_the_table_says() {
    for Row { name, closed, granted, unprotected, frame } in rows() {
        assert_eq!(judge(&frame, CLOSED).reason, closed, "{name}, without a grant");
        assert_eq!(judge(&frame, GRANTED).reason, granted, "{name}, with a grant");
        assert_eq!(judge(&frame, UNPROTECTED).reason, unprotected, "{name}, unprotected");
    }
}

#[test]
fn every_denied_row_opens_with_a_grant_or_is_of_a_stranger() {
    let mut opened = 0;
    for Row { name, closed, granted, .. } in rows() {
        if closed == Reason::Denied && granted != Reason::Denied {
            assert_eq!(granted, Reason::Granted, "{name}");
            opened += 1;
        }
        // A grant never closes anything.
        assert!(closed.drops() || !granted.drops(), "{name}");
    }
    assert!(opened >= 100, "{opened} rows");
}

#[test]
fn the_table_is_long_and_reaches_every_reason_that_needs_no_session() {
    let rows = rows();
    assert!(rows.len() >= ROWS, "{} rows", rows.len());
    let names: BTreeSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len());
    for reason in Reason::ALL {
        let with_sessions = [Reason::Established, Reason::Expired, Reason::Forwarded];
        let found = rows.iter().any(|row| [row.closed, row.granted].contains(&reason));
        let found = found || rows.iter().any(|row| row.unprotected == reason);
        assert!(found != with_sessions.contains(&reason), "{reason:?}");
    }
}

/// An address or a port that is read wrongly would open the wrong one.
#[test]
fn a_segment_has_the_ports_and_addresses_of_its_packet() {
    let mut segments = 0;
    for Row { name, frame, .. } in rows() {
        let Some(segment) = judge(&frame, GRANTED).segment else { continue };
        segments += 1;
        assert_eq!(segment.port.port, PORT, "{name}");
        let at = |bytes: &[u8]| frame.windows(bytes.len()).any(|window| window == bytes);
        match segment.source.family {
            jit_common::Family::V4 => {
                let both = [segment.source.first_four(), segment.destination.first_four()];
                assert!(at(&both.concat()), "{name}");
                assert_eq!(segment.destination.first_four(), [198, 51, 100, 1], "{name}");
            }
            jit_common::Family::V6 => {
                assert!(
                    at(&[segment.source.bytes(), segment.destination.bytes()].concat()),
                    "{name}"
                );
            }
        }
        let ports = [segment.source_port.to_be_bytes(), PORT.to_be_bytes()].concat();
        assert!(at(&ports), "{name}: source port {}", segment.source_port);
    }
    assert!(segments >= 140, "{segments} segments");
}

/// Without an Ethernet header the same packet has the same reason.
#[test]
fn a_packet_ends_the_same_on_a_device_without_ethernet_header() {
    let mut compared = 0;
    for Row { name, frame, .. } in rows() {
        let versions = [([0x08, 0x00], 4), ([0x86, 0xdd], 6)];
        let of_its_version = versions.iter().any(|(ethertype, version)| {
            frame.get(12..14) == Some(ethertype)
                && frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == *version)
        });
        if !of_its_version {
            continue;
        }
        compared += 1;
        for tables in [CLOSED, GRANTED, UNPROTECTED] {
            let (packet, link) = (&frame[ETHERNET..], Link::of_ip(frame[ETHERNET]));
            let bare = decide(&Bytes(packet), link, &tables, || NOW);
            assert_eq!(bare, judge(&frame, tables), "{name}");
        }
    }
    assert!(compared >= 200, "{compared} rows");
}

/// The kernel takes the outermost tag off before TC sees the frame (`skb_vlan_untag`): then one tag
/// fewer may follow.
#[test]
fn a_frame_ends_the_same_when_its_outermost_tag_was_taken_off() {
    let mut compared = 0;
    for Row { name, frame, .. } in rows() {
        let tagged = frame
            .get(12..14)
            .is_some_and(|kind| [[0x81, 0], [0x88, 0xa8]].contains(&[kind[0], kind[1]]));
        if !tagged || frame.len() < 18 {
            continue;
        }
        compared += 1;
        let untagged = [&frame[..12], &frame[16..]].concat();
        for tables in [CLOSED, GRANTED, UNPROTECTED] {
            let after = decide(&Bytes(&untagged), Link::EthernetUntagged, &tables, || NOW);
            assert_eq!(after, judge(&frame, tables), "{name}");
        }
    }
    assert!(compared >= 25, "{compared} rows");
}

#[test]
fn cutting_a_frame_anywhere_opens_nothing() {
    for Row { name, closed, frame, .. } in rows() {
        for length in 0..frame.len() {
            let cut = &frame[..length];
            let reason = judge(cut, CLOSED).reason;
            assert!(!closed.drops() || reason.drops(), "{name} cut to {length}: {reason:?}");
            let granted = judge(cut, GRANTED).reason;
            let same = granted == judge(&frame, GRANTED).reason;
            assert!(same || granted.drops(), "{name} cut to {length} with a grant: {granted:?}");
        }
    }
}

/// A flipped bit may make another packet: to another port, of another protocol, a later fragment.
/// It never lets a SYN to the port in, and it never makes a granted packet of another source.
#[test]
fn flipping_a_bit_opens_nothing() {
    for Row { name, closed, frame, .. } in rows() {
        if !closed.drops() {
            continue;
        }
        let mut frame = frame;
        for at in 0..frame.len().min(400) {
            for bit in 0..8 {
                frame[at] ^= 1 << bit;
                let reason = judge(&frame, CLOSED).reason;
                let other_packet = [
                    Reason::LaterFragment,
                    Reason::NotIp,
                    Reason::OtherProtocol,
                    Reason::Unprotected,
                ];
                assert!(
                    reason.drops() || other_packet.contains(&reason),
                    "{name}, bit {bit} of byte {at}: {reason:?}"
                );
                frame[at] ^= 1 << bit;
            }
        }
    }
}
