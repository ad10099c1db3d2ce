//! Reads a packet header by header, to find the transport header and the sender.
//!
//! Nothing here looks at a table. `Err(reason)` ends the walk with that outcome, a drop or a pass.
//! If the ethertype is IP, a header that cannot be read or that contradicts itself is a drop. A
//! packet's length fields are compared with the headers that were read, never with the length of
//! the buffer: in TC and generic XDP the data may lie elsewhere (GRO), and BIG TCP carries zero.

use crate::{Address, Family, PortKey, Protocol, Reason};

/// Largest number of VLAN tags that are stripped; one more is [`Reason::VlanDepth`].
pub const MAX_VLAN_TAGS: usize = 4;
/// Largest number of IPv6 extension headers that are walked; one more is [`Reason::Chain`].
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Bytes of one packet. The BPF implementation compares with the end of the packet at each load,
/// which is what the verifier wants to see; a slice over the packet would be refused.
pub trait Frame {
    /// The `N` bytes at `offset` (bytes from the start of the frame), or `None` when they are not
    /// all there.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// `N` words of four bytes from `offset` on, as they lie in memory ([`u32::from_be`] gives their
    /// value), or `None` when they are not all there. Reads of single bytes take several times as
    /// long in BPF.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = u32::from_ne_bytes(self.load(offset + 4 * index)?);
        }
        Some(words)
    }

    /// Two bytes at `offset`, in network byte order.
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.load(offset).map(u16::from_be_bytes)
    }

    /// Returns `value` itself. In BPF the verifier then no longer knows its range. So it sees that
    /// two paths through a header chain are alike, and follows only one of them.
    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        value
    }
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const FRAGMENT_BYTES: usize = 8;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_IPV4: u8 = 4;
const NEXT_IPV6: u8 = 41;
const NEXT_ROUTING: u8 = 43;
const NEXT_FRAGMENT: u8 = 44;
const NEXT_AUTHENTICATION: u8 = 51;
const NEXT_DESTINATION: u8 = 60;
const NEXT_MOBILITY: u8 = 135;
const NEXT_HIP: u8 = 139;
const NEXT_SHIM6: u8 = 140;

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// The network protocol, and where its header starts.
#[derive(Clone, Copy)]
pub(crate) enum Network {
    V4(usize),
    V6(usize),
}

/// The transport header, as the network headers in front of it describe it.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) protocol: Protocol,
    /// Offset of the transport header in the frame.
    at: usize,
    /// Bytes of transport header and payload that the packet claims; `None` when it carries zero
    /// (BIG TCP).
    claimed: Option<usize>,
    /// The first of several fragments, or an atomic fragment.
    fragment: bool,
}

/// A transport header that was read.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: PortKey,
    /// TCP only: SYN set and ACK not, whatever the other flags say.
    pub(crate) opens: bool,
    /// TCP's sequence number, host byte order; zero for UDP.
    pub(crate) sequence: u32,
}

/// Strips the Ethernet header and at most this many VLAN tags (IEEE 802.1Q, 802.1ad).
#[inline(always)]
pub(crate) fn ethernet<F: Frame>(frame: &F, most_tags: usize) -> Result<Network, Reason> {
    let mut ethertype = frame.half(12).ok_or(Reason::Malformed)?;
    let mut at = ETHERNET_BYTES;
    for _ in 0..most_tags {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = frame.half(at + 2).ok_or(Reason::Malformed)?;
        at = frame.forget(at + VLAN_BYTES);
    }
    match ethertype {
        ETHERTYPE_IPV4 => Ok(Network::V4(at)),
        ETHERTYPE_IPV6 => Ok(Network::V6(at)),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(Reason::VlanDepth),
        _ => Err(Reason::NotIp),
    }
}

/// For devices without an Ethernet header (tun, WireGuard): the frame begins with the network
/// header of this protocol (an ethertype).
#[inline(always)]
pub(crate) fn bare<F: Frame>(frame: &F, protocol: u16) -> Result<Network, Reason> {
    if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
        return Err(Reason::NotIp);
    }
    // As in Linux: the receiver of each protocol accepts only its own version.
    let [first] = frame.load(0).ok_or(Reason::Malformed)?;
    match (protocol, first >> 4) {
        (ETHERTYPE_IPV4, 4) => Ok(Network::V4(0)),
        (ETHERTYPE_IPV6, 6) => Ok(Network::V6(0)),
        _ => Err(Reason::Malformed),
    }
}

