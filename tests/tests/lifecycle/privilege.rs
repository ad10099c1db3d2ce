//! What the agent may do, who may look at what it has, and what it refuses to use: exactly three
//! capabilities, two groups, no core dump. (Keys: `secrets`.)

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site};
use rustix::{
    process::{Gid, Signal, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    broken_surroundings::kill,
    controllers,
    installed::{CAPABILITIES, GROUP, Installed, KEYS, USER, said},
};

const LONG: Duration = Duration::from_secs(600);
const NOBODY: u32 = 65_534;
/// A user who is a member of the status group.
const READER: u32 = 64_910;
/// The bits of CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (capability.h).
const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// Does something as another user, in a thread of its own, without any of root's rights.
fn act_as<T: Send>(user: u32, group: u32, what: impl FnOnce() -> T + Send) -> T {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            set_thread_groups(&[gid]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            what()
        });
        acting.join().unwrap()
    })
}

/// A line of `/proc/PID/status`.
fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[test]
fn the_agent_runs_with_exactly_three_capabilities_and_leaves_no_core() {
    let mut installed = Installed::new();
    installed.start();
    let pid = installed.site.pid();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(pid, set), 16).unwrap(), THREE, "{set}");
    }
    assert_eq!(field(pid, "NoNewPrivs:"), "1");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let cores: Vec<_> = cores.split_whitespace().skip(4).take(2).collect();
    assert_eq!(cores, ["0", "0"], "soft and hard");
    // Not dumpable: nobody else of the same user gets at its memory or its environment either.
    for file in ["environ", "mem", "maps"] {
        let denied = act_as(USER, GROUP, || File::open(format!("/proc/{pid}/{file}")).err());
        assert_eq!(
            denied.map(|error| error.kind()),
            Some(io::ErrorKind::PermissionDenied),
            "{file}"
        );
    }
    // Root's `doctor` sees through it.
    let output = installed.site.run(&["doctor", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let doctor: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut findings = doctor["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["check"] == "capabilities");
    assert_eq!(found.unwrap()["level"], "ok", "{text}");
}

#[test]
fn each_missing_capability_is_named_and_nothing_is_attached() {
    let installed = Installed::new();
    for (short, name) in
        [("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN"), ("perfmon", "CAP_PERFMON")]
    {
        let others = CAPABILITIES.replace(&format!(",+{short}"), "");
        assert_ne!(others, CAPABILITIES);
        for command in ["run", "early"] {
            let mut service = installed.service_with(&others, command);
            let text = said(&installed.site.host.run(|| service.output().unwrap()), 77);
            assert!(text.contains(&format!("missing {name}:")), "{command}: {text}");
        }
    }
    assert!(installed.site.holds_no_pins() && installed.site.stranger_gets_in(0, 22));
}

#[test]
fn the_unit_before_the_network_needs_no_more_than_the_daemon() {
    let mut installed = Installed::new();
    let mut early = installed.service_with(CAPABILITIES, "early");
    let text = said(&installed.site.host.run(|| early.output().unwrap()), 0);
    assert!(text.contains("early: the gate is in force"), "{text}");
    installed.site.assert_closed_to_all();
    installed.start();
    assert_eq!(installed.site.status().1, 0, "{:#}", installed.site.status().0);
}

/// Whether a user is kept out of a place: it is there, and the kernel refuses.
fn is_denied(user: u32, group: u32, path: &Path) -> bool {
    assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
    let tried = act_as(user, group, || {
        if path.extension().is_some_and(|end| end == "sock") {
            UnixStream::connect(path).map(drop)
        } else if path.is_dir() {
            fs::read_dir(path).map(drop)
        } else {
            File::open(path).map(drop)
        }
    });
    tried.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn nobody_reaches_pins_state_keys_or_socket_and_the_status_group_only_the_socket() {
    let mut installed = Installed::new();
    // As the package lays it out: everybody may pass, the files decide.
    for (name, mode) in [("", 0o755), ("pki", 0o755), ("pki/agent.key", 0o640)] {
        installed.install(name, 0, mode);
    }
    let key = installed.site.path("pki/agent.key");
    chown(&key, Some(0), Some(KEYS)).unwrap();
    installed.start();
    let site = &installed.site;
    let (status, code) = site.status();
    assert_eq!(code, 0, "the service reads its key by the group of the keys: {status:#}");
    let version = fs::read_dir(site.pins()).unwrap().next().unwrap().unwrap().path();
    let kept = [
        site.pins().to_owned(),
        version.join("maps/host_grants"),
        version.join("links"),
        site.path("state"),
        site.path("state/grants.redb"),
        site.path("state/host.key"),
        site.path("state/audit/audit.jsonl"),
        key,
    ];
    let kept =
        kept.map(|path| if path.ends_with("host_grants") { some_map(&version) } else { path });
    let socket = site.path("run/agent.sock");
    for path in &kept {
        for (user, group) in [(NOBODY, NOBODY), (READER, GROUP)] {
            assert!(is_denied(user, group, path), "{user} reaches {}", path.display());
        }
    }
    assert!(is_denied(NOBODY, NOBODY, &socket) && is_denied(NOBODY, NOBODY, &site.path("run")));
    assert!(!is_denied(READER, GROUP, &socket), "whoever may ask for the status");
    assert!(!is_denied(USER, KEYS, &site.path("pki/agent.key")));
}

/// One of the pinned tables.
fn some_map(version: &Path) -> PathBuf {
    fs::read_dir(version.join("maps")).unwrap().next().unwrap().unwrap().path()
}

/// What somebody did to a file or directory before the agent starts.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It belongs to another user.
    Foreign,
    /// Its group may write to it.
    Writable,
    /// Another user's link leads to it.
    Linked,
}

const STRANGER: u32 = 64_999;

/// Does it; what is returned undoes it.
fn spoil(path: &Path, fault: Fault) -> impl FnOnce() {
    let metadata = fs::metadata(path).unwrap();
    let aside = path.with_extension("aside");
    match fault {
        Fault::Foreign => chown(path, Some(STRANGER), None).unwrap(),
        Fault::Writable => {
            let mode = fs::Permissions::from_mode(metadata.mode() | 0o020);
            fs::set_permissions(path, mode).unwrap();
        }
        Fault::Linked => {
            fs::rename(path, &aside).unwrap();
            symlink(&aside, path).unwrap();
            lchown(path, Some(STRANGER), Some(STRANGER)).unwrap();
        }
    }
    let path = path.to_owned();
    move || {
        if aside.exists() {
            drop(fs::remove_file(&path));
            // The agent may have made a new one in the place of the link.
            drop(fs::remove_dir_all(&path));
            fs::rename(&aside, &path).unwrap();
        }
        chown(&path, Some(metadata.uid()), Some(metadata.gid())).unwrap();
        fs::set_permissions(&path, metadata.permissions()).unwrap();
    }
}

/// Starts the agent, and waits until its log names the file and what is wrong with it.
#[track_caller]
fn is_refused_by_name(site: &mut Site, path: &Path, case: &str) {
    let before = site.log().len();
    site.spawn();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = site.log().split_off(before);
        let names = |line: &str| {
            line.contains(&path.display().to_string()) && line.contains("others could write to it")
        };
        if log.lines().any(names) {
            break;
        }
        assert!(Instant::now() < deadline, "{case} is not refused by name: {log}");
        thread::sleep(Duration::from_millis(50));
    }
    // The gate of the start before is in force meanwhile.
    assert!(!site.stranger_opens(0, 22), "{case}");
    site.end(Signal::KILL);
}

#[test]
fn a_file_that_somebody_else_could_have_written_is_refused_by_name() {
    let mut site = controllers::site();
    site.admit(&CLIENT, LONG);
    kill(&mut site);
    let text = fs::read_to_string(site.config()).unwrap();
    for name in [
        "config.toml",
        "pki/agent.key",
        "pki/agent.pem",
        "pki/ca.pem",
        "signing.pub.pem",
        "run",
        "state",
        "state/audit",
        "state/audit/audit.jsonl",
        "state/configuration.last-good",
        "state/grants.redb",
        "state/grants.reserve",
        "state/grants.witness",
        "state/host.key",
        "pins",
    ] {
        let path = if name == "pins" { site.pins().to_owned() } else { site.path(name) };
        for fault in [Fault::Foreign, Fault::Writable, Fault::Linked] {
            if matches!(fault, Fault::Linked) && name == "pins" {
                // The BPF file system has links, but what is pinned must be in it.
                continue;
            }
            let undo = spoil(&path, fault);
            if name.ends_with("last-good") {
                // It is looked at when the file cannot be used.
                site.write_config(&text.replacen("[host]", "[host", 1));
            }
            is_refused_by_name(&mut site, &path, &format!("{name}: {fault:?}"));
            undo();
            if name.ends_with("last-good") {
                site.write_config(&text);
            }
        }
    }
    site.start();
    assert_eq!(site.status().1, 0, "all is undone: {:#}", site.status().0);
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_pin_directory_that_was_made_before_the_agent_is_refused_by_name() {
    let mut site = Site::new();
    let pins = site.pins().to_owned();
    // Everybody may write to the root of a BPF file system that was mounted by hand.
    let other = PathBuf::from(format!("{}-other", pins.display()));
    for fault in ["foreign", "writable", "linked"] {
        match fault {
            "linked" => {
                fs::create_dir(&other).unwrap();
                symlink(&other, &pins).unwrap();
                lchown(&pins, Some(STRANGER), Some(STRANGER)).unwrap();
            }
            _ => fs::create_dir(&pins).unwrap(),
        }
        match fault {
            "foreign" => chown(&pins, Some(STRANGER), Some(STRANGER)).unwrap(),
            "writable" => fs::set_permissions(&pins, fs::Permissions::from_mode(0o770)).unwrap(),
            _ => {}
        }
        for command in ["run", "early"] {
            let text = said(&site.run(&[command]), 77);
            assert!(text.contains(&pins.display().to_string()), "{fault}: {text}");
            assert!(text.contains("others could write to it"), "{fault}: {text}");
        }
        assert!(site.stranger_gets_in(0, 22), "{fault}: nothing is half-attached");
        if fault == "linked" {
            assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "the link is not followed");
            fs::remove_dir(&other).unwrap();
            fs::remove_file(&pins).unwrap();
        } else {
            fs::remove_dir(&pins).unwrap();
        }
    }
    site.start();
}
