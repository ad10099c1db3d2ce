//! Landlock (Linux 5.13): a thread gives up rights to files, ports and other processes, for itself and
//! for those that it starts. Its crate would be another one for two calls; they are made here.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use rustix::thread::set_no_new_privs;

/// `LANDLOCK_ACCESS_FS_READ_FILE` of `linux/landlock.h`.
pub const READ_FILE: u64 = 1 << 2;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;
/// `LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF` (Linux 6.15).
const UNLOGGED: u32 = 1;

/// Whether the kernel records what is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denials {
    /// In the host's audit, where it is on.
    Recorded,
    /// What is denied is meant to be. A kernel that cannot leave it out records it.
    Unrecorded,
}

/// The version of Landlock of this kernel.
///
/// # Errors
/// The kernel has none, or it is turned off.
pub fn version() -> io::Result<u32> {
    create(&[], VERSION).map(i32::unsigned_abs)
}

/// From now on this thread, and those that it starts, have none of these rights. `rights`: the fields of
/// `struct landlock_ruleset_attr`, as far as the kernel's version has them.
///
/// # Errors
/// The kernel has no Landlock, or does not know one of the rights.
pub fn give_up(rights: &[u64], denials: Denials) -> io::Result<()> {
    let rules = create(rights, 0)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let rules = unsafe { OwnedFd::from_raw_fd(rules) };
    set_no_new_privs(true)?;
    let unlogged = match denials {
        Denials::Unrecorded => restrict(&rules, UNLOGGED),
        Denials::Recorded => Err(io::ErrorKind::Unsupported.into()),
    };
    // A kernel that does not know the flag refuses it.
    unlogged.or_else(|_| restrict(&rules, 0))
}

fn create(rights: &[u64], flags: u32) -> io::Result<RawFd> {
    let start = if rights.is_empty() { std::ptr::null() } else { rights.as_ptr() };
    // SAFETY: the first argument is a `struct landlock_ruleset_attr` of the length in the second:
    // integers of 64 bits; or nothing, with the flag that asks for the version. It lives until the call
    // ends.
    let made = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, start, size_of_val(rights), flags)
    };
    RawFd::try_from(made).ok().filter(|made| *made >= 0).ok_or_else(io::Error::last_os_error)
}

fn restrict(rules: &OwnedFd, flags: u32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
