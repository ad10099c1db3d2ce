//! A source: an address and a prefix length, with no bit set after it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use jit_common::{Address, Family};

use crate::{port_range::listed, v1};

/// An address or a prefix; the bits after the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    address: Address,
    length: u8,
}

/// Why a text or a message is not a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is not an address.
    #[error("`{0}` is not an IPv4 or IPv6 address")]
    Address(String),
    /// The address has neither 4 nor 16 bytes.
    #[error("an address has 4 or 16 bytes, not {0}")]
    AddressLength(usize),
    /// The address has bits set after the prefix length.
    #[error("{0} has bits set after its prefix length; write {1}")]
    HostBits(String, SourcePrefix),
    /// It is spelled as people write it, but not as an address or a prefix.
    #[error("`{typed}` is not an address or a prefix; write {write}")]
    Spelling {
        /// The text.
        typed: String,
        /// What was most likely meant.
        write: String,
    },
    /// The part after the slash is not a length of this family.
    #[error("prefix length `{0}` is not a number from 0 to {1}")]
    Length(String, u8),
    /// The prefix lies in `::ffff:0:0/96` (IPv4-mapped, RFC 4291 section 2.5.5.2).
    #[error("{0} is an IPv4-mapped IPv6 address; write the IPv4 address")]
    Mapped(SourcePrefix),
}

impl SourcePrefix {
    /// All of one family: `0.0.0.0/0` or `::/0`.
    pub const fn any(family: Family) -> Self {
        let address = match family {
            Family::V4 => Address::v4([0; 4]),
            Family::V6 => Address::v6([0; 16]),
        };
        Self { address, length: 0 }
    }

    /// An address and a length in bits.
    pub fn new(address: Address, length: u8) -> Result<Self, PrefixError> {
        let max = bits(address.family);
        if length > max {
            return Err(PrefixError::Length(length.to_string(), max));
        }
        let prefix = Self { address: masked(address, length), length };
        if prefix.address != address {
            return Err(PrefixError::HostBits(format!("{}/{length}", ip(address)), prefix));
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = address.bytes();
        let mapped = [a, b, c, d, e, f, g, h, i, j] == [0; 10] && [k, l] == [0xff; 2];
        if address.family == Family::V6 && length >= 96 && mapped {
            return Err(PrefixError::Mapped(prefix));
        }
        Ok(prefix)
    }

    /// The network address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Length in bits.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether this prefix is a single address.
    pub fn is_host(&self) -> bool {
        self.length == bits(self.address.family)
    }

    /// Whether every address of `other` lies in this prefix; never across families.
    pub fn contains(&self, other: &Self) -> bool {
        self.address.family == other.address.family
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }

    /// Whether some address lies in both; never across families.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// The same network cut to `length` bits; itself when that is not shorter.
    pub fn widened(&self, length: u8) -> Self {
        let length = length.min(self.length);
        Self { address: masked(self.address, length), length }
    }

    /// The highest address in the prefix.
    pub fn last_address(&self) -> Address {
        let keep = mask(self.length);
        let used = mask(bits(self.address.family));
        let bytes = u128::from_be_bytes(self.address.bytes()) | (!keep & used);
        Address::of(self.address.family, bytes.to_be_bytes())
    }
}

impl From<IpAddr> for SourcePrefix {
    fn from(ip: IpAddr) -> Self {
        let address = match ip.to_canonical() {
            IpAddr::V4(ip) => Address::v4(ip.octets()),
            IpAddr::V6(ip) => Address::v6(ip.octets()),
        };
        Self { address, length: bits(address.family) }
    }
}

impl FromStr for SourcePrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        parse(text).map_err(|error| match (&error, meant(text)) {
            (PrefixError::Address(_) | PrefixError::Length(..), Some(write)) => {
                PrefixError::Spelling { typed: text.to_owned(), write }
            }
            _ => error,
        })
    }
}

fn parse(text: &str) -> Result<SourcePrefix, PrefixError> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length)),
        None => (text, None),
    };
    let address = match ip.parse().map_err(|_| PrefixError::Address(ip.to_owned()))? {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    };
    let max = bits(address.family);
    let length = match length {
        None => max,
        Some(text) => text.parse().map_err(|_| PrefixError::Length(text.to_owned(), max))?,
    };
    SourcePrefix::new(address, length)
}

/// What was most likely meant by a text that is no source.
fn meant(text: &str) -> Option<String> {
    let text = text.trim();
    if matches!(&*text.to_lowercase(), "0/0" | "any" | "all" | "*" | "0" | "everybody") {
        return Some(
            "\"0.0.0.0/0\" for everybody by IPv4, and \"::/0\" for everybody by IPv6".into(),
        );
    }
    if text.contains([',', ' ', ';']) {
        let all = listed(text);
        let parts = text.split([',', ' ', ';']).filter(|part| !part.is_empty());
        let good = parts.into_iter().all(|part| part.parse::<SourcePrefix>().is_ok());
        return good.then(|| format!("each source as a string of its own: {all}"));
    }
    let (ip, length) = text.split_once('/')?;
    let length = match length.parse::<Ipv4Addr>() {
        // A mask of the network, as ifconfig(8) writes it.
        Ok(mask) => {
            let (ones, mask) = (mask.to_bits().leading_ones(), mask.to_bits());
            (ones == mask.count_ones()).then_some(ones)?
        }
        Err(_) => length.parse().ok().filter(|length| *length <= 32)?,
    };
    // The octets that are not written are zero: 10/8.
    let octets: Vec<u8> = ip.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let mut whole = [0; 4];
    whole.get_mut(..octets.len())?.copy_from_slice(&octets);
    let address = masked(Address::v4(whole), u8::try_from(length).ok()?);
    Some(format!("{:?}", format!("{}/{length}", self::ip(address))))
}

