//! An XDP program of two instructions, `return XDP_PASS`: what a run costs when nothing is done.
//! The only unsafe code of the harness: bpf(2), as no library loads bare instructions.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};

/// `r0 = XDP_PASS; exit` (RFC 9669 sections 4.1 and 4.3).
const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// Nanoseconds a run of it takes over a frame, the mean of so many.
pub fn nanos(frame: &[u8], repeat: u32) -> f64 {
    let program = load();
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN reads and writes.
    let test = unsafe { &mut attr.test };
    test.prog_fd = u32::try_from(program.as_raw_fd()).expect("a descriptor");
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = u32::try_from(frame.len()).expect("a short frame");
    test.repeat = repeat;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr);
    // SAFETY: as above.
    f64::from(unsafe { attr.test.duration })
}

fn load() -> OwnedFd {
    let mut attr = zeroed();
    // SAFETY: this member is the one that BPF_PROG_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_XDP as u32;
    load.insns = INSTRUCTIONS.as_ptr() as u64;
    load.insn_cnt = 2;
    load.license = c"GPL".as_ptr() as u64;
    let fd = call(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers; all zero is valid.
    unsafe { mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> i32 {
    // SAFETY: `attr` is a whole `bpf_attr`; the pointers in it are of values that live longer.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    let result = i32::try_from(result).expect("a descriptor or an error");
    assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
    result
}
