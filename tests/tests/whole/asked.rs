//! The life of a request: asked by one, agreed to by another, open where it should be, and ended. Both
//! audits say so.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio, thread, time::Duration};

use jit_client::controller::call::Call;
use jit_client::controller::types::{Page, RequestSummary, RequestView};
use jit_tests::{
    agent::PATIENCE,
    controller::{
        CLIENT, STRANGER, Stage,
        hosts::PORTS,
        people::{Person, decision},
        said,
    },
    netns::Namespace,
    programs::copy,
};
use serde_json::Value;

use crate::databases::postgres;

const HOSTS: [&str; 2] = ["web-1", "web-2"];
pub(crate) const SCOPES: [&str; 3] = ["approve", "read", "request"];

/// A stage with running hosts of this label `env`, and ana and li, who are both of `sre`; ana is of
/// `developers` too.
pub(crate) fn stage(database: Option<&str>, hosts: &[&str], env: &str) -> (Stage, Person, Person) {
    let mut stage = Stage::new(database);
    for id in hosts {
        let number = stage.add_host(id, &[("env", env)]);
        stage.host_mut(number).spawn();
    }
    for number in 0..hosts.len() {
        stage.host_mut(number).wait();
    }
    for id in hosts {
        stage.wait_until_enforcing(id);
    }
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let li = stage.person("li", "li@example.org", &["sre"], &SCOPES);
    (stage, ana, li)
}

#[test]
fn what_two_agree_on_opens_exactly_that_and_both_audits_say_so() {
    whole_life(None);
}

#[test]
fn the_same_with_postgres() {
    let database = postgres();
    whole_life(Some(&database.url));
}

