//! System calls that no safe library offers: seccomp(2) to imitate a kernel that lacks something, and
//! adjtimex(2).

use std::{io, mem, os::unix::process::CommandExt as _, process::Command};

use aya_obj::generated::bpf_cmd;

/// Moves the clock one nanosecond forward, in one step (adjtimex(2)). So no time is lost if this
/// thread has to wait for a processor. A step of zero would be no step: the kernel compares.
pub fn set_clock_ahead_by_a_nanosecond() -> io::Result<()> {
    // SAFETY: a structure of numbers.
    let mut step: libc::timex = unsafe { mem::zeroed() };
    step.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    // With ADJ_NANO these are nanoseconds.
    step.time.tv_usec = 1;
    // SAFETY: adjtimex(2) reads and writes the structure, which lives until it returns.
    let state = unsafe { libc::adjtimex(&raw mut step) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts the command as on a kernel without BPF links: `BPF_LINK_CREATE` fails with EINVAL.
pub fn without_links(command: &mut Command) {
    refuse(command, libc::SYS_bpf, &[(0, bpf_cmd::BPF_LINK_CREATE as u32)], libc::EINVAL);
}

/// Starts the command as on a kernel that neither lists nor destroys sockets (`CONFIG_INET_DIAG` is
/// off): the protocol does not exist.
pub fn without_sock_diag(command: &mut Command) {
    let [family, protocol] = [libc::AF_NETLINK, libc::NETLINK_SOCK_DIAG]
        .map(|number| u32::try_from(number).expect("a small number"));
    refuse(command, libc::SYS_socket, &[(0, family), (2, protocol)], libc::EPROTONOSUPPORT);
}

/// Starts the command with a filter: a system call fails if these arguments, by place, have these
/// values in their lower halves. All other calls work. The filter is cBPF (Linux,
/// Documentation/userspace-api/seccomp_filter.rst).
fn refuse(command: &mut Command, call: libc::c_long, arguments: &[(u32, u32)], error: i32) {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, unequal, k| libc::sock_filter { code, jt: 0, jf: unequal, k };
    let number = u32::try_from(call).expect("the number of a system call");
    // Offsets in `struct seccomp_data`: the number of the call, and each argument.
    let places = arguments.iter().map(|(place, value)| (16 + 8 * place, *value));
    let compared: Vec<_> = [(0, number)].into_iter().chain(places).collect();
    let mut filter = Vec::new();
    for (left, (offset, value)) in (0..compared.len()).rev().zip(compared) {
        let to_the_end = u8::try_from(2 * left + 1).expect("a short filter");
        filter.extend([step(LOAD, 0, offset), step(EQUAL, to_the_end, value)]);
    }
    let refusal = u32::try_from(error).expect("an error's number");
    filter.push(step(RETURN, 0, libc::SECCOMP_RET_ERRNO | refusal));
    filter.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or_default(),
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: prctl(2) reads its arguments and `program`, which lives until it returns.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
    unsafe { command.pre_exec(install) };
}
