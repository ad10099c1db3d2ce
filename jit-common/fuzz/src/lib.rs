//! What the fuzz targets of `jit-common` do with an input, without libFuzzer: the ordinary tests
//! replay every corpus file through the same functions (`jit-common/tests/corpus.rs`).

use jit_common::{
    Decision, EVENT_BYTES, Event, Frame, GrantEntry, HostKey, Link, PortKey, PortRule, PrefixV4,
    PrefixV6, Protocol, Reason, Segment, Session, Tables, decide,
};

/// A target: its name, which is that of its corpus directory, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: [Target; 2] = [("decide", decide_frame), ("event", event)];

/// The kernel's implementation masks offsets with this (`jit-agent-ebpf/src/frame.rs`): a load at a
/// larger one would read another place than the host does.
const OFFSET_MASK: usize = 0x7fff;
const NOW: u64 = 1_000;

/// Every bit pattern of a situation: what is protected, granted and open.
#[derive(Clone, Copy)]
struct Situation {
    protected: bool,
    rule: PortRule,
    host: Option<u64>,
    prefix: Option<u64>,
    session: Session,
}

impl Situation {
    fn of(byte: u8) -> Self {
        let bit = |number: u8| byte & (1 << number) != 0;
        // Dead at the deadline itself, and a nanosecond before it is not.
        let deadline = |live| if live { NOW + 1 } else { NOW };
        Self {
            protected: !bit(0),
            rule: PortRule {
                drain: u8::from(bit(1)),
                forwarded: u8::from(bit(2)),
                ..PortRule::default()
            },
            host: bit(3).then_some(deadline(bit(4))),
            prefix: bit(5).then_some(deadline(bit(6))),
            session: if bit(7) { Session::Established } else { Session::None },
        }
    }

    fn covers(self) -> bool {
        [self.host, self.prefix].into_iter().flatten().any(|deadline| deadline > NOW)
    }
}

fn entry(deadline: Option<u64>) -> Option<GrantEntry> {
    deadline.map(|deadline| GrantEntry { deadline, slot: 3, reserved: 0 })
}

impl Tables for Situation {
    fn protected(&self, _: PortKey) -> bool {
        self.protected
    }

    fn rule(&self, _: PortKey) -> PortRule {
        self.rule
    }

    fn host_grant(&self, key: &HostKey) -> Option<GrantEntry> {
        assert!([4, 6].contains(&key.family) && [6, 17].contains(&key.protocol));
        entry(self.host)
    }

    fn prefix_grant_v4(&self, _: PrefixV4) -> Option<GrantEntry> {
        entry(self.prefix)
    }

    fn prefix_grant_v6(&self, _: PrefixV6) -> Option<GrantEntry> {
        entry(self.prefix)
    }

    fn session(&self, segment: &Segment) -> Session {
        assert!(!segment.opens, "a SYN asks for no session");
        self.session
    }
}

struct Bytes<'a>(&'a [u8]);

impl Frame for Bytes<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset + N <= OFFSET_MASK, "the kernel would read elsewhere than at {offset}");
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// The first byte is the situation, the rest a frame; judged with and without Ethernet header.
pub fn decide_frame(input: &[u8]) {
    let Some((situation, frame)) = input.split_first() else { return };
    let situation = Situation::of(*situation);
    for link in [Link::Ethernet, Link::Ip] {
        let judge = |situation: Situation| decide(&Bytes(frame), link, &situation, || NOW);
        let decision = judge(situation);
        assert_eq!(decision, judge(situation), "a decision depends on nothing else");
        check(&decision, situation);
        // Without any grant nothing is granted, and what passed with a dead one passes without.
        let closed = Situation { protected: true, host: None, prefix: None, ..situation };
        let without = judge(closed);
        check(&without, closed);
        if situation.protected && !situation.covers() {
            assert_eq!(without, decision, "a dead grant is as none");
        }
        // A grant opens; it never closes.
        let granted = judge(Situation { host: Some(u64::MAX), ..closed });
        assert!(without.reason.drops() || !granted.reason.drops());
        assert_eq!(granted.reason == Reason::Granted, without.segment.is_some());
        // Nothing behind the end of the frame is read: the frame in a longer buffer, cut there.
        if let Some(shorter) = frame.len().checked_sub(1).and_then(|end| frame.get(..end)) {
            let cut = decide(&Bytes(shorter), link, &closed, || NOW).reason;
            assert!(!without.reason.drops() || cut.drops(), "{cut:?} opens when cut");
        }
    }
}

fn check(decision: &Decision, situation: Situation) {
    let Decision { reason, segment, slot } = decision;
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
    assert_eq!(*slot, if *reason == Reason::Granted { 3 } else { 0 });
    let Some(Segment { source, opens, port, .. }) = segment else { return };
    assert!(situation.protected);
    assert_eq!(*reason == Reason::Granted, situation.covers(), "{decision:?}");
    if *opens && !situation.covers() {
        assert_eq!(*reason, Reason::Denied, "a SYN without a grant is denied");
    }
    if *reason == Reason::Established {
        assert_eq!((situation.session, situation.rule.drain), (Session::Established, 1));
    }
    assert!(port.protocol == Protocol::Udp || !source.is_bad_tcp_source(), "{source:?}");
}

/// Any bytes as a record of the ring buffer.
pub fn event(input: &[u8]) {
    let Some(event) = Event::from_bytes(input) else { return };
    assert_eq!(input.len(), EVENT_BYTES);
    assert!(Reason::from_number(event.reason).is_some());
}
