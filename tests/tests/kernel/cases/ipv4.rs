//! IPv4 headers: options, lengths, fragments, other protocols.

use std::net::Ipv4Addr;

use jit_common::{Protocol, Reason};
use jit_tests::frames::{ICMP, Ipv4, Packet, Tcp};

use super::{Case, always, opens, three};
use crate::fixture::{SERVER_V4, v4};

const TCP: u8 = Protocol::Tcp as u8;

pub(super) fn cases() -> Vec<Case> {
    [options(), lengths(), first_fragments(), later_fragments(), sources(), protocols()]
        .into_iter()
        .flatten()
        .collect()
}

fn options() -> Vec<Case> {
    let rows: [(&str, &str, &'static [u8]); 8] = [
        ("NOP options", "RFC 791 section 3.1: a header of 24 bytes", &[1, 1, 1, 1]),
        ("40 bytes of NOP", "RFC 791 section 3.1: the longest header", &[1; 40]),
        ("record route", "RFC 791 section 3.1", &[7, 7, 4, 0, 0, 0, 0]),
        ("loose source route", "RFC 791 section 3.1", &[131, 7, 8, 198, 51, 100, 1]),
        ("strict source route", "RFC 791 section 3.1", &[137, 7, 8, 198, 51, 100, 1]),
        ("timestamp", "RFC 791 section 3.1", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("router alert", "RFC 2113", &[148, 4, 0, 0]),
        ("unknown option of length 0", "evasion: walkers that loop or give up", &[200, 0, 0, 0]),
    ];
    rows.into_iter()
        .map(|(name, why, options)| {
            opens(name, why, move |port| v4().options(options).tcp(&Tcp::syn(port)).frame())
        })
        .collect()
}

fn lengths() -> Vec<Case> {
    let malformed = |name, why, packet: fn(u16) -> Packet| {
        always(name, why, Reason::Malformed, move |port| packet(port).frame())
    };
    vec![
        opens("total length 0", "BIG TCP over IPv4: a GRO packet above 64 KiB", |port| {
            v4().total(0).tcp(&Tcp::syn(port)).frame()
        }),
        opens("total length above the frame", "GRO: the rest lies elsewhere", |port| {
            v4().total(9000).tcp(&Tcp::syn(port)).frame()
        }),
        opens("padding after the packet", "IEEE 802.3: minimal frame", |port| {
            let mut frame = v4().tcp(&Tcp::syn(port)).frame();
            frame.resize(60, 0);
            frame
        }),
        opens("wrong header checksum", "the stack's business, not the gate's", |port| {
            v4().tcp(&Tcp::syn(port)).with_byte(10, 0xff).frame()
        }),
        malformed("header length 4", "RFC 791 section 3.1: at least 5", |port| {
            v4().words(4).tcp(&Tcp::syn(port))
        }),
        malformed("header length 0", "RFC 791 section 3.1: at least 5", |port| {
            v4().words(0).tcp(&Tcp::syn(port))
        }),
        malformed("header length 15 in a short frame", "RFC 791: past the end", |port| {
            v4().words(15).total(0).tcp(&Tcp::syn(port))
        }),
        malformed("header length 15 of a short ping", "RFC 791: past the end", |_| {
            v4().words(15).total(0).carry(ICMP, &[0; 8])
        }),
        malformed("version 0", "RFC 791 section 3.1", |port| {
            Ipv4 { version: 0, ..v4() }.tcp(&Tcp::syn(port))
        }),
        malformed("version 5", "RFC 791 section 3.1", |port| {
            Ipv4 { version: 5, ..v4() }.tcp(&Tcp::syn(port))
        }),
        malformed("version 6", "evasion: IPv4 with the version of IPv6", |port| {
            Ipv4 { version: 6, ..v4() }.tcp(&Tcp::syn(port))
        }),
        malformed("total length 19", "RFC 791: less than the header", |port| {
            v4().total(19).tcp(&Tcp::syn(port))
        }),
        malformed("total length inside the options", "RFC 791: less than the header", |port| {
            v4().options(&[1; 8]).total(24).tcp(&Tcp::syn(port))
        }),
        malformed("total length of the header alone", "no TCP header inside", |port| {
            v4().total(20).tcp(&Tcp::syn(port))
        }),
        malformed("total length inside the TCP header", "flags outside the packet", |port| {
            v4().total(33).tcp(&Tcp::syn(port))
        }),
        malformed("cut after 1 byte of IPv4", "RFC 791: 20 bytes", |port| {
            v4().tcp(&Tcp::syn(port)).cut(1)
        }),
        malformed("cut after 19 bytes of IPv4", "RFC 791: 20 bytes", |port| {
            v4().tcp(&Tcp::syn(port)).cut(19)
        }),
        malformed("cut inside the options", "RFC 791: header not readable", |port| {
            v4().options(&[1; 12]).tcp(&Tcp::syn(port)).cut(31)
        }),
    ]
}

fn first_fragments() -> Vec<Case> {
    let fragment =
        |name, why, frame: fn(u16) -> Vec<u8>| always(name, why, Reason::Fragment, frame);
    vec![
        fragment("first fragment of 8 bytes", "RFC 1858 section 3: tiny fragment", |port| {
            first(port, Ipv4::MF, 8)
        }),
        fragment("first fragment of 16 bytes", "RFC 1858 section 3: tiny fragment", |port| {
            first(port, Ipv4::MF, 16)
        }),
        fragment("first fragment without data", "evasion: empty fragment", |port| {
            first(port, Ipv4::MF, 0)
        }),
        fragment("first fragment of 8 bytes, DF set", "evasion: DF and MF both", |port| {
            first(port, Ipv4::MF | Ipv4::DF, 8)
        }),
        fragment("first fragment cut inside TCP", "evasion: claims 24, holds 19", |port| {
            v4().fragment(Ipv4::MF).tcp(&Tcp::syn(port).payload(&[0; 4])).cut(39).frame()
        }),
        opens("first fragment of 24 bytes", "RFC 1858 section 3: flags are there", |port| {
            v4().fragment(Ipv4::MF).tcp(&Tcp::syn(port).payload(&[0; 4])).frame()
        }),
        opens("first fragment of 24 bytes, DF set", "evasion: DF and MF both", |port| {
            v4().fragment(Ipv4::MF | Ipv4::DF).tcp(&Tcp::syn(port).payload(&[0; 4])).frame()
        }),
        opens("first fragment with TCP options in the next", "RFC 791 section 3.2", |port| {
            v4().fragment(Ipv4::MF).tcp(&Tcp::syn(port).data_offset(10).payload(&[1; 4])).frame()
        }),
        opens("first fragment after IPv4 options", "RFC 791 section 3.2", |port| {
            v4().options(&[1; 40]).fragment(Ipv4::MF).tcp(&Tcp::syn(port).payload(&[0; 4])).frame()
        }),
        always(
            "first fragment with data offset 4",
            "RFC 9293 section 3.1: at least 5",
            Reason::Malformed,
            |port| {
                let segment = Tcp::syn(port).data_offset(4).payload(&[0; 4]);
                v4().fragment(Ipv4::MF).tcp(&segment).frame()
            },
        ),
        opens("DF alone", "RFC 791 section 3.1: not a fragment", |port| {
            v4().fragment(Ipv4::DF).tcp(&Tcp::syn(port)).frame()
        }),
        opens("reserved bit", "RFC 3514: not a fragment", |port| {
            v4().fragment(0x8000).tcp(&Tcp::syn(port)).frame()
        }),
    ]
}

fn later_fragments() -> Vec<Case> {
    let at = |name, why, word: u16, reason| {
        always(name, why, reason, move |port| {
            let segment = Tcp::syn(port).bytes(v4().source(), v4().destination());
            v4().fragment(word).carry(TCP, &segment).frame()
        })
    };
    vec![
        at("fragment at 8", "RFC 1858 section 4: overwrites the flags", 1, Reason::Fragment),
        at("fragment at 8 with more", "RFC 1858 section 4", Ipv4::MF | 1, Reason::Fragment),
        at("fragment at 8 with DF", "RFC 1858 section 4", Ipv4::DF | 1, Reason::Fragment),
        at("fragment at 16", "RFC 3128 section 2", 2, Reason::Fragment),
        at("fragment at 16 with more", "RFC 3128 section 2", Ipv4::MF | 2, Reason::Fragment),
        at("fragment at 24", "cannot reach 20 bytes of TCP", 3, Reason::LaterFragment),
        at("fragment at 24 with more", "cannot reach it", Ipv4::MF | 3, Reason::LaterFragment),
        at("fragment at 65,528", "the largest offset", 0x1fff, Reason::LaterFragment),
        at("fragment at 256", "low byte of the offset is 32", 32, Reason::LaterFragment),
        always("fragment at 8 without data", "RFC 1858", Reason::Fragment, |_| {
            v4().fragment(1).carry(TCP, &[]).frame()
        }),
        always("fragment at 8 of ICMP", "collateral", Reason::LaterFragment, |_| {
            v4().fragment(1).carry(ICMP, &[0; 8]).frame()
        }),
    ]
}

/// Unusual IPv4 sources: without an own grant they are denied as any other source.
fn sources() -> Vec<Case> {
    let rows: [(&str, Ipv4Addr); 6] = [
        ("source 0.0.0.0", Ipv4Addr::UNSPECIFIED),
        ("source 255.255.255.255", Ipv4Addr::BROADCAST),
        ("source 127.0.0.1", Ipv4Addr::LOCALHOST),
        ("multicast source", Ipv4Addr::new(224, 0, 0, 1)),
        ("the server's own address as source", SERVER_V4),
        ("neighbour of the granted client", Ipv4Addr::new(192, 0, 2, 6)),
    ];
    rows.into_iter()
        .map(|(name, source)| {
            let reasons = [Reason::Denied, Reason::Denied, Reason::Unprotected];
            three(name, "a grant is for exactly its source", reasons, move |port| {
                Ipv4 { source, ..v4() }.tcp(&Tcp::syn(port)).frame()
            })
        })
        .collect()
}

fn protocols() -> Vec<Case> {
    let rows: [(&str, &str, u8); 11] = [
        ("ICMP echo", "RFC 792", ICMP),
        ("IGMP", "RFC 3376", 2),
        ("IP in IP", "RFC 2003: comes in again on another device", 4),
        ("IPv6 in IPv4", "RFC 4213: comes in again on another device", 41),
        ("GRE", "RFC 2784: comes in again on another device", 47),
        ("ESP", "RFC 4303", 50),
        ("AH", "RFC 4302", 51),
        ("SCTP", "RFC 9260", 132),
        ("UDP-Lite", "RFC 3828", 136),
        ("protocol 0", "hop-by-hop options mean nothing in IPv4", 0),
        ("protocol 255", "reserved", 255),
    ];
    let bare = always(
        "IPv4 options and nothing after them",
        "RFC 791 section 3.1: the header ends with the frame",
        Reason::OtherProtocol,
        |_| v4().options(&[1; 8]).carry(ICMP, &[]).frame(),
    );
    rows.into_iter()
        .map(|(name, why, protocol)| {
            always(format!("{name} over IPv4"), why, Reason::OtherProtocol, move |port| {
                let inside = v4().tcp(&Tcp::syn(port)).bytes;
                v4().carry(protocol, &inside).frame()
            })
        })
        .chain([bare])
        .collect()
}

/// The first `bytes` bytes of a SYN as a fragment.
fn first(port: u16, word: u16, bytes: usize) -> Vec<u8> {
    let segment = Tcp::syn(port).bytes(v4().source(), v4().destination());
    let piece = segment.get(..bytes).expect("a piece of the segment");
    v4().fragment(word).carry(TCP, piece).frame()
}
