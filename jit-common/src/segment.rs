//! The parts of a packet that the decision uses: the beginning of its frame, and the segment in it.

use crate::{Address, PortKey, headers};

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header, possibly with VLAN tags.
    Ethernet,
    /// The same, but the kernel has already taken the outermost tag off (`skb_vlan_untag`).
    EthernetUntagged,
    /// The network header itself (tun, WireGuard, ipip), of this protocol (an ethertype, IEEE
    /// 802.3). The protocol comes from the device, not from the frame.
    Network(u16),
}

impl Link {
    /// Whether an IP packet may follow it. After an Ethernet header one always may.
    #[inline(always)]
    pub const fn is_ip(self) -> bool {
        match self {
            Self::Ethernet | Self::EthernetUntagged => true,
            Self::Network(protocol) => {
                protocol == headers::ETHERTYPE_IPV4 || protocol == headers::ETHERTYPE_IPV6
            }
        }
    }

    /// The link of a packet that begins with an IP header with this first byte. The version in the
    /// byte decides (RFC 791 section 3.1, RFC 8200 section 3). For callers without a device to ask.
    pub const fn of_ip(first: u8) -> Self {
        Self::Network(match first >> 4 {
            4 => headers::ETHERTYPE_IPV4,
            6 => headers::ETHERTYPE_IPV6,
            _ => 0,
        })
    }
}

/// A transport segment to a port that is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The source address in the packet.
    pub source: Address,
    /// The destination address in the packet.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// The protected port.
    pub port: PortKey,
    /// A TCP SYN without ACK: it would open a connection.
    pub opens: bool,
    /// TCP sequence number, host byte order; zero for UDP.
    pub sequence: u32,
}
