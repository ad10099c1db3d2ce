//! The least that an XDP program can do about a flood: drop every frame, and read frames up to the
//! TCP header and drop.

use std::os::fd::{AsFd as _, OwnedFd};

use super::Filter;
use crate::{
    frames::{Ipv4, Ipv6, Tcp},
    live::{INTERFACE, Lane, TO},
    peers::{Small, XDP_DROP},
    sys,
};

/// `return XDP_DROP`.
pub fn drop_all() -> Filter {
    native("XDP_DROP", &Small::drop())
}

/// Reads the Ethernet, IPv4 or IPv6 and TCP header.
pub fn parse_and_drop() -> Filter {
    native("XDP, parse and drop", &Small::parse_and_drop())
}

/// Attaches a program. It has no counter: this would take time too. That it drops such frames is
/// asked before, and the driver counts those that came to it.
fn native(name: &'static str, program: &Small) -> Filter {
    for syn in syns() {
        assert_eq!(program.run(&syn, 1).0, XDP_DROP, "{name} drops a SYN to port 22");
    }
    let lane = Lane::new();
    let link: OwnedFd =
        lane.host.run(|| sys::attach_native(program.as_fd(), lane.host.index(INTERFACE)));
    Filter::new(name, lane, link, Lane::received)
}

/// A SYN to port 22 of each family.
fn syns() -> [Vec<u8>; 2] {
    let [v4, v6] = TO;
    let (v4, v6) = (v4.parse().expect("IPv4"), v6.parse().expect("IPv6"));
    let syn = Tcp::syn(22);
    [Ipv4::new(v4, v4).tcp(&syn).frame(), Ipv6::new(v6, v6).tcp(&syn).frame()]
}
