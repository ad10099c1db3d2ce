//! Takes from the signer's process what it does not need: the network, files, other programs, core
//! dumps. What is taken does not come back.
//!
//! Two filters of calls. The strict one names what is allowed; it is used unless a key is in a PKCS#11
//! module. A module is code of somebody else, which reads files and starts threads: for it the other
//! filter names what is forbidden, sockets first of all.

use std::{collections::BTreeMap, io, net::UdpSocket};

use rustix::{
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::set_no_new_privs,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

/// What the keys need of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// A module that speaks with its device over the network, as the settings say.
    NetworkModule,
    /// A PKCS#11 module: files and threads.
    Module,
    /// Only what is open already.
    Nothing,
}

/// No core dump, no other process of the same user that reads the memory, and the end of the process that
/// started this one is its end too.
pub(super) fn begin() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Closes the rest of the system. Comes when the keys and the journal are open.
///
/// # Errors
/// The kernel refuses it, or a socket can still be made: nothing must be signed then.
pub(super) fn close(needs: Needs) -> io::Result<()> {
    set_no_new_privs(true)?;
    let filter = filter(needs).map_err(io::Error::other)?;
    apply_filter_all_threads(&filter).map_err(io::Error::other)?;
    if needs != Needs::NetworkModule && UdpSocket::bind("127.0.0.1:0").is_ok() {
        return Err(io::Error::other("a socket can still be made"));
    }
    Ok(())
}

fn filter(needs: Needs) -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    let (rules, others, listed) = match needs {
        Needs::Nothing => (allowed()?, refused, SeccompAction::Allow),
        Needs::Module | Needs::NetworkModule => (forbidden(needs)?, SeccompAction::Allow, refused),
    };
    SeccompFilter::new(rules, others, listed, arch)?.try_into()
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![only(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    Ok(rules)
}

fn forbidden(needs: Needs) -> Result<Rules, BackendError> {
    let mut rules: Rules = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    if needs == Needs::Module {
        // A smart card's daemon listens on a socket of a file.
        let unix = u64::from(libc::AF_UNIX.unsigned_abs());
        rules.insert(libc::SYS_socket, vec![only(0, SeccompCmpOp::Ne, unix)?]);
    }
    // The second table of numbers of x86-64 (x32) has the same calls.
    #[cfg(target_arch = "x86_64")]
    {
        const X32: i64 = 0x4000_0000;
        let second: Vec<_> = rules.iter().map(|(call, rule)| (call | X32, rule.clone())).collect();
        rules.extend(second);
    }
    Ok(rules)
}

/// If the argument at this place compares so.
fn only(argument: u8, compare: SeccompCmpOp, with: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, with)?;
    SeccompRule::new(vec![condition])
}

/// Reading and writing what is open, memory, time, and the end.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Other programs, other processes, other views of the system, and ways around this list.
const FORBIDDEN: &[i64] = &[
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpListener, TcpStream},
        os::unix::net::UnixDatagram,
        process::Command,
        thread,
    };

    use super::*;

    /// Runs this in a thread that has the filter; the other threads of the test do not have it.
    fn confined(needs: Needs, check: impl FnOnce() + Send + 'static) {
        let inside = move || {
            set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter(needs).unwrap()).unwrap();
            check();
        };
        thread::spawn(inside).join().unwrap();
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn no_socket_can_be_made() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(TcpStream::connect(address).unwrap());
        for needs in [Needs::Nothing, Needs::Module] {
            confined(needs, move || {
                assert!(refused(TcpStream::connect(address)));
                assert!(refused(UdpSocket::bind("127.0.0.1:0")));
                assert!(refused(UdpSocket::bind("[::1]:0")));
                assert!(refused(Command::new("/bin/true").spawn()));
                assert_eq!(UnixDatagram::unbound().is_ok(), needs == Needs::Module);
                // SoftHSM reads its objects anew for each signature; without a module no file opens.
                assert_eq!(File::open("/etc/hostname").is_ok(), needs == Needs::Module);
            });
        }
    }

    #[test]
    fn a_module_that_needs_the_network_may_have_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(Needs::NetworkModule, move || {
            TcpStream::connect(address).unwrap();
            assert!(refused(Command::new("/bin/true").spawn()));
        });
    }
}
