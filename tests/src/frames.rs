//! Frames, built layer by layer from readable parts, with lengths and checksums as a real sender
//! would write them unless a test says otherwise.
//!
//! It builds bytes only: nothing here sends, receives or decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jit_common::{Address, Protocol};

/// TCP flags, as they stand in the low byte of the flags word (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets it.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Tag protocol identifier of IEEE 802.1Q.
pub const VLAN: u16 = 0x8100;
/// Tag protocol identifier of IEEE 802.1ad.
pub const QINQ: u16 = 0x88a8;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Minimal length of a header of each kind, bytes.
const TCP_BYTES: usize = 20;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// Source and destination of the hardware; locally administered.
#[derive(Clone, Copy, Debug)]
pub struct Macs {
    /// Who sends.
    pub source: [u8; 6],
    /// Who receives.
    pub destination: [u8; 6],
}

impl Default for Macs {
    fn default() -> Self {
        Self { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] }
    }
}

/// What an Ethernet frame carries.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Of `bytes`.
    pub ethertype: u16,
    /// From the network header on.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// A packet of any ethertype.
    pub fn new(ethertype: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self { ethertype, bytes: bytes.into() }
    }

    /// The untagged frame.
    pub fn frame(&self) -> Vec<u8> {
        self.tagged(&[])
    }

    /// The frame with VLAN tags, outermost first: tag protocol identifier and VLAN id.
    pub fn tagged(&self, tags: &[(u16, u16)]) -> Vec<u8> {
        self.between(Macs::default(), tags)
    }

    /// The frame between two stations.
    pub fn between(&self, macs: Macs, tags: &[(u16, u16)]) -> Vec<u8> {
        let mut frame = [macs.destination, macs.source].concat();
        for (identifier, vid) in tags {
            frame.extend(identifier.to_be_bytes());
            frame.extend(vid.to_be_bytes());
        }
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(&self.bytes);
        frame
    }

    /// The same packet with all but its first `bytes` bytes cut off.
    pub fn cut(mut self, bytes: usize) -> Self {
        assert!(bytes < self.bytes.len(), "nothing to cut at {bytes}");
        self.bytes.truncate(bytes);
        self
    }

    /// The same packet with `value` written over the byte at `offset`.
    pub fn with_byte(mut self, offset: usize, value: u8) -> Self {
        *self.bytes.get_mut(offset).expect("offset lies in the packet") = value;
        self
    }
}

/// A TCP segment; an empty SYN to `port` unless told otherwise.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// As in [`flag`].
    pub flags: u8,
    /// The four reserved bits (the lowest was once NS), low nibble of byte 12.
    pub reserved: u8,
    /// Written into the header instead of the right one, in 4-byte words.
    pub data_offset: Option<u8>,
    /// Whole options; padded with zero to a multiple of four.
    pub options: Vec<u8>,
    /// Behind the header.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// A SYN to `port`.
    pub fn syn(port: u16) -> Self {
        Self::with_flags(port, flag::SYN)
    }

    /// An empty segment with these flags.
    pub fn with_flags(port: u16, flags: u8) -> Self {
        Self {
            source_port: 40_000,
            port,
            sequence: 0x1000_0000,
            acknowledgement: 0,
            flags,
            reserved: 0,
            data_offset: None,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// From this source port.
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// With these options.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With this data offset, right or wrong.
    pub fn data_offset(mut self, words: u8) -> Self {
        self.data_offset = Some(words);
        self
    }

    /// With these reserved bits.
    pub fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    /// Header and payload, with the checksum of the pseudo header.
    pub fn bytes(&self, source: Address, destination: Address) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = self.data_offset.unwrap_or_else(|| byte((TCP_BYTES + options.len()) / 4));
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([words << 4 | self.reserved & 0x0f, self.flags]);
        bytes.extend(64_240_u16.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(&self.payload);
        let sum = transport_checksum(source, destination, Protocol::Tcp as u8, &bytes);
        bytes.splice(16..18, sum.to_be_bytes());
        bytes
    }
}

/// A UDP datagram.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// Behind the header.
    pub payload: Vec<u8>,
}

impl Udp {
    /// A datagram to `port`.
    pub fn to(port: u16) -> Self {
        Self { source_port: 40_000, port, payload: b"datagram".to_vec() }
    }

