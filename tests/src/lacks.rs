//! Features that the running kernel is known to lack: those that `JIT_TEST_KERNEL_LACKS` names. The
//! virtual machines of `cargo xtask vm-test` set it for their old kernels. A test never skips
//! because something failed; it leaves out only what the variable names.

use std::env;

/// The kernel's own type information (`/sys/kernel/btf/vmlinux`).
pub const BTF: &str = "btf";
/// TC programs by a filter on the clsact qdisc: Linux 4.5.
pub const CLSACT: &str = "clsact";
/// Programs with multi-buffer support: Linux 5.18.
pub const FRAGS: &str = "frags";
/// BPF_PROG_TEST_RUN of socket guards: Linux 5.13.
pub const GUARD_TEST_RUN: &str = "guard_test_run";
/// The interface in the socket guard's context: Linux 5.17.
pub const INGRESS_IFINDEX: &str = "ingress_ifindex";
/// Looking up a session's socket from XDP and TC: Linux 5.2.
pub const SESSION_LOOKUP: &str = "session_lookup";
/// Programs at the look-up of listening sockets: Linux 5.9.
pub const SOCKET_GUARD: &str = "socket_guard";
/// TC programs by links, without a qdisc: Linux 6.6.
pub const TCX: &str = "tcx";
/// The kernel's count of the instructions that its verifier processed: Linux 5.16.
pub const VERIFIED_INSTRUCTIONS: &str = "verified_instructions";
/// XDP programs by links: Linux 5.9.
pub const XDP_LINK: &str = "xdp_link";

const VARIABLE: &str = "JIT_TEST_KERNEL_LACKS";

/// Whether the kernel is known to lack this feature.
pub fn kernel_lacks(feature: &str) -> bool {
    all().iter().any(|lacking| lacking == feature)
}

/// Whether the variable is set: then the kernel must have every feature that it does not name.
pub fn variable_is_set() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// All features that the kernel is known to lack.
pub fn all() -> Vec<String> {
    let named = env::var(VARIABLE).unwrap_or_default();
    named.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