impl TryFrom<&v1::Source> for SourcePrefix {
    type Error = PrefixError;

    fn try_from(source: &v1::Source) -> Result<Self, PrefixError> {
        let bytes = source.address.as_ref();
        let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            Address::v4(v4)
        } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            Address::v6(v6)
        } else {
            return Err(PrefixError::AddressLength(bytes.len()));
        };
        let max = bits(address.family);
        let length = u8::try_from(source.prefix_length)
            .map_err(|_| PrefixError::Length(source.prefix_length.to_string(), max))?;
        Self::new(address, length)
    }
}

impl From<&SourcePrefix> for v1::Source {
    fn from(prefix: &SourcePrefix) -> Self {
        let bytes = match prefix.address.family {
            Family::V4 => prefix.address.first_four().to_vec(),
            Family::V6 => prefix.address.bytes().to_vec(),
        };
        Self { address: bytes.into(), prefix_length: u32::from(prefix.length) }
    }
}

/// `192.0.2.1`, `10.0.0.0/8`: a single address has no length.
impl fmt::Display for SourcePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() && f.precision().is_none() {
            write!(f, "{}", ip(self.address))?;
            return if self.is_host() { Ok(()) } else { write!(f, "/{}", self.length) };
        }
        // Through a string, so that width and alignment apply to the whole.
        let text = if self.is_host() {
            ip(self.address).to_string()
        } else {
            format!("{}/{}", ip(self.address), self.length)
        };
        f.pad(&text)
    }
}

/// An address as the standard library's type.
pub fn ip(address: Address) -> IpAddr {
    match address.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(address.first_four())),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(address.bytes())),
    }
}

/// `address` with only its first `length` bits; the others are zero.
pub fn masked(address: Address, length: u8) -> Address {
    let bytes = u128::from_be_bytes(address.bytes()) & mask(length);
    Address::of(address.family, bytes.to_be_bytes())
}

/// Bits of an address of this family.
pub const fn bits(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> SourcePrefix {
        text.parse().unwrap()
    }

    #[test]
    fn text_round_trips() {
        for text in ["192.0.2.1", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::1", "2001:db8::/32", "::/0"]
        {
            assert_eq!(prefix(text).to_string(), text);
            let wire = v1::Source::from(&prefix(text));
            assert_eq!(SourcePrefix::try_from(&wire).unwrap(), prefix(text));
        }
        assert_eq!(prefix("192.0.2.1/32"), prefix("192.0.2.1"));
    }

    #[test]
    fn host_bits_and_bad_lengths_are_refused() {
        let error = "192.0.2.1/24".parse::<SourcePrefix>().unwrap_err();
        assert_eq!(error, PrefixError::HostBits("192.0.2.1/24".into(), prefix("192.0.2.0/24")));
        for bad in ["192.0.2.0/33", "::/129", "192.0.2.0/", "192.0.2/24", "", "/8", "::1%eth0"] {
            assert!(bad.parse::<SourcePrefix>().is_err(), "{bad}");
        }
        assert!(matches!("::ffff:192.0.2.1".parse::<SourcePrefix>(), Err(PrefixError::Mapped(_))));
    }

    #[test]
    fn a_source_that_is_spelled_otherwise_is_named_as_it_is_written() {
        for (typed, write) in [
            ("0/0", "\"0.0.0.0/0\" for everybody by IPv4, and \"::/0\" for everybody by IPv6"),
            ("any", "\"0.0.0.0/0\" for everybody by IPv4, and \"::/0\" for everybody by IPv6"),
            ("10/8", "\"10.0.0.0/8\""),
            ("192.168/16", "\"192.168.0.0/16\""),
            ("192.0.2/24", "\"192.0.2.0/24\""),
            ("192.0.2.0/255.255.255.0", "\"192.0.2.0/24\""),
            ("10.0.0.0/8,::1", "each source as a string of its own: \"10.0.0.0/8\", \"::1\""),
        ] {
            let error = typed.parse::<SourcePrefix>().unwrap_err();
            let typed = typed.to_owned();
            assert_eq!(error, PrefixError::Spelling { typed, write: write.into() });
        }
        for typed in ["10/33", "1.2.3.4.5/8", "256/8", "192.0.2.0/255.0.255.0", "a, b", "x/8"] {
            let error = typed.parse::<SourcePrefix>().unwrap_err();
            assert!(!matches!(error, PrefixError::Spelling { .. }), "{error}");
        }
    }

    #[test]
    fn the_families_never_contain_each_other() {
        assert!(!prefix("::/0").contains(&prefix("192.0.2.1")));
        assert!(!prefix("0.0.0.0/0").contains(&prefix("::1")));
        assert!(prefix("10.0.0.0/8").contains(&prefix("10.255.0.0/16")));
        assert!(!prefix("10.255.0.0/16").contains(&prefix("10.0.0.0/8")));
    }

    #[test]
    fn last_address_fills_the_host_bits_only() {
        assert_eq!(ip(prefix("192.0.2.0/24").last_address()).to_string(), "192.0.2.255");
        assert_eq!(ip(prefix("192.0.2.7").last_address()).to_string(), "192.0.2.7");
        assert_eq!(ip(prefix("0.0.0.0/0").last_address()).to_string(), "255.255.255.255");
        assert_eq!(ip(prefix("2001:db8::/112").last_address()).to_string(), "2001:db8::ffff");
    }
}
