//! Functions for all headers: checksums, pieces of a payload, and lengths that fit.

use jit_common::Address;

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
    checksum(&[&source.bytes(), &destination.bytes(), &length, &[0, protocol], bytes])
}

/// Offset, bytes, and whether more follow, for each piece of `payload`.
pub(super) fn pieces<'a>(
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

pub(super) fn byte(value: usize) -> u8 {
    u8::try_from(value).expect("fits into a byte")
}

pub(super) fn short(value: usize) -> u16 {
    u16::try_from(value).expect("fits into 16 bits")
}
