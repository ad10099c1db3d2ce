//! Calls into the operating system: clocks, capabilities, locks, addresses.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
};

use jit_common::Address;
use jit_proto::WallTime;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    thread::{CapabilitySet, capabilities},
    time::{ClockId, clock_gettime},
};

use crate::rules::clock::{BootNanos, Now};
pub use crate::system::files::{
    FileError, Readers, check_private_directory, check_trusted, check_trusted_file,
    private_directory, read_secret, read_trusted,
};

/// `f_type` of a BPF file system (BPF_FS_MAGIC, uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// The most times that this host's addresses are listed in one call.
const LISTS: u32 = 16;

/// Capabilities that the agent needs and this process does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "missing {}: the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; run it as root, or by its \
     systemd unit (AmbientCapabilities=)",
    .0.join(", ")
)]
pub struct MissingCapabilities(Vec<&'static str>);

/// How much later the kernel programs' boot clock is than this process's own, nanoseconds.
static BOOT_OFFSET: AtomicI64 = AtomicI64::new(0);

/// Reads both clocks. The boot clock is that of the kernel programs.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    let boot = own_boot_clock().0.saturating_add_signed(boot_offset());
    Now {
        wall: WallTime(wall.tv_sec.saturating_mul(1000).saturating_add(wall.tv_nsec / 1_000_000)),
        boot: BootNanos(boot),
    }
}

/// The boot clock of this process's time namespace: it is not the clock of deadlines.
pub fn own_boot_clock() -> BootNanos {
    let boot = clock_gettime(ClockId::Boottime);
    // In a time namespace it may be earlier than the boot.
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(boot.tv_nsec).unwrap_or(0);
    BootNanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// How much later the boot clock of [`now`] is than this process's own, nanoseconds.
pub fn boot_offset() -> i64 {
    BOOT_OFFSET.load(Ordering::Relaxed)
}

/// From now on [`now`] gives the kernel programs' boot clock, which is this much later than this
/// process's own, nanoseconds. Returns by how much that differs from before.
pub fn set_boot_offset(offset: i64) -> i64 {
    offset.saturating_sub(BOOT_OFFSET.swap(offset, Ordering::Relaxed))
}

/// Who runs this command, for the audit: the user, and the user at login (before `sudo`).
pub fn caller() -> String {
    let user = rustix::process::getuid().as_raw();
    let login = fs::read_to_string("/proc/self/loginuid").ok();
    // All bits set means no login, as for a service.
    match login.and_then(|text| text.trim().parse::<u32>().ok()).filter(|uid| *uid != u32::MAX) {
        Some(login) if login != user => format!("local uid {user}, login uid {login}"),
        _ => format!("local uid {user}"),
    }
}

/// Id of this boot (`/proc/sys/kernel/random/boot_id`): boot times of another boot mean nothing.
pub fn boot_id() -> Result<String, FileError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| FileError::Io {
        verb: "read",
        path: path.to_owned(),
        error,
    })?;
    Ok(text.trim().to_owned())
}

/// Makes creations and renamings in a path's directory durable.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Whether a path lies on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|statfs| u64::try_from(statfs.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC))
}

/// An exclusive lock on a directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: rustix::fd::OwnedFd,
}

impl DirectoryLock {
    /// Whether `path` is still the locked directory.
    pub fn is_on(&self, path: &Path) -> bool {
        let place = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let locked = rustix::fs::fstat(&self.directory).map(place);
        locked.is_ok() && locked == rustix::fs::lstat(path).map(place)
    }
}

/// Locks a directory; `None` when another process holds it.
pub fn lock_directory(path: &Path) -> Result<Option<DirectoryLock>, FileError> {
    let io = |error: rustix::io::Errno| FileError::Io {
        verb: "lock",
        path: path.to_owned(),
        error: error.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(io)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(DirectoryLock { directory })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(io(error)),
    }
}

/// Whether this process has every capability that the agent needs.
pub fn check_capabilities() -> Result<(), MissingCapabilities> {
    let missing = missing_capabilities();
    if missing.is_empty() { Ok(()) } else { Err(MissingCapabilities(missing)) }
}

/// The capabilities that the agent needs and does not have.
pub fn missing_capabilities() -> Vec<&'static str> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter_map(|(capability, name)| (!effective.contains(capability)).then_some(name))
    .collect()
}

/// This host's addresses, in this process's network namespace.
pub fn addresses() -> io::Result<BTreeSet<Address>> {
    settled(|| {
        let interfaces = nix::ifaddrs::getifaddrs()?;
        let storages = interfaces.filter_map(|interface| interface.address);
        let addresses = storages.filter_map(|storage| {
            let v4 = storage.as_sockaddr_in().map(|v4| Address::v4(v4.ip().octets()));
            v4.or_else(|| Some(Address::v6(storage.as_sockaddr_in6()?.ip().octets())))
        });
        Ok(addresses.collect())
    })
}

/// Lists until a list has nothing new, and returns all that was listed. While interfaces come and
/// go the kernel may leave some addresses out, and the C library does not report that. An address
/// that is gone at the end does no harm.
fn settled(
    mut list: impl FnMut() -> io::Result<BTreeSet<Address>>,
) -> io::Result<BTreeSet<Address>> {
    let mut all = list()?;
    for _ in 0..LISTS {
        let before = all.len();
        all.extend(list()?);
        if all.len() == before {
            return Ok(all);
        }
    }
    Err(io::Error::other("the addresses change faster than they can be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(lists: &[&[u8]]) -> io::Result<Vec<u8>> {
        let mut lists = lists.iter().cycle();
        let all = settled(|| {
            let list = lists.next().into_iter().copied().flatten();
            Ok(list.map(|last| Address::v4([192, 0, 2, *last])).collect())
        });
        all.map(|all| all.iter().map(|address| address.first_four()[3]).collect())
    }

    #[test]
    fn an_address_that_one_list_leaves_out_is_there() {
        assert_eq!(listed(&[&[1, 2]]).unwrap(), [1, 2]);
        assert_eq!(listed(&[&[1], &[1, 2], &[1, 2]]).unwrap(), [1, 2]);
        assert_eq!(listed(&[&[2, 3], &[1, 3], &[3]]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn addresses_that_never_settle_are_an_error() {
        let lists: Vec<[u8; 1]> = (0..=255).map(|last| [last]).collect();
        let lists: Vec<&[u8]> = lists.iter().map(<[u8; 1]>::as_slice).collect();
        assert!(listed(&lists).is_err());
    }
}
