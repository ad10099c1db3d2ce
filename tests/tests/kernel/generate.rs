//! Generates frames: whole stacks of headers, mostly right, with every important field wrong now
//! and then, and at the end cut or changed at random places. And frames made from the frame table:
//! every row cut everywhere, with every bit of its headers flipped, and changed at random.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jit_common::Protocol;
use jit_tests::{
    frames::{
        ARP, Extension, ICMP, ICMPV6, IPV4, IPV6, Ipv4, Ipv6, Packet, QINQ, Tcp, Udp, VLAN, flag,
    },
    kernel::MIN_FRAME,
    random::Random,
};

use crate::cases::Case;

/// A real session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) port: u16,
}

/// The parts of generated frames.
pub(crate) struct Generator<'a> {
    /// Rows of the frame table, to be changed.
    pub(crate) cases: &'a [Case],
    pub(crate) ports: &'a [u16],
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) tuples: &'a [Tuple],
}

const TCP: u8 = Protocol::Tcp as u8;
const UDP: u8 = Protocol::Udp as u8;
/// Extension headers, and the numbers next to them.
const EXTENSIONS: [u8; 7] = [0, 43, 60, 51, 135, 139, 140];
const PROTOCOLS: [u8; 12] = [0, 1, 2, 4, 41, 47, 50, 51, 58, 59, 132, 255];
/// Offset after the hardware addresses, which nothing reads.
const ETHERTYPE: usize = 12;
/// Offset after the longest header chains of the table, except those of a few rows of 2 KiB.
const HEADERS: usize = 220;

/// Every row cut at every offset of its headers, and with every bit of them flipped.
pub(crate) fn derived(cases: &[Case], port: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for case in cases {
        let frame = (case.frame)(port);
        let headers = frame.len().min(HEADERS);
        frames.extend((MIN_FRAME..headers).map(|length| frame[..length].to_vec()));
        for at in ETHERTYPE..headers {
            for bit in 0..8 {
                let mut flipped = frame.clone();
                flipped[at] ^= 1 << bit;
                frames.push(flipped);
            }
        }
    }
    frames.retain(|frame| frame.len() >= MIN_FRAME);
    frames
}

