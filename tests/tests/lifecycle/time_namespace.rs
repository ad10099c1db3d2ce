//! An agent in a time namespace, as some containers have one: its own boot clock is hours off that of
//! the kernel programs. Grants end on time all the same, also when the agent is dead.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;
use serde_json::Value;

const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(600);
/// Longest time that a loaded machine takes for what takes no time.
const ROOM: Duration = Duration::from_secs(5);
/// Offsets of the namespace's clocks.
const OFFSETS: [&[&str]; 3] = [
    &["--boottime", "3600"],
    &["--boottime", "-3"],
    &["--monotonic", "7200", "--boottime", "86400"],
];

/// This command in a new time namespace.
fn inside(offsets: &[&str], command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(["--time", "--fork", "--kill-child"]).args(offsets).arg("--");
    inside.arg(command.get_program()).args(command.get_args()).env("NO_COLOR", "1");
    inside
}

fn start_inside(site: &mut Site, offsets: &[&str]) {
    drop(fs::remove_file(site.path("run/agent.sock")));
    let log = fs::OpenOptions::new().create(true).append(true).open(site.path("log")).unwrap();
    let mut command = inside(offsets, &site.command(&["run"]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = site.host.start(&mut command);
    site.adopt_process(child);
}

/// The time left of the first grant.
fn left(status: &Value) -> Duration {
    let left = status["grants"][0]["left_ms"].as_u64();
    Duration::from_millis(left.unwrap_or_else(|| panic!("no grant: {status:#}")))
}

/// Kills the agent, and waits until it is gone: it is the child of the process that is killed.
fn kill(site: &mut Site) {
    site.end(Signal::KILL);
    let began = Instant::now();
    while !site.status().0["started_at"].is_null() {
        assert!(began.elapsed() < ROOM, "the agent lives on");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn in_a_time_namespace_a_grant_ends_on_time_with_the_agent_dead() {
    for offsets in OFFSETS {
        let mut site = Site::new();
        start_inside(&mut site, offsets);
        site.assert_closed_to_all();
        let (status, code) = site.status();
        assert_eq!(code, 0, "{offsets:?}: {status:#}");
        let began = Instant::now();
        site.admit(&CLIENT, SHORT);
        assert!(site.client_gets_in(0, 22), "it opens at all, {offsets:?}\n{}", site.log());
        let said = left(&site.status().0);
        assert!(said <= SHORT, "{offsets:?}: {said:?}");
        kill(&mut site);
        while site.client_opens(0, 22) {
            assert!(began.elapsed() < SHORT + ROOM, "still open, {offsets:?}\n{}", site.log());
        }
        assert!(began.elapsed() + Duration::from_millis(50) >= SHORT, "not before its end");
    }
}

#[test]
fn a_grant_has_the_same_end_for_agents_inside_and_outside_of_a_time_namespace() {
    let mut site = Site::new();
    let began = Instant::now();
    let check = |site: &Site, who: &str| {
        // The agent's answer, or that of the tables when the agent is dead.
        let said = left(&site.status().0);
        let passed = began.elapsed();
        let off = (LONG.saturating_sub(passed)).abs_diff(said);
        assert!(off < ROOM, "{who}: {said:?} left after {passed:?}\n{}", site.log());
        assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22), "{who}");
    };
    start_inside(&mut site, OFFSETS[0]);
    site.admit(&CLIENT, LONG);
    check(&site, "inside");
    kill(&mut site);
    check(&site, "with the agent dead");
    // A person who looks from inside of another time namespace sees the same.
    let status = site.command(&["status", "--json"]);
    let output = site.host.run(|| inside(OFFSETS[2], &status).output().unwrap());
    let said = left(&serde_json::from_slice(&output.stdout).unwrap());
    assert!((LONG.saturating_sub(began.elapsed())).abs_diff(said) < ROOM, "from inside: {said:?}");
    site.start();
    check(&site, "outside");
    kill(&mut site);
    start_inside(&mut site, OFFSETS[1]);
    check(&site, "inside of another one");
    assert_eq!(site.revoke_all(), 1);
    site.assert_closed_to_all();
}
