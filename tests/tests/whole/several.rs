//! Hosts that ask for signatures of people beside the controller's: with a key in a file, in an ssh-agent
//! and in a PKCS#11 module, each as a person signs with it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_client::controller::{
    call::Call,
    types::{AccessView, RequestView, ShortenInput},
};
use jit_tests::controller::{
    CLIENT, START, Stage,
    people::{Person, access},
    said,
};

use rustix::process::Signal;

use crate::asked::until;

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const SCOPES: [&str; 4] = ["approve", "read", "request", "signatures"];

/// A process that ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn run(program: &str, arguments: &[&str], variable: (&str, &Path)) {
    let mut command = Command::new(program);
    command.args(arguments).env(variable.0, variable.1).stdin(Stdio::null());
    good(&command.output().unwrap_or_else(|error| {
        panic!("{program} does not start ({error}); `cargo xtask setup` installs it")
    }));
}

/// `jitctl` with what finds the keys of the test.
fn jitctl(stage: &Stage, person: &Person, arguments: &[&str]) -> Output {
    let mut command = stage.jitctl_command(person, arguments);
    command.env("SSH_AUTH_SOCK", stage.path("agent.sock"));
    command.env("SOFTHSM2_CONF", stage.path("softhsm2.conf"));
    stage.hub.run(|| command.output().unwrap())
}

fn text(stage: &Stage, name: &str) -> String {
    stage.path(name).display().to_string()
}

/// A key in a file, one in an ssh-agent and one in a module, as `--signing-key` names them.
fn keys(stage: &Stage) -> (Agent, [String; 3]) {
    let keygen = |algorithm: &str, name: &str| {
        let out = text(stage, name);
        let arguments = ["keygen", "--algorithm", algorithm, "--out", &out];
        good(&jitctl(stage, &stage.admin, &arguments));
    };
    keygen("ed25519", "li");
    let socket = stage.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    let agent = agent.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn();
    let agent = Agent(agent.unwrap());
    while !socket.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let file = text(stage, "bo");
    let variable = ("SSH_AUTH_SOCK", socket.as_path());
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "bo", "-f", &file], variable);
    run("ssh-add", &["-q", &file], variable);
    keygen("p256", "cy");
    let configuration = stage.path("softhsm2.conf");
    fs::create_dir(stage.path("tokens")).unwrap();
    let tokens = format!("directories.tokendir = {}\n", text(stage, "tokens"));
    fs::write(&configuration, tokens).unwrap();
    fs::write(stage.path("pin"), "8451\n").unwrap();
    let variable = ("SOFTHSM2_CONF", configuration.as_path());
    let init = ["--init-token", "--free", "--label", "card", "--so-pin", "9999", "--pin", "8451"];
    run("softhsm2-util", &init, variable);
    let file = text(stage, "cy.key");
    let import =
        ["--import", &file, "--token", "card", "--label", "cy", "--id", "01", "--pin", "8451"];
    run("softhsm2-util", &import, variable);
    // What is left of it is in the module.
    fs::remove_file(file).unwrap();
    let module = format!(
        "pkcs11:token=card;object=cy?module-path={SOFTHSM}&pin-source=file:{}",
        text(stage, "pin")
    );
    (agent, [text(stage, "li.key"), "ssh-agent:bo".into(), module])
}

