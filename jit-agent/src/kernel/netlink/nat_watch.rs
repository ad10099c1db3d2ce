//! Reads again and again what this host translates to itself, and reports it when it changed.
//!
//! The list of connections may be long, so it is read on a thread of its own: nothing waits for it.
//! A session that is dropped because its translation is not known yet sends again, and goes on
//! after the next reading.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, socket_with,
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    kernel::netlink::netfilter::{Translations, is_tracking, translations},
    system::sys,
};

/// `NFNLGRP_NFTABLES` (7) as a bit: changes of nftables in this network namespace.
const GROUP_NFTABLES: u32 = 1 << 6;
/// The time between two readings: the first while the kernel tracks no connection, which is quickly
/// found out.
const REST_IDLE: Duration = Duration::from_millis(250);
const REST: Duration = Duration::from_secs(2);
/// The same after a change of nftables.
const REST_AFTER_CHANGE: Duration = Duration::from_millis(20);
/// A rest is at least this number of times the CPU time of the reading before: so readings take at
/// most a twentieth of one CPU's time, and a quarter while nftables changes without a pause.
const RESTS: u32 = 19;
const RESTS_AFTER_CHANGE: u32 = 3;
/// A notification that is longer is cut off, and counts all the same.
const MESSAGE: usize = 4096;
/// Most notifications that are read before the next reading.
const BURST: usize = 1024;

/// Reads for as long as the process runs. `report` gets what was read when it differs from what was
/// read before, and each error. `false` from it ends the reading.
pub fn run(report: impl Fn(io::Result<Translations>) -> bool) {
    let mut last = None;
    let mut changes = None;
    loop {
        let tracking = is_tracking();
        // Before the reading, so that every later change is noticed. To listen alone would load
        // nftables, so the kernel must be tracking connections.
        if changes.is_none() && tracking {
            changes = listen().ok();
        }
        let before = cpu_time();
        let read = sys::addresses().and_then(|own| translations(&own));
        let took = cpu_time().saturating_sub(before);
        let known = read.as_ref().ok() == last.as_ref();
        last = read.as_ref().ok().cloned();
        if (!known || read.is_err()) && !report(read) {
            return;
        }
        rest(changes.as_ref(), if tracking { REST } else { REST_IDLE }, took);
    }
}

/// Time that this thread has had on a CPU: the list's length, however busy the machine is.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// Listens for changes of nftables.
fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::NETFILTER);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUP_NFTABLES))?;
    Ok(socket)
}

/// Waits until the next reading is due.
fn rest(changes: Option<&OwnedFd>, rest: Duration, took: Duration) {
    let began = Instant::now();
    let longest = rest.max(took.saturating_mul(RESTS));
    let Some(changes) = changes else { return thread::sleep(longest) };
    let limit = Timespec {
        tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(changes, PollFlags::IN)], Some(&limit)) {
        Ok(0) => {}
        Ok(_) => {
            let shortest = REST_AFTER_CHANGE.max(took.saturating_mul(RESTS_AFTER_CHANGE));
            thread::sleep(shortest.saturating_sub(began.elapsed()));
            // Lost ones are as good: all is read again.
            let mut buffer = [0; MESSAGE];
            for _ in 0..BURST {
                if recv(changes, buffer.as_mut_slice(), RecvFlags::DONTWAIT).is_err() {
                    break;
                }
            }
        }
        // Interrupted, which may happen again and again.
        Err(_) => thread::sleep(REST_IDLE),
    }
}