/// IPv4 (RFC 791 section 3.1), with the fragment rules of RFC 1858 and RFC 3128.
#[inline(always)]
pub(crate) fn ipv4<F: Frame>(frame: &F, at: usize) -> Result<Transport, Reason> {
    let [first, second, third, source, destination] =
        frame.words::<{ IPV4_BYTES / 4 }>(at).ok_or(Reason::Malformed)?;
    let [v, _, l0, l1] = first.to_ne_bytes();
    let [_, _, f0, f1] = second.to_ne_bytes();
    let [_, protocol, _, _] = third.to_ne_bytes();
    let header_bytes = usize::from(v & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    let claimed = if total == 0 { None } else { Some(total) };
    if v >> 4 != 4
        || header_bytes < IPV4_BYTES
        || claimed.is_some_and(|total| total < header_bytes)
        || !readable(frame, at + IPV4_BYTES, header_bytes - IPV4_BYTES)
    {
        return Err(Reason::Malformed);
    }
    let flags_and_offset = u16::from_be_bytes([f0, f1]);
    let more = flags_and_offset & 0x2000 != 0;
    // In units of 8 bytes.
    let offset = flags_and_offset & 0x1fff;
    if offset > 0 {
        // Offsets 1 and 2 lie inside a 20-byte TCP header and could overwrite its flags.
        let overlaps = protocol == Protocol::Tcp as u8 && offset <= 2;
        return Err(if overlaps { Reason::Fragment } else { Reason::LaterFragment });
    }
    Ok(Transport {
        source: Address { family: Family::V4, words: [source, 0, 0, 0] },
        destination: Address { family: Family::V4, words: [destination, 0, 0, 0] },
        protocol: Protocol::from_number(protocol).ok_or(Reason::OtherProtocol)?,
        at: at + header_bytes,
        claimed: claimed.map(|total| total - header_bytes),
        fragment: more,
    })
}

/// The extension headers of an IPv6 packet, as far as they were walked.
struct Chain {
    /// Number of the header that follows them.
    next: u8,
    /// Bytes that they have.
    walked: usize,
    /// One of them is a fragment header.
    fragment: bool,
    /// Of a fragment after the first: where it begins, bytes.
    offset: usize,
    /// The frame ends inside them.
    cut_short: bool,
    /// One of them is a routing header.
    routed: bool,
}

/// Parts of what the walk has seen: the bytes walked, which are fewer, and two truth values.
const WALKED: usize = 0xffff;
const FRAGMENTED: usize = 1 << 16;
const ROUTED: usize = 1 << 17;

/// Walks the extension headers of the packet at `at`; the first has the number `next`.
///
/// The loop only collects; the decision comes once, after the loop. Together with `forget` this
/// keeps the verifier's paths alike (otherwise it processes 600,000 instructions).
#[inline(always)]
fn chain<F: Frame>(frame: &F, at: usize, mut next: u8) -> Chain {
    // The bytes walked, and whether there was a fragment or a routing header.
    let mut seen = 0;
    let mut offset = 0;
    let mut cut_short = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let here = at + IPV6_BYTES + (seen & WALKED);
        match next {
            NEXT_FRAGMENT => {
                let Some([after, _, f0, f1, ..]) = frame.load::<FRAGMENT_BYTES>(here) else {
                    cut_short = true;
                    break;
                };
                next = after;
                seen = frame.forget((seen + FRAGMENT_BYTES) | FRAGMENTED);
                // The three low bits are flags.
                offset = usize::from(u16::from_be_bytes([f0, f1]) & 0xfff8);
                if offset > 0 {
                    break;
                }
            }
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTHENTICATION
            | NEXT_MOBILITY | NEXT_HIP | NEXT_SHIM6 => {
                let routed = if next == NEXT_ROUTING { ROUTED } else { 0 };
                let Some([after, length]) = frame.load(here) else {
                    cut_short = true;
                    break;
                };
                let length = usize::from(length);
                // RFC 4302 section 2.2 counts 4-byte units minus 2; the others 8-byte units minus
                // 1.
                let bytes =
                    if next == NEXT_AUTHENTICATION { (length + 2) * 4 } else { (length + 1) * 8 };
                if !readable(frame, here, bytes) {
                    cut_short = true;
                    break;
                }
                next = after;
                seen = frame.forget((seen + bytes) | routed);
            }
            _ => break,
        }
    }
    let (fragment, routed) = (seen & FRAGMENTED != 0, seen & ROUTED != 0);
    Chain { next, walked: seen & WALKED, fragment, offset, cut_short, routed }
}