    /// From this source port.
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Header and payload, with the checksum of the pseudo header.
    pub fn bytes(&self, source: Address, destination: Address) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(short(UDP_BYTES + self.payload.len()).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.payload);
        let sum = transport_checksum(source, destination, Protocol::Udp as u8, &bytes);
        // Zero would mean "no checksum" (RFC 768).
        let sum = if sum == 0 { 0xffff } else { sum };
        bytes.splice(6..8, sum.to_be_bytes());
        bytes
    }
}

/// An IPv4 header.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Who sends.
    pub source: Ipv4Addr,
    /// Who receives.
    pub destination: Ipv4Addr,
    /// Whole options; padded with zero (end of options) to a multiple of four.
    pub options: Vec<u8>,
    /// Three flag bits and the offset in units of 8 bytes.
    pub fragment: u16,
    /// Same for all fragments of one packet.
    pub identification: u16,
    /// Written instead of the right total length.
    pub total: Option<u16>,
    /// Written instead of the right header length, in 4-byte words.
    pub words: Option<u8>,
    /// Written instead of 4.
    pub version: u8,
}

impl Ipv4 {
    /// "Don't fragment".
    pub const DF: u16 = 0x4000;
    /// "More fragments".
    pub const MF: u16 = 0x2000;

    /// A plain header.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            options: Vec::new(),
            fragment: 0,
            identification: 7,
            total: None,
            words: None,
            version: 4,
        }
    }

    /// With these options.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With this fragment word: flags and offset in units of 8 bytes.
    pub fn fragment(mut self, word: u16) -> Self {
        self.fragment = word;
        self
    }

    /// With this total length, right or wrong.
    pub fn total(mut self, bytes: u16) -> Self {
        self.total = Some(bytes);
        self
    }

    /// With this header length in 4-byte words, right or wrong.
    pub fn words(mut self, words: u8) -> Self {
        self.words = Some(words);
        self
    }

    /// A packet with any payload.
    pub fn carry(&self, protocol: u8, payload: &[u8]) -> Packet {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header = IPV4_BYTES + options.len();
        let words = self.words.unwrap_or_else(|| byte(header / 4));
        let total = self.total.unwrap_or_else(|| short(header + payload.len()));
        let mut bytes = vec![self.version << 4 | words & 0x0f, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(options);
        let sum = checksum(&[&bytes]);
        bytes.splice(10..12, sum.to_be_bytes());
        bytes.extend(payload);
        Packet::new(IPV4, bytes)
    }

    /// A packet with a TCP segment.
    pub fn tcp(&self, segment: &Tcp) -> Packet {
        self.carry(Protocol::Tcp as u8, &segment.bytes(self.source(), self.destination()))
    }

    /// A packet with a UDP datagram.
    pub fn udp(&self, datagram: &Udp) -> Packet {
        self.carry(Protocol::Udp as u8, &datagram.bytes(self.source(), self.destination()))
    }

    /// The payload in fragments that begin at these offsets (multiples of 8; the first is 0).
    pub fn fragments(&self, protocol: u8, payload: &[u8], offsets: &[usize]) -> Vec<Packet> {
        pieces(payload, offsets)
            .map(|(offset, piece, more)| {
                let word = short(offset / 8) | if more { Self::MF } else { 0 };
                self.clone().fragment(self.fragment | word).carry(protocol, piece)
            })
            .collect()
    }

    /// The source as the tables know it.
    pub fn source(&self) -> Address {
        Address::v4(self.source.octets())
    }

    /// The destination as the tables know it.
    pub fn destination(&self) -> Address {
        Address::v4(self.destination.octets())
    }
}

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Protocol number of this header.
    pub protocol: u8,
    /// All bytes; the first is overwritten with the number of the next header.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// Protocol number of the fragment header.
    pub const FRAGMENT: u8 = 44;

    /// A header of the usual form (RFC 6564): `units` times 8 bytes behind the first eight, filled
    /// with PadN options.
    pub fn padded(protocol: u8, units: u8) -> Self {
        let mut bytes = vec![0, units];
        let mut room = 6 + usize::from(units) * 8;
        while room > 0 {
            let option = room.min(255);
            if option == 1 {
                // Pad1.
                bytes.push(0);
            } else {
                bytes.extend([1, byte(option - 2)]);
                bytes.resize(bytes.len() + option - 2, 0);
            }
            room -= option;
        }
        Self { protocol, bytes }
    }

    /// Hop-by-hop options (RFC 8200 section 4.3).
    pub fn hop_by_hop() -> Self {
        Self::padded(0, 0)
    }

    /// Destination options (RFC 8200 section 4.6).
    pub fn destination() -> Self {
        Self::padded(60, 0)
    }

    /// A routing header (RFC 8200 section 4.4) with one address and no segments left.
    pub fn routing(kind: u8) -> Self {
        let mut bytes = vec![0, 2, kind, 0, 0, 0, 0, 0];
        bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        Self { protocol: 43, bytes }
    }

    /// An authentication header (RFC 4302): 12 bytes and a value of 12.
    pub fn authentication() -> Self {
        let mut bytes = vec![0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
        bytes.resize(24, 0xaa);
        Self { protocol: 51, bytes }
    }

    /// A fragment header (RFC 8200 section 4.5); `offset` in bytes, a multiple of 8.
    pub fn fragment(offset: usize, more: bool) -> Self {
        let word = (short(offset) | u16::from(more)).to_be_bytes();
        let [high, low] = word;
        Self { protocol: Self::FRAGMENT, bytes: vec![0, 0, high, low, 0, 0, 0, 7] }
    }

    /// With this length field, right or wrong.
    pub fn length(mut self, value: u8) -> Self {
        if let Some(length) = self.bytes.get_mut(1) {
            *length = value;
        }
        self
    }
}

