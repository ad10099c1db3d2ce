//! Frames that nobody thought of and that were found: by the comparison of host and kernel, by the
//! fuzzer, by somebody who got in. They are in hex as they were found. `PPPP` is the destination
//! port.

use jit_common::{PortKey, PortRule, Protocol, Reason};

use super::{Case, three};
use crate::fixture::{CLOSED, OPEN, closed, granted, hex, on_host};

/// Placeholder of a frame's destination port.
const PORT: &str = "PPPP";

pub(super) fn cases() -> Vec<Case> {
    let malformed = [Reason::Malformed; 3];
    vec![
        found(
            "IPv6 payload length that ends inside the second of two headers",
            "generated: the chain is longer than the packet claims",
            malformed,
            "02000000000202000000000186dd600000000009 3c4020010db8000700000000000000000007\
             20010db8000100000000000000000001 3c00010400000000 0600010400000000\
             9c40PPPP10000000000000005002faf000000000",
        ),
        found(
            "IPv4 header of 56 bytes in a total length of 56",
            "generated: options up to the end, TCP past the end",
            malformed,
            "02000000000202000000000108004e000038000700004006 0000c0000207c6336401\
             010101010101010101010101010101010101010101010101010101010101010101010101\
             9c40PPPP10000000000000005002faf000000000",
        ),
        found(
            "tag in front of IPv6 in front of a hop-by-hop header in front of a fragment header",
            "generated: an atomic fragment of a SYN with ECN",
            [Reason::Denied, Reason::Granted, Reason::Unprotected],
            "0200000000020200000000018100000786dd60000000002400 40\
             20010db8000700000000000000000007 20010db8000100000000000000000001\
             2c00010400000000 0600000000000007 9c40PPPP100000000000000050c2faf000000000",
        ),
    ]
}

fn found(name: &str, why: &'static str, reasons: [Reason; 3], hex: &'static str) -> Case {
    three(name, why, reasons, move |port| {
        let hex = hex.replace(PORT, &format!("{port:04x}")).replace(char::is_whitespace, "");
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("hex digits");
                u8::from_str_radix(pair, 16).expect("hex digits")
            })
            .collect()
    })
}

/// A frame as a row of this file, with the reasons that the host gives now: correct them.
pub(crate) fn row(frame: &[u8]) -> String {
    let port = port_offset(frame);
    let with_port = |port_number: u16| {
        let mut frame = frame.to_vec();
        if let Some(at) = port {
            frame[at..at + 2].copy_from_slice(&port_number.to_be_bytes());
        }
        frame
    };
    let now = 0;
    let reasons = [
        on_host(&with_port(CLOSED), &closed(), now).reason,
        on_host(&with_port(CLOSED), &granted(now), now).reason,
        on_host(&with_port(OPEN), &closed(), now).reason,
    ];
    let mut text = hex(frame);
    if let Some(at) = port {
        text.replace_range(2 * at..2 * at + 4, PORT);
    }
    let [closed, granted, unprotected] = reasons.map(|reason| format!("Reason::{reason:?}"));
    format!("found(\"NAME\", \"found by ...\", [{closed}, {granted}, {unprotected}], \"{text}\"),")
}

/// Offset of the destination port: the place that the decision reads.
fn port_offset(frame: &[u8]) -> Option<usize> {
    const STRANGE: u16 = 0xbeef;
    let mut tables = closed();
    tables.ports = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| (PortKey { protocol, port: STRANGE }, PortRule::default()))
        .into();
    (0..frame.len().saturating_sub(1)).find(|at| {
        let mut changed = frame.to_vec();
        changed[*at..at + 2].copy_from_slice(&STRANGE.to_be_bytes());
        on_host(&changed, &tables, 0).segment.is_some()
    })
}

#[test]
fn a_found_frame_prints_as_a_row_that_is_the_frame() {
    let rows = super::all();
    for case in rows.iter().filter(|case| (case.frame)(CLOSED).len() < 300) {
        let frame = (case.frame)(CLOSED);
        let printed = row(&frame);
        let mut text = printed.split('"').nth(5).expect("the frame in hex").to_owned();
        if let Some(at) = text.find(PORT) {
            text.replace_range(at..at + PORT.len(), &hex(&frame)[at..at + PORT.len()]);
        }
        assert_eq!(text, hex(&frame), "{}", case.name);
        let has_port = on_host(&frame, &closed(), 0).segment.is_some();
        assert!(!has_port || printed.contains(PORT), "{}: {printed}", case.name);
        if has_port {
            let reasons = format!(
                "[Reason::{:?}, Reason::{:?}, Reason::{:?}]",
                case.closed, case.granted, case.unprotected
            );
            assert!(printed.contains(&reasons), "{}: {printed}", case.name);
        }
    }
}
