//! Reads what this host translates to itself, and reports it when it changed.
//!
//! The list of connections may be long, so it is read on a thread of its own: nothing waits for it.
//! A session that is dropped because its translation is not known yet sends again, and goes on
//! after the next reading.
//!
//! The thread sleeps until nftables changes, or until it is woken ([`Waker::wake`]). That happens every
//! two seconds while the kernel tracks connections: where it tracks none, none is translated.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, socket_with,
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    kernel::netlink::netfilter::{Translations, tracked, translations},
    system::sys,
};

/// `NFNLGRP_NFTABLES` (7) as a bit: changes of nftables in this network namespace.
const GROUP_NFTABLES: u32 = 1 << 6;
/// The time between two readings if nobody can wake the thread.
const REST: Duration = Duration::from_secs(2);
/// The shortest time from a reading to the next one after a change of nftables.
const REST_AFTER_CHANGE: Duration = Duration::from_millis(20);
/// A rest is at least this number of times the CPU time of the reading before: so readings take at
/// most a twentieth of one CPU's time, and a quarter while nftables changes without a pause.
const RESTS: u32 = 19;
const RESTS_AFTER_CHANGE: u32 = 3;
/// A notification that is longer is cut off, and counts all the same.
const MESSAGE: usize = 4096;
/// Most notifications that are read before the next reading.
const BURST: usize = 1024;

/// Wakes the thread when there may be something to read. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker {
    /// `None`: the kernel gave none. The thread then reads every two seconds.
    event: Option<Arc<OwnedFd>>,
    /// Connections were tracked when it was woken last.
    before: Arc<AtomicBool>,
}

impl Waker {
    /// A waker for [`run`].
    pub fn new() -> Self {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Self { event: event.ok().map(Arc::new), before: Arc::default() }
    }

    /// Called every two seconds. Wakes the thread while connections are tracked, and once after that.
    pub fn wake(&self) {
        let now = tracked().is_some_and(|count| count > 0);
        let before = self.before.swap(now, Ordering::Relaxed);
        if let Some(event) = self.event.as_ref().filter(|_| now || before) {
            // If the count is full, the thread is woken already.
            let _full = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// Takes what woke the thread.
    fn take(&self) {
        if let Some(event) = &self.event {
            let _none = rustix::io::read(event, &mut [0; 8]);
        }
    }
}

impl Default for Waker {
    fn default() -> Self {
        Self::new()
    }
}

/// Why the thread reads again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Nftables changed.
    Change,
    /// Two seconds have passed.
    Turn,
}

/// Reads for as long as the process runs. `report` gets what was read when it differs from what was
/// read before, and each error. `false` from it ends the reading.
pub fn run(waker: &Waker, report: impl Fn(io::Result<Translations>) -> bool) {
    let mut last = None;
    let mut changes = None;
    loop {
        // Before the reading, so that every later change is noticed. To listen alone would load
        // nftables, so the kernel must be tracking connections.
        if changes.is_none() && tracked().is_some() {
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
        rest(changes.as_ref(), waker, took);
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
fn rest(changes: Option<&OwnedFd>, waker: &Waker, took: Duration) {
    let began = Instant::now();
    let rests = match wait(changes.map(AsFd::as_fd), waker) {
        Woken::Change => REST_AFTER_CHANGE.max(took.saturating_mul(RESTS_AFTER_CHANGE)),
        Woken::Turn => took.saturating_mul(RESTS),
    };
    thread::sleep(rests.saturating_sub(began.elapsed()));
    waker.take();
    // Lost ones are as good: all is read again.
    let mut buffer = [0; MESSAGE];
    for socket in changes.iter().cycle().take(BURST) {
        if recv(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT).is_err() {
            break;
        }
    }
}

/// Waits for a change or a turn.
fn wait(changes: Option<BorrowedFd<'_>>, waker: &Waker) -> Woken {
    let event = waker.event.as_ref().map(|event| event.as_fd());
    let longest = Timespec::try_from(REST).ok().filter(|_| event.is_none());
    let mut sources: Vec<_> =
        changes.iter().chain(&event).map(|source| PollFd::new(source, PollFlags::IN)).collect();
    if sources.is_empty() || poll(&mut sources, longest.as_ref()).is_err() {
        // Interrupted, which may happen again and again.
        thread::sleep(REST);
        return Woken::Turn;
    }
    let changed =
        changes.is_some() && sources.first().is_some_and(|source| !source.revents().is_empty());
    if changed { Woken::Change } else { Woken::Turn }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(waker: &Waker) -> bool {
        let event = waker.event.as_ref().unwrap();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&at_once)).unwrap() == 1
    }

    #[test]
    fn the_thread_is_woken_while_connections_are_tracked_and_once_after_that() {
        let waker = Waker::new();
        let tracks = tracked().is_some_and(|count| count > 0);
        waker.wake();
        assert_eq!(woken(&waker), tracks);
        waker.take();
        assert!(!woken(&waker));
        waker.before.store(true, Ordering::Relaxed);
        waker.wake();
        assert!(woken(&waker), "what was translated has gone");
        assert_eq!(wait(None, &waker), Woken::Turn);
    }

    #[test]
    fn what_cannot_be_woken_reads_in_turns() {
        let waker = Waker { event: None, before: Arc::default() };
        waker.wake();
        let began = Instant::now();
        assert_eq!(wait(None, &waker), Woken::Turn);
        assert!(began.elapsed() >= REST);
    }
}
