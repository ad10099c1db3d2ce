//! The agent as the unit runs it: an own user with three capabilities, a /sys that is read-only
//! except the directory of the pins, and files as README installs them. Root runs the command line
//! beside it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use jit_tests::{
    agent::{CLIENT, Site},
    programs::binary,
};
use rustix::process::Signal;

/// The service's user and group: no account of this machine has these numbers.
pub(crate) const USER: u32 = 64_900;
pub(crate) const GROUP: u32 = 64_901;
/// The group that may read the private key.
pub(crate) const KEYS: u32 = 64_902;
const LONG: Duration = Duration::from_secs(600);
/// The capabilities of the unit (`AmbientCapabilities`, `CapabilityBoundingSet`).
pub(crate) const CAPABILITIES: &str = "-all,+bpf,+net_admin,+perfmon";
/// `ReadOnlyPaths=/sys` with `ReadWritePaths=` of the pins: a directory that is not there is an error.
const READ_ONLY: &str = "mount --bind \"$PINS\" \"$PINS\" && mount -o remount,bind,ro /sys/fs/bpf && \
                         mount --bind \"$BUILT\" \"$PROGRAM\" && umask 077 && exec \"$@\"";

pub(crate) struct Installed {
    pub(crate) site: Site,
}

impl Installed {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        for arguments in
            ["pki init --dir pki", "pki issue --dir pki --name agent --dns web-1.example.org"]
        {
            let mut jitctl = Command::new(binary("jitctl"));
            let output = jitctl.args(arguments.split(' ')).current_dir(site.path("")).output();
            assert!(output.unwrap().status.success(), "{arguments}");
        }
        site.configure(
            "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"pki/agent.pem\"\n\
             key = \"pki/agent.key\"\nclient_ca = \"pki/ca.pem\"\n",
        );
        // The program is mounted here: the service's user may have no access to the directory of
        // the build.
        fs::write(site.path("jit-agent"), "").unwrap();
        let installed = Self { site };
        for name in ["", "pki"] {
            installed.install(name, 0, 0o750);
        }
        for name in ["config.toml", "signer.pem", "pki/agent.pem", "pki/agent.key", "pki/ca.pem"] {
            installed.install(name, 0, 0o640);
        }
        // systemd-tmpfiles and the unit (StateDirectory, RuntimeDirectory) make these.
        for (path, mode) in [
            (installed.site.pins().to_owned(), 0o700),
            (installed.site.path("state"), 0o700),
            (installed.site.path("run"), 0o750),
        ] {
            fs::create_dir(&path).unwrap();
            give(&path, USER, mode);
        }
        installed
    }

    pub(crate) fn install(&self, name: &str, owner: u32, mode: u32) {
        give(&self.site.path(name), owner, mode);
    }

    /// The command that systemd would start.
    fn service(&self) -> Command {
        self.service_with(CAPABILITIES, "run")
    }

    /// The same with other capabilities, or another command.
    pub(crate) fn service_with(&self, capabilities: &str, run: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", READ_ONLY, "sh", "setpriv"]);
        command.args(["--reuid", &USER.to_string(), "--regid", &GROUP.to_string()]);
        command.args(["--groups", &KEYS.to_string(), "--no-new-privs"]);
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{set}={capabilities}"));
        }
        let program = self.site.path("jit-agent");
        command.arg(&program).arg(run).arg("--config").arg(self.site.config());
        command.env("PINS", self.site.pins()).env("PROGRAM", program);
        command.env("BUILT", binary("jit-agent")).stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.site.path("log"));
        let mut command = self.service();
        command.stderr(log.unwrap());
        let child = self.site.host.start(&mut command);
        self.site.adopt_process(child);
        let status = fs::read_to_string(format!("/proc/{}/status", self.site.pid())).unwrap();
        let user = format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n");
        assert!(status.contains(&user), "the agent is the service's user: {status}");
    }

    /// `check` as root.
    #[track_caller]
    fn check(&self, code: i32, says: &[&str]) -> String {
        let text = said(&self.site.run(&["check"]), code);
        for word in says {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        text
    }
}

fn give(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(GROUP)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Both outputs of a command that ended with this code.
#[track_caller]
pub(crate) fn said(output: &Output, code: i32) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// Everything below a directory that another user owns.
fn foreign(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().uid() != USER {
            found.push(path.display().to_string());
        }
        if path.is_dir() {
            found.extend(foreign(&path));
        }
    }
    found
}

