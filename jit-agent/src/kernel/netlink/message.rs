//! Parses the messages about links that route netlink sends by itself. Pure. It never panics: a
//! message that does not fit is an error.
//!
//! The crate netlink-packet-route is not used here: it reads every attribute of a link, and refuses
//! the whole message for one that it does not understand. A new kernel or an odd device would then
//! hide a change. Here one attribute of hundreds is read. The parser is fuzzed.
//!
//! Layouts are those of `linux/netlink.h` and `linux/rtnetlink.h`, numbers in the host's byte
//! order.

/// `struct nlmsghdr`: length, type, flags, sequence, port; and its alignment (`NLMSG_ALIGN`).
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;
/// `struct ifinfomsg`: family, padding, hardware type, index, flags, change.
const LINK_HEADER: usize = 16;
/// `struct rtattr`: length and type.
const ATTRIBUTE_HEADER: usize = 4;
/// The upper bits of an attribute's type: nested, big-endian (`NLA_TYPE_MASK` without them).
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
/// The family of messages about a link itself; others are about its place in a bridge, for one.
const AF_UNSPEC: u8 = 0;

/// The part of a message that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A link is there: new, or something about it changed.
    Changed(LinkId),
    /// A link is gone: deleted, or moved to another network namespace.
    Gone(LinkId),
    /// A message that is not about a link itself.
    Other,
    /// Messages were lost.
    Overrun,
}

/// Index and name of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkId {
    /// The index.
    pub index: u32,
    /// The name.
    pub name: String,
}

/// Bytes that are no netlink messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An attribute is longer than its message, or shorter than its own header.
    #[error("the length of an attribute does not fit")]
    Attribute,
    /// An index that is no interface's.
    #[error("an interface with index {0}")]
    Index(i32),
    /// A message is longer than what was received, or shorter than its own header.
    #[error("the length of a message does not fit")]
    Length,
    /// A link without a name.
    #[error("a link without a name")]
    Name,
}

/// The messages of one datagram, in their order. After an error there are no more.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = take(rest);
        rest = taken.as_ref().map_or(&[], |(_, rest)| *rest);
        Some(taken.map(|(message, _)| message))
    })
}

/// The first message, and the bytes after it.
fn take(bytes: &[u8]) -> Result<(Message, &[u8]), Malformed> {
    let length = u32::from_ne_bytes(field(bytes, 0).ok_or(Malformed::Length)?);
    let length = usize::try_from(length).map_err(|_| Malformed::Length)?;
    let kind = u16::from_ne_bytes(field(bytes, 4).ok_or(Malformed::Length)?);
    // `None` if the length is less than the header's own.
    let body = bytes.get(HEADER..length).ok_or(Malformed::Length)?;
    let rest = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Ok((read(kind, body)?, rest))
}

fn read(kind: u16, body: &[u8]) -> Result<Message, Malformed> {
    Ok(match kind {
        NLMSG_OVERRUN => Message::Overrun,
        RTM_NEWLINK | RTM_DELLINK => {
            if field(body, 0).is_some_and(|[family]| family != AF_UNSPEC) {
                return Ok(Message::Other);
            }
            let link = link(body)?;
            if kind == RTM_NEWLINK { Message::Changed(link) } else { Message::Gone(link) }
        }
        _ => Message::Other,
    })
}

fn link(body: &[u8]) -> Result<LinkId, Malformed> {
    let index = i32::from_ne_bytes(field(body, 4).ok_or(Malformed::Length)?);
    let index =
        u32::try_from(index).ok().filter(|index| *index > 0).ok_or(Malformed::Index(index))?;
    let name = name(body.get(LINK_HEADER..).ok_or(Malformed::Length)?)?;
    Ok(LinkId { index, name })
}

