//! Connections that grants let in: how many each grant has, and how far their handshakes are.

use crate::{Address, Family, Segment};

/// Most connections that a grant with a limit can have.
pub const MAX_CONNECTIONS: u32 = 1024;
/// Most connections of all grants with a limit together.
pub const MAX_PLACES: u32 = 65_536;

/// Counts of one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Connections let in, and UDP flows. A flow that goes on counts once a minute. For a grant
    /// with a limit a SYN that is sent again does not count again.
    pub hits: u64,
    /// Most connections, up to [`MAX_CONNECTIONS`]; zero for a grant without a limit.
    pub limit: u32,
    /// Goes up with each grant that gets this slot, so that no grant has the connections of
    /// another.
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
    /// Number of the place: from zero, below [`Slot::limit`], without gaps.
    pub number: u32,
}
const _: () = assert!(size_of::<PlaceKey>() == 12);

/// The 4-tuple of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Flow {
    /// As [`Address::words`].
    pub source: [u32; 4],
    /// As [`Address::words`].
    pub destination: [u32; 4],
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
            source: segment.source.words,
            destination: segment.destination.words,
            source_port: segment.source_port,
            port: segment.port.port,
            family: segment.source.family as u8,
            reserved: [0; 3],
        }
    }

    /// Makes this the connection that a segment belongs to. The fields are written one by one: a
    /// whole value would be made on the stack first. So are the words: BPF copies a whole array byte
    /// by byte.
    #[inline(always)]
    pub const fn fill(&mut self, segment: &Segment) {
        let [a, b, c, d] = segment.source.words;
        self.source = [a, b, c, d];
        let [a, b, c, d] = segment.destination.words;
        self.destination = [a, b, c, d];
        self.source_port = segment.source_port;
        self.port = segment.port.port;
        self.family = segment.source.family as u8;
    }

    /// The addresses of source and destination; `None`: no connection.
    pub const fn ends(&self) -> Option<(Address, Address)> {
        let Self { source, destination, family, .. } = *self;
        let family = match family {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let [source, destination] =
            [Address { family, words: source }, Address { family, words: destination }];
        Some((source, destination))
    }

    /// Whether a segment belongs to this connection.
    #[inline(always)]
    pub fn owns(&self, segment: &Segment) -> bool {
        self.source_port == segment.source_port
            && self.port == segment.port.port
            && self.family == segment.source.family as u8
            && self.source == segment.source.words
            && self.destination == segment.destination.words
    }
}

/// A connection that a grant with a limit let in, while its handshake goes on. Its place stays
/// taken after the handshake is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    /// Addresses and ports of both ends.
    pub flow: Flow,
    /// Index into the table of slots.
    pub slot: u32,
    /// As in [`Slot::generation`].
    pub generation: u32,
}
const _: () = assert!(size_of::<ConnectionKey>() == 48);

impl ConnectionKey {
    /// Makes this the connection that a segment belongs to, for the grant with this slot and
    /// generation.
    #[inline(always)]
    pub const fn fill(&mut self, slot: u32, generation: u32, segment: &Segment) {
        self.flow.fill(segment);
        self.slot = slot;
        self.generation = generation;
    }
}

/// Progress of a handshake. A grant with a limit let the connection in.
///
/// It holds the sequence number of the SYN without its last three bits: a SYN that is sent again
/// repeats it (RFC 9293 section 3.8.1), a new connection between the same ports does not. Two SYNs
/// that differ in these bits alone are one request for the stack, too, until it is answered. The
/// three bits say instead whether the peer answered, and how many look-ups the socket guard let
/// pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Handshake(u32);

impl Handshake {
    const ANSWERED: u32 = 0b001;
    const LOOKUP: u32 = 0b010;
    const ALL_LOOKUPS: u32 = 0b110;
    const SEQUENCE: u32 = !0b111;

    /// Begun by a SYN that the packet gate saw.
    #[inline(always)]
    pub const fn of_syn(sequence: u32) -> Self {
        Self(sequence & Self::SEQUENCE)
    }

    /// Begun by a look-up, which has no sequence number: no SYN repeats it.
    #[inline(always)]
    pub const fn of_lookup() -> Self {
        Self(Self::ANSWERED | Self::LOOKUP)
    }

    /// Whether a SYN with this sequence number is the first one again.
    #[inline(always)]
    pub const fn repeats(self, sequence: u32) -> bool {
        self.0 & (Self::SEQUENCE | Self::ANSWERED) == sequence & Self::SEQUENCE
    }

    /// After the peer sent something else than a SYN: another SYN is another connection.
    #[inline(always)]
    pub const fn answered(self) -> Self {
        Self(self.0 | Self::ANSWERED)
    }

    /// With one look-up more that the socket guard let pass. The guard assumes that the first three
    /// are of the SYN, of the SYN sent again, and of the last step of a handshake with SYN cookies.
    /// `None`: a fourth is of another connection.
    #[inline(always)]
    pub const fn with_lookup(self) -> Option<Self> {
        if self.0 & Self::ALL_LOOKUPS == Self::ALL_LOOKUPS {
            return None;
        }
        Some(Self(self.0 + Self::LOOKUP))
    }
}

/// Largest number of flows of grants without a limit that are remembered, so that each is reported
/// once. If there are more flows, some are reported again.
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

/// The flow of a grant without a limit that a CPU was last asked about, and when it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LastHere {
    /// The flow, with its grant.
    pub key: ConnectionKey,
    /// When it was counted.
    pub counted: LastCounted,
}
const _: () = assert!(size_of::<LastHere>() == 64);

impl LastCounted {
    /// A SYN with the same sequence number within this time, nanoseconds, is the same connection.
    /// The first one is sent again after one second (RFC 6298 section 2).
    pub const SYN: u64 = 2_000_000_000;
    /// A look-up within this time, nanoseconds, belongs to a connection that was counted. It has no
    /// sequence number to compare.
    pub const LOOKUP: u64 = 3_000_000_000;
    /// A UDP flow is reported once in this time, nanoseconds.
    pub const DATAGRAM: u64 = 60_000_000_000;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Family, PortKey, Protocol};

    #[test]
    fn a_handshake_knows_its_syn_until_it_is_answered_and_three_look_ups() {
        let begun = Handshake::of_syn(0xffff_fff9);
        assert!(begun.repeats(0xffff_fff9) && begun.repeats(0xffff_ffff));
        assert!(!begun.repeats(0xffff_fff7) && !begun.repeats(0));
        let lookups = |first: Handshake| {
            core::iter::successors(Some(first), |last| last.with_lookup()).skip(1).count()
        };
        assert_eq!(
            (lookups(begun), lookups(begun.answered()), lookups(Handshake::of_lookup())),
            (3, 3, 2)
        );
        let three =
            begun.with_lookup().and_then(Handshake::with_lookup).and_then(Handshake::with_lookup);
        assert!(three.is_some_and(|begun| begun.repeats(0xffff_fff9)));
        let answered = begun.answered();
        assert_eq!(answered.answered(), answered);
        for sequence in [0, 1, 7, 0xffff_fff9] {
            assert!(!answered.repeats(sequence) && !Handshake::of_lookup().repeats(sequence));
        }
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
}
