//! TCP headers, each over IPv4 and IPv6.

use jit_common::Reason;
use jit_tests::frames::{Tcp, flag};

use super::{Case, always, bare, both, opens};

/// MSS, SACK permitted, timestamps, NOP, window scale: what Linux sends in a SYN.
const USUAL_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
/// Fast Open cookie of 8 bytes (RFC 7413 section 4.1.1).
const COOKIE: [u8; 10] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const EVERYTHING_BUT_ACK: u8 = !flag::ACK;

pub(super) fn cases() -> Vec<Case> {
    [opening(), flags(), bare_segments(), headers(), cut()].into_iter().flatten().collect()
}

fn opening() -> Vec<Case> {
    let segment = |name, why, make: fn(u16) -> Tcp| {
        both(move |ip| opens(name, why, move |port| ip.tcp(&make(port)).frame()))
    };
    [
        segment("plain SYN", "RFC 9293 section 3.5", Tcp::syn),
        segment("SYN with usual options", "RFC 9293 section 3.2", |port| {
            Tcp::syn(port).options(&USUAL_OPTIONS)
        }),
        segment("SYN with 40 bytes of options", "RFC 9293 section 3.1: data offset 15", |port| {
            Tcp::syn(port).options(&[1; 40])
        }),
        segment(
            "SYN with 100 bytes of data",
            "RFC 9293 section 3.4: data may come early",
            |port| Tcp::syn(port).payload(&[b'x'; 100]),
        ),
        segment("Fast Open cookie request", "RFC 7413 section 4.1.1", |port| {
            Tcp::syn(port).options(&[34, 2])
        }),
        segment("Fast Open with cookie and data", "RFC 7413 section 4.2", |port| {
            Tcp::syn(port).options(&COOKIE).payload(b"GET / HTTP/1.0\r\n\r\n")
        }),
        segment("SYN from source port 0", "evasion: port that filters skip", |port| {
            Tcp::syn(port).from_port(0)
        }),
        segment("SYN from port 53", "evasion: port that looks like an answer", |port| {
            Tcp::syn(port).from_port(53)
        }),
        segment("SYN with sequence number 0", "evasion: zero fields", |port| Tcp {
            sequence: 0,
            ..Tcp::syn(port)
        }),
        segment("SYN with an acknowledgement number", "evasion: looks answered", |port| Tcp {
            acknowledgement: 0x0102_0304,
            ..Tcp::syn(port)
        }),
        segment("options that end in the middle", "evasion: option length 0", |port| {
            Tcp::syn(port).options(&[2, 0, 0, 0])
        }),
        segment("data offset that swallows the payload", "RFC 9293 section 3.1", |port| {
            Tcp::syn(port).data_offset(15).payload(&[0; 40])
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn flags() -> Vec<Case> {
    let rows: [(&str, &str, u8, u8); 8] = [
        ("SYN+ECE+CWR", "RFC 3168 section 6.1.1: every ECN client", flag::ECE | flag::CWR, 0),
        ("SYN+ECE", "RFC 3168 section 6.1.1", flag::ECE, 0),
        ("SYN+URG", "evasion: compared for equality", flag::URG, 0),
        ("SYN+PSH", "evasion: compared for equality", flag::PSH, 0),
        ("SYN+FIN", "RFC 1858: evasion by SYN+FIN", flag::FIN, 0),
        ("SYN+RST", "evasion: contradicting flags", flag::RST, 0),
        ("SYN+NS", "RFC 3540: once a flag", 0, 0x1),
        ("SYN+all but ACK", "evasion: all reserved bits too", EVERYTHING_BUT_ACK, 0xf),
    ];
    rows.into_iter()
        .flat_map(|(name, why, flags, reserved)| {
            both(move |ip| {
                opens(name, why, move |port| {
                    let segment = Tcp::with_flags(port, flag::SYN | flags).reserved(reserved);
                    ip.tcp(&segment).frame()
                })
            })
        })
        .collect()
}

fn bare_segments() -> Vec<Case> {
    let rows: [(&str, &str, u8, &[u8]); 11] = [
        ("ACK", "RFC 9293 section 3.10.7.4; a SYN cookie's last step", flag::ACK, b""),
        ("ACK with data", "data without a session", flag::ACK | flag::PSH, b"SSH-2.0-x\r\n"),
        ("SYN+ACK", "an answer that nobody asked for", flag::SYN | flag::ACK, b""),
        ("SYN+ACK+ECE", "RFC 3168 section 6.1.1", flag::SYN | flag::ACK | flag::ECE, b""),
        ("RST", "RFC 5961 section 3: blind reset", flag::RST, b""),
        ("RST+ACK", "RFC 5961 section 3", flag::RST | flag::ACK, b""),
        ("FIN", "FIN scan", flag::FIN, b""),
        ("FIN+ACK", "Maimon scan", flag::FIN | flag::ACK, b""),
        ("no flags", "null scan", 0, b""),
        ("FIN+PSH+URG", "Xmas scan", flag::FIN | flag::PSH | flag::URG, b""),
        ("all flags", "SYN and ACK both set: opens nothing", 0xff, b""),
    ];
    rows.into_iter()
        .flat_map(|(name, why, flags, payload)| {
            both(move |ip| {
                bare(name, why, move |port| {
                    ip.tcp(&Tcp::with_flags(port, flags).payload(payload)).frame()
                })
            })
        })
        .collect()
}

fn headers() -> Vec<Case> {
    let mut cases = Vec::new();
    for words in [0, 1, 4] {
        cases.extend(both(move |ip| {
            let name = format!("data offset {words}");
            always(name, "RFC 9293 section 3.1: at least 5", Reason::Malformed, move |port| {
                ip.tcp(&Tcp::syn(port).data_offset(words)).frame()
            })
        }));
    }
    for words in [6, 15] {
        cases.extend(both(move |ip| {
            let name = format!("data offset {words} without options");
            always(name, "RFC 9293 section 3.1: past the end", Reason::Malformed, move |port| {
                ip.tcp(&Tcp::syn(port).data_offset(words)).frame()
            })
        }));
    }
    cases
}

/// Frames that end inside the TCP header, with network headers that claim all of it.
fn cut() -> Vec<Case> {
    let mut cases = Vec::new();
    for bytes in [0, 1, 4, 12, 13, 14, 19] {
        cases.extend(both(move |ip| {
            let name = format!("frame cut after {bytes} bytes of TCP");
            always(name, "evasion: flags not in the frame", Reason::Malformed, move |port| {
                ip.tcp(&Tcp::syn(port)).cut(ip.bytes() + bytes).frame()
            })
        }));
    }
    cases
}
