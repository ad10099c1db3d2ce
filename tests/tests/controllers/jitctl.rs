//! `jitctl` from outside: what it does, and what it says when something fails.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use jit_client::Agent;
use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, HOST, TO_CLIENT},
    programs::binary,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::controlled::{Controlled, PORT};

/// A grant for the client, with more arguments.
fn grant(more: &str) -> String {
    let [v4, v6] = CLIENT;
    let what = format!("--host {HOST} --source {v4} {v6} --port 22 --why test {more}");
    format!("grant --signing-key signer.key --for 60s {what}")
}

#[test]
fn a_grant_opens_and_a_revocation_closes() {
    let controlled = Controlled::new();
    let site = &controlled.site;
    site.assert_closed_to_all();
    let said: Value = serde_json::from_str(&controlled.jitctl(&grant("--json")).good()).unwrap();
    assert_eq!(said["reason"], "ok");
    site.assert_open_to_the_client_alone();
    let id = said["grant_id"].as_str().unwrap();
    let listed: Value = serde_json::from_str(&controlled.jitctl("list --json").good()).unwrap();
    assert_eq!(listed[0]["id"], id);
    assert!(listed[0]["requester"].as_str().unwrap().starts_with("ana@"), "{listed}");
    assert!(controlled.jitctl("status").good().contains("ENFORCING"));
    let revoked = controlled.jitctl(&format!("revoke --id {id} --reason over")).good();
    assert_eq!(revoked, "revoked 1 grant on 198.51.100.1:7443\n");
    site.assert_closed_to_all();
}

#[test]
fn a_refusal_shows_its_word() {
    let controlled = Controlled::new();
    controlled.jitctl(&grant("--host db-1")).good();
    let other = grant("").replace(HOST, "db-1");
    controlled.jitctl(&other).fails(77, "refused: wrong_host: ");
    controlled
        .jitctl(&grant("").replace("--port 22", "--port 23"))
        .fails(77, "refused: port_not_protected: ");
    controlled.bare_jitctl("keygen --algorithm p256 --out other").good();
    controlled
        .jitctl(&grant("").replace("signer.key", "other.key"))
        .fails(77, "refused: unknown_key: ");
    let reader = |arguments: &str| {
        let files = "--ca pki/ca.pem --cert pki/reader.pem --key pki/reader.key";
        let [address, _] = TO_CLIENT;
        controlled.bare_jitctl(&format!("--agent {address}:{PORT} {files} {arguments}"))
    };
    reader("list").good();
    reader(&grant("")).fails(77, "refused: not_permitted: ");
    reader("revoke --all --yes --reason test").fails(77, "refused: not_permitted: ");
}

#[test]
fn a_batch_has_a_line_for_each_file() {
    let controlled = Controlled::new();
    controlled.bare_jitctl(&grant("--out good.grant")).good();
    controlled.bare_jitctl(&grant("--out bad.grant").replace(HOST, "db-1")).good();
    let said = controlled.jitctl("push bad.grant good.grant");
    assert_eq!(said.exit, Some(77), "{said:?}");
    let lines: Vec<_> = said.out.lines().collect();
    assert!(lines[0].starts_with("bad.grant  ") && lines[0].contains("refused: wrong_host: "));
    assert!(lines[1].starts_with("good.grant  ") && lines[1].contains("  ok until "));
    controlled.site.assert_open_to_the_client_alone();
    assert!(controlled.jitctl("push good.grant").good().contains("  known until "));
}