impl Generator<'_> {
    /// One frame, never shorter than an Ethernet header.
    pub(crate) fn frame(&self, random: &mut Random) -> Vec<u8> {
        let of_the_table = random.chance(20);
        let mut frame = if of_the_table { self.row(random) } else { self.stack(random) };
        if of_the_table && frame.len() > ETHERTYPE {
            // Mostly in the headers, which the decision reads.
            for _ in 0..=random.below(3) {
                let at = ETHERTYPE + random.below(frame.len().min(HEADERS) - ETHERTYPE);
                frame[at] = random.byte();
            }
        }
        if frame.len() < MIN_FRAME {
            frame.resize(MIN_FRAME, 0);
        }
        if random.chance(8) {
            let length = random.below(frame.len() + 1);
            frame.truncate(length.max(MIN_FRAME));
        }
        if random.chance(8) {
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len());
                let value = random.byte();
                if let Some(byte) = frame.get_mut(at) {
                    *byte = if random.chance(50) { value } else { *byte ^ (1 << (value & 7)) };
                }
            }
        }
        if random.chance(2) {
            let more = random.below(80);
            frame.extend(random.bytes(more));
        }
        frame
    }

    /// A row of the table, to one of the ports.
    fn row(&self, random: &mut Random) -> Vec<u8> {
        (random.pick(self.cases).frame)(*random.pick(self.ports))
    }

    fn stack(&self, random: &mut Random) -> Vec<u8> {
        let packet = self.packet(random);
        let tags: Vec<_> = (0..tag_count(random))
            .map(|_| (*random.pick(&[VLAN, VLAN, QINQ]), *random.pick(&[0, 0, 7, 0xefff])))
            .collect();
        packet.tagged(&tags)
    }

    fn packet(&self, random: &mut Random) -> Packet {
        if random.chance(20) {
            return self.of_session(random);
        }
        let source = self.source(random);
        match random.below(100) {
            0..48 => self.ipv4(random, source),
            48..96 => self.ipv6(random, source),
            _ => {
                let ethertype =
                    *random.pick(&[ARP, 0x88cc, 0x8847, 0x8864, 0x9100, 46, IPV4, IPV6]);
                let length = random.below(60);
                Packet::new(ethertype, random.bytes(length))
            }
        }
    }

    /// A segment with the 4-tuple of a real session, in nearly right headers.
    fn of_session(&self, random: &mut Random) -> Packet {
        let Tuple { source, source_port, destination, port } = *random.pick(self.tuples);
        let mut segment = segment(random, port);
        segment.source_port = if random.chance(85) { source_port } else { random.short() };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Ipv4::new(source, destination).tcp(&segment)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let depth = random.below(3);
                let chain: Vec<_> = (0..depth).map(|_| extension(random)).collect();
                Ipv6::new(source, destination).chain(&chain).tcp(&segment)
            }
            _ => panic!("a session has one family"),
        }
    }

    fn ipv4(&self, random: &mut Random, source: IpAddr) -> Packet {
        let source = match source {
            IpAddr::V4(source) => source,
            IpAddr::V6(_) => Ipv4Addr::from_bits(u32::from(random.short()) << 16 | 9),
        };
        let mut ip = Ipv4::new(source, Ipv4Addr::new(198, 51, 100, 1));
        if random.chance(25) {
            let length = 4 * (1 + random.below(10));
            ip.options = random.bytes(length);
        }
        if random.chance(25) {
            let flags = *random.pick(&[0, 0, Ipv4::MF, Ipv4::MF, Ipv4::DF, Ipv4::MF | Ipv4::DF]);
            let offset = *random.pick(&[0, 0, 0, 1, 2, 3, 4, 185, 0x1fff]);
            ip.fragment = flags | offset;
        }
        if random.chance(4) {
            ip.version = random.byte() >> 4;
        }
        if random.chance(4) {
            ip.words = Some(random.byte() & 0x0f);
        }
        if random.chance(10) {
            let close = u16::from(random.byte() & 0x7f);
            ip.total = Some(*random.pick(&[0, 19, 20, 39, 40, 0xffff, close]));
        }
        let (protocol, mut payload) =
            self.transport(random, |segment| segment.bytes(ip.source(), ip.destination()));
        if ip.fragment != 0 && random.chance(50) {
            let length = *random.pick(&[0, 8, 16, 24]);
            payload.truncate(length);
        }
        ip.carry(protocol, &payload)
    }

    fn ipv6(&self, random: &mut Random, source: IpAddr) -> Packet {
        let source = match source {
            IpAddr::V6(source) => source,
            IpAddr::V4(source) => match random.below(4) {
                0 => source.to_ipv6_mapped(),
                1 => Ipv6Addr::UNSPECIFIED,
                2 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, random.short()),
                _ => Ipv6Addr::new(0x2001, 0xdb8, random.short(), 0, 0, 0, 0, 1),
            },
        };
        let mut ip = Ipv6::new(source, Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
        let depth = match random.below(100) {
            0..45 => 0,
            45..70 => 1,
            70..85 => 2 + random.below(4),
            _ => 6 + random.below(6),
        };
        ip.chain = (0..depth).map(|_| extension(random)).collect();
        if random.chance(20) {
            let offset = *random.pick(&[0, 0, 0, 8, 16, 24, 32, 1448, 0xfff8]);
            let at = random.below(ip.chain.len() + 1);
            ip.chain.insert(at, Extension::fragment(offset, random.chance(60)));
        }
        if random.chance(4) {
            ip.version = random.byte() >> 4;
        }
        if random.chance(10) {
            let close = u16::from(random.byte() & 0x7f);
            ip.length = Some(*random.pick(&[0, 7, 8, 19, 20, 0xffff, close]));
        }
        let (protocol, mut payload) =
            self.transport(random, |segment| segment.bytes(ip.source(), ip.destination()));
        if random.chance(8) {
            let length = *random.pick(&[0, 1, 8, 13, 16, 19]);
            payload.truncate(length);
        }
        ip.carry(protocol, &payload)
    }

    /// Protocol number and bytes after the network header.
    fn transport(&self, random: &mut Random, bytes: impl Fn(&Tcp) -> Vec<u8>) -> (u8, Vec<u8>) {
        let port = if random.chance(80) { *random.pick(self.ports) } else { random.short() };
        match random.below(100) {
            0..70 => (TCP, bytes(&segment(random, port))),
            70..88 => {
                let length = random.below(40);
                let datagram = Udp::to(port).payload(&random.bytes(length));
                // Only the stack checks the checksum: any addresses do.
                let nowhere = jit_common::Address::v4([0; 4]);
                (UDP, datagram.bytes(nowhere, nowhere))
            }
            88..94 => (*random.pick(&[ICMP, ICMPV6]), random.bytes(16)),
            _ => {
                let length = random.below(64);
                (*random.pick(&PROTOCOLS), random.bytes(length))
            }
        }
    }

    fn source(&self, random: &mut Random) -> IpAddr {
        let address = *random.pick(self.addresses);
        if random.chance(70) {
            return address;
        }
        // An address near it, with other last bits.
        match address {
            IpAddr::V4(address) => {
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() ^ u32::from(random.byte())))
            }
            IpAddr::V6(address) => {
                let shift = *random.pick(&[0, 8, 56, 64, 80]);
                let bits = u128::from(random.byte()) << shift;
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() ^ bits))
            }
        }
    }
}

fn segment(random: &mut Random, port: u16) -> Tcp {
    let flags = match random.below(100) {
        0..40 => flag::SYN,
        40..50 => flag::SYN | flag::ECE | flag::CWR,
        50..75 => flag::ACK,
        _ => random.byte(),
    };
    let mut segment = Tcp::with_flags(port, flags);
    segment.source_port = *random.pick(&[0, 53, 40_000, 50_000, 65_535]);
    if random.chance(30) {
        let length = 4 * random.below(11);
        segment.options = random.bytes(length);
    }
    if random.chance(30) {
        let length = random.below(60);
        segment.payload = random.bytes(length);
    }
    if random.chance(8) {
        segment.data_offset = Some(random.byte() >> 4);
    }
    segment.reserved = if random.chance(10) { random.byte() & 0x0f } else { 0 };
    segment
}

fn extension(random: &mut Random) -> Extension {
    let protocol = *random.pick(&EXTENSIONS);
    let extension = if protocol == 51 {
        Extension::authentication()
    } else {
        Extension::padded(protocol, *random.pick(&[0, 0, 0, 1, 2, 5, 31]))
    };
    if random.chance(3) { extension.length(random.byte()) } else { extension }
}

fn tag_count(random: &mut Random) -> usize {
    match random.below(100) {
        0..65 => 0,
        65..80 => 1,
        80..88 => 2,
        88..92 => 3,
        92..96 => 4,
        _ => 5 + random.below(2),
    }
}
