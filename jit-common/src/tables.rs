//! Keys and values of the kernel tables.
//!
//! All structures are `repr(C)`, made of integers and byte arrays, with padding named and sizes
//! asserted; a change of any layout raises [`ABI_VERSION`], which is part of the pin path. Ports
//! inside keys are in network byte order, as longest-prefix matching needs them.

use crate::{Address, Reason, Segment};

/// Version of every layout in this file and in `event.rs`; part of the pin path.
pub const ABI_VERSION: u32 = if cfg!(jit_next_abi) { 4 } else { 3 };

/// Map names: of the statics in the object, of the pins, and in `bpftool map`.
pub mod map {
    /// Hash [`crate::ConnectionKey`] -> [`crate::Handshake`]: what grants with a limit let in, until
    /// it is a session.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// Per-CPU array by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU array of [`crate::Budget`], one for each [`crate::EventKind`].
    pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
    /// Hash [`crate::HostKey`] -> [`crate::GrantEntry`].
    pub const HOST_GRANTS: &str = "HOST_GRANTS";
    /// LRU hash [`crate::ConnectionKey`] -> [`crate::LastCounted`]: what grants without a limit let in
    /// lately.
    pub const LAST_COUNTED: &str = "LAST_COUNTED";
    /// Hash [`crate::PlaceKey`] -> [`crate::Flow`]: who took the places of grants with a limit.
    pub const PLACES: &str = "PLACES";
    /// Per-CPU hash [`crate::PortKey`] index -> [`crate::PortCounters`].
    pub const PORT_COUNTERS: &str = "PORT_COUNTERS";
    /// Array of [`crate::PortRule`] by [`crate::PortKey::index`].
    pub const PORT_RULES: &str = "PORT_RULES";
    /// Trie [`crate::PrefixV4`] -> [`crate::GrantEntry`].
    pub const PREFIX_GRANTS_V4: &str = "PREFIX_V4";
    /// Trie [`crate::PrefixV6`] -> [`crate::GrantEntry`].
    pub const PREFIX_GRANTS_V6: &str = "PREFIX_V6";
    /// Array of u64: a bit for each port and protocol, by [`crate::PortKey::word_and_bit`].
    pub const PROTECTED: &str = "PROTECTED";
    /// Array of one [`crate::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of [`crate::Slot`]: connections that each grant let in, and its limit.
    pub const SLOTS: &str = "SLOTS";
}

/// Transport protocol of a protected port, with its IANA protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol with this IANA number, if it can be protected.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port number, host byte order.
    pub port: u16,
}

/// Length of the array of port rules: two protocols times 65,536 ports.
pub const RULE_SLOTS: u32 = 2 << 16;
/// Length of the bitmap of protected ports in 64-bit words (16 KiB: it stays in the L1 cache).
pub const PROTECTED_WORDS: u32 = RULE_SLOTS / 64;

impl PortKey {
    /// Index into the array of port rules, below [`RULE_SLOTS`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        let half = match self.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1 << 16,
        };
        half | self.port as u32
    }

    /// The port with this index; `None` from [`RULE_SLOTS`] on.
    pub const fn from_index(index: u32) -> Option<Self> {
        let protocol = match index >> 16 {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => return None,
        };
        Some(Self { protocol, port: (index & 0xffff) as u16 })
    }

    /// Index of the 64-bit word in the bitmap of protected ports, and the mask of the bit in it.
    #[inline(always)]
    pub const fn word_and_bit(self) -> (u32, u64) {
        let index = self.index();
        (index / 64, 1 << (index % 64))
    }
}

/// How a protected port is treated; all zero is the strictest: enforce, cut, host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortRule {
    /// Not zero: count what would be dropped, drop nothing.
    pub observe: u8,
    /// Not zero: sessions live on after the grant's end (`drain`); zero: they end with it (`cut`).
    pub drain: u8,
    /// Not zero: sessions end elsewhere (NAT, containers), so this host has no socket for them.
    pub forwarded: u8,
    /// Always zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<PortRule>() == 4);

