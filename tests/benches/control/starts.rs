//! From the start of the agent's process until the gate is in force, with stored grants and with
//! nothing pinned, as after a reboot.

use std::{
    fs,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use jit_tests::figures::size;
use rustix::process::Signal;

use crate::grants::{LONG, Signed, many, millis, report};

const TABLE: &str = "start";
const MILLIS: (&str, bool) = ("ms", false);
/// The interfaces that are gated.
const INTERFACES: [&str; 2] = ["c0", "s0"];
/// Longest wait for the gate.
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn measure() {
    let mut signed = Signed::start();
    let indexes = INTERFACES.map(|name| format!("-{}", signed.site.host.index(name)));
    let mut stored = 0;
    for number in [0, size(1_000, 100), size(100_000, 2_000)] {
        signed.fill(stored..number, LONG);
        stored = number;
        let (mut in_force, mut answering) = (Vec::new(), Vec::new());
        for _ in 0..size(5, 1) {
            signed.site.end(Signal::TERM);
            assert!(signed.site.run(&["detach", "--yes"]).status.success());
            let start = Instant::now();
            signed.site.spawn();
            wait_for_the_links(&signed, &indexes);
            in_force.push(millis(start.elapsed()));
            wait_for_an_answer(&signed, number);
            answering.push(millis(start.elapsed()));
        }
        let grants = many(number);
        report(TABLE, &format!("until in force, {grants} stored"), MILLIS, in_force);
        report(TABLE, &format!("until it answers, {grants} stored"), MILLIS, answering);
    }
}

/// Waits until a program is pinned on every interface. The tables are full before.
fn wait_for_the_links(signed: &Signed, indexes: &[String]) {
    let end = Instant::now() + LONGEST;
    while !indexes.iter().all(|index| pinned(signed, index)) {
        assert!(Instant::now() < end, "not in force:\n{}", signed.site.log());
        thread::sleep(Duration::from_micros(200));
    }
}

/// Whether a link of the interface with this index is pinned.
fn pinned(signed: &Signed, index: &str) -> bool {
    let versions = fs::read_dir(signed.site.pins()).into_iter().flatten().flatten();
    let links = versions.filter_map(|version| fs::read_dir(version.path().join("links")).ok());
    links.flatten().flatten().any(|link| link.file_name().to_string_lossy().ends_with(index))
}

fn wait_for_an_answer(signed: &Signed, grants: u32) {
    let end = Instant::now() + LONGEST;
    // The file of the last run may still be there, and a new one is there before it listens.
    while UnixStream::connect(signed.site.path("run/agent.sock")).is_err() {
        assert!(Instant::now() < end, "nobody listens:\n{}", signed.site.log());
        thread::sleep(Duration::from_micros(200));
    }
    let status =
        signed.site.call(async |mut client| client.status(jit_proto::v1::StatusRequest {}).await);
    assert_eq!(u32::try_from(status.unwrap().into_inner().grants.len()).unwrap(), grants);
}
