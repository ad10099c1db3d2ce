//! Memory: what the agent takes when nothing happens, and what stays of it after much has.

use std::{
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{agent::Site, process::sleeps};

use crate::scene::{granted, memory_kib, size};

/// Memory of the agent's own (its program's file is not counted) when it holds nothing, KiB.
const IDLE_KIB: u64 = 8 * 1024;
/// What may remain after much work, in the short form and in the long one: the last grants and
/// events, tombstones, the pages of the database, and what lies between them.
const LEFT_KIB: [usize; 2] = [20 * 1024, 40 * 1024];
/// Longest time until no more remains.
const RECOVERY: Duration = Duration::from_secs(10);

/// Waits until the agent has no more memory of its own than this.
#[track_caller]
fn assert_falls_to(site: &Site, most: u64, within: Duration, when: &str) {
    let began = Instant::now();
    loop {
        let kib = memory_kib(site, "RssAnon:");
        if kib <= most {
            return println!("{when}: {kib} KiB of at most {most} after {:?}", began.elapsed());
        }
        assert!(began.elapsed() < within, "{when}: {kib} KiB, at most {most} are expected");
        thread::sleep(Duration::from_millis(100));
    }
}

fn list(site: &Site) -> usize {
    let listed = site.call(async |client| {
        let mut client = client.max_decoding_message_size(usize::MAX);
        client.list(v1::ListRequest { include_ended: true }).await
    });
    listed.unwrap().into_inner().grants.len()
}

#[test]
fn an_idle_agent_is_small() {
    let mut site = Site::new();
    site.start();
    // The first self-test loads the programs once more.
    let deadline = Instant::now() + Duration::from_secs(30);
    while the_programs_are_loaded_once(&site) {
        assert!(Instant::now() < deadline, "no self-test");
        thread::sleep(Duration::from_millis(50));
    }
    assert_falls_to(&site, IDLE_KIB, RECOVERY, "idle");
}

/// Each look for something that the kernel reports, or each timer of a runtime with wheels, would be
/// a wake-up more.
#[test]
fn an_idle_agent_wakes_about_once_a_second() {
    const SPAN: Duration = Duration::from_secs(10);
    const TRIES: usize = 6;
    let mut site = Site::new();
    site.start();
    let wakes = || {
        let agent = site.processes();
        let before = sleeps(&agent);
        thread::sleep(SPAN);
        sleeps(&agent) - before
    };
    // The first of them has the end of the start in it, and another machine's noise may be in any.
    let mut found = Vec::new();
    while found.iter().all(|wakes| *wakes > SPAN.as_secs()) {
        assert!(found.len() < TRIES, "wake-ups in {SPAN:?}: {found:?}");
        found.push(wakes());
    }
}

/// Whether the self-test has not loaded the programs yet, besides those that are in force.
fn the_programs_are_loaded_once(site: &Site) -> bool {
    let open = std::fs::read_dir(format!("/proc/{}/fd", site.pid())).unwrap();
    let programs = open.flatten().filter_map(|one| std::fs::read_link(one.path()).ok());
    programs.filter(|target| target.as_os_str() == "anon_inode:bpf-prog").count() < 4
}

#[test]
fn memory_is_given_back_after_long_lists() {
    let mut site = Site::new();
    site.start();
    let count = size(8_000, 50_000);
    granted(&site, u32::try_from(count).unwrap());
    assert_eq!(list(&site), count);
    site.revoke_all();
    println!("{} KiB just after", memory_kib(&site, "RssAnon:"));
    let left = u64::try_from(size(LEFT_KIB[0], LEFT_KIB[1])).unwrap();
    assert_falls_to(&site, IDLE_KIB + left, RECOVERY, "after all were revoked");
}
