//! The stranger: tries to connect all the time, to both addresses of the machine, and notes each
//! attempt that got past the gate. A connection did, and so did a refusal: the machine answers with
//! RST only to what no program at the interface has dropped. (The socket guard also answers with RST,
//! but nothing arrives there that the gate at the interface has dropped.)

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
};

use super::link::{Link, MACHINE, STRANGER};

/// The protected port.
pub(super) const PORT: u16 = 22;
/// A SYN to each address this often.
const EVERY: Duration = Duration::from_millis(50);
/// After one that got in he rests this long: a server that emulates a processor for each of forty
/// connections a second has no time for anything else.
const REST: Duration = Duration::from_secs(1);
/// How long an attempt waits for an answer. In it, the kernel sends the SYN once more.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// An attempt that got past the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    /// When its first SYN was sent.
    sent: Instant,
    /// When the answer was seen.
    answered: Instant,
    to: IpAddr,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Connected,
    Refused,
}

impl Passed {
    /// Whether it was a whole connection to this address.
    pub(super) fn connected_to(&self, to: IpAddr) -> bool {
        self.how == How::Connected && self.to == to
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match self.how {
            How::Connected => "connected",
            How::Refused => "refused by the machine itself",
        };
        write!(f, "{} {how}", self.to)
    }
}

/// The stranger's threads. Drop ends them.
pub(super) struct Probe {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<Result<Result<()>>>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    attempts: AtomicU64,
    passed: Mutex<Vec<Passed>>,
}

impl Probe {
    pub(super) fn start(link: &Link) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let worker = Some(link.spawn(move || try_all_the_time(&theirs))?);
        Ok(Self { shared, worker })
    }

    /// Number of attempts until now.
    pub(super) fn attempts(&self) -> u64 {
        self.shared.attempts.load(Ordering::Relaxed)
    }

    /// The attempts that were begun at or after `from`, and got past the gate up to `to`. Fails if the
    /// stranger has stopped trying.
    pub(super) fn passed(&self, from: Instant, to: Instant) -> Result<Vec<Passed>> {
        let ended = self.worker.as_ref().is_none_or(JoinHandle::is_finished);
        if ended {
            return Err(anyhow!("the stranger has stopped trying: nothing is known"));
        }
        let all = self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.iter().filter(|one| one.sent >= from && one.answered <= to).copied().collect())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(Ok(Ok(Err(error)))) = self.worker.take().map(JoinHandle::join) {
            eprintln!("the stranger stopped: {error:#}");
        }
    }
}

/// An attempt without an answer so far.
struct Attempt {
    socket: OwnedFd,
    sent: Instant,
    to: IpAddr,
}

fn try_all_the_time(shared: &Shared) -> Result<()> {
    let ways: [(IpAddr, IpAddr); 2] =
        [(STRANGER.v4.into(), MACHINE.v4.into()), (STRANGER.v6.into(), MACHINE.v6.into())];
    let mut waiting: Vec<Attempt> = Vec::new();
    let mut next = Instant::now();
    let mut rests = [next; 2];
    while !shared.end.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            next = now + EVERY;
            for ((from, to), _) in ways.into_iter().zip(rests).filter(|(_, rest)| now >= *rest) {
                waiting.push(attempt(from, to, now)?);
                shared.attempts.fetch_add(1, Ordering::Relaxed);
            }
        }
        waiting.retain(|one| one.sent.elapsed() < PATIENCE);
        let mut answered = answered(&waiting, next.saturating_duration_since(now))?.into_iter();
        let mut passed = shared.passed.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|one| match answered.next() {
            Some(Some(how)) => {
                let (sent, to, answered) = (one.sent, one.to, Instant::now());
                if how == Some(How::Connected) {
                    let way = ways.iter().zip(&mut rests).find(|((_, way), _)| *way == to);
                    way.into_iter().for_each(|(_, rest)| *rest = answered + REST);
                }
                passed.extend(how.map(|how| Passed { sent, answered, to, how }));
                false
            }
            _ => true,
        });
    }
    Ok(())
}

fn attempt(from: IpAddr, to: IpAddr, now: Instant) -> Result<Attempt> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).context("making a socket")?;
    // Its end is a RST: the machine's service forgets the connection at once.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).context("setting a socket up")?;
    bind(&socket, &SocketAddr::new(from, 0)).context("binding the stranger's address")?;
    match connect(&socket, &SocketAddr::new(to, PORT)) {
        // The link may be down for a moment while the machine is reset.
        Ok(()) | Err(Errno::INPROGRESS | Errno::NETUNREACH | Errno::HOSTUNREACH) => {}
        Err(error) => return Err(error).context("connecting"),
    }
    Ok(Attempt { socket, sent: now, to })
}

/// For each attempt: no answer yet, or whether and how it got past the gate.
fn answered(waiting: &[Attempt], patience: Duration) -> Result<Vec<Option<Option<How>>>> {
    let mut polled: Vec<_> =
        waiting.iter().map(|one| PollFd::new(&one.socket, PollFlags::OUT)).collect();
    let patience = Timespec::try_from(patience).context("a time to wait")?;
    match poll(&mut polled, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error).context("waiting for answers"),
    }
    let ends = polled.iter().map(|one| !one.revents().is_empty());
    Ok(ends.zip(waiting).map(|(ended, one)| ended.then(|| outcome(one))).collect())
}

fn outcome(attempt: &Attempt) -> Option<How> {
    match sockopt::socket_error(attempt.socket.as_fd()) {
        Ok(Ok(())) => rustix::net::getpeername(&attempt.socket).ok().map(|_| How::Connected),
        Ok(Err(Errno::CONNREFUSED)) => Some(How::Refused),
        // No route, or no answer in time.
        Ok(Err(_)) | Err(_) => None,
    }
}
