//! The summary of the grant tables: a bit array that says which sources have no entry for sure.
//!
//! A packet from a source without a grant needs no look-up in a hash or a trie then. A bit that is
//! set says nothing: the tables are asked, and they decide. So a bit may be set too much, and never
//! too little: it is set before its entry is written, and cleared after the entry is gone.

use crate::{Address, Family, PortKey};

/// Shortest prefix, by family, whose addresses share one place: an IPv4 /16, an IPv6 /32. A shorter
/// prefix takes the place of its port.
const BLOCK_V4: u8 = 16;
const BLOCK_V6: u8 = 32;
/// Bits of the summary for each entry that a table of grants has room for. With all of them in use
/// about one source in nine is looked up for nothing.
const BITS_PER_ENTRY: u32 = 8;
/// Fewest and most words of 64 bits of a part: 16 KiB and 8 MiB.
const FEWEST_WORDS: u32 = 1 << 11;
const MOST_WORDS: u32 = 1 << 20;

/// The summary's two parts: the words of host grants come first, those of prefixes after them. They
/// share no bit: many hosts would set that of a port's short prefixes by chance, and then every
/// source would be looked up among the prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummarySize {
    /// Length of a part in 64-bit words, a power of two.
    pub hosts: u32,
    /// As `hosts`.
    pub prefixes: u32,
}

impl SummarySize {
    /// For tables with room for this many host grants, and for this many prefixes of each family.
    pub const fn for_grants(hosts: u32, prefixes: u32) -> Self {
        Self { hosts: words(hosts), prefixes: words(prefixes) }
    }

    /// Length of the whole summary in words.
    pub const fn words(self) -> u32 {
        self.hosts + self.prefixes
    }
}

const fn words(entries: u32) -> u32 {
    let wanted = entries.saturating_mul(BITS_PER_ENTRY) / 64;
    if wanted <= FEWEST_WORDS {
        FEWEST_WORDS
    } else if wanted >= MOST_WORDS {
        MOST_WORDS
    } else {
        wanted.next_power_of_two()
    }
}

/// Where an entry has its bit, before the summary's size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    mixed: u32,
    kind: Kind,
}

impl Place {
    /// The place of an entry for exactly this address.
    #[inline(always)]
    pub const fn of_host(source: Address, port: PortKey) -> Self {
        let [first, last] = halves(source);
        Self::mixed(first, last, Kind::Host, source.family, port)
    }

    /// The place of prefixes that are no shorter than a block, in the block of this address.
    #[inline(always)]
    pub const fn of_block(source: Address, port: PortKey) -> Self {
        const FIRST_TWO: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
        let [first, ..] = source.words;
        let block = match source.family {
            Family::V4 => first & FIRST_TWO,
            Family::V6 => first,
        };
        Self::mixed(block as u64, 0, Kind::Block, source.family, port)
    }

    /// The place of all shorter prefixes of the family.
    #[inline(always)]
    pub const fn of_port(family: Family, port: PortKey) -> Self {
        Self::mixed(0, 0, Kind::Port, family, port)
    }

    /// The place of the entry for a prefix of this length.
    pub const fn of_prefix(address: Address, length: u8, port: PortKey) -> Self {
        let (block, whole) = match address.family {
            Family::V4 => (BLOCK_V4, 32),
            Family::V6 => (BLOCK_V6, 128),
        };
        if length >= whole {
            Self::of_host(address, port)
        } else if length >= block {
            Self::of_block(address, port)
        } else {
            Self::of_port(address.family, port)
        }
    }

    /// Index of the 64-bit word in a summary of this size, and the mask of the bit.
    #[inline(always)]
    pub const fn word_and_bit(self, size: SummarySize) -> (u32, u64) {
        let word = self.mixed >> 6;
        let index = match self.kind {
            Kind::Host => word & size.hosts.wrapping_sub(1),
            Kind::Block | Kind::Port => size.hosts + (word & size.prefixes.wrapping_sub(1)),
        };
        (index, 1 << (self.mixed & 63))
    }

    /// Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): the
    /// upper half of the product depends on all bits.
    #[inline(always)]
    const fn mixed(first: u64, last: u64, kind: Kind, family: Family, port: PortKey) -> Self {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let port = (kind as u64) << 32
            | (family as u64) << 24
            | (port.protocol as u64) << 16
            | port.port as u64;
        let mixed = first.wrapping_mul(GOLDEN) ^ last ^ port.rotate_left(32);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(GOLDEN);
        Self { mixed: (mixed >> 32) as u32, kind }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host = 1,
    Block = 2,
    Port = 3,
}

#[inline(always)]
const fn halves(address: Address) -> [u64; 2] {
    let [a, b, c, d] = address.words;
    [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64]
}
