//! The fuzz targets of `jit-common` as functions, without libFuzzer: the ordinary tests run every
//! corpus file through the same functions (`jit-common/tests/corpus.rs`).

use jit_common::{
    Address, Admission, Claim, Decision, EVENT_BYTES, Event, Family, Frame, GrantEntry, HostKey,
    Link, Lookup, PortKey, PortRule, PrefixV4, PrefixV6, Protocol, Reason, Segment, Session,
    Tables, decide, guard,
};

/// A target: its name, which is also that of its corpus directory, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: [Target; 3] =
    [("decide", decide_frame), ("event", event), ("guard", guard_lookup)];

/// The kernel's implementation masks offsets with this (`jit-agent-ebpf/src/frame.rs`). With a
/// larger offset, kernel and host would read different bytes.
const OFFSET_MASK: usize = 0x7fff;
const NOW: u64 = 1_000;

/// The tables for one decision: what is protected, granted and open. Every bit pattern is possible.
#[derive(Clone, Copy)]
struct Situation {
    protected: bool,
    rule: PortRule,
    host: Option<GrantEntry>,
    prefix: Option<GrantEntry>,
    session: Session,
    /// This host opened the session.
    own: bool,
    /// It translates sources.
    translates: bool,
    /// `places`: grants with a limit have room for a new connection. `known`: they have counted
    /// this one.
    places: bool,
    known: bool,
}

impl Situation {
    fn of([rule, grants, limits]: [u8; 3]) -> Self {
        let bit = |byte: u8, number: u8| byte & (1 << number) != 0;
        // At the deadline a claim has ended; a nanosecond before, it is live.
        let claim = |there: bool, live: bool, slot, cut| Claim {
            cut: u8::from(cut),
            ..Claim::until(u64::from(there) * if live { NOW + 1 } else { NOW }, slot)
        };
        let entry = |byte, slot| GrantEntry {
            unlimited: claim(bit(byte, 1), bit(byte, 2), slot, bit(byte, 3)),
            limited: claim(bit(byte, 4), bit(byte, 5), slot + 1, bit(byte, 6)),
        };
        Self {
            protected: !bit(rule, 0),
            rule: PortRule {
                drain: u8::from(bit(rule, 1)),
                forwarded: u8::from(bit(rule, 2)),
                ..PortRule::default()
            },
            host: bit(grants, 0).then(|| entry(grants, 3)),
            prefix: bit(limits, 0).then(|| entry(limits, 5)),
            session: if bit(rule, 3) { Session::Established } else { Session::None },
            places: bit(rule, 4),
            known: bit(rule, 5),
            own: bit(rule, 6),
            translates: bit(rule, 7),
        }
    }

    fn claims(self) -> impl Iterator<Item = (Claim, bool)> {
        [self.host, self.prefix]
            .into_iter()
            .flatten()
            .flat_map(|entry| [(entry.unlimited, false), (entry.limited, true)])
    }

    /// Whether a live grant without a limit covers the source.
    fn unlimited(self) -> bool {
        self.claims().any(|(claim, limited)| claim.live(NOW) && !limited)
    }

    /// Whether the source may open a connection, or send a datagram.
    fn opens(self, port: PortKey) -> bool {
        let place = port.protocol == Protocol::Tcp && (self.known || self.places);
        self.unlimited() || self.covered() && place
    }

    /// Whether any live grant covers it.
    fn covered(self) -> bool {
        self.claims().any(|(claim, _)| claim.live(NOW))
    }
}

impl Tables for Situation {
    fn protected(&self, _: PortKey) -> bool {
        self.protected
    }

    fn rule(&self, _: PortKey) -> PortRule {
        self.rule
    }

    fn lately(&self) -> Option<u64> {
        None
    }

    fn host_grant(&self, key: &HostKey) -> Option<&GrantEntry> {
        assert!([4, 6].contains(&key.family) && [6, 17].contains(&key.protocol));
        self.host.as_ref()
    }

    fn prefix_grant_v4(&self, _: PrefixV4) -> Option<&GrantEntry> {
        self.prefix.as_ref()
    }

