//! The process of the running agent, from outside: found by the lock on the pin directory, or by
//! who made the socket. What `/proc` says of it is parsed here.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use rustix::{
    fs::{major, minor},
    thread::CapabilitySet,
};
use tokio::net::UnixStream;

/// The longest wait for a socket that is asked who made it.
const PATIENCE: Duration = Duration::from_millis(200);

/// A running agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// The letter of its state (proc_pid_stat(5)): `T` is stopped.
    pub(super) state: Option<char>,
    /// Its effective capabilities.
    pub(super) capabilities: Option<CapabilitySet>,
    /// Its time namespace is another one than this process's.
    pub(super) in_other_time: bool,
    /// The file that it was started from is not on the disk any more.
    pub(super) replaced: bool,
    /// The most memory that it may lock, bytes; `u64::MAX`: any.
    pub(super) may_lock: Option<u64>,
    /// `/proc/PID/cgroup`.
    pub(super) groups: String,
}

/// Finds the agent that holds these pins, or that serves this socket.
pub(super) async fn find(pins: &Path, socket: &Path) -> Option<Process> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = fs::symlink_metadata(pins).ok();
    let holder = held.and_then(|held| holder(&locks, held.dev(), held.ino()));
    let pid = match holder {
        Some(pid) => pid,
        None => maker(socket).await?,
    };
    Process::read(pid)
}

/// The process that holds a lock on a whole file (`/proc/locks`, proc_locks(5)).
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        // A line with an arrow waits for the lock.
        let (pid, held) = (words.nth(2)?, words.next()?);
        (kind == "FLOCK" && held == place).then(|| pid.parse().ok())?
    })
}

/// The process that listens on a socket.
async fn maker(socket: &Path) -> Option<u32> {
    let connected = tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await.ok()?;
    let pid = connected.ok()?.peer_cred().ok()?.pid()?;
    u32::try_from(pid).ok().filter(|pid| *pid > 0)
}

impl Process {
    /// What `/proc` says of a process; `None`: it is not there.
    fn read(pid: u32) -> Option<Self> {
        let of_it = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let status = of_it("status").ok()?;
        let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
        let number = pid.to_string();
        let (theirs, ours) = (link(&number, "ns/time"), link("self", "ns/time"));
        let program = link(&number, "exe");
        Some(Self {
            pid,
            state: field(&status, "State:").and_then(|text| text.chars().next()),
            capabilities: capabilities(&status),
            in_other_time: theirs.is_some() && ours.is_some() && theirs != ours,
            replaced: program.is_some_and(|path| path.to_string_lossy().ends_with(" (deleted)")),
            may_lock: of_it("limits").ok().and_then(|limits| may_lock(&limits)),
            groups: of_it("cgroup").unwrap_or_default(),
        })
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The effective capabilities in `/proc/PID/status`.
fn capabilities(status: &str) -> Option<CapabilitySet> {
    let bits = u64::from_str_radix(field(status, "CapEff:")?, 16).ok()?;
    Some(CapabilitySet::from_bits_retain(bits))
}

/// The soft limit of locked memory in `/proc/PID/limits`.
fn may_lock(limits: &str) -> Option<u64> {
    let soft = field(limits, "Max locked memory")?.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_and_one_that_waits_is_not() {
        let locks = "1: POSIX  ADVISORY  WRITE 700 00:1b:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 800 00:1b:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 900 00:1b:78 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 1000 00:1b:77 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x1b);
        assert_eq!(holder(locks, device, 77), Some(1000));
        assert_eq!(holder(locks, device, 78), Some(900));
        assert_eq!((holder(locks, device, 7), holder("", device, 77)), (None, None));
    }

    #[test]
    fn what_proc_says_is_understood() {
        let status = "Name:\tjit-agent\nState:\tT (stopped)\n\
                      CapPrm:\t0\nCapEff:\t000000c000001000\n";
        let wanted = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
        assert_eq!(capabilities(status), Some(wanted));
        assert_eq!(field(status, "State:"), Some("T (stopped)"));
        assert_eq!((capabilities(""), capabilities("CapEff:\tx\n")), (None, None));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         8388608              unlimited            bytes\n";
        assert_eq!(may_lock(limits), Some(8_388_608));
        assert_eq!(may_lock(&limits.replace("8388608", "unlimited")), Some(u64::MAX));
        assert_eq!(may_lock("Max locked memory    x\n"), None);
    }
}