fn whole_life(database: Option<&str>) {
    let (mut stage, ana, li) = stage(database, &HOSTS, "stage");
    stage.login(&stage.client, &ana);
    stage.login(&stage.hub, &li);
    let asked = stage.jitctl(
        &stage.client,
        &ana,
        &[
            "request",
            "web-1",
            "web-2",
            "--port",
            "22",
            "--for",
            "30m",
            "--why",
            "disk full",
            "--json",
        ],
    );
    assert_eq!(asked.status.code(), Some(0), "{}", said(&asked));
    let asked: RequestView = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!((asked.state.as_str(), asked.requester.as_str()), ("pending", "ana@example.org"));
    // `me` is the client's address as the hosts see it.
    assert_eq!(asked.sources, [CLIENT]);
    assert_closed(&stage);
    let own = ana.refused(&decision(&asked.id, "approve", &asked.hash));
    assert_eq!(own, "self_approval");

    let approve = ["approve", &asked.id, "--hash", &asked.hash, "--reason", "seen"];
    let approved = stage.jitctl(&stage.hub, &li, &approve);
    assert_eq!(approved.status.code(), Some(0), "{}", said(&approved));
    let open = li.settled(&asked.id);
    assert_eq!((open.state.as_str(), open.counts.open), ("open", 2), "{open:#?}");
    for number in [0, 1] {
        assert!(stage.client_gets_in(number, 22), "{}", stage.host(number).log());
        assert!(!stage.client_opens(number, 443), "a port that nobody asked for");
        for port in PORTS {
            assert!(!stage.stranger_opens(number, port), "{STRANGER}");
        }
    }

    let revoke = ["revoke", "--request", &asked.id, "--reason", "done"];
    let revoked = stage.jitctl(&stage.client, &ana, &revoke);
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    let closed = until(&li, &asked.id, |view| view.counts.closed == 2);
    assert_eq!(closed.state, "revoked");
    assert_closed(&stage);
    check_audits(&stage, &li, &open);
    // What the database, the log and an export have is no secret.
    stage.end_controller(rustix::process::Signal::TERM);
    for person in [&stage.admin, &ana, &li] {
        assert!(!stage.log().contains(&person.token), "a token in the log");
        if database.is_none() {
            let stored = fs::read(stage.own("controller.db")).unwrap();
            let token = person.token.as_bytes();
            assert!(!stored.windows(token.len()).any(|part| part == token), "a token is stored");
        }
    }
    let verified = stage.run_controller(&["verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
}

fn assert_closed(stage: &Stage) {
    for number in [0, 1] {
        assert!(!stage.client_opens(number, 22));
        assert!(!stage.stranger_opens(number, 22));
    }
}

/// Waits until a request is like this.
#[track_caller]
pub(crate) fn until(
    person: &Person,
    id: &str,
    condition: impl Fn(&RequestView) -> bool,
) -> RequestView {
    for _ in 0..600 {
        let view = person.request(id);
        if condition(&view) {
            return view;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("it did not come to this: {:#?}", person.request(id));
}

/// The audits of the controller and of the hosts name the same request, people, key and payload.
fn check_audits(stage: &Stage, li: &Person, open: &RequestView) {
    let [grant] = &open.grants[..] else { panic!("one grant: {open:#?}") };
    let [key] = &grant.signed_by[..] else { panic!("one key: {grant:#?}") };
    let records: Vec<_> = stage.admin_audit();
    let of = |code: &str| -> Vec<&Value> {
        records.iter().filter(|one| one["request"] == *open.id && one["code"] == code).collect()
    };
    let one = |code: &str| match of(code)[..] {
        [record] => record,
        ref others => panic!("{code}: {others:#?}"),
    };
    assert_eq!(one("R001")["by"], "ana@example.org");
    let agreed = one("R002");
    assert_eq!(agreed["by"], "li@example.org");
    assert_eq!(agreed["hash"], *open.hash);
    let signed = one("R008");
    assert_eq!(signed["payload_sha256"], *grant.payload_hash);
    assert_eq!(signed["keys"][0], **key);
    assert_eq!(one("R011")["by"], "ana@example.org");
    assert!(!of("R014").is_empty(), "the own approval that was refused");
    for host in HOSTS {
        let answers = of("R010");
        let opened = |record: &&&Value| record["host"] == host && record["answer"] == "open";
        assert!(answers.iter().any(|record| opened(&record)), "{host}: {answers:#?}");
    }
    for number in [0, 1] {
        let audit = stage.host(number).audit();
        let opened =
            audit.iter().find(|one| one["grant"] == *grant.id && one["digest"] != Value::Null);
        let opened = opened.unwrap_or_else(|| panic!("no grant in {audit:#?}"));
        assert_eq!(opened["requester"], "ana@example.org");
        assert_eq!(opened["approvers"][0], "li@example.org");
        assert_eq!(opened["signers"][0], "controller");
        assert_eq!(opened["digest"], *grant.payload_hash);
        assert_eq!(opened["by"], "spiffe://198.18.0.1/jit-controller");
    }
    assert_eq!(open.decisions[0].subject, "li@example.org");
    let list: Page<RequestSummary> = li.get(&Call::get(["requests"]).query("host", "web-2"));
    assert!(list.items.iter().any(|one| one.id == open.id));
}

trait AdminAudit {
    fn admin_audit(&self) -> Vec<Value>;
}

impl AdminAudit for Stage {
    /// The controller's audit as it is stored.
    fn admin_audit(&self) -> Vec<Value> {
        self.admin.audit().into_iter().map(|one| one.record).collect()
    }
}

/// `jitctl ssh HOST --end`: asks, waits for another person, runs the program, and closes again.
#[test]
fn ssh_asks_waits_runs_and_ends() {
    let (stage, ana, li) = stage(None, &["web-1"], "stage");
    stage.login(&stage.client, &ana);
    let program = stage.path("ssh.sh");
    let found = stage.path("found");
    let text = format!(
        "#!/bin/bash\nfor last; do :; done\nexec 3<>/dev/tcp/{}/22 && read -rn 2 -t 5 hi <&3\n\
         echo \"$hi $*\" > {}\nexit 7\n",
        stage.host(0).at(22).ip(),
        found.display()
    );
    fs::write(stage.path("ssh.text"), text).unwrap();
    copy(&stage.path("ssh.text"), &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    let arguments = [
        "ssh",
        "root@web-1",
        "--ssh",
        program,
        "--end",
        "--for",
        "10m",
        "--why",
        "look",
        "--",
        "uptime",
    ];
    let mut command = stage.jitctl_command(&ana, &arguments);
    let child = stage.client.start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let pending = pending(&li);
    assert!(!stage.client_opens(0, 22));
    li.approve(&pending.id);
    let output = child.wait_with_output().unwrap();
    // The exit code is that of the program.
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let found = fs::read_to_string(&found).unwrap();
    assert!(found.starts_with("hi ") && found.contains("uptime"), "{found}");
    let ended = until(&li, &pending.id, |view| view.counts.closed == 1);
    assert_eq!((ended.state.as_str(), ended.reason.as_str()), ("revoked", "look"));
    closed(&stage.client, &stage);
}

fn closed(client: &Namespace, stage: &Stage) {
    assert!(!stage.host(0).opens_from(client, 22, PATIENCE));
}

/// The request that waits for an approval.
fn pending(li: &Person) -> RequestSummary {
    for _ in 0..400 {
        let list: Page<RequestSummary> = li.get(&Call::get(["requests"]).query("state", "pending"));
        if let Some(found) = list.items.into_iter().next() {
            return found;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody asks")
}
