//! The shipped systemd units: what they allow, what they must not forbid, and their score. The score
//! is computed from copies of the files. The tests never start systemd.

use std::{fs, path::Path, process::Command};

/// Highest exposure that passes, in tenths: 2.0.
const THRESHOLD: u32 = 20;
/// The daemon's unit, and the one before the network.
const UNITS: [&str; 2] = ["jit-agent.service", "jit-agent-early.service"];
/// The controller's unit, which needs no right of the system.
const CONTROLLER: &str = "jit-controller.service";

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
fn shipped_units_stay_below_the_exposure_threshold() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unit-file");
    fs::create_dir_all(&directory).expect("cargo's directory for tests can be written");
    for unit in UNITS.into_iter().chain([CONTROLLER]) {
        let copy = directory.join(unit);
        fs::write(&copy, packaging(unit)).expect("the copy can be written");
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={THRESHOLD}"))
            .arg(&copy)
            .output()
            .expect("systemd-analyze is installed: `cargo xtask setup`");
        let table = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{unit}: {table}\n{errors}");
        assert!(table.contains("Overall exposure level"), "{unit}: no score:\n{table}\n{errors}");
    }
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
fn the_controller_has_no_capability_and_a_directory_of_its_own() {
    let unit = packaging(CONTROLLER);
    for (setting, value) in [
        ("AmbientCapabilities", ""),
        ("CapabilityBoundingSet", ""),
        ("LimitCORE", "0"),
        ("NoNewPrivileges", "yes"),
        ("PrivateUsers", "yes"),
        ("ProtectSystem", "strict"),
        ("StateDirectory", "jit-controller"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("User", "jit-controller"),
    ] {
        assert_eq!(values(&unit, setting), [value], "{setting}");
    }
    // It talks to people, agents and its database, and to nobody by netlink.
    let families = words(&unit, "RestrictAddressFamilies");
    assert_eq!(families, ["AF_INET", "AF_INET6", "AF_UNIX"]);
    // The signer confines itself: these calls take rights, and give none.
    let last = values(&unit, "SystemCallFilter").last().copied().unwrap_or_default().to_owned();
    assert!(last.contains("seccomp") && !last.starts_with('~'), "{last}");
    let users = packaging("jit-controller.sysusers.conf");
    assert!(users.lines().any(|line| line.starts_with("u jit-controller - ")), "{users}");
    let made = packaging("jit-controller.tmpfiles.conf");
    let line = "d /var/lib/jit-controller 0700 jit-controller jit-controller -";
    assert!(made.lines().any(|one| one == line), "{made}");
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
    let three = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    for unit in UNITS.map(packaging) {
        assert_eq!(words(&unit, "AmbientCapabilities"), three);
        assert_eq!(words(&unit, "CapabilityBoundingSet"), three);
        assert_eq!(values(&unit, "User"), ["jit-agent"]);
        assert_eq!(values(&unit, "NoNewPrivileges"), ["yes"]);
        assert_eq!(values(&unit, "LimitCORE"), ["0"]);
    }
}

/// Who may ask for the status may not read the key.
#[test]
fn the_private_key_has_a_group_that_the_status_has_not() {
    let [daemon, early] = UNITS.map(packaging);
    assert_eq!(values(&daemon, "Group"), ["jit-agent"]);
    assert_eq!(values(&daemon, "SupplementaryGroups"), ["jit-agent-keys"]);
    assert!(values(&early, "SupplementaryGroups").is_empty(), "it reads no key");
    let users = packaging("jit-agent.sysusers.conf");
    for line in ["g jit-agent - -", "g jit-agent-keys - -", "m jit-agent jit-agent-keys"] {
        assert!(users.lines().any(|one| one == line), "{line}");
    }
}

#[test]
fn bpf_is_allowed_after_everything_that_is_denied() {
    for unit in UNITS.map(packaging) {
        let filters = values(&unit, "SystemCallFilter");
        let last_denied = filters.iter().rposition(|filter| filter.starts_with('~'));
        let allowed = filters.iter().position(|filter| *filter == "bpf");
        assert!(last_denied.is_some() && allowed > last_denied, "{filters:?}");
    }
}

#[test]
fn pins_can_be_written_and_the_rest_of_sys_cannot() {
    for unit in UNITS.map(packaging) {
        // `yes` would make bpffs read-only.
        assert_eq!(values(&unit, "ProtectKernelTunables"), ["no"]);
        assert_eq!(values(&unit, "ReadOnlyPaths"), ["/sys"]);
        assert!(words(&unit, "ReadWritePaths").contains(&"/sys/fs/bpf/jit-agent"));
    }
    let created = packaging("jit-agent.tmpfiles.conf");
    let of = |path: &str| -> Vec<String> {
        let words = created.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut found = words.filter(|words| words.get(1) == Some(&path));
        let line = found.next().unwrap_or_else(|| panic!("tmpfiles.d has no {path}"));
        line.iter().map(|word| (*word).to_owned()).collect()
    };
    assert_eq!(
        of("/sys/fs/bpf/jit-agent")[..5].join(" "),
        "d /sys/fs/bpf/jit-agent 0700 jit-agent jit-agent"
    );
    assert_eq!(
        of("/var/lib/jit-agent")[..5].join(" "),
        "d /var/lib/jit-agent 0700 jit-agent jit-agent"
    );
    // systemd mounts it with mode 0700, and the service's user has to pass.
    assert_eq!(of("/sys/fs/bpf")[..5].join(" "), "z /sys/fs/bpf 0711 root root");
}

#[test]
fn nothing_keeps_the_agent_from_the_hosts_interfaces() {
    for unit in UNITS.map(packaging) {
        for setting in ["DynamicUser", "PrivateNetwork", "PrivateUsers"] {
            assert_eq!(values(&unit, setting), ["no"], "{setting}");
        }
        let families = words(&unit, "RestrictAddressFamilies");
        // Netlink reports interfaces, and destroys the sockets of sessions that are cut.
        assert!(families.contains(&"AF_NETLINK") && families.contains(&"AF_UNIX"), "{families:?}");
        let calls = words(&unit, "SystemCallFilter");
        assert!(
            calls.contains(&"@system-service")
                && !calls.iter().any(|call| call.contains("network"))
        );
    }
    let families = packaging(UNITS[0]);
    assert_eq!(
        words(&families, "RestrictAddressFamilies"),
        ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"]
    );
}

/// What the one unit forbids, the other forbids too; each difference has its reason.
#[test]
fn both_units_have_one_sandbox() {
    let sandbox = |name: &str| -> Vec<String> {
        let unit = packaging(name);
        let (_, hardening) = unit.split_once("KeyringMode=").expect("the block of the sandbox");
        let lines = hardening.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
        let lines =
            lines.filter(|line| !line.starts_with("WantedBy=") && !line.starts_with("Also="));
        lines.map(str::to_owned).collect()
    };
    let [daemon, early] = UNITS.map(sandbox);
    let alone = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    assert_eq!(
        alone(&daemon, &early),
        [
            "PrivateTmp=yes",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
            "SystemCallFilter=capset seccomp"
        ],
        "it would require mounts; it talks to nobody, and starts no process that does"
    );
    assert_eq!(alone(&early, &daemon), ["RestrictAddressFamilies=AF_NETLINK AF_UNIX"]);
    assert!(daemon.len() > 20, "{daemon:?}");
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
fn what_the_unit_says_to_read_is_what_the_packages_hold() {
    let unit = packaging("jit-agent.service");
    let contents = packaging("../../xtask/src/dist/contents.rs");
    for page in words(&unit, "Documentation") {
        let name = page.strip_prefix("file:/usr/share/doc/jit-agent/").expect("an installed file");
        assert!(!packaging(&format!("../docs/{name}")).is_empty());
        assert!(contents.contains("Directory(\"jit-agent/docs\")"));
        assert!(contents.contains("\"/usr/share/doc/jit-agent/\""));
    }
    assert!(!words(&unit, "Documentation").is_empty());
}

#[test]
fn gate_comes_before_the_network() {
    for unit in UNITS.map(packaging) {
        assert_eq!(values(&unit, "DefaultDependencies"), ["no"]);
        assert!(words(&unit, "Before").contains(&"network-pre.target"));
        assert!(words(&unit, "Wants").contains(&"network-pre.target"));
        assert_eq!(values(&unit, "WantedBy"), ["sysinit.target"]);
    }
    let [daemon, early] = UNITS.map(packaging);
    assert_eq!(values(&daemon, "Type"), ["notify"]);
    assert!(!values(&daemon, "WatchdogSec").is_empty());
    // The one that is enabled brings the other along, at a start as well as at a boot.
    assert!(words(&daemon, "Wants").contains(&"jit-agent-early.service"));
    assert!(words(&daemon, "After").contains(&"jit-agent-early.service"));
    assert!(words(&early, "Before").contains(&"jit-agent.service"));
    assert_eq!(values(&daemon, "Also"), ["jit-agent-early.service"]);
}

/// A file system that cannot be mounted, or a disk that hangs, ends neither the boot nor the gate.
#[test]
fn the_early_unit_requires_nothing_and_ends() {
    let early = packaging(UNITS[1]);
    assert_eq!(values(&early, "Type"), ["oneshot"]);
    assert_eq!(
        values(&early, "RemainAfterExit"),
        ["yes"],
        "a start of the daemon does not repeat it"
    );
    assert_eq!(values(&early, "TimeoutStartSec"), ["90s"]);
    // Some of these require mounts by themselves (systemd.exec(5)).
    for setting in [
        "Requires",
        "Requisite",
        "BindsTo",
        "RequiresMountsFor",
        "PrivateTmp",
        "StateDirectory",
        "RuntimeDirectory",
        "WorkingDirectory",
        "LogsDirectory",
        "Restart",
        "ExecStartPre",
    ] {
        assert!(values(&early, setting).is_empty(), "{setting}");
    }
    let [daemon] = [packaging(UNITS[0])];
    let file = |unit: &str, command: &str| {
        let start = values(unit, "ExecStart")[0].to_owned();
        start.split_once(command).expect(command).1.to_owned()
    };
    assert_eq!(file(&early, " early "), file(&daemon, " run "), "one configuration");
}

#[test]
fn stopping_the_unit_runs_nothing_that_opens_the_gate() {
    for unit in UNITS.map(packaging) {
        assert!(values(&unit, "ExecStop").is_empty() && values(&unit, "ExecStopPost").is_empty());
    }
}

#[test]
fn the_packages_scripts_are_sound() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jit-agent/packaging");
    for directory in [agent.join("controller"), agent] {
        let output = Command::new("shellcheck")
            .args(["--shell=sh", "--severity=style", "package.sh", "deb/postinst", "deb/prerm"])
            .args(["deb/postrm", "rpm/post.sh", "rpm/preun.sh", "rpm/postun.sh"])
            .current_dir(&directory)
            .output()
            .expect("shellcheck is installed: `cargo xtask setup`");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", directory.display());
    }
}

/// As dpkg (deb-policy, chapter 6) and rpm call them.
#[test]
fn only_a_removal_takes_the_gate_off_or_stops_the_controller_and_an_upgrade_does_not() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package-scripts");
    fs::create_dir_all(&directory).expect("cargo's directory for tests can be written");
    for (script, arguments, step) in [
        ("deb/postinst", "configure", "configure"),
        ("deb/postinst", "configure 0.1.0", "configure"),
        ("deb/postinst", "abort-upgrade 0.2.0", ""),
        ("deb/postinst", "abort-remove", ""),
        ("deb/prerm", "upgrade 0.2.0", ""),
        ("deb/prerm", "failed-upgrade 0.1.0", ""),
        ("deb/prerm", "deconfigure in-favour other 1", ""),
        ("deb/prerm", "remove", "remove"),
        ("rpm/post.sh", "1", "configure"),
        ("rpm/post.sh", "2", "configure"),
        ("rpm/preun.sh", "1", ""),
        ("rpm/preun.sh", "0", "remove"),
    ] {
        for (script, package) in [
            (script.to_owned(), "/usr/lib/jit-agent/package"),
            (format!("controller/{script}"), "/usr/lib/jit-controller/package"),
        ] {
            // The steps are printed instead.
            let text = packaging(&script).replace(package, "echo");
            let copy = directory.join("script");
            fs::write(&copy, text).expect("the copy can be written");
            let output = Command::new("sh").arg(&copy).args(arguments.split(' ')).output();
            let output = output.expect("a shell");
            assert!(output.status.success(), "{script} {arguments}: {output:?}");
            let steps = String::from_utf8_lossy(&output.stdout);
            assert_eq!(steps.trim(), step, "{script} {arguments}");
        }
    }
}
