//! Reads what this host translates to itself (NAT), by NETLINK_NETFILTER: the TCP connections whose
//! addresses or ports differ on the wire and at the socket, and the nftables chains that translate
//! sources of packets for the host itself.
//!
//! Building and reading messages is pure; [`translations`] and [`source_chain`] speak to the kernel.
//! Two lists are all that is needed, so there is no crate for them. Layouts are those of
//! `linux/netfilter/{nfnetlink,nfnetlink_conntrack,nf_conntrack_common,nf_tables}.h`, numbers in
//! network byte order. Nothing is asked where the kernel tracks no connections: the question alone
//! would load the modules that do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::{Duration, Instant},
};

use jit_common::{Address, Flow, Protocol};
use netlink_packet_core::{
    DecodeError, ErrorBuffer, ErrorMessage, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NlasIterator, Parseable as _,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Subsystems and messages: the upper and the lower byte of a message's type.
const CONNTRACK_GET: u16 = 1 << 8 | 1;
const NFTABLES_GET_CHAIN: u16 = 10 << 8 | 4;
/// Bytes of `nlmsghdr`, and of `nfgenmsg`: family, version, resource.
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
/// Attributes of a connection.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_STATUS_MASK: u16 = 26;
/// Bits of its status: its source or its destination is translated.
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;
/// Attributes of one of its tuples.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Attributes of a chain and of its hook, and the numbers of the hooks "input" and "prerouting".
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;

/// Number of tracked connections of this network namespace; there is none without tracking.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Room for one answer: the kernel fills at most 32 KiB at once.
const ROOM: usize = 64 * 1024;
/// Longest wait for one answer, and for all answers to one question.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(20);

/// Most connections that are kept of a list: at ports that are not protected, too.
const MOST_FLOWS: usize = 1 << 20;

/// What this host translates to itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translations {
    /// TCP connections, as they stand on the wire, each with the ends of its socket.
    pub flows: BTreeMap<Flow, Flow>,
    /// An nftables chain that translates sources of packets for this host: "table t, chain c".
    pub source_chain: Option<String>,
}

/// Reads what is translated to one of these own addresses. Blocks, for a time that grows with the
/// number of connections that are tracked.
pub fn translations(own: &BTreeSet<Address>) -> io::Result<Translations> {
    let Some(count) = tracked() else { return Ok(Translations::default()) };
    let source_chain = source_chain()?;
    let mut flows = BTreeMap::new();
    // Sources of forwarded packets are translated too, often of very many.
    let statuses = [Some(IPS_DST_NAT), source_chain.as_ref().map(|_| IPS_SRC_NAT)];
    for status in statuses.into_iter().flatten().filter(|_| count > 0) {
        let asked = ask(&connections_request(status), |body| {
            if let Some((flow, socket)) = read_connection(body)?
                && flows.len() < MOST_FLOWS
                && let Some((_, here)) = socket.ends()
                && (here.is_loopback() || own.contains(&here))
            {
                flows.insert(flow, socket);
            }
            Ok(())
        });
        unless_missing(asked)?;
    }
    Ok(Translations { flows, source_chain })
}

/// An nftables chain with rules that translates sources of packets for this host itself.
pub fn source_chain() -> io::Result<Option<String>> {
    nat_chain(NF_INET_LOCAL_IN)
}

/// Whether an nftables chain with rules translates destinations of packets that come in.
pub fn translates_destinations() -> io::Result<bool> {
    Ok(nat_chain(NF_INET_PRE_ROUTING)?.is_some())
}

/// An nftables chain of NAT with rules, at this hook.
fn nat_chain(hook: u32) -> io::Result<Option<String>> {
    if tracked().is_none() {
        return Ok(None);
    }
    let mut found = None;
    let asked = ask(&request(NFTABLES_GET_CHAIN, &[]), |body| {
        let chain = read_nat_chain(body, hook)?;
        found = found.take().or(chain);
        Ok(())
    });
    unless_missing(asked).map(|()| found)
}

