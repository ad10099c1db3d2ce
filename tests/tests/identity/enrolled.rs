//! A machine becomes a host: it makes its key, proves by a token who it is, gets its certificate
//! from a real controller, dials the hub with it, and is opened. Who comes second waits for a
//! person.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
    thread,
    time::Duration,
};

use jit_client::controller::types::EnrolmentView;
use jit_tests::{
    controller::{
        API_PORT, CLIENT, CONTROLLER, Stage,
        people::{Person, access},
        said, succeed,
    },
    programs::binary,
};
use rustix::process::Signal;

/// The sections by which hosts enrol and dial.
const SECTIONS: &str = r#"
[hub]
listen = "198.18.0.1:7444"
certificate = "pki/hub.pem"
key = "pki/hub.key"
client_ca = "hosts/ca.pem"
[signer.authority]
certificate = "hosts/ca.pem"
key = "hosts/ca.key"
trust_domain = "example.org"
lifetime = "LIFETIME"
[enrolment]
hub_ca = "pki/ca.pem"
hubs = ["198.18.0.1:7444"]
"#;

/// A controller at which machines enrol, with its administrator logged in, and two people of `sre`.
/// `lifetime`: of hosts' certificates.
pub(crate) fn stage(lifetime: &str) -> (Stage, [Person; 2]) {
    let mut stage = Stage::new(None);
    stage.end_controller(Signal::TERM);
    let identity = format!("spiffe://{CONTROLLER}/jit-controller");
    for arguments in [
        &["init", "--dir", "hosts", "--name", "hosts"][..],
        &["issue", "--dir", "pki", "--name", "hub", "--ip", CONTROLLER, "--uri", &identity],
    ] {
        let mut jitctl = Command::new(binary("jitctl"));
        succeed(jitctl.arg("pki").args(arguments).current_dir(stage.own("")));
    }
    let file = stage.own("controller.toml");
    let text = fs::read_to_string(&file).unwrap();
    let sections = SECTIONS.replace("LIFETIME", lifetime);
    fs::write(&file, text + &sections).unwrap();
    stage.start_controller(&[]);
    stage.login(&stage.hub, &stage.admin);
    let scopes = ["approve", "read", "request"];
    let people = ["ana", "li"].map(|name| {
        stage.person(name, &format!("{name}@example.org"), &["developers", "sre"], &scopes)
    });
    (stage, people)
}