#[test]
fn run_as_the_unit_runs_it_detach_is_audited_and_the_service_starts_again() {
    let mut installed = Installed::new();
    for round in 1..=2 {
        installed.check(0, &["is good"]);
        installed.start();
        let site = &mut installed.site;
        assert_eq!(site.status().1, 0, "{:#}", site.status().0);
        // A grant outlives `detach`. This one has ended here.
        assert_eq!(site.revoke_all(), round - 1);
        site.assert_closed_to_all();
        site.admit(&CLIENT, LONG);
        site.assert_open_to_the_client_alone();
        site.end(Signal::KILL);
        // Root reads what the kernel enforces, from pins that another user owns.
        let (status, code) = site.status();
        assert_eq!((code, status["grants"].as_array().unwrap().len()), (1, 1), "{status:#}");
        let opened = said(&site.run(&["detach", "--yes"]), 0);
        assert!(opened.contains("2 interfaces") && !opened.contains("warning"), "{opened}");
        assert!(site.stranger_gets_in(0, 22) && site.client_gets_in(1, 22));
        assert!(said(&site.run(&["detach", "--yes"]), 0).contains("nothing is pinned"));
        // With the owner and mode that systemd-tmpfiles gave.
        let pins = fs::metadata(site.pins()).unwrap();
        assert_eq!((pins.uid(), pins.mode() & 0o777), (USER, 0o700));
        assert!(site.holds_no_pins());
        let records = said(&site.run(&["audit", "show", "--code", "A006", "--json"]), 0);
        assert_eq!(u32::try_from(records.lines().count()), Ok(round), "{records}");
        assert!(records.lines().all(|line| line.contains("local uid 0")), "{records}");
        said(&site.run(&["audit", "verify"]), 0);
        assert_eq!(foreign(&site.path("state")), Vec::<String>::new());
        // Everybody may verify with it, whatever UMask= the unit has.
        let public = fs::metadata(site.path("state/host.pub.pem")).unwrap();
        assert_eq!(public.mode() & 0o777, 0o644);
        assert!(!site.log().contains("panicked"), "{}", site.log());
    }
}

#[test]
fn check_names_files_that_the_service_may_not_read_and_it_does_not_start() {
    let installed = Installed::new();
    let site = &installed.site;
    // As `jitctl` writes the key, and as `install` does without `-g`.
    installed.install("pki/agent.key", 0, 0o600);
    chown(site.path("config.toml"), Some(0), Some(0)).unwrap();
    let text = installed.check(78, &["uid 64900", "config.toml", "pki/agent.key", "chgrp"]);
    assert!(!text.contains("signer.pem") && !text.contains("is good"), "{text}");
    let started = site.host.run(|| installed.service().output().unwrap());
    assert!(said(&started, 78).contains("Permission denied"));
    assert!(site.stranger_gets_in(0, 22), "nothing is half-attached");
    // The service's user may also own the key.
    installed.install("config.toml", 0, 0o640);
    installed.install("pki/agent.key", USER, 0o600);
    installed.install("signer.pem", USER, 0o600);
    installed.check(0, &["is good"]);
    // A file of another user is refused here, as in the service.
    installed.install("signer.pem", USER + 7, 0o644);
    installed.check(78, &["signer.pem", "is owned by uid 64907", "as uid 64900"]);
}

#[test]
fn detach_by_root_follows_no_link_in_the_state_directory() {
    let mut installed = Installed::new();
    installed.start();
    installed.site.end(Signal::TERM);
    let site = &installed.site;
    let victim = site.path("victim");
    fs::write(&victim, "root's").unwrap();
    let current = site.path("state/audit/audit.jsonl");
    fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink(&victim, &current).unwrap();
    let opened = said(&site.run(&["detach", "--yes"]), 0);
    assert!(opened.contains("not in the audit") && opened.contains("audit.jsonl"), "{opened}");
    assert_eq!(fs::read_to_string(victim).unwrap(), "root's");
    assert!(site.stranger_gets_in(0, 22), "the gate is open after detach");
}

#[test]
fn detach_by_root_follows_no_link_among_the_pins() {
    let site = Installed::new().site;
    let others = site.path("others");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("file"), "root's").unwrap();
    fs::create_dir(site.pins().join("v1")).unwrap();
    for link in ["v1/maps", "v9"] {
        let link = site.pins().join(link);
        std::os::unix::fs::symlink(&others, &link).unwrap();
        let text = said(&site.run(&["detach", "--yes"]), 78);
        assert!(text.contains("no directory") && text.contains("look at it"), "{text}");
        assert_eq!(fs::read_to_string(others.join("file")).unwrap(), "root's");
        fs::remove_file(&link).unwrap();
    }
    said(&site.run(&["detach", "--yes"]), 0);
}