/// The name among a link's attributes, up to its NUL.
fn name(mut attributes: &[u8]) -> Result<String, Malformed> {
    while !attributes.is_empty() {
        let length = u16::from_ne_bytes(field(attributes, 0).ok_or(Malformed::Attribute)?);
        let kind = u16::from_ne_bytes(field(attributes, 2).ok_or(Malformed::Attribute)?);
        let length = usize::from(length);
        let value = attributes.get(ATTRIBUTE_HEADER..length).ok_or(Malformed::Attribute)?;
        if kind & ATTRIBUTE_TYPE == IFLA_IFNAME {
            let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
            if name.is_empty() {
                break;
            }
            return Ok(String::from_utf8_lossy(name).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Err(Malformed::Name)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    /// A message with its header.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn body(family: u8, index: i32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![family, 0];
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(index.to_ne_bytes());
        bytes.extend(0x1003_u32.to_ne_bytes());
        bytes.extend(u32::MAX.to_ne_bytes());
        bytes.extend(attributes.concat());
        bytes
    }

    fn eth0() -> LinkId {
        LinkId { index: 7, name: "eth0".into() }
    }

    fn all(datagram: &[u8]) -> Vec<Result<Message, Malformed>> {
        messages(datagram).collect()
    }

    #[test]
    fn a_link_is_read_whatever_stands_around_its_name() {
        let mtu = attribute(4, &9000_u32.to_ne_bytes());
        for name in [&b"eth0\0"[..], b"eth0", b"eth0\0\0\0rest"] {
            let name = attribute(IFLA_IFNAME, name);
            for attributes in [vec![name.clone()], vec![mtu.clone(), name.clone(), mtu.clone()]] {
                let body = body(AF_UNSPEC, 7, &attributes);
                assert_eq!(all(&message(RTM_NEWLINK, &body)), [Ok(Message::Changed(eth0()))]);
                assert_eq!(all(&message(RTM_DELLINK, &body)), [Ok(Message::Gone(eth0()))]);
            }
        }
    }

    #[test]
    fn messages_come_in_their_order() {
        let datagram = [
            message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[attribute(IFLA_IFNAME, b"eth0\0")])),
            message(RTM_DELLINK, &body(7, 7, &[])),
            message(NLMSG_OVERRUN, &[]),
            message(24, &[1, 2, 3]),
        ]
        .concat();
        let expected = [Message::Changed(eth0()), Message::Other, Message::Overrun, Message::Other];
        assert_eq!(all(&datagram), expected.map(Ok));
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_the_end() {
        let name = attribute(IFLA_IFNAME, b"eth0\0");
        let good = message(RTM_NEWLINK, &body(AF_UNSPEC, 7, from_ref(&name)));
        let cases = [
            (message(RTM_NEWLINK, &body(AF_UNSPEC, 0, from_ref(&name))), Malformed::Index(0)),
            (message(RTM_NEWLINK, &body(AF_UNSPEC, -1, &[name])), Malformed::Index(-1)),
            (message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[])), Malformed::Name),
            (
                message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[attribute(IFLA_IFNAME, b"\0")])),
                Malformed::Name,
            ),
            (message(RTM_NEWLINK, &[0; 4]), Malformed::Length),
            (message(RTM_NEWLINK, &[0, 0, 0, 0, 7, 0, 0, 0]), Malformed::Length),
            (message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[vec![3, 0, 3, 0]])), Malformed::Attribute),
            (
                message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[vec![200, 0, 4, 0]])),
                Malformed::Attribute,
            ),
            (vec![0; 16], Malformed::Length),
            (vec![15, 0, 0, 0], Malformed::Length),
        ];
        for (bytes, expected) in cases {
            let datagram = [good.clone(), bytes, good.clone()].concat();
            let read = all(&datagram);
            assert_eq!(read, [Ok(Message::Changed(eth0())), Err(expected)], "{datagram:?}");
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error() {
        let whole = message(RTM_NEWLINK, &body(AF_UNSPEC, 7, &[attribute(IFLA_IFNAME, b"e\0")]));
        for length in 1..whole.len() {
            assert_eq!(all(&whole[..length]), [Err(Malformed::Length)], "{length} bytes");
        }
    }
}
