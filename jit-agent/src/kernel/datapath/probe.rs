//! Frames that the gate is tried with, and the answers that they must get.

use jit_common::{Address, Family, Lookup, PortKey, Protocol};
use jit_proto::prefix::ip;

/// Shortest Ethernet frame, without its checksum.
const SHORTEST: usize = 60;

/// A frame and what the gate must do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Description for people.
    pub(super) what: String,
    drop: bool,
    ethertype: [u8; 2],
    packet: Vec<u8>,
}

impl Probe {
    /// A SYN, which must be dropped or must pass.
    pub fn syn(source: Address, port: PortKey, drop: bool) -> Self {
        let packet = Syn { source, source_port: 40_000, port, sequence: 1 }.packet();
        let v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        Self {
            what: format!("a SYN from {} to port {}, without a grant", ip(source), port.port),
            drop,
            ethertype: if v6 { [0x86, 0xdd] } else { [0x08, 0x00] },
            packet,
        }
    }

    /// What begins a connection: a SYN, or for UDP an empty datagram. Nothing is expected of it.
    pub(super) fn first_packet(lookup: &Lookup) -> Self {
        let Lookup { source, source_port, port, .. } = *lookup;
        let syn = Self::syn(source, port, false);
        if port.protocol == Protocol::Tcp {
            return syn;
        }
        Self { packet: datagram(source, source_port, port), ..syn }
    }

    /// An ARP request, which must pass.
    pub fn arp() -> Self {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
        packet.resize(28, 0);
        Self { what: "an ARP request".into(), drop: false, ethertype: [0x08, 0x06], packet }
    }

    /// With an Ethernet header, padded.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        frame.extend(self.ethertype);
        frame.extend(&self.packet);
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// A sentence about the answer, if it is wrong.
    pub fn wrong(&self, program: &str, dropped: bool) -> Option<String> {
        let did = if dropped { "drops" } else { "lets pass" };
        (dropped != self.drop).then(|| format!("{program} {did} {}", self.what))
    }
}

/// An empty datagram, as an IP packet to an address of this host.
fn datagram(source: Address, source_port: u16, port: PortKey) -> Vec<u8> {
    let mut packet = Syn { source, source_port, port, sequence: 0 }.packet();
    // The lengths in the IP headers: twenty bytes of TCP are eight of UDP now.
    let (length, header) = match source.family {
        Family::V4 => (3, 20),
        Family::V6 => (5, 40),
    };
    if let Some(length) = packet.get_mut(length) {
        *length = length.saturating_sub(12);
    }
    packet.truncate(header + 4);
    packet.extend([0, 8, 0, 0]);
    packet
}

/// A TCP segment that would open a connection.
#[derive(Clone, Copy, Debug)]
pub struct Syn {
    /// Who sends it.
    pub source: Address,
    /// From which port.
    pub source_port: u16,
    /// To which port, of TCP.
    pub port: PortKey,
    /// Its sequence number: one that is sent again has the same.
    pub sequence: u32,
}

impl Syn {
    /// As an IP packet to an address of this host.
    pub fn packet(&self) -> Vec<u8> {
        let Self { source, source_port, port, sequence } = self;
        let mut packet = match source.family {
            Family::V4 => {
                let mut head = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, port.protocol as u8, 0, 0];
                head.extend(source.first_four());
                head.extend([198, 51, 100, 1]);
                head
            }
            Family::V6 => {
                let mut head = vec![0x60, 0, 0, 0, 0, 20, port.protocol as u8, 64];
                head.extend(source.bytes());
                head.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                head
            }
        };
        packet.extend(source_port.to_be_bytes());
        packet.extend(port.port.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_a_sentence_and_a_right_one_is_none() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let probe = Probe::syn(Address::v4([192, 0, 2, 77]), port, true);
        assert_eq!(probe.wrong("jit_gate", true), None);
        let said = probe.wrong("jit_gate", false).unwrap();
        assert!(said.starts_with("jit_gate lets pass a SYN from 192.0.2.77 to "), "{said}");
        assert_eq!(Probe::arp().wrong("jit_gate", false), None);
        assert!(Probe::arp().wrong("jit_gate", true).is_some());
    }

    #[test]
    fn frames_are_whole() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let v6 = Probe::syn(Address::v6([0x20; 16]), port, true).frame();
        assert_eq!((v6.len(), &v6[12..15]), (14 + 60, &[0x86, 0xdd, 0x60][..]));
        let v4 = Probe::syn(Address::v4([192, 0, 2, 77]), port, true).frame();
        assert_eq!((v4.len(), &v4[12..15]), (60, &[0x08, 0x00, 0x45][..]));
        assert_eq!(Probe::arp().frame().len(), SHORTEST);
    }

    #[test]
    fn a_connection_over_udp_begins_with_an_empty_datagram() {
        let port = PortKey { protocol: Protocol::Udp, port: 53 };
        for (source, length) in [(Address::v4([192, 0, 2, 7]), 28), (Address::v6([0x20; 16]), 48)] {
            let packet = datagram(source, 40_000, port);
            assert_eq!(packet.len(), length);
            let udp = packet.last_chunk::<8>().unwrap();
            assert_eq!(*udp, [0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
            let said = if length == 28 { packet[3] } else { packet[5] + 40 };
            assert_eq!(usize::from(said), length);
        }
    }
}