#[test]
fn a_connection_that_fails_is_reported_with_its_cause() {
    let controlled = Controlled::new();
    let [address, _] = TO_CLIENT;
    let to = |agent: &str, ca: &str, cert: &str, more: &str| {
        let files = format!("--ca {ca} --cert {cert}.pem --key {cert}.key");
        controlled.bare_jitctl(&format!("--agent {agent} {files} {more} list"))
    };
    let (agent, ours) = (format!("{address}:{PORT}"), "pki/ca.pem");
    let own = "pki/controller";
    let named = |said: String, cause: &str| assert!(said.contains(cause), "{cause}: {said}");

    for _ in 0..20 {
        // The agent's refusal races with the first request: `jitctl` must report it each time.
        let said = to(&agent, ours, "other/controller", "").fails(69, "jitctl: cannot talk to");
        named(said, "the agent refused the certificate other/controller.pem");
    }
    let said = to(&agent, "other/ca.pem", own, "").fails(69, "jitctl: cannot talk to");
    named(said, "does not come from a CA in other/ca.pem");
    let said = to(&agent, ours, own, "--server-name web-2.example.org").fails(69, "jitctl: ");
    named(said, "does not bear the name web-2.example.org");
    to(&agent, ours, own, "--server-name web-1.example.org").good();
    let said = to("198.51.100.1:7444", ours, own, "").fails(69, "jitctl: cannot connect to");
    named(said, "nobody listens there");
    let said = to("198.51.100.9:7443", ours, own, "--timeout 300ms").fails(69, "jitctl: ");
    named(said, "--timeout waits longer");

    let said = to(&agent, "pki/none.pem", own, "").fails(78, "jitctl: cannot read the CA");
    named(said, "No such file");
    to(&agent, "signer.key", own, "").fails(78, "jitctl: cannot use the CA certificate signer.key");
    let bare = format!("--agent {agent} --ca {ours} --cert pki/controller.pem");
    let said = controlled.bare_jitctl(&format!("{bare} --key pki/reader.key list"));
    said.fails(78, "jitctl: cannot use the certificate pki/controller.pem with");
    controlled.bare_jitctl(&format!("{bare} list")).fails(64, "jitctl: --agent");
    controlled.bare_jitctl("list").fails(64, "jitctl: which agent?");
    let said = controlled.bare_jitctl("--socket run/none.sock list").fails(69, "jitctl: ");
    named(said, "is the agent running on this machine?");
    controlled.bare_jitctl("--socket run/agent.sock list").good();
}

#[test]
fn a_server_that_is_no_agent_is_reported() {
    let controlled = Controlled::new();
    let files = "--ca pki/ca.pem --cert pki/controller.pem --key pki/controller.key";
    for (port, answer) in [(8001, &b""[..]), (8002, b"HTTP/1.1 400 Bad Request\r\n\r\n")] {
        let listener = controlled.site.host.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        // The thread ends with the test program: the second connection never comes.
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            // An empty answer is silence: the connection stays open.
            thread::park();
        });
        let [address, _] = TO_CLIENT;
        let arguments = format!("--agent {address}:{port} {files} --timeout 500ms list");
        let said = controlled.bare_jitctl(&arguments).fails(69, "jitctl: ");
        let cause = if answer.is_empty() { "within 500ms" } else { "does not speak TLS 1.3" };
        assert!(said.contains(cause), "{said}");
    }
}

#[test]
fn watch_goes_on_after_a_restart_of_the_agent() {
    let mut controlled = Controlled::new();
    let mut command = Command::new(binary("jitctl"));
    command.arg("--socket").arg(controlled.site.path("run/agent.sock"));
    command.args(["watch", "--json"]);
    command.stdout(Stdio::piped()).stderr(File::create(controlled.site.path("watch")).unwrap());
    let mut watch = command.spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in lines {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if sender.send(event["grant"]["kind"].clone()).is_err() {
                return;
            }
        }
    });
    // Nothing reports that the stream has begun: push until an event comes.
    let shows = |controlled: &Controlled, kind: &str| {
        (0..20).any(|_| {
            controlled.jitctl(&grant("")).good();
            let wait = Duration::from_millis(500);
            std::iter::from_fn(|| events.recv_timeout(wait).ok()).any(|said| said == kind)
        })
    };
    assert!(shows(&controlled, "activated"));
    controlled.site.end(Signal::KILL);
    while events.try_recv().is_ok() {}
    controlled.site.start();
    assert!(shows(&controlled, "activated"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn no_controller_breaks_the_glass() {
    let controlled = Controlled::new();
    let source: jit_proto::SourcePrefix = CLIENT[0].parse().unwrap();
    let ports: jit_proto::PortRange = "22/tcp".parse().unwrap();
    let request = v1::BreakGlassRequest {
        source: Some((&source).into()),
        ports: Some(ports.into()),
        lasts_ms: 60_000,
        reason: "test".into(),
    };
    let target = controlled.target("controller", Duration::from_secs(10));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = controlled.site.client.run(|| {
        runtime.block_on(async {
            let mut agent = Agent::connect(&target).await.unwrap();
            agent.break_glass(request).await.unwrap_err()
        })
    });
    assert!(refused.to_string().contains("not_permitted"), "{refused}");
    controlled.site.assert_closed_to_all();
}
