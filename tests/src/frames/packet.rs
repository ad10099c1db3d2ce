//! Ethernet frames and what they carry.

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
