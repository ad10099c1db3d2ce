//! The smallest XDP programs. They are the floor that any XDP program stands on: a call, a drop, and
//! the look at the headers that every filter needs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{
    live::{
        Assembly,
        Register::{R0, R1, R2, R3, R4, R5, R6},
    },
    sys,
};

/// `XDP_DROP` and `XDP_PASS` of `linux/bpf.h`.
pub(crate) const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TCP: u32 = 6;

/// A loaded program.
pub struct Small(OwnedFd);

impl Small {
    /// Passes every frame, and looks at none.
    pub fn pass() -> Self {
        Self(sys::load(&Assembly::default().set(R0, XDP_PASS).exit().finish()))
    }

    /// Drops every frame, and looks at none.
    pub fn drop() -> Self {
        Self(sys::load(&Assembly::default().set(R0, XDP_DROP).exit().finish()))
    }

    /// Reads Ethernet, IPv4 with options or IPv6 without extension headers, and the destination port
    /// of TCP. Drops what has them, passes everything else.
    pub fn parse_and_drop() -> Self {
        Self(sys::load(&parsing()))
    }

    /// The program's answer to a frame, and the nanoseconds of a run, the mean of `repeat` runs.
    pub fn run(&self, frame: &[u8], repeat: u32) -> (u32, f64) {
        sys::answer_and_nanos(&self.0, frame, repeat)
    }
}

impl AsFd for Small {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parsing() -> Vec<u64> {
    // Numbers of two bytes as the machine reads them in the frame.
    let [ipv4, ipv6] = [0x0800_u16, 0x86dd].map(|number| u32::from(number.to_be()));
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
        .set(R0, XDP_DROP)
        .exit()
        .label("pass")
        .set(R0, XDP_PASS)
        .exit()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Ipv4, Ipv6, Tcp, Udp};

    #[test]
    fn only_tcp_is_dropped_by_the_program_that_parses() {
        let [from, to] = [[192, 0, 2, 7], [198, 51, 100, 1]].map(Into::into);
        let v4 = Ipv4::new(from, to);
        let v6 = Ipv6::new("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let syn = Tcp::syn(22);
        let program = Small::parse_and_drop();
        for frame in [v4.tcp(&syn), v4.clone().options(&[1; 8]).tcp(&syn), v6.tcp(&syn)] {
            assert_eq!(program.run(&frame.frame(), 1).0, XDP_DROP);
            assert_eq!(Small::drop().run(&frame.frame(), 1).0, XDP_DROP);
            assert_eq!(Small::pass().run(&frame.frame(), 1).0, XDP_PASS);
        }
        let long = Udp::to(22).payload(&[0; 64]);
        for frame in [v4.udp(&long), v6.udp(&long)] {
            assert_eq!(program.run(&frame.frame(), 1).0, XDP_PASS);
        }
    }
}