#[test]
fn people_sign_with_keys_in_a_file_an_agent_and_a_module_and_a_host_opens_after_the_last() {
    let mut stage = Stage::new(None);
    let number = stage.add_host("web-1", &[("env", "stage")]);
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let people = ["li", "bo", "cy"];
    let signers = people.map(|name| {
        let person = stage.person(name, &format!("{name}@example.org"), &["sre"], &SCOPES);
        stage.login(&stage.hub, &person);
        person
    });
    stage.login(&stage.hub, &stage.admin);
    let (_agent, keys) = keys(&stage);
    // The host has the public halves, and asks for the controller's signature and three of people.
    let config = stage.host(number).path("config.toml");
    let asks = fs::read_to_string(&config).unwrap();
    let mut asks = asks.replacen("port = 22\n", "port = 22\napprovals = 4\n", 1);
    for (name, key) in people.iter().zip(&keys) {
        let pem = good(&jitctl(&stage, &stage.admin, &["accounts", "keys", "show", key]));
        let file = text(&stage, &format!("{name}.registered.pem"));
        fs::write(&file, pem).unwrap();
        asks.push_str(&format!(
            "[[signer]]\nid = \"{name}\"\npublic_key = \"{file}\"\nsigns = [\"grant\"]\n"
        ));
    }
    fs::write(&config, asks).unwrap();
    stage.host_mut(number).spawn();
    stage.host_mut(number).wait();
    stage.wait_until_enforcing("web-1");

    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    let sign = |number: usize| {
        let arguments = ["approve", &asked.id, "--yes", "--signing-key", &keys[number]];
        jitctl(&stage, &signers[number], &arguments)
    };
    // A key that nobody has registered: approved, and the signature is refused with what to run.
    let refused = sign(0);
    assert_eq!(refused.status.code(), Some(77), "{}", said(&refused));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("unknown_key"), "{complaint}");
    assert!(complaint.contains("jitctl accounts keys add li --public-key"), "{complaint}");
    for name in people {
        let file = text(&stage, &format!("{name}.registered.pem"));
        let add = ["accounts", "keys", "add", name, "--public-key", &file];
        good(&jitctl(&stage, &stage.admin, &add));
    }
    for number in [0, 1, 2] {
        assert!(!stage.client_opens(0, 22));
        assert_eq!(ana.request(&asked.id).state, "awaiting_signatures");
        good(&sign(number));
    }
    let open = ana.settled(&asked.id);
    assert_eq!(open.state, "open", "{open:?}");
    assert!(stage.client_gets_in(0, 22));
}

/// Who agreed to more has agreed to less: the host's own record of a shortened grant names them.
#[test]
fn the_hosts_record_of_a_shortened_grant_names_who_had_agreed() {
    let (stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    li.approve(&asked.id);
    assert_eq!(ana.settled(&asked.id).state, "open");
    let input =
        ShortenInput { ends_ms: Some(asked.created_ms + 600_000), ..ShortenInput::default() };
    let call = Call::post(["requests", &asked.id, "shorten"]).json(&input);
    let shorter: RequestView = ana.get(&call);
    until(&ana, &shorter.id, |view| view.state == "open");
    let audit = stage.host(0).audit();
    for id in [&asked.id, &shorter.id] {
        let named = audit.iter().filter(|one| one["grant"] == **id && !one["approvers"].is_null());
        let named: Vec<_> = named.map(|one| &one["approvers"]).collect();
        assert!(!named.is_empty(), "{id}: {audit:#?}");
        assert!(named.iter().all(|one| one[0] == "li@example.org"), "{id}: {named:?}");
    } // The host has ended the longer one, so nobody could get in by it any more.
    let call = Call::get(["access"]).query("host", "web-1");
    let requests = || {
        let access: AccessView = stage.admin.get(&call);
        access.entries.into_iter().map(|one| one.request).collect::<Vec<_>>()
    };
    let end = Instant::now() + START;
    while requests() != [shorter.id.as_str()] {
        assert!(Instant::now() < end, "{:?}", requests());
        thread::sleep(Duration::from_millis(100));
    }
    let view = ana.request(&asked.id);
    assert_eq!((view.state.as_str(), view.answers[0].word.as_str()), ("ended", "replaced"));
}

/// Whatever reaches the host first when it is back: only the shorter time is open, and not after it was
/// revoked either.
#[test]
fn what_is_shortened_while_its_host_is_away_never_opens_for_longer() {
    let (mut stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    for revoked in [false, true] {
        stage.host_mut(0).end(Signal::TERM);
        let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
        li.approve(&asked.id);
        until(&ana, &asked.id, |view| view.state == "delivering" && view.counts.unreachable == 1);
        let ends_ms = Some(asked.created_ms + 600_000);
        let input = ShortenInput { ends_ms, ..ShortenInput::default() };
        let call = Call::post(["requests", &asked.id, "shorten"]).json(&input);
        let shorter: RequestView = ana.get(&call);
        until(&ana, &shorter.id, |view| view.state == "delivering");
        if revoked {
            ana.revoke(&shorter.id);
            assert_eq!(ana.request(&asked.id).state, "revoked");
        }
        stage.host_mut(0).start();
        if !revoked {
            until(&ana, &shorter.id, |view| view.state == "open");
        }
        until(&ana, &asked.id, |view| view.counts.closed == 1);
        let status = stage.host(0).status();
        let live: Vec<_> =
            status["grants"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
        let expected: &[&str] = if revoked { &[] } else { &[&shorter.grants[0].id] };
        assert_eq!(live, expected, "{status:#}");
        assert_eq!(stage.client_opens(0, 22), !revoked);
        if !revoked {
            ana.revoke(&shorter.id);
            until(&ana, &shorter.id, |view| view.counts.closed == 1);
        }
    }
}
