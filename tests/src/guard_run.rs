//! Runs a socket guard over one look-up (BPF_PROG_TEST_RUN, Linux 5.13+).

use std::os::fd::BorrowedFd;

use jit_agent::kernel::datapath::bpf;
use jit_common::Lookup;

/// Whether the program refuses the look-up. The kernel takes no interface here, so the look-up
/// never comes in by loopback.
pub(crate) fn refuses(program: BorrowedFd<'_>, lookup: &Lookup) -> bool {
    assert_ne!(lookup.loopback, Some(true), "the kernel takes no interface here");
    let refused = bpf::run_guard(program, lookup);
    refused.unwrap_or_else(|error| panic!("BPF_PROG_TEST_RUN of a guard: {error}"))
}
