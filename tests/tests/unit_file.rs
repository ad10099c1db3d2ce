//! The shipped systemd unit: what it allows, what it must not forbid, and its score. The score is
//! computed from a copy of the file. The tests never start systemd.

use std::{fs, path::Path, process::Command};

/// Highest exposure that passes, in tenths: 2.2.
const THRESHOLD: u32 = 22;

fn packaging(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jit-agent/packaging").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Values of a setting, in the order of the file.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| *name == setting)
        .map(|(_, value)| value)
        .collect()
}

fn words<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    let mut words: Vec<_> =
        values(unit, setting).into_iter().flat_map(str::split_whitespace).collect();
    words.sort_unstable();
    words
}

#[test]
fn shipped_unit_stays_below_the_exposure_threshold() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unit-file");
    fs::create_dir_all(&directory).expect("cargo's directory for tests can be written");
    let copy = directory.join("jit-agent.service");
    fs::write(&copy, packaging("jit-agent.service")).expect("the copy can be written");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={THRESHOLD}"))
        .arg(&copy)
        .output()
        .expect("systemd-analyze is installed: `cargo xtask setup`");
    let table = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}\n{errors}");
    assert!(table.contains("Overall exposure level"), "it scored nothing:\n{table}\n{errors}");
}

#[test]
fn a_unit_without_hardening_is_above_the_threshold() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unit-file-bare");
    fs::create_dir_all(&directory).expect("cargo's directory for tests can be written");
    let bare = directory.join("bare.service");
    fs::write(&bare, "[Service]\nExecStart=/bin/true\n").expect("the unit can be written");
    let status = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={THRESHOLD}"))
        .arg(&bare)
        .output()
        .expect("systemd-analyze is installed: `cargo xtask setup`")
        .status;
    assert!(!status.success(), "the threshold lets everything through");
}

#[test]
fn a_reload_checks_the_file_of_the_service_first() {
    let unit = packaging("jit-agent.service");
    let [check, signal] = values(&unit, "ExecReload")[..] else { panic!("two steps: {unit}") };
    let (_, arguments) = check.split_once(" check ").expect("a check");
    assert!(values(&unit, "ExecStart")[0].ends_with(&format!(" run {arguments}")), "{check}");
    assert_eq!(signal, "/bin/kill -HUP $MAINPID");
}

#[test]
fn agent_gets_exactly_three_capabilities() {
    let unit = packaging("jit-agent.service");
    let three = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    assert_eq!(words(&unit, "AmbientCapabilities"), three);
    assert_eq!(words(&unit, "CapabilityBoundingSet"), three);
    assert_eq!(values(&unit, "User"), ["jit-agent"]);
    assert_eq!(values(&unit, "NoNewPrivileges"), ["yes"]);
}

#[test]
fn bpf_is_allowed_after_everything_that_is_denied() {
    let unit = packaging("jit-agent.service");
    let filters = values(&unit, "SystemCallFilter");
    let last_denied = filters.iter().rposition(|filter| filter.starts_with('~'));
    let allowed = filters.iter().position(|filter| *filter == "bpf");
    assert!(last_denied.is_some() && allowed > last_denied, "{filters:?}");
}

#[test]
fn pins_can_be_written_and_the_rest_of_sys_cannot() {
    let unit = packaging("jit-agent.service");
    // `yes` would make bpffs read-only.
    assert_eq!(values(&unit, "ProtectKernelTunables"), ["no"]);
    assert_eq!(values(&unit, "ReadOnlyPaths"), ["/sys"]);
    assert_eq!(values(&unit, "ReadWritePaths"), ["/sys/fs/bpf/jit-agent"]);
    let created = packaging("jit-agent.tmpfiles.conf");
    let pins = created.lines().find(|line| line.starts_with("d /sys/fs/bpf/jit-agent "));
    let pins: Vec<_> = pins.expect("tmpfiles.d creates the directory").split_whitespace().collect();
    assert_eq!(pins[2..5], ["0700", "jit-agent", "jit-agent"]);
}

#[test]
fn nothing_keeps_the_agent_from_the_hosts_interfaces() {
    let unit = packaging("jit-agent.service");
    for setting in ["DynamicUser", "PrivateNetwork", "PrivateUsers"] {
        assert_eq!(values(&unit, setting), ["no"], "{setting}");
    }
    let families = words(&unit, "RestrictAddressFamilies");
    // Netlink reports interfaces, and destroys the sockets of sessions that are cut.
    assert_eq!(families, ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"]);
    let calls = words(&unit, "SystemCallFilter");
    assert!(
        calls.contains(&"@system-service") && !calls.iter().any(|call| call.contains("network"))
    );
}

#[test]
fn memory_is_bounded_well_above_what_full_tables_take() {
    let unit = packaging("jit-agent.service");
    let gibibytes = |setting: &str| {
        let values = values(&unit, setting);
        let number = values.first().and_then(|value| value.strip_suffix('G'));
        number.and_then(|number| number.parse::<u64>().ok()).expect("a number of GiB")
    };
    // Measured bytes of a grant, and the number of grants that the default tables can hold.
    let full =
        1700 * u64::from(jit_agent::config::Limits { hosts: 131_072, prefixes: 16_384 }.slots());
    assert!(gibibytes("MemoryHigh") << 30 > full * 3 / 2);
    assert!(gibibytes("MemoryMax") << 30 > full * 3);
}

#[test]
fn what_the_unit_says_to_read_is_what_the_readme_installs() {
    let unit = packaging("jit-agent.service");
    let readme = packaging("../../README.md");
    for page in words(&unit, "Documentation") {
        let name = page.strip_prefix("file:/usr/share/doc/jit-agent/").expect("an installed file");
        assert!(!packaging(&format!("../docs/{name}")).is_empty());
        assert!(readme.contains("jit-agent/docs/* /usr/share/doc/jit-agent/"));
    }
    assert!(!words(&unit, "Documentation").is_empty());
}

#[test]
fn gate_comes_before_the_network() {
    let unit = packaging("jit-agent.service");
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "DefaultDependencies"), ["no"]);
    assert!(words(&unit, "Before").contains(&"network-pre.target"));
    assert!(words(&unit, "Wants").contains(&"network-pre.target"));
    assert!(!values(&unit, "WatchdogSec").is_empty());
}

#[test]
fn stopping_the_unit_runs_nothing_that_opens_the_gate() {
    let unit = packaging("jit-agent.service");
    assert!(values(&unit, "ExecStop").is_empty() && values(&unit, "ExecStopPost").is_empty());
}