/// IPv6 (RFC 8200 section 4) with its extension headers; RFC 7112: the first fragment must hold
/// the whole chain.
#[inline(always)]
pub(crate) fn ipv6<F: Frame>(frame: &F, at: usize) -> Result<Transport, Reason> {
    let [head, lengths, s0, s1, s2, s3, d0, d1, d2, d3] =
        frame.words::<{ IPV6_BYTES / 4 }>(at).ok_or(Reason::Malformed)?;
    let [version, ..] = head.to_ne_bytes();
    if version >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let [p0, p1, first, _] = lengths.to_ne_bytes();
    let payload = usize::from(u16::from_be_bytes([p0, p1]));
    let source = Address { family: Family::V6, words: [s0, s1, s2, s3] };
    let destination = Address { family: Family::V6, words: [d0, d1, d2, d3] };
    let bad_source = source.is_bad_tcp_source();
    let Chain { next, walked, fragment, offset, cut_short, routed } = chain(frame, at, first);
    if cut_short || (payload != 0 && walked > payload) {
        return Err(if fragment { Reason::Fragment } else { Reason::Malformed });
    }
    if offset > 0 {
        let overlaps = next == Protocol::Tcp as u8 && offset < TCP_BYTES;
        return Err(if overlaps { Reason::Fragment } else { Reason::LaterFragment });
    }
    // After a routing header a host with SRv6 enabled (seg6_enabled) unwraps an inner packet on the
    // same device (ipv6_srh_rcv in net/ipv6/exthdrs.c), after this program.
    if is_extension(next) || (routed && (next == NEXT_IPV4 || next == NEXT_IPV6)) {
        return Err(Reason::Chain);
    }
    let protocol = Protocol::from_number(next).ok_or(Reason::OtherProtocol)?;
    if protocol == Protocol::Tcp && bad_source {
        return Err(Reason::BadSource);
    }
    Ok(Transport {
        source,
        destination,
        protocol,
        at: at + IPV6_BYTES + walked,
        claimed: if payload == 0 { None } else { Some(payload - walked) },
        fragment,
    })
}

/// TCP (RFC 9293 section 3.1) or UDP (RFC 768).
#[inline(always)]
pub(crate) fn ports<F: Frame>(frame: &F, transport: &Transport) -> Result<Ports, Reason> {
    match transport.protocol {
        Protocol::Tcp => tcp(frame, transport),
        Protocol::Udp => udp(frame, transport),
    }
}

#[inline(always)]
fn tcp<F: Frame>(frame: &F, transport: &Transport) -> Result<Ports, Reason> {
    let cut_short = if transport.fragment { Reason::Fragment } else { Reason::Malformed };
    if transport.claimed.is_some_and(|claimed| claimed < TCP_BYTES) {
        return Err(cut_short);
    }
    let [ends, sequence, _, control, _] =
        frame.words::<{ TCP_BYTES / 4 }>(transport.at).ok_or(cut_short)?;
    let [s0, s1, d0, d1] = ends.to_ne_bytes();
    let [data_offset, flags, ..] = control.to_ne_bytes();
    let header_bytes = usize::from(data_offset >> 4) * 4;
    // A first fragment may leave its options to the next one; a whole segment may not.
    let options_missing =
        !transport.fragment && transport.claimed.is_some_and(|claimed| claimed < header_bytes);
    if header_bytes < TCP_BYTES || options_missing {
        return Err(Reason::Malformed);
    }
    Ok(Ports {
        source: u16::from_be_bytes([s0, s1]),
        destination: PortKey { protocol: Protocol::Tcp, port: u16::from_be_bytes([d0, d1]) },
        // A mask, never equality: SYN with ECE, CWR, URG, PSH or reserved bits opens connections.
        opens: flags & (TCP_SYN | TCP_ACK) == TCP_SYN,
        sequence: u32::from_be(sequence),
    })
}

#[inline(always)]
fn udp<F: Frame>(frame: &F, transport: &Transport) -> Result<Ports, Reason> {
    let cut_short = if transport.fragment { Reason::Fragment } else { Reason::Malformed };
    if transport.claimed.is_some_and(|claimed| claimed < UDP_BYTES) {
        return Err(cut_short);
    }
    let [ends, _] = frame.words::<{ UDP_BYTES / 4 }>(transport.at).ok_or(cut_short)?;
    let [s0, s1, d0, d1] = ends.to_ne_bytes();
    Ok(Ports {
        source: u16::from_be_bytes([s0, s1]),
        destination: PortKey { protocol: Protocol::Udp, port: u16::from_be_bytes([d0, d1]) },
        opens: false,
        sequence: 0,
    })
}

/// Whether `bytes` more bytes are in the frame at `offset`; only the last one is loaded.
#[inline(always)]
fn readable<F: Frame>(frame: &F, offset: usize, bytes: usize) -> bool {
    bytes == 0 || frame.load::<1>(offset + bytes - 1).is_some()
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        NEXT_HOP_BY_HOP
            | NEXT_ROUTING
            | NEXT_FRAGMENT
            | NEXT_AUTHENTICATION
            | NEXT_DESTINATION
            | NEXT_MOBILITY
            | NEXT_HIP
            | NEXT_SHIM6
    )
}
