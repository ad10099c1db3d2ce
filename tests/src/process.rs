//! What the kernel counts for a process: memory, processor time and wake-ups.

use std::{fs, time::Duration};

use crate::sys;

/// Resident memory of a process, KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// The part that belongs to no file: heap and stacks.
    pub anonymous: u64,
}

/// Resident memory of a process (proc_pid_status(5)).
pub fn memory(pid: u32) -> Memory {
    let text = read(&format!("/proc/{pid}/status"));
    Memory { total: number(&text, "VmRSS:"), anonymous: number(&text, "RssAnon:") }
}

/// Processor time that a process has used, with all its threads, also those that have ended.
pub fn cpu(pid: u32) -> Duration {
    sys::processor_time(pid)
}

/// Number of times that the threads of a process went to sleep: each was woken as often.
pub fn sleeps(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a process");
    threads
        .flatten()
        // A thread may end meanwhile.
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .map(|text| number(&text, "voluntary_ctxt_switches:"))
        .sum()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The number in the line with this name.
fn number(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}
