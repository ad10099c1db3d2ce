//! IPv6 packets, their extension headers and their fragments.

use std::net::Ipv6Addr;

use jit_common::{Address, Protocol};

use super::{
    bytes::{byte, pieces, short},
    packet::{IPV6, Packet},
    transport::{Tcp, Udp},
};

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

    /// A header of the usual form (RFC 6564): `units` times 8 bytes after the first eight, filled
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

    /// `inner` (headers after the fragment header, linked to `protocol`, and the payload) in
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn padded_headers_have_the_length_they_claim() {
        for units in [0, 1, 31, 255] {
            let header = Extension::padded(60, units);
            assert_eq!(header.bytes.len(), (usize::from(units) + 1) * 8);
        }
    }
}