/// Key of a grant for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HostKey {
    /// As [`Address::bytes`].
    pub address: [u8; 16],
    /// Network byte order.
    pub port: [u8; 2],
    /// IANA number, 6 or 17.
    pub protocol: u8,
    /// 4 or 6: the families never share a key.
    pub family: u8,
}
const _: () = assert!(size_of::<HostKey>() == 20);

impl HostKey {
    /// The key for `address` at `port`.
    #[inline(always)]
    pub const fn new(address: Address, port: PortKey) -> Self {
        Self {
            address: address.bytes,
            port: port.port.to_be_bytes(),
            protocol: port.protocol as u8,
            family: address.family as u8,
        }
    }
}

/// Data part of a key of the IPv4 trie: port and protocol first, so that one trie serves all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PrefixV4 {
    /// Network byte order.
    pub port: [u8; 2],
    /// IANA number, 6 or 17.
    pub protocol: u8,
    /// Always zero.
    pub reserved: u8,
    /// Network byte order.
    pub address: [u8; 4],
}
const _: () = assert!(size_of::<PrefixV4>() == 8);

impl PrefixV4 {
    /// Bits of the key in front of the address.
    pub const HEAD_BITS: u32 = 32;

    /// The key data for `address` at `port`.
    #[inline(always)]
    pub const fn new(address: [u8; 4], port: PortKey) -> Self {
        Self { port: port.port.to_be_bytes(), protocol: port.protocol as u8, reserved: 0, address }
    }
}

/// Data part of a key of the IPv6 trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PrefixV6 {
    /// Network byte order.
    pub port: [u8; 2],
    /// IANA number, 6 or 17.
    pub protocol: u8,
    /// Always zero; 24 bytes in all, because a trie's value is only aligned behind a key of a
    /// multiple of eight bytes.
    pub reserved: [u8; 5],
    /// Network byte order.
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<PrefixV6>() == 24);

impl PrefixV6 {
    /// Bits of the key in front of the address.
    pub const HEAD_BITS: u32 = 64;

    /// The key data for `address` at `port`.
    #[inline(always)]
    pub const fn new(address: [u8; 16], port: PortKey) -> Self {
        Self {
            port: port.port.to_be_bytes(),
            protocol: port.protocol as u8,
            reserved: [0; 5],
            address,
        }
    }
}

/// Until when one grant lets in, and where its connections are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Claim {
    /// CLOCK_BOOTTIME nanoseconds; the grant is dead at the deadline itself. Zero: there is none.
    pub deadline: u64,
    /// Index into the table of slots.
    pub slot: u32,
    /// Not zero: its sessions end with it, also on a port whose rule is `drain`.
    pub cut: u8,
    /// Always zero.
    pub reserved: [u8; CLAIM_RESERVED],
}
/// The next layout, which there is only for tests of the way to it, has eight bytes more.
const CLAIM_RESERVED: usize = if cfg!(jit_next_abi) { 11 } else { 3 };
const _: () = assert!(size_of::<Claim>() == 13 + CLAIM_RESERVED);

impl Claim {
    /// A claim whose sessions end as the port's rule says.
    pub const fn until(deadline: u64, slot: u32) -> Self {
        Self { deadline, slot, cut: 0, reserved: [0; CLAIM_RESERVED] }
    }

    /// Whether it lets in at this time, CLOCK_BOOTTIME nanoseconds.
    #[inline(always)]
    pub const fn live(&self, now: u64) -> bool {
        self.deadline > now
    }
}

/// What a grant table holds. The grants that cover one place are a union, of which two matter: the
/// one without a limit that lasts longest, and one with a limit that is not used up. So a grant with
/// a limit never shortens one without, also with the agent dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GrantEntry {
    /// A grant for any number of connections.
    pub unlimited: Claim,
    /// A grant for so many connections as its [`Slot`] says.
    pub limited: Claim,
}
const _: () = assert!(size_of::<GrantEntry>() == 2 * size_of::<Claim>());

