//! `jit-agent doctor`: nothing is wrong on a good host, and each condition of a bad one is found,
//! with the agent in force, dead, hung, or not there yet.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use aya::programs::XdpMode;
use jit_agent::{
    disk::store::{Store, Transaction},
    oncall::doctor::CHECKS,
    system::sys,
};
use jit_tests::{
    agent::{CLIENT, Site},
    kernel::Kernel,
    programs::{binary, copy},
};
use rustix::process::Signal;
use serde_json::Value;

/// The capabilities of the unit.
const CAPABILITIES: &str = "-all,+bpf,+net_admin,+perfmon";
/// A uid without a user.
const NOBODY: u32 = 64_999;
const LONG: Duration = Duration::from_secs(600);
/// The longest time that the disk of a loaded machine takes to answer the agent again.
const BUSY: Duration = Duration::from_secs(60);
/// The longest time for `doctor`, with some room for a loaded machine.
const SOON: Duration = Duration::from_secs(5);

/// Findings of a run of `doctor --json`, and its exit code.
#[derive(Debug)]
struct Seen {
    findings: Vec<Value>,
    code: i32,
}

impl Seen {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("doctor: {text}{errors}"));
        let schema = include_str!("../../../jit-agent/docs/doctor.schema.json");
        let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        schema.validate(&report).unwrap_or_else(|error| panic!("{error}: {report:#}"));
        let findings = report["findings"].as_array().unwrap().clone();
        // Scripts must expect more fields. Here each one must be in the schema.
        assert_eq!(report.as_object().unwrap().len(), 7, "{report:#}");
        for finding in &findings {
            assert_eq!(finding.as_object().unwrap().len(), 5, "{finding:#}");
            let check = finding["check"].as_str().unwrap();
            let known = CHECKS.iter().any(|(_, checks)| checks.contains(&check));
            assert!(known, "{check} is in no group");
            let wrong = matches!(finding["level"].as_str(), Some("warning" | "failure"));
            let fix = finding["fix"].as_array().unwrap();
            assert!(!wrong || !fix.is_empty(), "says what to do: {finding:#}");
        }
        Self { findings, code: output.status.code().unwrap() }
    }

    /// The findings of this level of a check, with what they are about.
    fn all(&self, level: &str, check: &str) -> Vec<&Value> {
        let is = |finding: &&Value| finding["level"] == level && finding["check"] == check;
        self.findings.iter().filter(is).collect()
    }

    /// Fails unless there is such a finding with this in what was seen or in what to do.
    #[track_caller]
    fn has(&self, level: &str, check: &str, says: &str) {
        let found = self.all(level, check);
        let said = found.iter().any(|finding| finding.to_string().contains(says));
        assert!(said, "no {level} of {check} with {says:?}: {:#?}", self.findings);
    }

    /// Fails if anything is wrong but these checks.
    #[track_caller]
    fn only(&self, wrong: &[&str]) {
        for finding in &self.findings {
            let is_wrong = matches!(finding["level"].as_str(), Some("warning" | "failure"));
            let check = finding["check"].as_str().unwrap();
            // No test sets the machine's clock.
            assert!(!is_wrong || check == "ntp" || wrong.contains(&check), "{finding:#}");
        }
    }
}

/// What `doctor` finds. On a machine whose disk is busy the agent may report that: then it is asked
/// again.
fn doctor(site: &Site) -> Seen {
    let end = Instant::now() + BUSY;
    loop {
        let began = Instant::now();
        let seen = Seen::of(&site.run(&["doctor", "--json"]));
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let busy =
            |finding: &Value| finding["seen"].as_str().unwrap().contains("disk does not answer");
        if Instant::now() > end || !seen.findings.iter().any(busy) {
            return seen;
        }
    }
}

/// Starts the agent with these capabilities.
fn start_with(site: &mut Site, capabilities: &str) {
    drop(fs::remove_file(site.path("run/agent.sock")));
    let log = fs::OpenOptions::new().create(true).append(true).open(site.path("log")).unwrap();
    let mut command = Command::new("setpriv");
    for set in ["--inh-caps", "--bounding-set"] {
        command.arg(format!("{set}={capabilities}"));
    }
    command.arg(binary("jit-agent")).arg("run").arg("--config").arg(site.config());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = site.host.start(&mut command);
    site.adopt_process(child);
}

