//! SYN floods at the full rate of a CPU, by live frames (`BPF_PROG_TEST_RUN` with
//! `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18+): a small program sends each frame into a veth.
//!
//! The sending CPU also runs the receiving end: the driver's poll follows each batch of frames. So no
//! frame waits for another CPU, and the time a frame includes what becomes of it. This file is a
//! table of contents.

mod assembly;
mod flood;
mod lane;
mod offload;
mod spell;

pub(crate) use assembly::{Assembly, Register};
pub use flood::{Flood, Sources, Target};
pub use lane::{INTERFACE, Lane, TO};
pub use offload::receive_in_groups;
pub use spell::Spell;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread on one CPU.
pub fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("stay on one CPU");
}

/// The CPU that floods come from: the last.
pub fn flood_cpu() -> usize {
    aya::util::nr_cpus().expect("read the number of possible CPUs") - 1
}