impl GrantEntry {
    /// A grant for any number of connections alone.
    pub const fn until(deadline: u64, slot: u32) -> Self {
        Self { unlimited: Claim::until(deadline, slot), limited: Claim::until(0, 0) }
    }
}

/// Most connections that a grant with a limit can have.
pub const MAX_CONNECTIONS: u32 = 1024;
/// Most connections of all grants with a limit together.
pub const MAX_PLACES: u32 = 65_536;

/// What is counted for one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Connections let in, and UDP flows, those that go on once a minute; a SYN that is sent again
    /// counts once for a grant with a limit.
    pub hits: u64,
    /// Most connections, up to [`MAX_CONNECTIONS`]; zero for a grant without a limit.
    pub limit: u32,
    /// Goes up with each grant that gets this slot, so that none meets the connections of another.
    pub generation: u32,
}
const _: () = assert!(size_of::<Slot>() == 16);

/// A place for one connection of a grant with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PlaceKey {
    /// Index into the table of slots.
    pub slot: u32,
    /// As in [`Slot::generation`].
    pub generation: u32,
    /// From zero, below [`Slot::limit`], without gaps.
    pub number: u32,
}
const _: () = assert!(size_of::<PlaceKey>() == 12);

/// The 4-tuple of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Flow {
    /// As [`Address::bytes`].
    pub source: [u8; 16],
    /// As [`Address::bytes`].
    pub destination: [u8; 16],
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub port: u16,
    /// 4 or 6; zero: no connection.
    pub family: u8,
    /// Always zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Flow>() == 40);

impl Flow {
    /// The connection that a segment belongs to.
    #[inline(always)]
    pub const fn of(segment: &Segment) -> Self {
        Self {
            source: segment.source.bytes,
            destination: segment.destination.bytes,
            source_port: segment.source_port,
            port: segment.port.port,
            family: segment.source.family as u8,
            reserved: [0; 3],
        }
    }

    /// Whether a segment belongs to this connection.
    #[inline(always)]
    pub fn owns(&self, segment: &Segment) -> bool {
        self.source_port == segment.source_port
            && self.port == segment.port.port
            && self.family == segment.source.family as u8
            && self.source == segment.source.bytes
            && self.destination == segment.destination.bytes
    }
}

/// A connection that a grant with a limit let in, and whose handshake goes on. Its place stays taken
/// also when it is forgotten here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    /// Who with whom.
    pub flow: Flow,
    /// Index into the table of slots.
    pub slot: u32,
    /// As in [`Slot::generation`].
    pub generation: u32,
}
const _: () = assert!(size_of::<ConnectionKey>() == 48);

/// How far the handshake of a connection is that a grant with a limit let in.
///
/// It holds the sequence number of the SYN without its last three bits: a SYN that is sent again
/// repeats it (RFC 9293 section 3.8.1), a new connection between the same ports does not. Two SYNs
/// that differ in these bits alone are for the stack, too, one request, until it is answered. In
/// their place stand whether the peer answered, and how many look-ups the socket guard let pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Handshake(u32);

impl Handshake {
    const ANSWERED: u32 = 0b001;
    const LOOK: u32 = 0b010;
    const ALL_LOOKS: u32 = 0b110;
    const SEQUENCE: u32 = !0b111;

    /// Begun by a SYN that the packet gate saw.
    #[inline(always)]
    pub const fn of_syn(sequence: u32) -> Self {
        Self(sequence & Self::SEQUENCE)
    }

    /// Begun by a look-up, which tells no sequence number: no SYN repeats it.
    #[inline(always)]
    pub const fn of_look() -> Self {
        Self(Self::ANSWERED | Self::LOOK)
    }

