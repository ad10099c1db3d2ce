//! Ports of 127.0.0.1 for programs that must be told one.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below those that the kernel gives away by itself, from 32768 on (`net.ipv4.ip_local_port_range`):
/// one of those was taken by a connection before its program had it.
const FIRST: u32 = 10_000;
const COUNT: u32 = 22_000;
/// Far from what another program of tests, with the next process id, takes.
const APART: u32 = 7919;

/// A port on which nobody listens. It is given away once.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let begin = process::id().wrapping_mul(APART);
    let mut ports = std::iter::repeat_with(|| {
        let number = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        u16::try_from(FIRST + number).unwrap()
    });
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.unwrap()
}