/// Runs `jitctl enrolments` as the administrator; returns what it prints.
#[track_caller]
fn enrolments(stage: &Stage, arguments: &[&str]) -> String {
    let output = stage.jitctl(&stage.hub, &stage.admin, &[&["enrolments"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a new token for hosts with this label `env` into a file of the stage.
#[track_caller]
pub(crate) fn token(stage: &Stage, env: &str, uses: &str, lasts: &str) -> String {
    let label = format!("env={env}");
    let made = ["token", "create", "--label", &label, "--uses", uses, "--for", lasts];
    let text = enrolments(stage, &made);
    fs::write(stage.path("token"), &text).unwrap();
    text.trim().to_owned()
}

/// A machine asks once.
fn enrol(stage: &Stage, number: usize) -> Output {
    let (url, ca) = (format!("https://{CONTROLLER}:{API_PORT}"), stage.own("pki/ca.pem"));
    let token = stage.path("token");
    let arguments = ["enrol", "--no-wait", "--controller", &url, "--token-file"];
    let arguments = [&arguments[..], &[token.to_str().unwrap(), "--ca", ca.to_str().unwrap()]];
    stage.host(number).run(&arguments.concat())
}

/// A machine asks, gets its certificate, and dials with the section that was printed.
#[track_caller]
pub(crate) fn enrol_and_start(stage: &mut Stage, number: usize) {
    let output = enrol(stage, number);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, section) = text.split_once("[uplink]").unwrap();
    let (section, _) = section.split_once("\n\nThen: ").unwrap();
    let host = stage.host_mut(number);
    for (file, mode) in [("agent.key", 0o640), ("agent.pem", 0o640), ("hub-ca.pem", 0o640)] {
        let metadata = fs::metadata(host.path(&format!("tls/{file}"))).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
    assert!(!host.path("tls/enrolling.key").exists());
    host.configure_uplink(&format!("[uplink]{section}\n"));
    host.start();
}

/// A machine asks, and is refused with these words; it gets nothing.
#[track_caller]
fn assert_refused(stage: &Stage, number: usize, words: &str) {
    let output = enrol(stage, number);
    let text = said(&output);
    println!("{text}");
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("enrolment_refused") && text.contains(words), "{words}: {text}");
    assert!(!stage.host(number).path("tls/agent.pem").exists());
}

/// What two agree on opens on this machine for the client, and for nobody else.
#[track_caller]
pub(crate) fn assert_opens(stage: &Stage, [ana, li]: &[Person; 2], number: usize, host: &str) {
    stage.wait_until_enforcing(host);
    assert!(!stage.client_opens(number, 22));
    let asked = ana.ask(&access(&[host], CLIENT, "30m"));
    li.approve(&asked.id);
    let open = li.settled(&asked.id);
    assert_eq!((open.state.as_str(), open.counts.open), ("open", 1), "{open:#?}");
    assert!(stage.client_opens(number, 22), "{}", stage.host(number).log());
    assert!(!stage.stranger_opens(number, 22));
    li.revoke(&asked.id);
}

#[test]
fn a_machine_with_a_token_becomes_a_host_that_dials_and_opens() {
    let (mut stage, people) = stage("1h");
    let [first, second, listed] = ["web-1", "web-2", "db-1"].map(|id| stage.add_machine(id));
    let text = token(&stage, "stage", "1", "1h");
    enrol_and_start(&mut stage, first);
    assert_opens(&stage, &people, first, "web-1");
    let host = stage.admin.host("web-1");
    assert_eq!(host.labels.get("env").map(String::as_str), Some("stage"), "{host:#?}");
    assert_eq!(host.address, "", "nobody can dial it");
    let status = stage.host(first).status();
    assert_eq!(status["uplink"]["connected"], true, "{status:#}");
    assert!(status["control"].is_null(), "{status:#}");

    // Its one use is used.
    assert_refused(&stage, second, "the token does not count");
    token(&stage, "stage", "1", "1s");
    thread::sleep(Duration::from_millis(1100));
    assert_refused(&stage, second, "the token does not count");
    // A token for test machines makes none of production.
    stage.enter_host(listed, "db-1", &[("env", "prod")]);
    token(&stage, "stage", "1", "1h");
    assert_refused(&stage, listed, "env = stage");
    // The use is still there, and not for whoever copies its beginning.
    enrol_and_start(&mut stage, second);
    assert_opens(&stage, &people, second, "web-2");

    let codes: Vec<_> = stage.admin.audit().into_iter().map(|one| one.code).collect();
    for (code, count) in [("E001", 3), ("E003", 2), ("E006", 2), ("E004", 0)] {
        assert_eq!(codes.iter().filter(|one| *one == code).count(), count, "{code}: {codes:?}");
    }
    stage.end_controller(Signal::TERM);
    let stored = fs::read(stage.own("controller.db")).unwrap();
    assert!(!stored.windows(text.len()).any(|part| part == text.as_bytes()), "a token is stored");
    assert!(!stage.log().contains(&text), "a token in the log");
}

#[test]
fn who_comes_second_waits_until_a_person_has_compared_and_decided() {
    let (mut stage, people) = stage("1h");
    let [first, second, third] = ["web-1"; 3].map(|id| stage.add_machine(id));
    token(&stage, "stage", "9", "1h");
    enrol_and_start(&mut stage, first);
    assert_opens(&stage, &people, first, "web-1");

    let waits = enrol(&stage, second);
    assert_eq!(waits.status.code(), Some(1), "{}", said(&waits));
    let list = || -> Vec<EnrolmentView> {
        serde_json::from_str(&enrolments(&stage, &["--json"])).unwrap()
    };
    let waiting = list();
    let [one] = &waiting[..] else { panic!("one waits: {waiting:#?}") };
    let shown = format!("(CSR {})", &one.csr_sha256[..16]);
    assert!(said(&waits).contains(&shown), "{}", said(&waits));
    assert!(one.why.contains("web-1 has asked before"), "{one:#?}");
    assert!(!stage.host(second).path("tls/agent.pem").exists());
    let again = enrol(&stage, second);
    assert_eq!(again.status.code(), Some(1), "it still waits: {}", said(&again));
    assert_eq!(list().len(), 1, "the same request is one");

    // The first machine is gone: the second one was installed in its place.
    let id = one.id.clone();
    stage.host_mut(first).end(Signal::KILL);
    enrolments(&stage, &["accept", &id]);
    enrol_and_start(&mut stage, second);
    assert_opens(&stage, &people, second, "web-1");

    // A third one is nobody that a person knows.
    assert_eq!(enrol(&stage, third).status.code(), Some(1));
    let waiting: Vec<EnrolmentView> =
        serde_json::from_str(&enrolments(&stage, &["--json"])).unwrap();
    enrolments(&stage, &["refuse", &waiting[0].id]);
    assert_refused(&stage, third, "a person has refused");
    assert!(!stage.host(third).path("tls/enrolling.key").exists(), "the next asks with another");
    let codes: Vec<_> = stage.admin.audit().into_iter().map(|one| one.code).collect();
    for (code, count) in [("E003", 1), ("E004", 2), ("E005", 2), ("E006", 2)] {
        assert_eq!(codes.iter().filter(|one| *one == code).count(), count, "{code}: {codes:?}");
    }
}
