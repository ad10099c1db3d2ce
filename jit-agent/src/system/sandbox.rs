//! Takes from this process what it does not need: descriptors, capabilities, files, and most of the
//! kernel's calls. What is taken does not come back, also not by running another program.
//!
//! `seccompiler` (of Firecracker) writes the filter of calls.

use std::{collections::BTreeMap, fs, io, os::fd::RawFd};

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use crate::system::landlock::{self, Denials};

/// The highest number that a capability can have.
const MAX_CAPABILITY: u32 = 63;
/// All rights to files, by the version of Landlock: the number of bits in `handled_access_fs`.
const FILE_RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];
/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `..._CONNECT_TCP` (version 4).
const NET_RIGHTS: u64 = 0b11;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` and `LANDLOCK_SCOPE_SIGNAL` (version 6).
const SCOPES: u64 = 0b11;

/// Closes every descriptor but the standard ones. Comes first: nothing of this process has one yet.
pub fn close_descriptors() -> io::Result<()> {
    // SAFETY: the call takes three integers. Nobody in this process owns any of the descriptors.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if done == 0 {
        return Ok(());
    }
    // A kernel before 5.9.
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|one| one.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: as above. The directory's own descriptor is closed already: EBADF.
        let _closed = unsafe { libc::close(number) };
    }
    Ok(())
}

/// The kernel ends this process when the thread that started it ends, also a process that hangs.
pub fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Gives up every capability, for this thread and those that it starts. The bounding set is emptied
/// where that is allowed (CAP_SETPCAP); without privileges to gain it does not matter.
pub fn drop_capabilities() -> io::Result<()> {
    set_no_new_privs(true)?;
    // A kernel without ambient capabilities has none.
    let _none = clear_ambient_capability_set();
    for number in 0..=MAX_CAPABILITY {
        let _kept =
            remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(set_capabilities(None, sets)?)
}

/// No file, no TCP port and no other process can be reached any more, by this thread and those that it
/// starts, as far as the kernel knows Landlock (5.13, 6.7, 6.12).
pub fn close_surroundings() -> io::Result<()> {
    let version = landlock::version()?;
    let known = usize::try_from(version).unwrap_or(0);
    let bits = FILE_RIGHTS.get(known.saturating_sub(1)).or(FILE_RIGHTS.last()).copied();
    let files = (1_u64 << bits.unwrap_or_default()) - 1;
    let rights = [files, NET_RIGHTS, SCOPES];
    let fields = match version {
        ..4 => 1,
        4..6 => 2,
        6.. => 3,
    };
    landlock::give_up(rights.get(..fields).unwrap_or_default(), Denials::Recorded)
}

/// From now on no thread of this process makes another call than those that serving open sockets
/// needs: none that opens, connects, starts, signals or traces anything. The others fail with EPERM.
/// No memory becomes code.
pub fn close_calls() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    apply_filter_all_threads(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![only(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    // tokio asks it of a socket that was handed over, in a program with debug assertions.
    let flags = u64::from(libc::F_GETFL.unsigned_abs());
    rules.insert(libc::SYS_fcntl, vec![only(1, SeccompCmpOp::Eq, flags)?]);
    let tcp = u64::from(libc::IPPROTO_TCP.unsigned_abs());
    rules.insert(libc::SYS_setsockopt, vec![only(1, SeccompCmpOp::Eq, tcp)?]);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

/// Allows a call if its argument at this place compares so.
fn only(
    argument: u8,
    compare: SeccompCmpOp,
    with: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, with)?;
    SeccompRule::new(vec![condition])
}

/// The calls of the runtime, the allocator and open sockets.
const ALLOWED: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_one_that_the_kernel_can_take() {
        let filter = filter().unwrap();
        assert!(filter.len() > ALLOWED.len() && filter.len() < 4096);
    }
}
