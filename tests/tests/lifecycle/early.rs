//! `jit-agent early`, which the unit before the network runs: the gate goes up from what is on the
//! host, whatever is wrong around it, and stays when the command has ended. The agent adopts it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;

use crate::{
    broken_surroundings::{Prober, kill, problems, reboot},
    controllers,
    restarts::knock_while,
};

const LONG: Duration = Duration::from_secs(600);
/// The unit's `TimeoutStartSec=`: after that the boot goes on without it.
const BOUND: Duration = Duration::from_secs(20);

/// Runs it; returns its exit code and what it said.
#[track_caller]
fn early(site: &Site) -> (Option<i32>, String) {
    let began = Instant::now();
    let output = site.run(&["early"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(began.elapsed() < BOUND, "{:?}: {said}", began.elapsed());
    assert!(output.stdout.is_empty(), "only the log speaks");
    (output.status.code(), said)
}

/// The pins with what would show that they were made again.
fn pins(directory: &Path) -> Vec<(PathBuf, u64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(pins(&path));
        }
        found.push((path, metadata.ino(), metadata.mtime_nsec()));
    }
    found.sort();
    found
}

#[test]
fn after_a_reboot_the_ports_are_closed_without_an_agent_which_then_adopts_them_without_a_gap() {
    let mut site = controllers::site();
    site.admit(&CLIENT, LONG);
    reboot(&mut site);
    assert!(site.holds_no_pins(), "as the kernel begins");
    let prober = Prober::start(&site);
    let (code, said) = early(&site);
    site.host.ip(&["link", "set", "s0", "up"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("early: the gate is in force"), "{said}");
    site.assert_open_to_the_client_alone();
    let (status, code) = site.status();
    assert_eq!(code, 1, "in force, without an agent: {status:#}");
    assert!(problems(&status).contains("no agent"), "{status:#}");
    let knocked = knock_while(&mut site, |site, _| site.start());
    let refused = knocked.refused.into_inner();
    assert_eq!((knocked.opened.into_inner(), refused), (0, 0), "{}", site.log());
    assert_eq!(site.status().1, 0, "{:#}", site.status().0);
    site.assert_open_to_the_client_alone();
    prober.assert_never_got_in();
    // Both starts, and the early one's end.
    let records = site.run(&["audit", "show", "--json"]);
    let records = String::from_utf8_lossy(&records.stdout).into_owned();
    assert!(records.contains("the early start has ended; the gate stays in force"), "{records}");
    assert!(site.run(&["audit", "verify"]).status.success());
}

#[test]
fn a_gate_that_is_in_force_is_left_as_it_is() {
    let mut site = controllers::site();
    site.admit(&CLIENT, LONG);
    let audit = |site: &Site| fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    for running in [true, false] {
        if !running {
            kill(&mut site);
        }
        let before = (pins(site.pins()), audit(&site).contains("early"));
        let (code, said) = early(&site);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("nothing to do"), "{said}");
        assert_eq!((pins(site.pins()), audit(&site).contains("early")), before);
        site.assert_open_to_the_client_alone();
    }
    site.start();
    site.end(Signal::TERM);
}

/// What is broken, and how.
type Fault = (&'static str, fn(&Site));

/// Whatever only the daemon, the audit or a person needs.
const FAULTS: [Fault; 10] = [
    ("a certificate that is missing", |site| remove(site, "pki/agent.pem")),
    ("a certificate that is none", |site| write(site, "pki/agent.pem", "no certificate")),
    ("a key that others may read", |site| mode(site, "pki/agent.key", 0o644)),
    ("a signer's file that is missing", |site| remove(site, "signing.pub.pem")),
    ("a typo in the configuration", |site| write(site, "config.toml", "[host\nid = \"web-1\"\n")),
    ("a configuration that is missing", |site| remove(site, "config.toml")),
    ("an audit that is no directory", |site| {
        fs::remove_dir_all(site.path("state/audit")).unwrap();
        write(site, "state/audit", "");
    }),
    ("a key of the audit that others may read", |site| mode(site, "state/host.key", 0o666)),
    ("a database that is none", |site| write(site, "state/grants.redb", "no database")),
    ("a runtime directory that others may write to", |site| mode(site, "run", 0o777)),
];

fn remove(site: &Site, name: &str) {
    // Only the last good configuration says where everything is.
    fs::remove_file(site.path(name)).unwrap();
}

fn write(site: &Site, name: &str, text: &str) {
    fs::write(site.path(name), text).unwrap();
}

fn mode(site: &Site, name: &str, mode: u32) {
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn no_fault_around_the_gate_keeps_it_from_closing_the_ports() {
    for (fault, breaks) in FAULTS {
        let mut site = controllers::site();
        reboot(&mut site);
        breaks(&site);
        let prober = Prober::start(&site);
        // A file that is gone names no place of the state: the unit's environment does.
        let mut command = site.command(&["early"]);
        command.env("STATE_DIRECTORY", site.path("state"));
        let output = site.host.run(|| command.output().unwrap());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        site.host.ip(&["link", "set", "s0", "up"]);
        assert_eq!(output.status.code(), Some(0), "{fault}: {said}");
        site.assert_closed_to_all();
        assert!(!site.holds_no_pins(), "{fault}");
        prober.assert_never_got_in();
    }
}

#[test]
fn without_any_configuration_it_fails_and_says_what_is_open() {
    let site = Site::new();
    site.write_config("[host\n");
    let (code, said) = early(&site);
    assert_eq!(code, Some(78), "{said}");
    for words in ["config.toml", "last good configuration", "every port is open"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert!(site.stranger_gets_in(0, 22), "nothing is half-attached");
}

/// The file that the package installs, as it is.
#[test]
fn with_the_installed_configuration_both_start_and_nobody_is_shut_out() {
    let mut site = Site::new();
    let shipped = include_str!("../../../jit-agent/packaging/config.toml");
    let base = site.base("[\"*\"]", "auto");
    let (_, paths) = base.split_once("[paths]").unwrap();
    site.write_config(&format!("{shipped}[paths]{paths}"));
    let (code, said) = early(&site);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("in force, in observe mode: it drops nothing"), "{said}");
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22));
    let output = site.run(&["check"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.spawn();
    let deadline = Instant::now() + BOUND;
    while !site.log().contains("the gate is in force") {
        assert!(Instant::now() < deadline, "{}", site.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22));
    assert_eq!(site.status().1, 2, "it says that it enforces nothing");
    site.end(Signal::TERM);
}
