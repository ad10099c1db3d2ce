//! The least that an XDP program can do about a flood: drop every frame, and read frames up to the
//! TCP header and drop those to port 22.

use std::os::fd::OwnedFd;

use super::Filter;
use crate::{
    frames::{Ipv4, Ipv6, Tcp},
    live::{
        Assembly, INTERFACE, Lane,
        Register::{R0, R1, R2, R3, R4, R5, R6},
        TO,
    },
    sys,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TCP: u32 = 6;

/// `return XDP_DROP`.
pub fn drop_all() -> Filter {
    native("XDP_DROP", &Assembly::default().set(R0, XDP_DROP).exit().finish())
}

/// Reads the Ethernet, IPv4 or IPv6 and TCP header.
pub fn parse_and_drop() -> Filter {
    native("XDP, parse and drop", &parsing())
}

/// Attaches a program. It has no counter: this would take time too. That it drops such frames is
/// asked before, and the driver counts those that came to it.
fn native(name: &'static str, instructions: &[u64]) -> Filter {
    let program = sys::load(instructions);
    for syn in syns() {
        assert_eq!(sys::answer(&program, &syn), XDP_DROP, "{name} drops a SYN to port 22");
    }
    let lane = Lane::new();
    let link: OwnedFd = lane.host.run(|| sys::attach_native(&program, lane.host.index(INTERFACE)));
    Filter::new(name, lane, link, Lane::received)
}

/// A SYN to port 22 of each family.
fn syns() -> [Vec<u8>; 2] {
    let [v4, v6] = TO;
    let (v4, v6) = (v4.parse().expect("IPv4"), v6.parse().expect("IPv6"));
    let syn = Tcp::syn(22);
    [Ipv4::new(v4, v4).tcp(&syn).frame(), Ipv6::new(v6, v6).tcp(&syn).frame()]
}

fn parsing() -> Vec<u64> {
    // Numbers of two bytes as the machine reads them in the frame.
    let [ipv4, ipv6, ssh] = [0x0800_u16, 0x86dd, 22].map(|number| u32::from(number.to_be()));
    Assembly::default()
        .load(4, R2, R1, 0)
        .load(4, R3, R1, 4)
        .copy(R4, R2)
        .advance(R4, 14)
        .if_above(R4, R3, "pass")
        .load(2, R5, R2, 12)
        .unless(R5, ipv4, "not IPv4")
        .copy(R6, R4)
        .advance(R6, 20)
        .if_above(R6, R3, "pass")
        .load(1, R5, R4, 9)
        .unless(R5, TCP, "pass")
        .load(1, R5, R4, 0)
        .and(R5, 0x0f)
        .shift_left(R5, 2)
        .advance_by(R4, R5)
        .go("TCP")
        .label("not IPv4")
        .unless(R5, ipv6, "pass")
        .copy(R6, R4)
        .advance(R6, 40)
        .if_above(R6, R3, "pass")
        .load(1, R5, R4, 6)
        .unless(R5, TCP, "pass")
        .advance(R4, 40)
        .label("TCP")
        .copy(R6, R4)
        .advance(R6, 20)
        .if_above(R6, R3, "pass")
        .load(2, R5, R4, 2)
        .unless(R5, ssh, "pass")
        .set(R0, XDP_DROP)
        .exit()
        .label("pass")
        .set(R0, XDP_PASS)
        .exit()
        .finish()
}
