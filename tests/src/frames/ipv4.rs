//! IPv4 packets and their fragments.

use std::net::Ipv4Addr;

use jit_common::{Address, Protocol};

use super::{
    bytes::{byte, checksum, pieces, short},
    packet::{IPV4, Packet},
    transport::{Tcp, Udp},
};

/// Length of a header without options, bytes.
const IPV4_BYTES: usize = 20;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::transport_checksum;

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
}