/// An IPv6 header and its chain.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Who sends.
    pub source: Ipv6Addr,
    /// Who receives.
    pub destination: Ipv6Addr,
    /// Extension headers in order.
    pub chain: Vec<Extension>,
    /// Of the fragment headers that [`Self::fragments`] makes.
    pub identification: u8,
    /// Written instead of the right payload length.
    pub length: Option<u16>,
    /// Written instead of 6.
    pub version: u8,
}

impl Ipv6 {
    /// A plain header.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { source, destination, chain: Vec::new(), identification: 7, length: None, version: 6 }
    }

    /// With these extension headers.
    pub fn chain(mut self, chain: &[Extension]) -> Self {
        self.chain = chain.to_vec();
        self
    }

    /// With this payload length, right or wrong.
    pub fn length(mut self, bytes: u16) -> Self {
        self.length = Some(bytes);
        self
    }

    /// A packet with any payload.
    pub fn carry(&self, protocol: u8, payload: &[u8]) -> Packet {
        let (first, mut body) = linked(&self.chain, protocol);
        body.extend(payload);
        self.around(first, &body)
    }

    /// A packet with a TCP segment.
    pub fn tcp(&self, segment: &Tcp) -> Packet {
        self.carry(Protocol::Tcp as u8, &segment.bytes(self.source(), self.destination()))
    }

    /// A packet with a UDP datagram.
    pub fn udp(&self, datagram: &Udp) -> Packet {
        self.carry(Protocol::Udp as u8, &datagram.bytes(self.source(), self.destination()))
    }

    /// `inner` (headers behind the fragment header, linked to `protocol`, and the payload) in
    /// fragments that begin at these offsets (multiples of 8; the first is 0). The packet's own
    /// chain stands in front of every fragment header.
    pub fn fragments(
        &self,
        inner: &[Extension],
        protocol: u8,
        payload: &[u8],
        offsets: &[usize],
    ) -> Vec<Packet> {
        let (first_inner, mut body) = linked(inner, protocol);
        body.extend(payload);
        pieces(&body, offsets)
            .map(|(offset, piece, more)| {
                let mut fragment = Extension::fragment(offset, more);
                if let Some(last) = fragment.bytes.last_mut() {
                    *last = self.identification;
                }
                let chain = [&*self.chain, &[fragment]].concat();
                let (first, mut bytes) = linked(&chain, first_inner);
                bytes.extend(piece);
                self.around(first, &bytes)
            })
            .collect()
    }

    /// The source as the tables know it.
    pub fn source(&self) -> Address {
        Address::v6(self.source.octets())
    }

    /// The destination as the tables know it.
    pub fn destination(&self) -> Address {
        Address::v6(self.destination.octets())
    }

    fn around(&self, next: u8, body: &[u8]) -> Packet {
        let mut bytes = vec![self.version << 4, 0, 0, 0];
        bytes.extend(self.length.unwrap_or_else(|| short(body.len())).to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(body);
        Packet::new(IPV6, bytes)
    }
}

/// Number of the first header, and the headers with their next-header fields filled in.
fn linked(chain: &[Extension], protocol: u8) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut next = protocol;
    for extension in chain.iter().rev() {
        let mut header = extension.bytes.clone();
        if let Some(first) = header.first_mut() {
            *first = next;
        }
        header.extend(bytes);
        bytes = header;
        next = extension.protocol;
    }
    (next, bytes)
}

