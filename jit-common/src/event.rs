//! Events, which the kernel programs send to the agent through the ring buffer.

use crate::{Reason, Segment};

/// Size of an [`Event`] in bytes.
pub const EVENT_BYTES: usize = 64;

/// The kind of an event. Each kind has its own rate limit; its number is the index into the table
/// of budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A packet to a protected port was dropped (or would have been, in observe mode).
    Drop = 0,
    /// A connection, or the first datagram of a UDP flow, was let in under a grant.
    Connection = 1,
}

impl EventKind {
    /// Number of kinds: length of the table of budgets.
    pub const COUNT: u32 = 2;
}

/// One record of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// CLOCK_BOOTTIME nanoseconds.
    pub time: u64,
    /// As [`crate::Address::bytes`].
    pub source: [u8; 16],
    /// As [`crate::Address::bytes`].
    pub destination: [u8; 16],
    /// Interface index the packet came in on.
    pub interface: u32,
    /// Slot of the grant that let the packet in; only with [`Reason::Granted`].
    pub slot: u32,
    /// Destination port, host byte order.
    pub port: u16,
    /// Source port, host byte order.
    pub source_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// IANA number, 6 or 17.
    pub protocol: u8,
    /// [`Reason`] number.
    pub reason: u8,
    /// Not zero: the packet passed although the reason drops, because of observe mode.
    pub observed: u8,
    /// Always zero.
    pub reserved: [u8; 8],
}
const _: () = assert!(size_of::<Event>() == EVENT_BYTES);

impl Event {
    /// The record of a decision about a segment.
    #[inline(always)]
    pub fn new(
        time: u64,
        interface: u32,
        observed: bool,
        slot: u32,
        reason: Reason,
        segment: &Segment,
    ) -> Self {
        Self {
            time,
            source: segment.source.bytes(),
            destination: segment.destination.bytes(),
            interface,
            slot,
            port: segment.port.port,
            source_port: segment.source_port,
            family: segment.source.family as u8,
            protocol: segment.port.protocol as u8,
            reason: reason as u8,
            observed: u8::from(observed),
            reserved: [0; 8],
        }
    }

    /// Reads a record that the kernel wrote. `None`: its size or reason is unknown.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
            let (head, tail) = rest.split_first_chunk::<N>()?;
            *rest = tail;
            Some(*head)
        }
        if bytes.len() != EVENT_BYTES {
            return None;
        }
        let mut rest = bytes;
        let rest = &mut rest;
        let event = Self {
            time: u64::from_ne_bytes(take(rest)?),
            source: take(rest)?,
            destination: take(rest)?,
            interface: u32::from_ne_bytes(take(rest)?),
            slot: u32::from_ne_bytes(take(rest)?),
            port: u16::from_ne_bytes(take(rest)?),
            source_port: u16::from_ne_bytes(take(rest)?),
            family: u8::from_ne_bytes(take(rest)?),
            protocol: u8::from_ne_bytes(take(rest)?),
            reason: u8::from_ne_bytes(take(rest)?),
            observed: u8::from_ne_bytes(take(rest)?),
            reserved: take(rest)?,
        };
        Reason::from_number(event.reason)?;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_with_a_known_reason_are_read() {
        let mut bytes = [0_u8; EVENT_BYTES];
        bytes[0] = 7;
        bytes[8] = 192;
        bytes[48] = 22;
        bytes[54] = Reason::Denied as u8;
        let event = Event::from_bytes(&bytes).unwrap();
        assert_eq!((event.time, event.source[0], event.port), (7, 192, 22));
        assert_eq!(Event::from_bytes(&bytes[..63]), None);
        bytes[54] = 200;
        assert_eq!(Event::from_bytes(&bytes), None);
    }
}
