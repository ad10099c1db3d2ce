//! The units' filter of system calls against the real agent: whatever it calls is allowed. systemd is
//! not started: it says what its sets of calls are, and strace says what is called.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_tests::{agent::CLIENT, programs::binary};
use rustix::process::Signal;

use crate::{broken_surroundings::reboot, controllers};

const LONG: Duration = Duration::from_secs(600);

/// All calls of a set or the call itself, as `SystemCallFilter=` takes them.
fn calls(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return [name.to_owned()].into();
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output();
    let output = output.expect("systemd-analyze is installed: `cargo xtask setup`");
    let text = String::from_utf8(output.stdout).unwrap();
    let members = text.lines().skip(1).map(str::trim);
    members.filter(|line| !line.is_empty() && !line.starts_with('#')).flat_map(calls).collect()
}

fn read(unit: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jit-agent/packaging").join(unit);
    fs::read_to_string(path).unwrap()
}

/// What a unit allows: its lines in their order.
fn allowed(unit: &str) -> BTreeSet<String> {
    let text = read(unit);
    let mut allowed = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denies, names) = line.strip_prefix('~').map_or((false, line), |rest| (true, rest));
        for call in names.split(' ').flat_map(calls) {
            if denies {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    allowed
}

/// The calls in a trace of strace.
fn called(trace: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(trace).unwrap();
    // `4711 openat(AT_FDCWD, ...`: a resumed call stands there twice.
    let names = text.lines().filter_map(|line| {
        let (name, _) = line.split_once(' ')?.1.trim_start().split_once('(')?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned())
    });
    names.collect()
}

#[track_caller]
fn are_allowed(unit: &str, trace: &Path) {
    let (called, allowed) = (called(trace), allowed(unit));
    for needed in ["bpf", "openat", "prctl"] {
        assert!(called.contains(needed), "{needed} is not in the trace: {called:?}");
    }
    let denied: Vec<_> = called.difference(&allowed).collect();
    assert!(denied.is_empty(), "{unit} denies {denied:?}");
    let text = fs::read_to_string(trace).unwrap();
    let sockets = text.lines().filter_map(|line| line.split_once(" socket(")?.1.split_once(','));
    let unit = read(unit);
    let families = unit.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies="));
    let families: BTreeSet<_> = families.unwrap().split(' ').collect();
    let used: BTreeSet<_> = sockets.map(|(family, _)| family).collect();
    assert!(used.contains("AF_NETLINK") && used.is_subset(&families), "{used:?}");
    assert!(!allowed.contains("mount") && !allowed.contains("init_module"), "it denies nothing");
}

#[test]
fn every_system_call_of_the_agent_is_allowed_by_its_unit() {
    let mut site = controllers::site();
    site.admit(&CLIENT, LONG);
    reboot(&mut site);
    // With -D the agent is this process's child, and strace is not.
    let traced = |trace: &Path, command: &str| {
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o"]).arg(trace).arg(binary("jit-agent")).arg(command);
        strace.arg("--config").arg(site.config()).stdin(Stdio::null());
        strace
    };
    let (early, daemon) = (site.path("early.trace"), site.path("daemon.trace"));
    let mut starts = traced(&early, "early");
    let mut runs = traced(&daemon, "run");
    let output = site.host.run(|| starts.output().unwrap());
    assert!(output.status.success(), "{output:?}");
    are_allowed("jit-agent-early.service", &early);
    let log = fs::OpenOptions::new().create(true).append(true).open(site.path("log"));
    runs.stdout(Stdio::null()).stderr(log.unwrap());
    let child = site.host.start(&mut runs);
    site.adopt_process(child);
    site.host.ip(&["link", "set", "s0", "up"]);
    site.admit(&["198.51.100.3"], LONG);
    site.assert_open_to_the_client_alone();
    site.signal(Signal::HUP);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !site.log().contains("reloaded") {
        assert!(Instant::now() < deadline, "{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
    site.revoke_all();
    site.end(Signal::TERM);
    are_allowed("jit-agent.service", &daemon);
}
