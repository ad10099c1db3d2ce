//! Source and destination addresses as they stand on the wire.
//!
//! The family is part of the value: an on-the-wire `::ffff:192.0.2.1` is an IPv6 address and never
//! equal to 192.0.2.1, so that no table can confuse the two.

use core::cmp::Ordering;

/// Address family, with the number that goes into table keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4 = 4,
    /// IPv6 (RFC 8200).
    V6 = 6,
}

/// An address. It is kept as words, not as bytes: the compiler for BPF takes sixteen bytes apart, and
/// moves each of them by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Which of the two families `words` holds.
    pub family: Family,
    /// As they lie in memory, network byte order; for [`Family::V4`] only the first is meaningful,
    /// the rest zero.
    pub words: [u32; 4],
}

impl Address {
    /// An IPv4 address from its four bytes.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self { family: Family::V4, words: [u32::from_ne_bytes(bytes), 0, 0, 0] }
    }

    /// An IPv6 address from its sixteen bytes.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self::of(Family::V6, bytes)
    }

    /// An address of this family from its bytes, as [`Address::bytes`] gives them.
    #[inline(always)]
    pub const fn of(family: Family, bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        let [first, second] = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])];
        let [third, last] = [u32::from_ne_bytes([i, j, k, l]), u32::from_ne_bytes([m, n, o, p])];
        Self { family, words: [first, second, third, last] }
    }

    /// The bytes in network byte order. IPv4 uses the first four and leaves the rest zero.
    #[inline(always)]
    pub const fn bytes(&self) -> [u8; 16] {
        bytes(self.words)
    }

    /// The four bytes of an IPv4 address (the first four of an IPv6 address otherwise).
    #[inline(always)]
    pub const fn first_four(&self) -> [u8; 4] {
        let [first, ..] = self.words;
        first.to_ne_bytes()
    }

    /// True for `127.0.0.0/8` and `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        match self.family {
            Family::V4 => self.first_four()[0] == 127,
            Family::V6 => u128::from_be_bytes(self.bytes()) == 1,
        }
    }

    /// True for IPv6 sources that no TCP peer may have: IPv4-mapped (`::ffff:0:0/96`), multicast
    /// (`ff00::/8`) and unspecified (`::`), RFC 4291 sections 2.5.2, 2.5.5.2 and 2.7.
    #[inline(always)]
    pub const fn is_bad_tcp_source(&self) -> bool {
        if !matches!(self.family, Family::V6) {
            return false;
        }
        let [first, second, third, last] = self.words;
        // `::ffff` of a mapped address, as it lies in memory.
        const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let mapped = first | second == 0 && third == MAPPED;
        let unspecified = first | second | third | last == 0;
        mapped || unspecified || first.to_ne_bytes()[0] == 0xff
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.family, self.bytes()).cmp(&(other.family, other.bytes()))
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The bytes of four words, as they lie in memory.
#[inline(always)]
pub(crate) const fn bytes([a, b, c, d]: [u32; 4]) -> [u8; 16] {
    let [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]] =
        [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes()];
    [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(text: &str) -> Address {
        Address::v6(text.parse::<core::net::Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn mapped_multicast_and_unspecified_sources_are_bad() {
        for bad in ["::ffff:192.0.2.1", "::", "ff02::1", "ff0e::1"] {
            assert!(v6(bad).is_bad_tcp_source(), "{bad}");
        }
        for good in ["::1", "2001:db8::1", "::fffe:c000:201", "fe80::1", "0:0:0:0:1:ffff::", "::2"]
        {
            assert!(!v6(good).is_bad_tcp_source(), "{good}");
        }
        assert!(!Address::v4([0, 0, 0, 0]).is_bad_tcp_source());
    }

    #[test]
    fn addresses_are_ordered_by_family_and_then_by_bytes() {
        let ordered = [Address::v4([9, 0, 0, 1]), Address::v4([10, 0, 0, 0]), v6("::"), v6("::1")];
        assert!(ordered.is_sorted_by(|one, next| one < next), "{ordered:?}");
    }

    /// Wherever two bits stand, and however they might cancel.
    #[test]
    fn every_bit_of_the_address_counts() {
        for one in 0..16 {
            for other in 0..16 {
                let mut bytes = [0; 16];
                bytes[one] = 1;
                bytes[other] = 1;
                assert!(!Address::v6(bytes).is_bad_tcp_source(), "{bytes:?}");
                let mut mapped = bytes;
                mapped[10] = 0xff;
                mapped[11] = 0xff;
                let bad = one > 9 && other > 9;
                assert_eq!(Address::v6(mapped).is_bad_tcp_source(), bad, "{mapped:?}");
            }
        }
    }

    #[test]
    fn loopback_is_one_network_of_ipv4_and_one_address_of_ipv6() {
        for (loopback, other) in [
            (Address::v4([127, 0, 0, 1]), Address::v4([126, 0, 0, 1])),
            (Address::v4([127, 255, 255, 255]), Address::v4([128, 0, 0, 1])),
            (v6("::1"), v6("::2")),
            (v6("::1"), v6("7f00::1")),
        ] {
            assert!(loopback.is_loopback(), "{loopback:?}");
            assert!(!other.is_loopback(), "{other:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_not_the_ipv4_address() {
        assert_ne!(v6("::ffff:192.0.2.1"), Address::v4([192, 0, 2, 1]));
    }
}
