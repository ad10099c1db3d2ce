//! What keeps the agent from starting: one clear error, the right exit code, nothing half-attached.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use jit_tests::{agent::Site, programs::binary};

/// Runs the agent, which must end by itself with this code and these words, and leave every port
/// open.
#[track_caller]
fn refuses(site: &Site, code: i32, says: &[&str]) {
    check(site, &site.run(&["run"]), code, says);
}

#[track_caller]
fn check(site: &Site, output: &Output, code: i32, says: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    for text in says {
        assert!(errors.contains(text), "{text:?} is not in: {errors}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
    let lines = errors.lines().filter(|line| line.starts_with("jit-agent: ")).count();
    assert_eq!(lines, 1, "one error: {errors}");
    assert!(site.stranger_gets_in(0, 22) && site.client_gets_in(0, 22), "nothing is half-attached");
}

#[test]
fn a_bad_value_names_file_line_and_key() {
    let site = Site::new();
    site.configure("[[port]]\nport = 23\nprotocol = \"tpc\"\nsources = []\n");
    refuses(&site, 78, &["config.toml", "tpc", "line"]);
    site.configure("[gaet]\n");
    refuses(&site, 78, &["gaet", "line"]);
    let output = site.run(&["check"]);
    assert_eq!(output.status.code(), Some(78));
}

/// The agent itself starts without it (`broken_surroundings`).
#[test]
fn an_unreadable_or_foreign_key_is_refused_by_check_by_name() {
    let site = Site::new();
    let refuses = |says: &[&str]| check(&site, &site.run(&["check"]), 78, says);
    fs::rename(site.path("signer.pem"), site.path("moved.pem")).unwrap();
    refuses(&["signer.pem", "No such file"]);
    fs::write(site.path("signer.pem"), "not a key").unwrap();
    refuses(&["signer.pem", "PEM"]);
    fs::copy(site.path("moved.pem"), site.path("signer.pem")).unwrap();
    fs::set_permissions(site.path("signer.pem"), fs::Permissions::from_mode(0o666)).unwrap();
    refuses(&["signer.pem", "others could write"]);
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    let site = Site::new();
    fs::set_permissions(site.config(), fs::Permissions::from_mode(0o666)).unwrap();
    refuses(&site, 78, &["config.toml", "others could write"]);
}

#[test]
fn a_missing_capability_is_named() {
    let site = Site::new();
    for (drop, name) in
        [("-bpf", "CAP_BPF"), ("-net_admin", "CAP_NET_ADMIN"), ("-perfmon", "CAP_PERFMON")]
    {
        let output = site.host.run(|| {
            Command::new("setpriv")
                .args(["--bounding-set", drop, "--inh-caps", drop])
                .arg(binary("jit-agent"))
                .arg("run")
                .arg("--config")
                .arg(site.config())
                .output()
                .unwrap()
        });
        check(&site, &output, 77, &["missing", name]);
    }
}

#[test]
fn pins_off_a_bpf_file_system_are_refused() {
    let site = Site::new();
    let pins = format!("pins = \"{}\"", site.pins().display());
    let other = format!("pins = \"{}\"", site.path("pins").display());
    site.write_config(&site.base("[\"*\"]", "auto").replace(&pins, &other));
    refuses(&site, 69, &["BPF file system", "mount -t bpf"]);
}

#[test]
fn a_pin_directory_that_others_can_write_is_refused() {
    let site = Site::new();
    fs::create_dir(site.pins()).unwrap();
    fs::set_permissions(site.pins(), fs::Permissions::from_mode(0o777)).unwrap();
    refuses(&site, 77, &["jit-test-", "others could write"]);
}

#[test]
fn native_xdp_refused_beside_another_program_is_reported_and_the_others_hold() {
    use aya::programs::XdpMode;
    let mut site = Site::new();
    let mut foreign = jit_tests::kernel::Kernel::load();
    let index = site.host.index("s0");
    let _link = site.host.run(|| foreign.attach("jit_gate", index, XdpMode::Driver));
    site.configure_gate("[\"*\"]", "native");
    site.start();
    let (status, code) = site.status();
    assert_eq!(code, 1, "{status:#}");
    let problems = status["problems"].to_string();
    assert!(problems.contains("s0 is left to the socket guard"), "{problems}");
    assert!(problems.contains("another XDP program"), "{problems}");
    assert!(!site.client_opens(0, 22) && !site.client_opens(1, 22));
}

#[test]
fn a_second_agent_is_refused_and_the_first_is_unharmed() {
    let mut site = Site::new();
    site.start();
    let output = site.run(&["run"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains("another jit-agent"), "{errors}");
    site.assert_closed_to_all();
    assert_eq!(site.status().1, 0);
}

#[test]
fn pinned_tables_of_another_size_are_refused_and_stay_in_force() {
    let mut site = Site::new();
    site.start();
    site.end(rustix::process::Signal::TERM);
    // With the copy of the last good configuration the agent would start with that.
    drop(fs::remove_file(site.path("state/configuration.last-good")));
    site.configure("[limits]\nhosts = 77\n");
    let output = site.run(&["run"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{errors}");
    assert!(errors.contains("number of entries"), "{errors}");
    assert!(errors.contains("an earlier run pinned stays in force"), "{errors}");
    site.assert_closed_to_all();
}

#[test]
fn the_kernels_type_information_is_not_needed() {
    let mut site = Site::new();
    let child = site.host.run(|| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs none /sys/kernel/btf && exec \"$@\"")
            .arg("sh")
            .arg(binary("jit-agent"))
            .arg("run")
            .arg("--config")
            .arg(site.config())
            .stderr(fs::File::create(site.path("log")).unwrap())
            .spawn()
            .unwrap()
    });
    site.adopt_process(child);
    site.assert_closed_to_all();
}

#[test]
fn usage_errors_and_help_have_their_codes() {
    let run = |arguments: &[&str]| Command::new(binary("jit-agent")).args(arguments).output();
    assert_eq!(run(&["frobnicate"]).unwrap().status.code(), Some(64));
    assert_eq!(run(&[]).unwrap().status.code(), Some(64));
    let help = run(&["--help"]).unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("status"));
}
