//! Runs a socket guard over one look-up (BPF_PROG_TEST_RUN, Linux 5.13+). The BPF library does not
//! offer this for socket guards.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};
use jit_common::{Family, Lookup};

/// `SK_DROP` and `SK_PASS` of `linux/bpf.h`.
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// `struct bpf_sk_lookup` of `linux/bpf.h`.
#[derive(Default)]
#[repr(C)]
struct Context {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: u32,
    remote_ip6: [u32; 4],
    remote_port: u16,
    reserved: u16,
    local_ip4: u32,
    local_ip6: [u32; 4],
    local_port: u32,
    /// Must be zero here.
    ingress_ifindex: u32,
    /// Named, because the kernel insists on zero here too.
    padding: u32,
}
const _: () = assert!(size_of::<Context>() == 72);

/// Whether the program refuses the look-up. The kernel takes no interface here, so the look-up
/// never comes in by loopback.
pub(crate) fn refuses(program: BorrowedFd<'_>, lookup: &Lookup) -> bool {
    let mut context = context(lookup);
    // SAFETY: a union of integers; all zero is valid.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    // SAFETY: this member is the one that BPF_PROG_TEST_RUN reads and writes.
    let test = unsafe { &mut attr.test };
    test.prog_fd = u32::try_from(program.as_raw_fd()).expect("a descriptor");
    test.ctx_in = (&raw mut context).expose_provenance() as u64;
    test.ctx_size_in = u32::try_from(size_of::<Context>()).expect("a small structure");
    let command = bpf_cmd::BPF_PROG_TEST_RUN as libc::c_long;
    // SAFETY: `attr` is a whole `bpf_attr`; the context that it points to lives longer than the
    // call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<bpf_attr>()) };
    assert!(result >= 0, "BPF_PROG_TEST_RUN of a guard: {}", io::Error::last_os_error());
    // SAFETY: as above.
    match unsafe { attr.test.retval } {
        SK_DROP => true,
        SK_PASS => false,
        other => panic!("the guard answered {other}"),
    }
}

/// The context, as the kernel makes it. Addresses and the source port are in network byte order.
fn context(lookup: &Lookup) -> Context {
    let Lookup { source, destination, source_port, port, loopback } = lookup;
    assert_ne!(*loopback, Some(true), "the kernel takes no interface here");
    let mut context = Context {
        protocol: u32::from(port.protocol as u8),
        remote_port: source_port.to_be(),
        local_port: u32::from(port.port),
        ..Context::default()
    };
    match source.family {
        Family::V4 => {
            context.family = u32::try_from(libc::AF_INET).expect("a small constant");
            context.remote_ip4 = source.words[0];
            context.local_ip4 = destination.words[0];
        }
        Family::V6 => {
            context.family = u32::try_from(libc::AF_INET6).expect("a small constant");
            context.remote_ip6 = source.words;
            context.local_ip6 = destination.words;
        }
    }
    context
}