    /// Whether a SYN with this sequence number is the first one again.
    #[inline(always)]
    pub const fn repeats(self, sequence: u32) -> bool {
        self.0 & (Self::SEQUENCE | Self::ANSWERED) == sequence & Self::SEQUENCE
    }

    /// The peer sent something else than a SYN: another SYN is another connection.
    #[inline(always)]
    pub const fn answered(self) -> Self {
        Self(self.0 | Self::ANSWERED)
    }

    /// One look-up more is let pass: of three the socket guard takes for granted that they are of the
    /// SYN, of the SYN sent again, and of the last step of a handshake with SYN cookies. `None`: a
    /// fourth is of another connection.
    #[inline(always)]
    pub const fn looked(self) -> Option<Self> {
        if self.0 & Self::ALL_LOOKS == Self::ALL_LOOKS {
            return None;
        }
        Some(Self(self.0 + Self::LOOK))
    }
}

/// Flows of grants without a limit that are remembered, so that each is told once; of those beyond,
/// some are told again.
pub const LAST_COUNTED: u32 = 16_384;

/// When a flow was counted last for a grant without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LastCounted {
    /// CLOCK_BOOTTIME nanoseconds.
    pub time: u64,
    /// Sequence number of the SYN, host byte order; zero for UDP, and where a look-up was counted.
    pub sequence: u32,
    /// IANA number, 6 or 17.
    pub protocol: u8,
    /// Always zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<LastCounted>() == 16);

impl LastCounted {
    /// How long a SYN with the same sequence number is the same connection: until behind the first
    /// time that it is sent again, after one second (RFC 6298 section 2).
    pub const SYN: u64 = 2_000_000_000;
    /// How long a look-up, which tells no sequence number, is of a connection that was counted.
    pub const LOOK: u64 = 3_000_000_000;
    /// How long a UDP flow is told once.
    pub const DATAGRAM: u64 = 60_000_000_000;
}

/// Settings of the whole gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Not zero: the gate counts what it would drop and drops nothing.
    pub observe: u32,
    /// Events a second and CPU for dropped packets; zero: none.
    pub drop_events: u32,
    /// Events a second and CPU for connections let in; zero: none.
    pub grant_events: u32,
    /// Always zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Settings>() == 16);

/// State of a rate limit, for each CPU and kind of event: a window of one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Budget {
    /// CLOCK_BOOTTIME nanoseconds at which the window began.
    pub window: u64,
    /// Events sent in it.
    pub used: u64,
}
const _: () = assert!(size_of::<Budget>() == 16);

/// Counters of one protected port, by [`Reason`] number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// Packets, by the number of the reason.
    pub packets: [u64; Reason::ALL.len()],
    /// Packets that would have been dropped, but the port or the gate only observes.
    pub observed: u64,
}
const _: () = assert!(size_of::<PortCounters>() == (Reason::ALL.len() + 1) * 8);

impl Default for PortCounters {
    fn default() -> Self {
        Self { packets: [0; Reason::ALL.len()], observed: 0 }
    }
}

/// Index into the table of counters: the reasons first, then these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packets with this outcome.
    Reason(Reason),
    /// Packets that would have been dropped, but the port or the gate only observes.
    Observed,
    /// Events not sent because of the rate limit.
    EventsSuppressed,
    /// Events not sent because the ring buffer was full.
    EventsLost,
    /// Look-ups of a listening socket that the socket guard refused, or would have in observe mode.
    Guard,
    /// Connections let in of which no event told: the rate limit, or a full ring buffer.
    Untold,
    /// How many of them the audit has; the agent alone writes it.
    UntoldRecorded,
}

/// Length of the table of counters: the last reason's number, and six more behind it.
pub const COUNTERS: u32 = Reason::Unprotected as u32 + 7;

