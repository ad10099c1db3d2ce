//! What the kernel must offer: a BPF file system.

use super::{finding::Finding, host::Host};
use crate::system::sys;

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    vec![bpffs(host)]
}

fn bpffs(host: &Host) -> Finding {
    let pins = &host.glimpse.paths.pins;
    if pins.ancestors().any(sys::is_bpffs) {
        return Finding::ok("bpffs", format!("{} is on a BPF file system", pins.display()));
    }
    let seen = format!("{} is not on a BPF file system: nothing stays in force", pins.display());
    Finding::failure("bpffs", seen).fix("mount -t bpf bpf /sys/fs/bpf")
}
