//! `jit-agent init` with real listeners and peers: what it writes is accepted, serves a controller with
//! the certificate that was signed for it, and shuts nobody out.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use jit_tests::{
    agent::{CLIENT, HOST, STRANGER, Site, TO_CLIENT, TO_STRANGER, address},
    programs::binary,
    terminal::Terminal,
};
use serde_json::Value;

use crate::hub::{Hub, Shows};

const CONTROLLER: &str = "spiffe://example.org/jit-controller";

/// A site with the keys of a signer and a CA, and an empty directory for what `init` writes.
fn site() -> Site {
    let site = Site::new();
    for line in [
        "keygen --algorithm ed25519 --out prod-2026",
        "pki init --dir pki",
        "pki issue --dir pki --name controller --uri spiffe://example.org/jit-controller",
    ] {
        jitctl(&site, line);
    }
    fs::create_dir(etc(&site)).unwrap();
    site
}

fn etc(site: &Site) -> PathBuf {
    site.path("etc")
}

fn jitctl(site: &Site, line: &str) -> Output {
    let output = site.client.run(|| {
        let mut command = Command::new(binary("jitctl"));
        command.args(line.split(' ')).current_dir(site.path("")).output().unwrap()
    });
    assert!(output.status.success(), "jitctl {line}: {output:?}");
    output
}