/// Stores a time that is this much later than now.
fn raise_floor(site: &Site, by: Duration) {
    let now = sys::now().wall;
    let (mut store, _) = Store::open(&site.path("state"), now).unwrap();
    let transaction = Transaction { floor: Some(now + by), ..Transaction::default() };
    store.commit(&transaction).unwrap();
}

/// A host whose disk has room for the audit, whatever this machine has.
fn new_site() -> Site {
    let site = Site::new();
    write_config(&site, &site.base("[\"*\"]", "auto"));
    site
}

fn write_config(site: &Site, text: &str) {
    site.write_config(&format!("{text}[audit]\nmax_size = \"64KiB\"\nkeep = 1\n"));
}

/// A good host: an agent in force, as the unit runs it.
fn good() -> Site {
    let mut site = new_site();
    start_with(&mut site, CAPABILITIES);
    site
}

#[test]
fn on_a_good_host_doctor_finds_nothing_wrong() {
    let site = good();
    site.admit(&CLIENT, LONG);
    let seen = doctor(&site);
    seen.only(&[]);
    let ntp = seen.all("warning", "ntp").len();
    assert_eq!(seen.code, i32::from(ntp > 0), "{seen:#?}");
    for (check, says) in [
        ("agent", "it answers, process "),
        ("bpffs", "on a BPF file system"),
        ("capabilities", "CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF and no others"),
        ("configuration", "is good"),
        ("clock-floor", "not before"),
        ("boot-clock", "own"),
        ("interface", "veth, MTU 1500"),
        ("kernel", "takes BPF programs and XDP links"),
        ("pins", "root's alone"),
        ("state", "root's alone"),
        ("status", "nothing else"),
        ("version", "the agent and this file"),
    ] {
        seen.has("ok", check, says);
    }
    // For a person: the verdict first, then what is worst.
    let screen = String::from_utf8(site.run(&["doctor"]).stdout).unwrap();
    let head = screen.lines().next().unwrap();
    let verdict = if ntp > 0 { "doctor   1 warning, " } else { "doctor   nothing wrong, " };
    assert!(head.starts_with(verdict), "{screen}");
    let titles: Vec<_> = screen.lines().filter(|line| !line.contains(' ')).collect();
    assert!(titles.contains(&"Kernel") && titles.contains(&"Interfaces"), "{screen}");
}

#[test]
fn before_the_installation_doctor_looks_at_all_else() {
    let site = new_site();
    let missing = site.path("no-such.toml");
    let mut command = Command::new(binary("jit-agent"));
    command.args(["doctor", "--json", "--config"]).arg(&missing);
    let seen = Seen::of(&site.host.run(|| command.output().unwrap()));
    assert_eq!(seen.code, 1);
    seen.only(&["agent", "configuration", "listeners"]);
    seen.has("warning", "agent", "not installed");
    seen.has("warning", "listeners", "22/tcp");
    seen.has("warning", "configuration", "no-such.toml yet");
    seen.has("ok", "interface", "no gate yet");
    seen.has("ok", "capabilities", "root can give");
    // A file that is there, with an agent that never ran.
    let seen = doctor(&site);
    seen.only(&["agent", "interface", "status"]);
    seen.has("failure", "agent", "no agent runs; no port is closed");
    seen.has("failure", "agent", "systemctl start jit-agent");
    seen.has("ok", "state", "makes it at its start");
}

#[test]
fn a_dead_agent_and_a_hung_one_are_found_with_what_holds() {
    let mut site = good();
    site.signal(Signal::STOP);
    let seen = doctor(&site);
    site.signal(Signal::CONT);
    seen.only(&["agent"]);
    let pid = site.pid();
    seen.has("failure", "agent", &format!("process {pid} is stopped"));
    seen.has("failure", "agent", &format!("kill -CONT {pid}"));
    seen.has("failure", "agent", "the gate stays in force, and nothing new opens");
    seen.has("ok", "capabilities", "and no others");
    seen.has("ok", "interface", "native XDP");
    site.end(Signal::KILL);
    let seen = doctor(&site);
    seen.only(&["agent"]);
    seen.has("failure", "agent", "no agent runs; the gate stays in force");
    seen.has("ok", "interface", "native XDP");
    site.write_config(&fs::read_to_string(site.config()).unwrap().replace("[gate]", "[gaet]"));
    let seen = doctor(&site);
    seen.only(&["agent", "configuration"]);
    seen.has("failure", "configuration", "is refused: line ");
    seen.has("failure", "agent", "jit-agent check; then systemctl start");
}

