//! A flood of SYNs to port 22, from one source or from a million.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    time::Duration,
};

use super::{
    Assembly,
    Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9},
};
use crate::{
    frames::{Ipv4, Ipv6, Macs, Packet, Tcp},
    sys,
};

/// `bpf_redirect` of `enum bpf_func_id`.
const REDIRECT: u32 = 23;
/// Sources of a flood by IPv4, 172.16.0.0/12: as many as [`Sources::Million`] has.
const IPV4: u32 = 0xac10_0000;
/// Sources by IPv6 begin with these words, and a number follows.
const IPV6: [u16; 6] = [0x2001, 0x0db8, 0x000f, 0, 0, 0];

/// Number of sources. The source ports change in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// One.
    One,
    /// 2^20 = 1,048,576, one after the other.
    Million,
}

impl Sources {
    /// In the name of a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "one source",
            Self::Million => "a million sources",
        }
    }

    /// The bits of the address that change, and the last bits where none does.
    const fn bits(self) -> (u32, u32) {
        match self {
            Self::One => (0, 7),
            Self::Million => ((1 << 20) - 1, 0),
        }
    }
}

/// Where a flood goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The address of the host.
    pub address: IpAddr,
    /// The hardware address of the host's interface.
    pub mac: [u8; 6],
    /// Index of the sender's interface, in the namespace that the flood is sent in.
    pub through: u32,
}

/// A flood that can be sent.
#[derive(Debug)]
pub struct Flood {
    program: OwnedFd,
    frame: Vec<u8>,
    /// The number of the next frame. The program has it too.
    _next: OwnedFd,
}

impl Flood {
    /// A flood to port 22.
    pub fn new(target: Target, sources: Sources) -> Self {
        let next = sys::number_map();
        let layout = Layout::new(target.address);
        let program = sys::load(&layout.program(target.through, sources, &next));
        let frame = layout.packet.between(Macs { destination: target.mac, ..Macs::default() }, &[]);
        Self { program, frame, _next: next }
    }

    /// Sends this number of frames, and returns the time that the kernel took for it: not to prepare
    /// it, and not for other work of the machine. Call this in the sender's namespace, on the thread
    /// that sends.
    pub fn send(&self, frames: u32) -> Duration {
        let nanos = sys::run_live(&self.program, &self.frame, frames);
        Duration::from_secs_f64(nanos * f64::from(frames) / 1e9)
    }
}

/// A SYN without a source, and where the source and the checksums are in its frame.
struct Layout {
    packet: Packet,
    /// Offset of the last 32 bits of the source address.
    source: i16,
    /// Those bits of the first source.
    base: u32,
    /// Offset of the IPv4 header's checksum, and its sum without the source.
    header: Option<(i16, u32)>,
    /// Offset of the TCP header.
    tcp: i16,
    /// The sum of the segment and its pseudo header without the source.
    segment: u32,
}

impl Layout {
    fn new(to: IpAddr) -> Self {
        let segment = Tcp::syn(22).from_port(0);
        match to {
            IpAddr::V4(to) => {
                let packet = Ipv4::new(Ipv4Addr::UNSPECIFIED, to).tcp(&segment);
                let (header, segment) = (sum(&packet, 10), sum(&packet, 36));
                let header = Some((24, header));
                Self { packet, source: 26, base: IPV4, header, tcp: 34, segment }
            }
            IpAddr::V6(to) => {
                let [a, b, c, d, e, f] = IPV6;
                let packet = Ipv6::new(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), to).tcp(&segment);
                let segment = sum(&packet, 56);
                Self { packet, source: 34, base: 0, header: None, tcp: 54, segment }
            }
        }
    }

    /// Writes the source address, the source port and the checksums, and sends the frame. The
    /// frame's number is in R9, its address in R5, the sum of the address in R8, its port in R4.
    fn program(&self, through: u32, sources: Sources, next: &OwnedFd) -> Vec<u64> {
        let (changing, last) = sources.bits();
        let whole = u32::from(self.tcp.cast_unsigned()) + 20;
        let program = Assembly::default()
            .load(4, R6, R1, 0)
            .load(4, R7, R1, 4)
            .copy(R2, R6)
            .advance(R2, whole)
            .if_above(R2, R7, "short")
            .map_value(R3, next)
            .load(8, R9, R3, 0)
            .copy(R2, R9)
            .advance(R2, 1)
            .store(8, R3, 0, R2)
            .copy(R5, R9)
            .and(R5, changing)
            .add(R5, self.base | last)
            .copy(R8, R5)
            .shift_right(R8, 16)
            .copy(R2, R5)
            .and(R2, 0xffff)
            .add_register(R8, R2)
            .copy(R4, R9)
            .and(R4, 0x7fff)
            .add(R4, 0x8000);
        let program = match self.header {
            Some((offset, sum)) => checksum(program.set(R0, sum).add_register(R0, R8), offset),
            None => program,
        };
        let program = program.set(R0, self.segment).add_register(R0, R8).add_register(R0, R4);
        checksum(program, self.tcp + 16)
            .network_order(R5, 32)
            .store(4, R6, self.source, R5)
            .network_order(R4, 16)
            .store(2, R6, self.tcp, R4)
            .set(R1, through)
            .set(R2, 0)
            .call(REDIRECT)
            .exit()
            .label("short")
            .set(R0, 0)
            .exit()
            .finish()
    }
}

/// Writes the checksum of the sum in R0 to an offset of the frame in R6 (RFC 1071).
fn checksum(mut program: Assembly, offset: i16) -> Assembly {
    for _ in 0..2 {
        program = program.copy(R2, R0).shift_right(R2, 16).and(R0, 0xffff).add_register(R0, R2);
    }
    program.xor(R0, 0xffff).network_order(R0, 16).store(2, R6, offset, R0)
}

/// The sum that a packet's right checksum at this offset stands for.
fn sum(packet: &Packet, offset: usize) -> u32 {
    let bytes = packet.bytes.get(offset..offset + 2).expect("within the packet");
    let checksum = u16::from_be_bytes(bytes.try_into().expect("two bytes"));
    u32::from(!checksum)
}