    fn prefix_grant_v6(&self, _: PrefixV6) -> Option<&GrantEntry> {
        self.prefix.as_ref()
    }

    fn session(&self, segment: &Segment) -> Session {
        assert!(!segment.opens, "a SYN asks for no session");
        self.session
    }

    fn opened_here(&self, segment: &Segment) -> bool {
        assert_eq!((self.session, segment.port.protocol), (Session::Established, Protocol::Tcp));
        self.own
    }

    fn translates_sources(&self) -> bool {
        self.translates
    }

    fn admit_segment(&self, slot: u32, segment: &Segment) -> Admission {
        assert!([4, 6].contains(&slot), "slot {slot} has no limit");
        assert_eq!(segment.port.protocol, Protocol::Tcp, "datagrams are not counted");
        match (self.known, self.places) {
            (true, _) => Admission::Known,
            (false, true) if segment.opens => Admission::Fresh,
            (false, _) => Admission::Refused,
        }
    }

    fn admit_lookup(&self, slot: u32, segment: &Segment, fresh: bool) -> Admission {
        let Segment { source: _, destination: _, source_port: _, port, opens, sequence } = *segment;
        assert!([4, 6].contains(&slot), "slot {slot} has no limit");
        assert_eq!((port.protocol, opens, sequence), (Protocol::Tcp, true, 0));
        match (self.known, self.places) {
            (true, _) if !fresh => Admission::Known,
            (_, true) if fresh => Admission::Fresh,
            _ => Admission::Refused,
        }
    }

    fn handshake_done(&self, slot: u32, segment: &Segment) {
        assert!([4, 6].contains(&slot) && !segment.opens, "{slot}");
        assert_eq!(segment.port.protocol, Protocol::Tcp);
    }
}

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset + N <= OFFSET_MASK, "the kernel would read elsewhere than at {offset}");
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// Three bytes as a situation, the rest as a frame: decided for every kind of link.
pub fn decide_frame(input: &[u8]) {
    let Some((situation, frame)) = input.split_first_chunk() else { return };
    let situation = Situation::of(*situation);
    let bare = frame.first().copied().unwrap_or_default();
    for link in [Link::Ethernet, Link::EthernetUntagged, Link::of_ip(bare)] {
        let judge = |situation: Situation| decide(&Bytes(frame), link, &situation, || NOW);
        let decision = judge(situation);
        assert_eq!(decision, judge(situation), "a decision depends on nothing else");
        check(&decision, situation);
        let closed = Situation { protected: true, host: None, prefix: None, ..situation };
        let without = judge(closed);
        check(&without, closed);
        // A grant opens; it never closes.
        let live = Some(GrantEntry::until(u64::MAX, 3));
        let granted = judge(Situation { host: live, ..closed });
        assert!(without.reason.drops() || !granted.reason.drops());
        assert_eq!(granted.reason == Reason::Granted, without.segment.is_some());
        // Cutting the frame opens nothing.
        if let Some(shorter) = frame.len().checked_sub(1).and_then(|end| frame.get(..end)) {
            let cut = decide(&Bytes(shorter), link, &closed, || NOW).reason;
            assert!(!without.reason.drops() || cut.drops(), "{cut:?} when cut");
        }
    }
}