/// A kernel without nftables, or without this view of its connections, has nothing to list.
fn unless_missing(asked: io::Result<()>) -> io::Result<()> {
    match asked {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPROTONOSUPPORT)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Number of tracked connections in this network namespace; `None`: the kernel tracks none.
pub fn tracked() -> Option<u64> {
    fs::read_to_string(COUNT).ok()?.trim().parse().ok()
}

/// Asks for all connections with this bit in their status. A kernel that does not know the mask
/// (before 5.13) answers with all: the bit is compared again.
fn connections_request(status: u32) -> Vec<u8> {
    let mut attributes = Vec::new();
    for kind in [CTA_STATUS, CTA_STATUS_MASK] {
        attributes.extend(8_u16.to_ne_bytes());
        attributes.extend(kind.to_ne_bytes());
        attributes.extend(status.to_be_bytes());
    }
    request(CONNTRACK_GET, &attributes)
}

fn request(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + NF_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and port; then every family, version 0, no resource.
    message.extend([0; 8]);
    message.extend([0; NF_HEADER]);
    message.extend(attributes);
    message
}

/// A translated TCP connection: as it stands on the wire, and as its socket has it.
fn read_connection(body: &[u8]) -> Result<Option<(Flow, Flow)>, DecodeError> {
    let (mut original, mut reply, mut status) = (None, None, 0);
    for attribute in NlasIterator::new(body.get(NF_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            CTA_TUPLE_ORIG => original = read_tuple(attribute.value())?,
            CTA_TUPLE_REPLY => reply = read_tuple(attribute.value())?,
            CTA_STATUS => status = number(attribute.value()),
            _ => {}
        }
    }
    let (Some(flow), Some(reply)) = (original, reply) else { return Ok(None) };
    // The answers come from the socket.
    let socket = Flow {
        source: reply.destination,
        destination: reply.source,
        source_port: reply.port,
        port: reply.source_port,
        ..reply
    };
    let translated = status & (IPS_SRC_NAT | IPS_DST_NAT) != 0 && flow != socket;
    Ok((translated && flow.family == socket.family).then_some((flow, socket)))
}

/// A tuple of TCP.
fn read_tuple(bytes: &[u8]) -> Result<Option<Flow>, DecodeError> {
    let mut flow = Flow::default();
    let mut protocol = 0;
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute?;
        match attribute.kind() {
            CTA_TUPLE_IP => {
                for end in NlasIterator::new(attribute.value()) {
                    let end = end?;
                    let address = match end.kind() {
                        CTA_IP_V4_SRC | CTA_IP_V6_SRC => &mut flow.source,
                        CTA_IP_V4_DST | CTA_IP_V6_DST => &mut flow.destination,
                        _ => continue,
                    };
                    let read = match *end.value() {
                        [a, b, c, d] => Address::v4([a, b, c, d]),
                        _ => match end.value().try_into() {
                            Ok(bytes) => Address::v6(bytes),
                            Err(_) => return Ok(None),
                        },
                    };
                    *address = read.words;
                    flow.family = read.family as u8;
                }
            }
            CTA_TUPLE_PROTO => {
                for part in NlasIterator::new(attribute.value()) {
                    let part = part?;
                    let port = || part.value().try_into().map_or(0, u16::from_be_bytes);
                    match part.kind() {
                        CTA_PROTO_NUM => protocol = part.value().first().copied().unwrap_or(0),
                        CTA_PROTO_SRC_PORT => flow.source_port = port(),
                        CTA_PROTO_DST_PORT => flow.port = port(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok((protocol == Protocol::Tcp as u8 && flow.family != 0).then_some(flow))
}

/// A chain with rules, of NAT, at this hook.
fn read_nat_chain(body: &[u8], at: u32) -> Result<Option<String>, DecodeError> {
    let (mut table, mut name, mut kind) = (String::new(), String::new(), String::new());
    let (mut hook, mut rules) = (None, 0);
    for attribute in NlasIterator::new(body.get(NF_HEADER..).unwrap_or_default()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            NFTA_CHAIN_TABLE => table = text(value),
            NFTA_CHAIN_NAME => name = text(value),
            NFTA_CHAIN_TYPE => kind = text(value),
            NFTA_CHAIN_USE => rules = number(value),
            NFTA_CHAIN_HOOK => {
                for part in NlasIterator::new(value) {
                    let part = part?;
                    if part.kind() == NFTA_HOOK_HOOKNUM {
                        hook = Some(number(part.value()));
                    }
                }
            }
            _ => {}
        }
    }
    let translates = kind == "nat" && hook == Some(at) && rules > 0;
    Ok(translates.then(|| format!("table {table}, chain {name}")))
}

/// Sends a request and hands each answer's body on.
fn ask(request: &[u8], mut answer: impl FnMut(&[u8]) -> Result<(), DecodeError>) -> io::Result<()> {
    let began = Instant::now();
    let socket = Socket::new(NETLINK_NETFILTER)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    while began.elapsed() < LONGEST {
        let mut buffer = Vec::with_capacity(ROOM);
        let length = socket.recv(&mut buffer, libc::MSG_TRUNC)?;
        if length > buffer.len() {
            return Err(io::Error::other(format!("an answer of {length} bytes does not fit")));
        }
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(unreadable)?;
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(&message.payload())
                        .and_then(|buffer| ErrorMessage::parse(&buffer))
                        .map_err(unreadable)?;
                    return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                }
                _ => answer(message.payload()).map_err(unreadable)?,
            }
            let length = usize::try_from(message.length()).map_err(io::Error::other)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Err(io::Error::other(format!("the kernel's list has no end after {LONGEST:?}")))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn unreadable(error: DecodeError) -> io::Error {
    io::Error::other(format!("an answer of the kernel cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: [u8; 4] = [192, 0, 2, 7];
    const SERVER: [u8; 4] = [198, 51, 100, 1];
    const NESTED: u16 = 1 << 15;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, ends: [&[u8]; 2], ports: [u16; 2], protocol: u8) -> Vec<u8> {
        let v6 = if ends[0].len() == 4 { 0 } else { 2 };
        let addresses = [attribute(1 + v6, ends[0]), attribute(2 + v6, ends[1])].concat();
        let ports = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_SRC_PORT, &ports[0].to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &ports[1].to_be_bytes()),
        ];
        let parts = [
            attribute(CTA_TUPLE_IP | NESTED, &addresses),
            attribute(CTA_TUPLE_PROTO | NESTED, &ports.concat()),
        ];
        attribute(kind | NESTED, &parts.concat())
    }

    /// The client's connection to port 22, redirected to port 2022.
    fn redirected(status: u32, protocol: u8, ends: [&[u8]; 2]) -> Vec<u8> {
        let [client, server] = ends;
        let mut body = vec![2, 0, 0, 0];
        body.extend(tuple(CTA_TUPLE_ORIG, [client, server], [40_000, 22], protocol));
        body.extend(tuple(CTA_TUPLE_REPLY, [server, client], [2022, 40_000], protocol));
        body.extend(attribute(CTA_STATUS, &status.to_be_bytes()));
        body
    }

    #[test]
    fn a_redirected_connection_has_the_ends_of_its_socket() {
        let (client, server) = ([0x20; 16], [0x21; 16]);
        let ends: [(u8, [&[u8]; 2]); 2] = [(4, [&CLIENT, &SERVER]), (6, [&client, &server])];
        for (family, ends) in ends {
            let body = redirected(IPS_DST_NAT | 0x0e, 6, ends);
            let (flow, socket) = read_connection(&body).unwrap().unwrap();
            assert_eq!((flow.family, flow.source_port, flow.port), (family, 40_000, 22));
            assert_eq!(socket, Flow { port: 2022, ..flow });
            let (source, destination) = flow.ends().unwrap();
            assert!(
                source.bytes().starts_with(ends[0]) && destination.bytes().starts_with(ends[1])
            );
        }
    }

    #[test]
    fn what_is_not_translated_or_not_tcp_is_passed_over() {
        for (status, protocol) in [(0x0e, 6), (IPS_DST_NAT, 17)] {
            let body = redirected(status, protocol, [&CLIENT, &SERVER]);
            assert_eq!(read_connection(&body).unwrap(), None, "{status:#x} {protocol}");
        }
        let odd = redirected(IPS_DST_NAT, 6, [&CLIENT[..3], &SERVER]);
        assert_eq!(read_connection(&odd).unwrap(), None);
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_an_error_or_nothing() {
        let whole = redirected(IPS_DST_NAT, 6, [&CLIENT, &SERVER]);
        for length in 0..whole.len() {
            let read = read_connection(&whole[..length]);
            assert!(matches!(read, Err(_) | Ok(None)), "{length}: {read:?}");
        }
    }

    #[test]
    fn only_a_nat_chain_with_rules_at_the_hook_translates() {
        let chain = |kind: &[u8], hook: u32, rules: u32| {
            let hook = attribute(NFTA_HOOK_HOOKNUM, &hook.to_be_bytes());
            let parts = [
                attribute(NFTA_CHAIN_TABLE, b"t\0"),
                attribute(NFTA_CHAIN_NAME, b"c\0"),
                attribute(NFTA_CHAIN_HOOK | NESTED, &hook),
                attribute(NFTA_CHAIN_USE, &rules.to_be_bytes()),
                attribute(NFTA_CHAIN_TYPE, kind),
            ];
            read_nat_chain(&[vec![1, 0, 0, 0], parts.concat()].concat(), NF_INET_LOCAL_IN).unwrap()
        };
        assert_eq!(chain(b"nat\0", 1, 1).as_deref(), Some("table t, chain c"));
        for (kind, hook, rules) in [(&b"filter\0"[..], 1, 1), (b"nat\0", 0, 1), (b"nat\0", 1, 0)] {
            assert_eq!(chain(kind, hook, rules), None, "{kind:?} {hook} {rules}");
        }
    }
}
