//! A grant's entries in the kernel's tables: keys by address and by prefix, and the value.
//!
//! Ports inside keys are in network byte order, as longest-prefix matching needs them.

use crate::{Address, PortKey};

/// Key of a grant for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HostKey {
    /// As [`Address::words`].
    pub address: [u32; 4],
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
            address: address.words,
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
    /// Network byte order, as it lies in memory.
    pub address: u32,
}
const _: () = assert!(size_of::<PrefixV4>() == 8);

impl PrefixV4 {
    /// Bits of the key in front of the address.
    pub const HEAD_BITS: u32 = 32;

    /// The key data for `address` at `port`.
    #[inline(always)]
    pub const fn new(address: Address, port: PortKey) -> Self {
        let [address, ..] = address.words;
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
    /// Always zero.
    pub reserved: u8,
    /// Always zero; 24 bytes in all, because a trie's value is only aligned after a key of a
    /// multiple of eight bytes. (BPF would clear an array of bytes by a loop.)
    pub padding: u32,
    /// As [`Address::words`].
    pub address: [u32; 4],
}
const _: () = assert!(size_of::<PrefixV6>() == 24);

impl PrefixV6 {
    /// Bits of the key in front of the address.
    pub const HEAD_BITS: u32 = 64;

    /// The key data for `address` at `port`.
    #[inline(always)]
    pub const fn new(address: Address, port: PortKey) -> Self {
        Self {
            port: port.port.to_be_bytes(),
            protocol: port.protocol as u8,
            reserved: 0,
            padding: 0,
            address: address.words,
        }
    }
}

/// The deadline of one grant, and where its connections are counted.
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
/// The next layout, which exists only for tests of upgrades, has eight bytes more.
const CLAIM_RESERVED: usize = if cfg!(jit_next_abi) { 11 } else { 3 };
const _: () = assert!(size_of::<Claim>() == 13 + CLAIM_RESERVED);

impl Claim {
    /// A claim whose sessions end by the port's rule.
    pub const fn until(deadline: u64, slot: u32) -> Self {
        Self { deadline, slot, cut: 0, reserved: [0; CLAIM_RESERVED] }
    }

    /// Whether the claim lets connections in at this time, CLOCK_BOOTTIME nanoseconds.
    #[inline(always)]
    pub const fn live(&self, now: u64) -> bool {
        self.deadline > now
    }
}

/// The value in a grant table. Of all grants that cover a key, two matter: the one without a limit
/// that lasts longest, and one with a limit that is not used up. So a grant with a limit never
/// shortens one without, even when the agent is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GrantEntry {
    /// A grant for any number of connections.
    pub unlimited: Claim,
    /// A grant for a limited number of connections. The limit is in its [`crate::Slot`].
    pub limited: Claim,
}
const _: () = assert!(size_of::<GrantEntry>() == 2 * size_of::<Claim>());

impl GrantEntry {
    /// An entry that only has a grant for any number of connections.
    pub const fn until(deadline: u64, slot: u32) -> Self {
        Self { unlimited: Claim::until(deadline, slot), limited: Claim::until(0, 0) }
    }

    /// Whether one of its deadlines comes after this time, and at most `span` later; nanoseconds.
    #[inline(always)]
    pub(crate) const fn ends_within(&self, time: u64, span: u64) -> bool {
        // A deadline that has passed is far ahead by this difference.
        let unlimited = self.unlimited.deadline.wrapping_sub(time).wrapping_sub(1) < span;
        let limited = self.limited.deadline.wrapping_sub(time).wrapping_sub(1) < span;
        unlimited || limited
    }
}

/// Slot of the entry's grant without a limit, if it is live.
#[inline(always)]
pub(crate) fn unlimited(entry: Option<&GrantEntry>, now: u64) -> Option<u32> {
    entry.filter(|entry| entry.unlimited.live(now)).map(|entry| entry.unlimited.slot)
}

/// Slot of the entry's grant with a limit, if it is live.
#[inline(always)]
pub(crate) fn limited(entry: Option<&GrantEntry>, now: u64) -> Option<u32> {
    entry.filter(|entry| entry.limited.live(now)).map(|entry| entry.limited.slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn the_families_never_share_a_key() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let v4 = HostKey::new(Address::v4([192, 0, 2, 1]), port);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, 1]);
        assert_ne!(v4, HostKey::new(Address::v6(bytes), port));
    }

    #[test]
    fn a_deadline_is_near_after_this_time_and_up_to_the_end_of_the_span() {
        for (deadline, near) in [(0, false), (10, false), (11, true), (15, true), (16, false)] {
            let (at, never) = (Claim::until(deadline, 1), Claim::until(0, 0));
            let unlimited = GrantEntry { unlimited: at, limited: never };
            let limited = GrantEntry { unlimited: never, limited: at };
            assert_eq!(unlimited.ends_within(10, 5), near, "{deadline}");
            assert_eq!(limited.ends_within(10, 5), near, "{deadline}");
        }
    }
}