fn check(decision: &Decision, situation: Situation) {
    let Decision { reason, segment, slot, fresh, counted, time: _ } = decision;
    let of_a_segment = matches!(
        reason,
        Reason::Denied
            | Reason::Established
            | Reason::Expired
            | Reason::Forwarded
            | Reason::Granted
            | Reason::NoSession
    );
    assert_eq!(segment.is_some(), of_a_segment, "{decision:?}");
    let granted = *reason == Reason::Granted;
    assert_eq!(granted, *slot != 0, "{decision:?}");
    assert!(granted || !fresh && !counted, "{decision:?}");
    let Some(segment) = segment else { return };
    let Segment { source, destination, source_port, opens, port, .. } = *segment;
    assert!(situation.protected);
    assert!(port.protocol == Protocol::Udp || !source.is_bad_tcp_source(), "{source:?}");
    if granted {
        let of_slot = |(claim, _): (Claim, bool)| claim.live(NOW) && claim.slot == *slot;
        assert!(situation.claims().any(of_slot), "{decision:?}");
    } else {
        assert!(!situation.unlimited(), "{decision:?}");
        assert!(!opens || *reason == Reason::Denied, "a SYN without a grant is denied");
        assert!(!reason.drops() || !situation.places || !opens || !situation.covered());
    }
    let datagram = port.protocol == Protocol::Udp;
    assert!(!fresh || opens || datagram, "only a SYN or a datagram is new: {decision:?}");
    assert!(!counted || *fresh && [4, 6].contains(slot), "{decision:?}");
    if matches!(reason, Reason::Established | Reason::Forwarded) {
        let forwarded = *reason == Reason::Forwarded;
        assert_eq!(situation.rule.forwarded == 1, forwarded, "{decision:?}");
        assert!(forwarded || situation.session == Session::Established, "{decision:?}");
        let own = !forwarded && !datagram && situation.own;
        assert!(situation.rule.drain == 1 || own, "{decision:?}");
    }
    // The guard decides about the same connection. It never refuses a new one that the gate lets
    // in, and lets in none without a live grant.
    let lookup = Lookup { source, destination, source_port, port, loopback: Some(false) };
    let Some(guarded) = guard(&lookup, &situation, || NOW) else {
        assert!(source == destination || source.is_loopback(), "a protected port: {lookup:?}");
        return;
    };
    let expected = if situation.opens(port) { Reason::Granted } else { Reason::Denied };
    assert_eq!(guarded.reason, expected, "{decision:?}");
}

/// Any bytes as a record of the ring buffer.
pub fn event(input: &[u8]) {
    let Some(event) = Event::from_bytes(input) else { return };
    assert_eq!(input.len(), EVENT_BYTES);
    assert!(Reason::from_number(event.reason).is_some());
}

/// Any bytes as a situation and a look-up: two addresses, a port, and what the kernel reports about
/// loopback.
pub fn guard_lookup(input: &[u8]) {
    let Some((situation, input)) = input.split_first_chunk() else { return };
    let Some(([kind, port @ ..], input)) = input.split_first_chunk::<3>() else { return };
    let Some((source, input)) = input.split_first_chunk::<16>() else { return };
    let Some((destination, _)) = input.split_first_chunk::<16>() else { return };
    let situation = Situation::of(*situation);
    let address = |bytes: &[u8; 16]| match (kind & 1, bytes) {
        (0, [a, b, c, d, ..]) => Address::v4([*a, *b, *c, *d]),
        _ => Address::v6(*bytes),
    };
    let lookup = Lookup {
        source: address(source),
        destination: address(destination),
        source_port: 40_000,
        port: PortKey {
            protocol: if kind & 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
            port: u16::from_be_bytes(*port),
        },
        loopback: match kind & 12 {
            0 => Some(false),
            4 => Some(true),
            _ => None,
        },
    };
    let Lookup { source, destination, port, loopback, .. } = lookup;
    let spoofable = port.protocol == Protocol::Udp && source.family == Family::V6;
    let itself = source.is_loopback() || source == destination && !spoofable;
    let both = loopback.is_none() && source.is_loopback() && destination.is_loopback();
    let own = loopback == Some(true) || itself && (!situation.translates || both);
    let bad = port.protocol == Protocol::Tcp && source.is_bad_tcp_source();
    let expected = match (own || !situation.protected, bad, situation.opens(port)) {
        (true, ..) => None,
        (false, true, _) => Some(Reason::BadSource),
        (false, false, true) => Some(Reason::Granted),
        (false, false, false) => Some(Reason::Denied),
    };
    let decision = guard(&lookup, &situation, || NOW);
    assert_eq!(decision.map(|decision| decision.reason), expected, "{lookup:?}");
    let fresh = decision.is_some_and(|decision| decision.fresh);
    assert!(!fresh || !situation.known || situation.unlimited(), "{decision:?}");
}