impl Counter {
    /// Index into the table, below [`COUNTERS`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Reason(reason) => reason as u32,
            Self::Observed => COUNTERS - 6,
            Self::EventsSuppressed => COUNTERS - 5,
            Self::EventsLost => COUNTERS - 4,
            Self::Guard => COUNTERS - 3,
            Self::Untold => COUNTERS - 2,
            Self::UntoldRecorded => COUNTERS - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    #[test]
    fn every_port_has_its_own_bit_and_index() {
        for (protocol, port, index) in [
            (Protocol::Tcp, 0, 0),
            (Protocol::Tcp, 65_535, 65_535),
            (Protocol::Udp, 0, 65_536),
            (Protocol::Udp, 65_535, 131_071),
        ] {
            let key = PortKey { protocol, port };
            assert_eq!(key.index(), index);
            assert_eq!(PortKey::from_index(index), Some(key));
            let (word, bit) = key.word_and_bit();
            assert_eq!(word * 64 + bit.trailing_zeros(), index);
            assert!(word < PROTECTED_WORDS);
        }
        assert_eq!(PortKey::from_index(RULE_SLOTS), None);
    }

    #[test]
    fn a_handshake_knows_its_syn_until_it_is_answered_and_three_look_ups() {
        let begun = Handshake::of_syn(0xffff_fff9);
        assert!(begun.repeats(0xffff_fff9) && begun.repeats(0xffff_ffff));
        assert!(!begun.repeats(0xffff_fff7) && !begun.repeats(0));
        let looks = |first: Handshake| {
            core::iter::successors(Some(first), |last| last.looked()).skip(1).count()
        };
        assert_eq!((looks(begun), looks(begun.answered()), looks(Handshake::of_look())), (3, 3, 2));
        let looked = begun.looked().and_then(Handshake::looked).and_then(Handshake::looked);
        assert!(looked.is_some_and(|begun| begun.repeats(0xffff_fff9)));
        let answered = begun.answered();
        assert_eq!(answered.answered(), answered);
        for sequence in [0, 1, 7, 0xffff_fff9] {
            assert!(!answered.repeats(sequence) && !Handshake::of_look().repeats(sequence));
        }
    }

    #[test]
    fn counter_indices_do_not_overlap() {
        let mut seen = [false; COUNTERS as usize];
        let all = Reason::ALL.into_iter().map(Counter::Reason).chain([
            Counter::Observed,
            Counter::EventsSuppressed,
            Counter::EventsLost,
            Counter::Guard,
            Counter::Untold,
            Counter::UntoldRecorded,
        ]);
        for counter in all {
            let index = counter.index() as usize;
            assert!(!seen[index]);
            seen[index] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn a_flow_owns_the_segments_of_its_connection_alone() {
        let segment = Segment {
            source: Address::v4([192, 0, 2, 1]),
            destination: Address::v4([198, 51, 100, 1]),
            source_port: 40_000,
            port: PortKey { protocol: Protocol::Tcp, port: 22 },
            sequence: 1,
            opens: true,
        };
        let flow = Flow::of(&segment);
        assert!(flow.owns(&segment));
        assert!(flow.owns(&Segment { sequence: 2, opens: false, ..segment }));
        let other = Address::v4([192, 0, 2, 2]);
        let family = Address { family: Family::V6, ..segment.source };
        for stranger in [
            Segment { source: other, ..segment },
            Segment { source: family, ..segment },
            Segment { destination: other, ..segment },
            Segment { source_port: 40_001, ..segment },
            Segment { port: PortKey { port: 23, ..segment.port }, ..segment },
        ] {
            assert!(!flow.owns(&stranger) && flow != Flow::of(&stranger), "{stranger:?}");
        }
        assert!(!Flow::default().owns(&segment));
    }

    #[test]
    fn counters_begin_at_nothing() {
        let PortCounters { packets, observed } = PortCounters::default();
        assert!(packets.iter().chain([&observed]).all(|count| *count == 0));
    }

    #[test]
    fn the_families_never_share_a_key() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let v4 = HostKey::new(Address::v4([192, 0, 2, 1]), port);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, 1]);
        assert_ne!(v4, HostKey::new(Address::v6(bytes), port));
    }
}
