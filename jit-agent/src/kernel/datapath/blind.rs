//! A thread that can open no file.
//!
//! aya's loader reads all types of the running kernel when it is made, whether it needs them or not:
//! some 20 MiB, and a quarter of the time until the gate is in force. It goes on without them if it
//! cannot read them. So it is made on a thread that Landlock (Linux 5.13) keeps from reading files.
//! On a kernel without Landlock the types are read, and dropped.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    thread,
};

/// `LANDLOCK_ACCESS_FS_READ_FILE` of `linux/landlock.h`.
const READ_FILE: u64 = 1 << 2;
/// `LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF` (Linux 6.15): what is denied here is meant to be, and
/// does not belong in the host's audit.
const UNLOGGED: u32 = 1;

/// Makes a value on a thread that can read no file. Without such a thread the value is made here.
pub(super) fn without_files<T: Send + 'static>(make: fn() -> T) -> T {
    let blind = move || {
        if let Err(error) = close_files() {
            tracing::debug!("cannot keep a thread from reading files: {error}");
        }
        make()
    };
    let made = thread::Builder::new().name("blind".into()).spawn(blind);
    made.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(make)
}

/// From now on this thread can read no file that is not open.
fn close_files() -> io::Result<()> {
    let attributes = READ_FILE.to_ne_bytes();
    // SAFETY: the first argument is a `struct landlock_ruleset_attr` of the length in the second: its
    // first version is one integer of 64 bits. It lives until the call ends.
    let rules = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            attributes.as_ptr(),
            attributes.len(),
            0_u32,
        )
    };
    let rules = RawFd::try_from(rules).ok().filter(|rules| *rules >= 0);
    let rules = rules.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let rules = unsafe { OwnedFd::from_raw_fd(rules) };
    rustix::thread::set_no_new_privs(true)?;
    // A kernel that does not know the flag refuses it.
    restrict(&rules, UNLOGGED).or_else(|_| restrict(&rules, 0))
}

fn restrict(rules: &OwnedFd, flags: u32) -> io::Result<()> {
    // SAFETY: the call takes two integers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TYPES: &str = "/proc/self/status";

    #[test]
    fn the_thread_reads_no_file_and_its_maker_still_does() {
        let read = || fs::read(TYPES).is_ok();
        // SAFETY: the call takes integers; without a set of rules it gives the version.
        let version = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32)
        };
        assert_eq!(without_files(read), version < 1);
        assert!(read());
    }
}