/// Offset, bytes, and whether more follow, for each piece of `payload`.
fn pieces<'a>(
    payload: &'a [u8],
    offsets: &'a [usize],
) -> impl Iterator<Item = (usize, &'a [u8], bool)> + 'a {
    assert!(offsets.first() == Some(&0) && offsets.iter().all(|offset| offset % 8 == 0));
    offsets.iter().enumerate().map(|(index, offset)| {
        let end = offsets.get(index + 1).copied();
        let piece = payload.get(*offset..end.unwrap_or(payload.len()));
        (*offset, piece.expect("offsets rise and lie in the payload"), end.is_some())
    })
}

/// An ICMP or ICMPv6 echo request with 56 bytes of data, by the family of the addresses.
pub fn echo_request(source: IpAddr, destination: IpAddr) -> Packet {
    let mut bytes = vec![8, 0, 0, 0, 0, 1, 0, 1];
    bytes.resize(64, 0x55);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = checksum(&[&bytes]);
            bytes.splice(2..4, sum.to_be_bytes());
            Ipv4::new(source, destination).carry(ICMP, &bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6::new(source, destination);
            bytes.splice(0..1, [128]);
            let sum = transport_checksum(ip.source(), ip.destination(), ICMPV6, &bytes);
            bytes.splice(2..4, sum.to_be_bytes());
            ip.carry(ICMPV6, &bytes)
        }
        _ => panic!("two families: {source} and {destination}"),
    }
}

/// The Internet checksum (RFC 1071) over the parts, each padded to an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([high, low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !short(usize::try_from(sum).expect("32 bits fit"))
}

/// The checksum of TCP, UDP or ICMPv6 over the pseudo header and `bytes`.
pub fn transport_checksum(
    source: Address,
    destination: Address,
    protocol: u8,
    bytes: &[u8],
) -> u16 {
    let length = u32::try_from(bytes.len()).expect("a segment's length fits").to_be_bytes();
    // Unused address bytes of IPv4 are zero and add nothing.
    checksum(&[&source.bytes, &destination.bytes, &length, &[0, protocol], bytes])
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).expect("fits into a byte")
}

fn short(value: usize) -> u16 {
    u16::try_from(value).expect("fits into 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    #[test]
    fn a_whole_header_sums_to_zero() {
        let packet = Ipv4::new(A, B).options(&[1, 1, 1]).tcp(&Tcp::syn(22));
        assert_eq!(packet.bytes.len(), 24 + 20);
        assert_eq!(checksum(&[&packet.bytes[..24]]), 0);
        let ip = Ipv4::new(A, B);
        assert_eq!(
            transport_checksum(ip.source(), ip.destination(), 6, &packet.bytes[24..]),
            0,
            "a right checksum, summed with the segment, gives zero"
        );
    }

    #[test]
    fn the_chain_is_linked_in_order() {
        let a = "2001:db8::1".parse().unwrap();
        let packet = Ipv6::new(a, a)
            .chain(&[Extension::hop_by_hop(), Extension::routing(2), Extension::destination()])
            .tcp(&Tcp::syn(22));
        assert_eq!(packet.bytes[6], 0);
        assert_eq!(packet.bytes[40], 43);
        assert_eq!(packet.bytes[48], 60);
        assert_eq!(packet.bytes[72], 6);
        assert_eq!(packet.bytes.len(), 40 + 8 + 24 + 8 + 20);
    }

    #[test]
    fn fragments_cover_the_payload_once() {
        let payload: Vec<u8> = (0..50).collect();
        let packets = Ipv4::new(A, B).fragments(6, &payload, &[0, 8, 24]);
        let bytes: Vec<u8> =
            packets.iter().flat_map(|packet| packet.bytes[20..].to_vec()).collect();
        assert_eq!(bytes, payload);
        let words: Vec<_> =
            packets.iter().map(|packet| [packet.bytes[6], packet.bytes[7]]).collect();
        assert_eq!(words, [[0x20, 0], [0x20, 1], [0, 3]]);
    }

    #[test]
    fn padded_headers_have_the_length_they_claim() {
        for units in [0, 1, 31, 255] {
            let header = Extension::padded(60, units);
            assert_eq!(header.bytes.len(), (usize::from(units) + 1) * 8);
        }
    }
}
