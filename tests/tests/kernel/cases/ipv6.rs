//! IPv6: chains of extension headers, fragments, sources that no TCP peer has.

use std::net::Ipv6Addr;

use jit_common::{Protocol, Reason};
use jit_tests::frames::{Extension, ICMPV6, Ipv6, Packet, Tcp, Udp};

use super::{Case, always, opens, three};
use crate::fixture::{CLIENT_V4, SERVER_V6, v6};

const TCP: u8 = Protocol::Tcp as u8;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

pub(super) fn cases() -> Vec<Case> {
    [
        chains(),
        long_chains(),
        lengths(),
        first_fragments(),
        later_fragments(),
        inner_packets(),
        sources(),
        others(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn chains() -> Vec<Case> {
    let chain = |name, why, chain: Vec<Extension>| {
        opens(name, why, move |port| v6().chain(&chain).tcp(&Tcp::syn(port)).frame())
    };
    let hop = Extension::hop_by_hop;
    let destination = Extension::destination;
    vec![
        chain("hop-by-hop options", "RFC 8200 section 4.3", vec![hop()]),
        chain("destination options", "RFC 8200 section 4.6", vec![destination()]),
        chain("routing type 0", "RFC 5095", vec![Extension::routing(0)]),
        chain("routing type 2", "RFC 6275 section 6.4", vec![Extension::routing(2)]),
        chain("routing type 4", "RFC 8754", vec![Extension::routing(4)]),
        chain(
            "routing type 99",
            "RFC 8200 section 4.4: unknown type",
            vec![Extension::routing(99)],
        ),
        chain(
            "authentication header",
            "RFC 4302 section 2.2: 4-byte units",
            vec![Extension::authentication()],
        ),
        chain("mobility header", "RFC 6275 section 6.1", vec![Extension::padded(MOBILITY, 0)]),
        chain("HIP header", "RFC 7401 section 5.1", vec![Extension::padded(HIP, 4)]),
        chain("Shim6 header", "RFC 5533 section 5.1", vec![Extension::padded(SHIM6, 1)]),
        chain(
            "hop-by-hop options of 2048 bytes",
            "RFC 8200: the longest header",
            vec![Extension::padded(0, 255)],
        ),
        chain(
            "destination options twice",
            "RFC 8200 section 4.1",
            vec![destination(), destination()],
        ),
        chain("hop-by-hop options not first", "evasion: wrong order", vec![destination(), hop()]),
        chain(
            "all kinds",
            "RFC 8200 section 4.1",
            vec![
                hop(),
                destination(),
                Extension::routing(0),
                Extension::authentication(),
                Extension::padded(MOBILITY, 0),
                Extension::padded(HIP, 0),
                Extension::padded(SHIM6, 0),
            ],
        ),
    ]
}

fn long_chains() -> Vec<Case> {
    let chain = |count| vec![Extension::destination(); count];
    let tail = |mut chain: Vec<Extension>, last: Extension| {
        chain.push(last);
        chain
    };
    let too_long = |name, why, chain: Vec<Extension>| {
        always(name, why, Reason::Chain, move |port| {
            v6().chain(&chain).tcp(&Tcp::syn(port)).frame()
        })
    };
    let eight = chain(8);
    let seven_and_atomic = tail(chain(7), Extension::fragment(0, false));
    vec![
        opens("eight headers", "the most that is walked", move |port| {
            v6().chain(&eight).tcp(&Tcp::syn(port)).frame()
        }),
        opens("seven headers and an atomic fragment", "the most that is walked", move |port| {
            v6().chain(&seven_and_atomic).tcp(&Tcp::syn(port)).frame()
        }),
        too_long("nine headers", "evasion: a header too many", chain(9)),
        too_long("twenty headers", "evasion: headers too many", chain(20)),
        too_long("nine hop-by-hop headers", "evasion", vec![Extension::hop_by_hop(); 9]),
        too_long(
            "eight headers and an atomic fragment",
            "evasion: a header too many",
            tail(chain(8), Extension::fragment(0, false)),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let malformed = |name, why, packet: fn(u16) -> Packet| {
        always(name, why, Reason::Malformed, move |port| packet(port).frame())
    };
    vec![
        opens("payload length 0", "BIG TCP: a GRO packet above 64 KiB", |port| {
            v6().length(0).tcp(&Tcp::syn(port)).frame()
        }),
        opens("jumbo payload option", "RFC 2675 section 2", |port| {
            let jumbo = Extension { protocol: 0, bytes: vec![0, 0, 0xc2, 4, 0, 1, 0, 20] };
            v6().chain(&[jumbo]).length(0).tcp(&Tcp::syn(port)).frame()
        }),
        opens("payload length above the frame", "GRO: the rest lies elsewhere", |port| {
            v6().length(9000).tcp(&Tcp::syn(port)).frame()
        }),
        malformed("version 4 under the ethertype of IPv6", "RFC 8200 section 3", |port| {
            Ipv6 { version: 4, ..v6() }.tcp(&Tcp::syn(port))
        }),
        malformed("version 0 under the ethertype of IPv6", "RFC 8200 section 3", |port| {
            Ipv6 { version: 0, ..v6() }.tcp(&Tcp::syn(port))
        }),
        malformed("payload length inside the TCP header", "flags outside the packet", |port| {
            v6().length(13).tcp(&Tcp::syn(port))
        }),
        malformed("payload length inside the chain", "RFC 8200 section 3", |port| {
            v6().chain(&[Extension::routing(0)]).length(16).tcp(&Tcp::syn(port))
        }),
        malformed("payload length of the chain alone", "no TCP header inside", |port| {
            v6().chain(&[Extension::destination()]).length(8).tcp(&Tcp::syn(port))
        }),
        malformed("payload length inside TCP after a chain", "flags outside the packet", |port| {
            v6().chain(&[Extension::destination()]).length(8 + 13).tcp(&Tcp::syn(port))
        }),
        malformed("header length past the frame", "RFC 8200 section 4", |port| {
            v6().chain(&[Extension::destination().length(200)]).tcp(&Tcp::syn(port))
        }),
        malformed("header length past the frame of no packet", "RFC 8200 section 4", |_| {
            v6().length(0).chain(&[Extension::destination().length(200)]).carry(59, &[0; 8])
        }),
        malformed("authentication header past the frame", "RFC 4302", |port| {
            v6().chain(&[Extension::authentication().length(255)]).tcp(&Tcp::syn(port))
        }),
        malformed("cut after 1 byte of IPv6", "RFC 8200: 40 bytes", |port| {
            v6().tcp(&Tcp::syn(port)).cut(1)
        }),
        malformed("cut after 39 bytes of IPv6", "RFC 8200: 40 bytes", |port| {
            v6().tcp(&Tcp::syn(port)).cut(39)
        }),
        malformed("cut after 1 byte of an extension header", "RFC 8200 section 4", |port| {
            v6().chain(&[Extension::destination()]).tcp(&Tcp::syn(port)).cut(41)
        }),
        malformed("cut inside an extension header", "RFC 8200 section 4", |port| {
            v6().chain(&[Extension::destination()]).tcp(&Tcp::syn(port)).cut(47)
        }),
        malformed("cut inside the fragment header", "RFC 8200 section 4.5", |port| {
            v6().chain(&[Extension::fragment(0, false)]).tcp(&Tcp::syn(port)).cut(47)
        }),
    ]
}

fn first_fragments() -> Vec<Case> {
    let split = |name, why, inner: Vec<Extension>, at: usize| {
        always(name, why, Reason::Fragment, move |port| {
            let segment = segment(port, 28);
            let packets = v6().fragments(&inner, TCP, &segment, &[0, at]);
            packets.first().expect("a first fragment").frame()
        })
    };
    vec![
        opens("atomic fragment", "RFC 6946", |port| {
            v6().chain(&[Extension::fragment(0, false)]).tcp(&Tcp::syn(port)).frame()
        }),
        opens("atomic fragment after hop-by-hop options", "RFC 6946", |port| {
            let chain = [Extension::hop_by_hop(), Extension::fragment(0, false)];
            v6().chain(&chain).tcp(&Tcp::syn(port)).frame()
        }),
        opens("two atomic fragment headers", "evasion: a fragment in a fragment", |port| {
            let atomic = Extension::fragment(0, false);
            v6().chain(&[atomic.clone(), atomic]).tcp(&Tcp::syn(port)).frame()
        }),
        opens("first fragment with the whole header", "RFC 7112 section 5", |port| {
            let packets = v6().fragments(&[], TCP, &segment(port, 28), &[0, 24]);
            packets.first().expect("a first fragment").frame()
        }),
        opens("first fragment with chain and header", "RFC 7112 section 5", |port| {
            let chain = [Extension::destination(), Extension::routing(0)];
            let packets = v6().fragments(&chain, TCP, &segment(port, 28), &[0, 56]);
            packets.first().expect("a first fragment").frame()
        }),
        split("first IPv6 fragment of 8 bytes", "RFC 7112: tiny fragment", vec![], 8),
        split("first IPv6 fragment of 16 bytes", "RFC 7112: tiny fragment", vec![], 16),
        split(
            "chain split after its first header",
            "RFC 7112: TCP in the second fragment",
            vec![Extension::destination()],
            8,
        ),
        split(
            "chain split inside a header",
            "RFC 7112: chain goes on in the second fragment",
            vec![Extension::destination(), Extension::routing(0)],
            16,
        ),
        split(
            "TCP header split after a chain",
            "RFC 7112: flags in the second fragment",
            vec![Extension::destination()],
            16,
        ),
        always("first IPv6 fragment without data", "RFC 7112", Reason::Fragment, |_| {
            v6().chain(&[Extension::fragment(0, true)]).carry(TCP, &[]).frame()
        }),
        always("atomic fragment cut inside TCP", "RFC 7112", Reason::Fragment, |port| {
            let packet = v6().chain(&[Extension::fragment(0, false)]).tcp(&Tcp::syn(port));
            packet.cut(48 + 13).frame()
        }),
        always("two fragment headers, cut inside TCP", "RFC 7112", Reason::Fragment, |port| {
            let atomic = Extension::fragment(0, false);
            let packet = v6().chain(&[atomic.clone(), atomic]).tcp(&Tcp::syn(port));
            packet.cut(56 + 13).frame()
        }),
        always("atomic fragment with data offset 4", "RFC 9293", Reason::Malformed, |port| {
            let segment = Tcp::syn(port).data_offset(4);
            v6().chain(&[Extension::fragment(0, false)]).tcp(&segment).frame()
        }),
    ]
}

/// SRv6 unwraps an inner packet on the device that it came in on, after the gate: with
/// `seg6_enabled` Linux answered a SYN in one.
fn inner_packets() -> Vec<Case> {
    let inner = |name, next: u8, routed: usize, reason| {
        always(name, "RFC 8754 section 4.3; ipv6_srh_rcv", reason, move |port| {
            let chain = vec![Extension::routing(4); routed];
            v6().chain(&chain).carry(next, &segment(port, 28)).frame()
        })
    };
    let (chain, other) = (Reason::Chain, Reason::OtherProtocol);
    vec![
        inner("IPv6 after a routing header", 41, 1, chain),
        inner("IPv4 after a routing header", 4, 1, chain),
        inner("IPv6 after two routing headers", 41, 2, chain),
        inner("IPv6 in IPv6", 41, 0, other),
        inner("ICMPv6 after a routing header", ICMPV6, 1, other),
    ]
}

fn later_fragments() -> Vec<Case> {
    let at = |name, why, next: u8, offset: usize, more: bool, reason| {
        always(name, why, reason, move |port| {
            let chain = [Extension::fragment(offset, more)];
            v6().chain(&chain).carry(next, &segment(port, 4)).frame()
        })
    };
    let later = Reason::LaterFragment;
    vec![
        at("IPv6 fragment at 8", "RFC 3128: the flags", TCP, 8, false, Reason::Fragment),
        at("IPv6 fragment at 8 with more", "RFC 3128", TCP, 8, true, Reason::Fragment),
        at("IPv6 fragment at 16", "RFC 3128", TCP, 16, false, Reason::Fragment),
        at("IPv6 fragment at 24", "cannot reach 20 bytes of TCP", TCP, 24, false, later),
        at("IPv6 fragment at 24 with more", "cannot reach it", TCP, 24, true, later),
        at("IPv6 fragment at 65,528", "the largest offset", TCP, 65_528, false, later),
        at("IPv6 fragment at 8 of a chain", "its first was refused", 60, 8, false, later),
        at("IPv6 fragment at 8 of ICMPv6", "collateral", ICMPV6, 8, false, later),
        always("fragment at 8 after eight headers", "evasion: depth", Reason::Chain, |_| {
            let mut chain = vec![Extension::destination(); 8];
            chain.push(Extension::fragment(8, false));
            v6().chain(&chain).carry(TCP, &[0; 8]).frame()
        }),
        always(
            "fragment at 8 after seven headers",
            "the most that is walked",
            Reason::Fragment,
            |_| {
                let mut chain = vec![Extension::destination(); 7];
                chain.push(Extension::fragment(8, false));
                v6().chain(&chain).carry(TCP, &[0; 8]).frame()
            },
        ),
        always("atomic fragment, then a fragment at 8", "evasion", Reason::Fragment, |_| {
            let chain = [Extension::fragment(0, false), Extension::fragment(8, false)];
            v6().chain(&chain).carry(TCP, &[0; 8]).frame()
        }),
    ]
}

fn sources() -> Vec<Case> {
    let bad: [(&str, &str, Ipv6Addr); 6] = [
        (
            "mapped source of the granted client",
            "RFC 4291 section 2.5.5.2",
            CLIENT_V4.to_ipv6_mapped(),
        ),
        ("mapped source ::ffff:0:0", "RFC 4291 section 2.5.5.2", v6_address("::ffff:0:0")),
        ("mapped source of all ones", "RFC 4291 section 2.5.5.2", v6_address("::ffff:ffff:ffff")),
        ("IPv6 multicast source", "RFC 4291 section 2.7", v6_address("ff02::1")),
        ("multicast source ffff::", "RFC 4291 section 2.7", v6_address("ffff::")),
        ("unspecified source", "RFC 4291 section 2.5.2", Ipv6Addr::UNSPECIFIED),
    ];
    let strange: [(&str, &str, Ipv6Addr); 6] = [
        ("compatible source", "RFC 4291 section 2.5.5.1", v6_address("::192.0.2.7")),
        ("source ::1", "loopback on the wire", Ipv6Addr::LOCALHOST),
        ("link-local source", "RFC 4291 section 2.5.6", v6_address("fe80::7")),
        ("NAT64 source of the granted client", "RFC 6052", v6_address("64:ff9b::192.0.2.7")),
        ("the server's own IPv6 address as source", "a grant is for its source", SERVER_V6),
        ("neighbour of the granted IPv6 client", "likewise", v6_address("2001:db8:7::6")),
    ];
    let mut cases = Vec::new();
    for (name, why, source) in bad {
        cases.push(always(name, why, Reason::BadSource, move |port| {
            Ipv6 { source, ..v6() }.tcp(&Tcp::syn(port)).frame()
        }));
    }
    for (name, why, source) in strange {
        let reasons = [Reason::Denied, Reason::Denied, Reason::Unprotected];
        cases.push(three(name, why, reasons, move |port| {
            Ipv6 { source, ..v6() }.tcp(&Tcp::syn(port)).frame()
        }));
    }
    cases.push(always("mapped source in a bare ACK", "RFC 4291", Reason::BadSource, |port| {
        let source = CLIENT_V4.to_ipv6_mapped();
        Ipv6 { source, ..v6() }.tcp(&Tcp::with_flags(port, 0x10)).frame()
    }));
    cases.push(three(
        "mapped source of a datagram",
        "never the IPv4 client's grant",
        [Reason::Denied, Reason::Denied, Reason::Unprotected],
        |port| Ipv6 { source: CLIENT_V4.to_ipv6_mapped(), ..v6() }.udp(&Udp::to(port)).frame(),
    ));
    cases
}

fn others() -> Vec<Case> {
    let other = |name: &str, why, next: u8, chain: Vec<Extension>| {
        always(format!("{name} over IPv6"), why, Reason::OtherProtocol, move |port| {
            let inside = v6().tcp(&Tcp::syn(port)).bytes;
            v6().chain(&chain).carry(next, &inside).frame()
        })
    };
    let icmp = |name, why, kind: u8, source: Ipv6Addr| {
        always(name, why, Reason::OtherProtocol, move |_| {
            let body = [kind, 0, 0, 0, 0, 0, 0, 0];
            Ipv6 { source, ..v6() }
                .carry(ICMPV6, &[&body[..], &SERVER_V6.octets()].concat())
                .frame()
        })
    };
    let local = v6_address("fe80::7");
    vec![
        icmp("neighbour solicitation", "RFC 4861 section 4.3", 135, local),
        icmp("neighbour advertisement", "RFC 4861 section 4.4", 136, local),
        icmp("router advertisement", "RFC 4861 section 4.2", 134, local),
        icmp(
            "duplicate address detection",
            "RFC 4862: unspecified source",
            135,
            Ipv6Addr::UNSPECIFIED,
        ),
        icmp("ICMPv6 echo", "RFC 4443 section 4.1", 128, local),
        other("MLD", "RFC 3810: after hop-by-hop options", ICMPV6, vec![Extension::hop_by_hop()]),
        always(
            "a chain and nothing after it",
            "RFC 8200 section 4.7: no next header",
            Reason::OtherProtocol,
            |_| v6().chain(&[Extension::destination()]).carry(59, &[]).frame(),
        ),
        other("ESP", "RFC 4303", 50, vec![]),
        other("no next header", "RFC 8200 section 4.7", 59, vec![]),
        other("IPv4 in IPv6", "RFC 2473: comes in again on another device", 4, vec![]),
        other("IPv6 in IPv6", "RFC 2473: comes in again on another device", 41, vec![]),
        other("SCTP", "RFC 9260", 132, vec![Extension::destination()]),
        other("experimental 253", "RFC 3692", 253, vec![]),
    ]
}

/// A SYN with a payload of this many bytes.
fn segment(port: u16, payload: usize) -> Vec<u8> {
    Tcp::syn(port).payload(&vec![0; payload]).bytes(v6().source(), v6().destination())
}

fn v6_address(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}
