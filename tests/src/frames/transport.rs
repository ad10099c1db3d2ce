//! TCP segments and UDP datagrams.

use jit_common::{Address, Protocol};

use super::bytes::{byte, short, transport_checksum};

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

/// Length of a header without options, bytes.
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// A TCP segment; an empty SYN to `port` unless a test sets another.
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
    /// The bytes after the header.
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
    /// The bytes after the header.
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
