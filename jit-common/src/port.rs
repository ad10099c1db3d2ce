//! Protected ports: the keys of their tables, and how each port is treated.

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
    /// Not zero: the port enforces on trial, and everybody got in before: from
    /// [`crate::Settings::trial_until`] on it observes.
    pub trial: u8,
    /// Index of the port's counters in the table of the first ports' counters; zero: they are in
    /// the other one. Only the code that writes the kernel's tables uses it.
    pub counters: u32,
}
const _: () = assert!(size_of::<PortRule>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

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
}
