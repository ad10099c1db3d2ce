//! What the kernel counts for a process: memory, processor time and wake-ups; and its children.

use std::{fs, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};

use crate::sys;

/// Resident memory of processes, KiB. What several share counts for each.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// The part that belongs to no file: heap and stacks.
    pub anonymous: u64,
}

/// Resident memory of processes (proc_pid_status(5)).
pub fn memory(pids: &[u32]) -> Memory {
    Memory { total: status(pids, "VmRSS:"), anonymous: status(pids, "RssAnon:") }
}

/// Resident memory of processes, KiB, with what they share, also with others, counted in parts
/// (proc_pid_smaps(5), Pss).
pub fn proportional(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| number(&read(&format!("/proc/{pid}/smaps_rollup")), "Pss:")).sum()
}

/// The sum of a line of proc_pid_status(5), of processes.
pub fn status(pids: &[u32], line: &str) -> u64 {
    pids.iter().map(|pid| number(&read(&format!("/proc/{pid}/status")), line)).sum()
}

/// Bytes that processes had written to disk (proc_pid_io(5)).
pub fn written(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| number(&read(&format!("/proc/{pid}/io")), "write_bytes:")).sum()
}

/// Number of descriptors that processes have.
pub fn descriptors(pids: &[u32]) -> usize {
    let of = |pid| fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors of a process");
    pids.iter().map(|pid| of(pid).count()).sum()
}

/// Processor time that processes have used, with all their threads, also those that have ended.
pub fn cpu(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| sys::processor_time(*pid)).sum()
}

/// Number of times that the threads of processes went to sleep: each was woken as often.
pub fn sleeps(pids: &[u32]) -> u64 {
    let threads =
        |pid| fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a process");
    pids.iter()
        .flat_map(threads)
        .flatten()
        // A thread may end meanwhile.
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .map(|text| number(&text, "voluntary_ctxt_switches:"))
        .sum()
}

/// The children of a process. The descriptors mean these processes for ever, whatever gets their
/// numbers later.
pub fn children(pid: u32) -> Vec<OwnedFd> {
    child_numbers(pid)
        .into_iter()
        .filter_map(|child| Pid::from_raw(i32::try_from(child).ok()?))
        // One that has ended meanwhile is no child any more.
        .filter_map(|child| pidfd_open(child, PidfdFlags::empty()).ok())
        .collect()
}

/// Process ids of the children of a process.
pub fn child_numbers(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let numbers = lists.iter().flat_map(|list| list.split_whitespace());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// Waits for the end of processes, of each at most `within`.
///
/// # Panics
///
/// One has not ended then.
#[track_caller]
pub fn assert_end(processes: &[OwnedFd], within: Duration) {
    let within = Timespec::try_from(within).expect("a time");
    for process in processes {
        let mut end = [PollFd::new(process, PollFlags::IN)];
        assert_eq!(poll(&mut end, Some(&within)), Ok(1), "a child lives on");
    }
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
