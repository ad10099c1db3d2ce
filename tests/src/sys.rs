//! System calls that no safe library offers: bpf(2) for XDP programs of a few instructions and for
//! live frames, seccomp(2) to imitate a kernel that lacks something, adjtimex(2), and the clock of a
//! process.

use std::{
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    time::Duration,
};

use aya_obj::generated::{
    BPF_F_TEST_XDP_LIVE_FRAMES, XDP_FLAGS_DRV_MODE, bpf_attach_type, bpf_attr, bpf_cmd,
    bpf_map_type, bpf_prog_type,
};

/// An XDP program's answer to a frame, and the nanoseconds of a run, the mean of `repeat` runs.
pub(crate) fn answer_and_nanos(program: &OwnedFd, frame: &[u8], repeat: u32) -> (u32, f64) {
    let attr = run(program, frame, repeat, 0);
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN writes.
    let test = unsafe { attr.test };
    (test.retval, f64::from(test.duration))
}

/// Runs an XDP program over this number of copies of a frame, which go where it sends them
/// (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18+). A program that changes a frame may get it again as it
/// left it. The calling thread's network namespace counts.
///
/// Returns the mean number of nanoseconds a frame. The preparation of the run, some 20 ms, is not in
/// it, and neither is the time in which the CPU was given to others.
pub(crate) fn run_live(program: &OwnedFd, frame: &[u8], frames: u32) -> f64 {
    let attr = run(program, frame, frames, BPF_F_TEST_XDP_LIVE_FRAMES);
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN writes.
    f64::from(unsafe { attr.test.duration })
}

fn run(program: &OwnedFd, frame: &[u8], repeat: u32, flags: u32) -> bpf_attr {
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN reads and writes.
    let test = unsafe { &mut attr.test };
    test.prog_fd = number(program);
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = u32::try_from(frame.len()).expect("a short frame");
    test.repeat = repeat;
    test.flags = flags;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr);
    attr
}

/// Attaches an XDP program natively to an interface of the calling thread's network namespace. It
/// is in force until what is returned is dropped.
pub(crate) fn attach_native(program: BorrowedFd<'_>, interface: u32) -> OwnedFd {
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_LINK_CREATE reads.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = number(&program);
    link.__bindgen_anon_2.target_ifindex = interface;
    link.attach_type = bpf_attach_type::BPF_XDP as u32;
    link.flags = XDP_FLAGS_DRV_MODE;
    descriptor(call(bpf_cmd::BPF_LINK_CREATE, &mut attr))
}

/// An array of one number.
pub(crate) fn number_map() -> OwnedFd {
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_MAP_CREATE reads.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    (map.key_size, map.value_size, map.max_entries) = (4, 8, 1);
    descriptor(call(bpf_cmd::BPF_MAP_CREATE, &mut attr))
}

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

/// Processor time of a process, by its clock (clock_getcpuclockid(3)).
pub fn processor_time(pid: u32) -> Duration {
    let pid = pid.try_into().expect("a process id");
    let mut clock = 0;
    // SAFETY: it writes the number of the clock.
    let found = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(found, 0, "the clock of process {pid}: {}", io::Error::from_raw_os_error(found));
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes the structure, which lives until it returns.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(read, 0, "the clock of process {pid}: {}", io::Error::last_os_error());
    let seconds = time.tv_sec.try_into().expect("time that passed");
    Duration::new(seconds, time.tv_nsec.try_into().expect("less than a second"))
}

/// Loads an XDP program. Panics with what the verifier says unless the kernel takes it.
pub(crate) fn load(instructions: &[u64]) -> OwnedFd {
    let mut log = vec![0_u8; 65_536];
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_PROG_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).expect("a short program");
    load.license = c"GPL".as_ptr() as u64;
    load.log_level = 1;
    load.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    load.log_size = u32::try_from(log.len()).expect("a short log");
    match try_call(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => descriptor(fd),
        Err(error) => panic!("load a program: {error}: {}", String::from_utf8_lossy(&log)),
    }
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn number(fd: &impl AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("a descriptor")
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers; all zero is valid.
    unsafe { mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> i32 {
    try_call(command, attr).unwrap_or_else(|error| panic!("bpf: {error}"))
}

fn try_call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `bpf_attr`; the pointers in it are of values that live longer.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    let result = i32::try_from(result).expect("a descriptor or an error");
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