/// `init` into the directory, without questions.
fn init(site: &Site, more: &[&str]) -> (i32, String) {
    let output = site.host.run(|| {
        let mut command = Command::new(binary("jit-agent"));
        command.args(["init", "--yes", "--host-id", HOST, "--output"]).arg(etc(site));
        command.args(more).current_dir(site.path("")).env("NO_COLOR", "1").output().unwrap()
    });
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_init_writes_serves_a_controller_and_shuts_nobody_out() {
    let mut site = site();
    let here =
        ["--signer", "prod-2026.pub.pem", "--controller", CONTROLLER, "--name", TO_CLIENT[0]];
    // This test is what started `init`, and has the server's end: that is the caller's own session.
    let to = address(TO_STRANGER, 0, 22);
    let connected = site.stranger.run(|| TcpStream::connect(to).unwrap());
    let (code, page) = init(&site, &here);
    assert_eq!(code, 0, "{page}");
    for says in
        ["22/tcp", STRANGER[0], "prod-2026", "pki issue", "enable --now", "jit-agent confirm"]
    {
        assert!(page.contains(says), "{says:?} is not in: {page}");
    }
    drop(connected);
    assert_eq!(names(&etc(&site)), ["config.toml", "signers", "tls"]);
    let config = etc(&site).join("config.toml");
    let first = fs::read_to_string(&config).unwrap();
    assert!(first.contains(&format!("{{ source = \"{}\"", STRANGER[0])), "{first}");
    let check = site.host.run(|| {
        let mut command = Command::new(binary("jit-agent"));
        command.args(["check", "--config"]).arg(&config).output().unwrap()
    });
    assert_eq!(check.status.code(), Some(0), "{check:?}");

    jitctl(&site, "pki issue --dir pki --name agent --csr etc/tls/agent.csr");
    for name in ["agent.pem", "ca.pem"] {
        fs::copy(site.path("pki").join(name), etc(&site).join("tls").join(name)).unwrap();
    }
    let (code, text) = init(&site, &[&here[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!((code, &report["listens"], &report["key_is_new"]), (0, &true.into(), &false.into()));
    assert_eq!(report["kept"], Value::Null, "nobody edited it: {text}");

    // The same with places of the test.
    let base = site.base("[\"*\"]", "auto");
    let (_, paths) = base.split_once("[paths]").unwrap();
    let text = fs::read_to_string(&config).unwrap();
    site.write_config(&format!("{text}\n[paths]{paths}"));
    site.start();
    assert!(site.stranger_gets_in(0, 22) && site.client_gets_in(1, 22), "observe mode");
    let list = format!(
        "--agent {}:7443 --ca pki/ca.pem --cert pki/controller.pem --key pki/controller.key list",
        TO_CLIENT[0]
    );
    jitctl(&site, &list);
}

#[test]
fn with_a_hub_what_init_writes_connects_to_it_and_listens_nowhere() {
    let mut site = site();
    let name = "spiffe://example.org/jit-hub";
    let issue = format!("pki issue --dir pki --name hub --ip {} --uri {name}", CLIENT[0]);
    jitctl(&site, &issue);
    let at = format!("{}:7444", CLIENT[0]);
    let here = ["--signer", "prod-2026.pub.pem", "--controller", name, "--uplink", &at];
    let (code, says) = init(&site, &["--proxy", "none"]);
    assert_eq!(code, 64, "a proxy without a hub: {says}");
    let (code, page) = init(&site, &here);
    assert!(code == 0 && page.contains(&at) && page.contains("pki issue"), "{page}");
    jitctl(&site, "pki issue --dir pki --name agent --csr etc/tls/agent.csr");
    for name in ["agent.pem", "ca.pem"] {
        fs::copy(site.path("pki").join(name), etc(&site).join("tls").join(name)).unwrap();
    }
    let (code, text) = init(&site, &[&here[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let said = (&report["dials"], &report["listens"], &report["hubs"][0]);
    assert_eq!((code, said), (0, (&true.into(), &false.into(), &at.clone().into())), "{text}");

    // The same with places of the test.
    let base = site.base("[\"*\"]", "auto");
    let (_, paths) = base.split_once("[paths]").unwrap();
    let text = fs::read_to_string(etc(&site).join("config.toml")).unwrap();
    site.write_config(&format!("{text}\n[paths]{paths}"));
    let hub = Hub::start(&site, &at, &Shows::name("hub"));
    site.start();
    let mut agent = hub.agent(Duration::from_secs(20));
    assert_eq!(hub.run(agent.status()).unwrap().host, HOST);
    assert!(site.stranger_gets_in(0, 22), "observe mode");
}

#[test]
fn an_edited_configuration_stays_and_force_keeps_it() {
    let site = site();
    let config = etc(&site).join("config.toml");
    fs::write(&config, "# by hand\n").unwrap();
    let (code, says) = init(&site, &[]);
    assert_eq!(code, 78, "{says}");
    assert!(says.contains("--force") && says.contains("config.toml"), "{says}");
    assert_eq!(names(&etc(&site)), ["config.toml"], "nothing is written");
    let (code, says) = init(&site, &["--force", "--no-key"]);
    assert_eq!(code, 0, "{says}");
    let kept = names(&etc(&site)).into_iter().find(|name| name.contains(".old-")).unwrap();
    assert_eq!(fs::read_to_string(etc(&site).join(kept)).unwrap(), "# by hand\n");
    let (code, says) = init(&site, &["--no-key", "--port", "3389/tcp", "--exempt", CLIENT[0]]);
    assert_eq!(code, 0, "what init wrote it may replace: {says}");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("port = 3389") && text.contains(CLIENT[0]), "{text}");
}

#[test]
fn without_a_terminal_it_says_which_options_there_are() {
    let site = site();
    let mut command = Command::new(binary("jit-agent"));
    command.arg("init").arg("--output").arg(etc(&site)).stdin(std::process::Stdio::null());
    let output = site.host.run(|| command.output().unwrap());
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{says}");
    assert!(
        says.contains("--yes") && says.contains("--port") && says.contains("--dry-run"),
        "{says}"
    );
    let (code, text) = init(&site, &["--dry-run"]);
    assert!(code == 0 && text.contains("mode = \"observe\""), "{text}");
    assert!(names(&etc(&site)).is_empty(), "a dry run writes nothing");
}

#[test]
fn questions_are_asked_on_a_terminal_and_a_key_that_is_pressed_writes_nothing() {
    let site = site();
    let mut command = Command::new(binary("jit-agent"));
    command.args(["init", "--host-id", HOST, "--no-key", "--output"]).arg(etc(&site));
    let mut terminal = Terminal::start(&site.host, &command, 120, 40);
    terminal.wait_for(|screen| screen.contains("Ports to protect [22/tcp]"));
    terminal.press("\x03");
    assert!(!terminal.wait().success());
    assert!(names(&etc(&site)).is_empty(), "nothing is written");

    let mut terminal = Terminal::start(&site.host, &command, 120, 40);
    for (question, answer) in [
        ("Ports to protect", "22, nonsense\n"),
        ("nonsense", "22/tcp 3389/tcp\n"),
        ("widest sources", "203.0.113.0/24\n"),
        ("Except", "\n"),
        ("signers' public keys", "\n"),
        ("Controllers", "\n"),
        ("Where controllers connect", "none\n"),
        ("Hubs, as", "hub.example.org\n"),
        ("a port is missing", "hub.example.org:443\n"),
        ("Write", "\n"),
    ] {
        terminal.wait_for(|screen| screen.contains(question));
        terminal.press(answer);
    }
    assert!(terminal.wait().success(), "{}", terminal.screen());
    let text = fs::read_to_string(etc(&site).join("config.toml")).unwrap();
    assert!(text.contains("port = 3389") && text.contains("203.0.113.0/24"), "{text}");
    assert!(
        text.contains("hubs = [\"hub.example.org:443\"]") && !text.contains("[control]"),
        "{text}"
    );
}

#[test]
fn on_a_full_disk_nothing_is_half_written() {
    let site = site();
    let script = "mount -t tmpfs -o size=64k none \"$1\" && shift && \
                  dd if=/dev/zero of=\"$1/full\" bs=1k 2>/dev/null; \
                  \"$2\" init --yes --host-id h --output \"$1\"; echo \"code $?\"; ls -R \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(etc(&site)).arg(etc(&site));
    let output = site.host.run(|| command.arg(binary("jit-agent")).output().unwrap());
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("No space left") && text.contains("agent.key"), "{text}");
    assert!(
        !text.contains("code 0") && !text.contains("config.toml") && !text.contains(".new-"),
        "{text}"
    );
}

#[test]
fn a_directory_that_is_missing_is_made() {
    let site = site();
    let etc = format!("{}/made/here/", etc(&site).display());
    let output = site.host.run(|| {
        let mut command = Command::new(binary("jit-agent"));
        command.args(["init", "--yes", "--host-id", HOST, "--output", &etc]);
        command.args(["--signer", "prod-2026.pub.pem", "--controller", CONTROLLER]);
        command.current_dir(site.path("")).env("NO_COLOR", "1").output().unwrap()
    });
    let page = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{page}");
    assert_eq!(names(Path::new(&etc)), ["config.toml", "signers", "tls"]);
    // Each label is apart from its values.
    assert!(page.contains(&format!("controllers {CONTROLLER}\n")), "{page}");
}