/// Names and times of all files below a directory.
fn files(directory: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        all.push((path.clone(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            all.extend(files(&path));
        }
    }
    all.sort();
    all
}

#[test]
fn doctor_changes_nothing() {
    let mut site = good();
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    let all = || [files(&site.path("")), files(site.pins())];
    let before = all();
    doctor(&site);
    assert_eq!(all(), before);
    site.assert_open_to_the_client_alone();
    // Nor does it make what is not there.
    let bare = new_site();
    let before = files(&bare.path(""));
    doctor(&bare);
    assert_eq!((files(&bare.path("")), bare.pins().exists()), (before, false));
}

#[test]
fn a_file_that_is_not_in_force_is_found() {
    let site = good();
    let good = fs::read_to_string(site.config()).unwrap();
    // This needs a restart.
    site.write_config(&format!("{good}[limits]\nhosts = 1000\n"));
    site.signal(Signal::HUP);
    let began = Instant::now();
    while site.status().0["configuration"]["refused"].as_str() == Some("") {
        assert!(began.elapsed() < BUSY, "{}", site.log());
    }
    let seen = doctor(&site);
    seen.only(&["configuration"]);
    seen.has("failure", "configuration", "the file on disk is not in force: ");
    site.write_config(&good.replace("[gate]", "[gaet]"));
    let seen = doctor(&site);
    seen.only(&["configuration"]);
    seen.has("failure", "configuration", "is refused: line ");
}

#[test]
fn capabilities_beyond_the_three_are_found() {
    let mut site = new_site();
    site.start();
    let seen = doctor(&site);
    seen.only(&["capabilities"]);
    seen.has("warning", "capabilities", "more than it needs: CAP_CHOWN");
    seen.has("warning", "capabilities", "AmbientCapabilities=");
}

#[test]
fn a_capability_that_nobody_can_give_is_named() {
    let site = new_site();
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-perfmon", "--bounding-set=-perfmon"]).arg(binary("jit-agent"));
    command.args(["doctor", "--json", "--config"]).arg(site.config());
    let seen = Seen::of(&site.host.run(|| command.output().unwrap()));
    seen.has("failure", "capabilities", "root lacks CAP_PERFMON");
    seen.has("unseen", "boot-clock", "only root");
}

#[test]
fn a_place_without_a_bpf_file_system_is_found() {
    let site = new_site();
    let text = fs::read_to_string(site.config()).unwrap();
    let (pins, elsewhere) = (site.pins().display().to_string(), site.path("pins"));
    site.write_config(&text.replace(&pins, &elsewhere.display().to_string()));
    let seen = doctor(&site);
    seen.has("failure", "bpffs", "not on a BPF file system");
    seen.has("failure", "bpffs", "mount -t bpf bpf /sys/fs/bpf");
    assert!(!elsewhere.exists(), "doctor makes nothing");
}

/// What `doctor` finds in a mount namespace of its own, after these lines of a shell.
fn doctor_after(site: &Site, lines: &str) -> Seen {
    let plain = site.command(&["doctor", "--json"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{lines}\nexec \"$@\""), "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    Seen::of(&site.host.run(|| command.output().unwrap()))
}

#[test]
fn a_host_whose_bpf_file_system_is_not_mounted_is_found() {
    let seen = doctor_after(&new_site(), "umount /sys/fs/bpf");
    seen.has("failure", "bpffs", "not on a BPF file system");
    assert!(seen.all("ok", "pins").is_empty(), "no word about pins: {seen:#?}");
}

#[test]
fn a_kernel_locked_down_for_confidentiality_is_found() {
    let mounted = "mount -t tmpfs none /sys/kernel/security\n";
    let site = new_site();
    let locked = "echo 'none integrity [confidentiality]' > /sys/kernel/security/lockdown";
    doctor_after(&site, &format!("{mounted}{locked}")).has(
        "warning",
        "lockdown",
        "lockdown=integrity",
    );
    let unlocked = "echo '[none] integrity confidentiality' > /sys/kernel/security/lockdown";
    doctor_after(&site, &format!("{mounted}{unlocked}")).has("ok", "lockdown", "`none`");
}

#[test]
fn a_control_group_with_too_little_memory_is_found() {
    let site = good();
    let with = |limit: &str| {
        let mounted = "mount -t tmpfs none /sys/fs/cgroup\n";
        doctor_after(&site, &format!("{mounted}echo {limit} > /sys/fs/cgroup/memory.max"))
    };
    with("16777216").has("failure", "memory-limit", "16 MiB (/sys/fs/cgroup/memory.max)");
    with("268435456").has("warning", "memory-limit", "MemoryMax=");
    with("max").has("ok", "memory-limit", "no control group");
}

#[test]
fn an_agent_whose_file_was_replaced_is_found() {
    let mut site = new_site();
    let program = site.path("jit-agent");
    if fs::hard_link(binary("jit-agent"), &program).is_err() {
        copy(&binary("jit-agent"), &program);
    }
    site.use_program(program.clone());
    site.start();
    fs::remove_file(program).unwrap();
    site.use_program(binary("jit-agent"));
    doctor(&site).has("warning", "version", "was replaced");
}

#[test]
fn directories_that_others_could_write_to_are_found() {
    let mut site = good();
    site.end(Signal::KILL);
    chown(site.pins(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(site.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    let seen = doctor(&site);
    seen.only(&["agent", "pins", "state"]);
    seen.has("failure", "pins", "is owned by uid 64999");
    seen.has("failure", "pins", "chown root ");
    seen.has("failure", "state", "others could write to it");
    chown(site.pins(), Some(0), Some(0)).unwrap();
    fs::set_permissions(site.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    let seen = doctor(&site);
    seen.only(&["agent", "state"]);
    seen.has("warning", "state", "others may look into");
    fs::set_permissions(site.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    doctor(&site).only(&["agent"]);
}

#[test]
fn another_owners_xdp_program_is_found_alive_and_dead() {
    let mut site = new_site();
    let mut foreign = Kernel::load();
    let index = site.host.index("s0");
    let link = site.host.run(|| foreign.attach("jit_gate", index, XdpMode::Driver));
    start_with(&mut site, CAPABILITIES);
    let seen = doctor(&site);
    seen.only(&["other-programs"]);
    seen.has("warning", "other-programs", "another owner's XDP program (id ");
    seen.has("warning", "other-programs", "bpftool prog show id ");
    let about: Vec<_> =
        seen.all("warning", "other-programs").iter().map(|one| one["about"].clone()).collect();
    assert_eq!(about, ["s0"]);
    site.end(Signal::KILL);
    let seen = doctor(&site);
    seen.only(&["agent", "other-programs"]);
    seen.has("warning", "other-programs", "another owner's XDP program");
    drop(link);
}

#[test]
fn another_owners_classifier_before_the_gate_is_found_alive_and_dead() {
    let mut site = new_site();
    write_config(&site, &site.base("[\"*\"]", "clsact"));
    for line in [
        "tc qdisc add dev s0 clsact",
        "tc filter add dev s0 ingress pref 1 protocol ip u32 match ip dport 9 0xffff flowid 1:1",
    ] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", site.host.name())).args(line.split(' '));
        assert!(command.status().unwrap().success(), "{line}");
    }
    start_with(&mut site, CAPABILITIES);
    for wrong in [&["other-programs"][..], &["agent", "other-programs"]] {
        let seen = doctor(&site);
        seen.only(wrong);
        let found = seen.all("warning", "other-programs");
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0]["about"], "s0");
        seen.has("warning", "other-programs", "tc filter show dev s0 ingress");
        if wrong.len() == 1 {
            site.end(Signal::KILL);
        }
    }
}

#[test]
fn a_service_bound_to_a_device_above_a_gated_one_is_found() {
    let site = new_site();
    write_config(&site, &site.base("[\"*\"]", "auto").replace("port = 22\n", "port = 2200\n"));
    site.host.ip(&["link", "add", "up0", "link", "s0", "type", "macvlan"]);
    site.host.ip(&["link", "set", "up0", "up"]);
    site.serve_on("up0", 2200);
    let seen = doctor(&site);
    seen.has("warning", "devices-above", "device up0 (SO_BINDTODEVICE): 2200/tcp (listener)");
    // As `check` says it.
    let checked = String::from_utf8(site.run(&["check"]).stdout).unwrap();
    for finding in seen.all("warning", "devices-above") {
        assert!(checked.contains(finding["seen"].as_str().unwrap()), "{checked}");
    }
}

#[test]
fn an_interface_without_a_gate_is_found() {
    let mut site = new_site();
    let text = site.base("[\"*\", \"named0\"]", "auto");
    write_config(
        &site,
        &text.replace(
            "hook = ",
            "exclude = [\"s0\", { name = \"x*\", reason = \"ours\" }]\nhook = ",
        ),
    );
    site.host.ip(&["link", "add", "x0", "up", "type", "veth", "peer", "name", "x1"]);
    start_with(&mut site, CAPABILITIES);
    let seen = doctor(&site);
    seen.only(&["interface", "configuration"]);
    let wrong = seen.all("warning", "interface");
    let about: Vec<_> = wrong.iter().map(|one| one["about"].as_str().unwrap()).collect();
    assert_eq!(about, ["s0", "named0"], "{wrong:#?}");
    seen.has("warning", "interface", "the configuration leaves it out");
    seen.has("warning", "interface", "exclude = [{ name = \\\"s0\\\", reason");
    seen.has("warning", "interface", "there is no such interface");
    seen.has("warning", "configuration", "this host has no interface");
    seen.has("ok", "interface", "excluded: ours");
    // One that came with the agent dead.
    site.end(Signal::KILL);
    site.host.ip(&["link", "add", "late0", "up", "type", "veth", "peer", "name", "x2"]);
    let seen = doctor(&site);
    seen.has("warning", "interface", "late0 is left to the socket guard");
}

#[test]
fn a_clock_below_the_stored_time_is_found() {
    let mut site = good();
    site.end(Signal::TERM);
    // The stored time of an agent whose clock was an hour ahead.
    raise_floor(&site, Duration::from_secs(3600));
    let seen = doctor(&site);
    seen.only(&["agent", "clock-floor"]);
    seen.has("failure", "clock-floor", "less than");
    start_with(&mut site, CAPABILITIES);
    let seen = doctor(&site);
    seen.only(&["clock-floor"]);
    seen.has("failure", "clock-floor", "nothing new opens");
}

#[test]
fn a_time_namespace_is_found() {
    let mut site = new_site();
    let mut command = Command::new("unshare");
    command.args(["--time", "--boottime", "3600", "--fork", "--kill-child", "setpriv"]);
    command.args([format!("--inh-caps={CAPABILITIES}"), format!("--bounding-set={CAPABILITIES}")]);
    command.arg(binary("jit-agent")).arg("run").arg("--config").arg(site.config());
    let log = fs::File::create(site.path("log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = site.host.start(&mut command);
    site.adopt_process(child);
    let seen = doctor(&site);
    seen.only(&["boot-clock"]);
    seen.has("warning", "boot-clock", "another time namespace");
    // Where this command is in one.
    let plain = site.command(&["doctor", "--json"]);
    let mut inside = Command::new("unshare");
    inside.args(["--time", "--boottime", "7200", "--fork", "--"]);
    inside.arg(plain.get_program()).args(plain.get_args());
    site.end(Signal::KILL);
    let seen = Seen::of(&site.host.run(|| inside.output().unwrap()));
    seen.has("warning", "boot-clock", "2h off");
}

#[test]
fn without_root_doctor_says_what_it_could_not_see() {
    let site = good();
    let program = site.path("jit-agent");
    // The directory of the build may be closed to others.
    copy(&binary("jit-agent"), &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(&program);
    command.args(["doctor", "--json", "--config"]).arg(site.config());
    let seen = Seen::of(&site.host.run(|| command.output().unwrap()));
    seen.only(&[]);
    seen.has("unseen", "agent", "use sudo");
    for check in ["pins", "state", "boot-clock", "clock-floor", "sock-destroy"] {
        seen.has("unseen", check, "only root");
    }
    seen.has("ok", "configuration", "is good");
    // The process of the agent is found by its lock, which everybody may see.
    seen.has("ok", "capabilities", "and no others");
    seen.has("ok", "bpffs", "on a BPF file system");
    seen.has("unseen", "interface", "its gate is not seen");
}
