//! `jit-agent break-glass`: root lets a source in without a grant, for a short time; loud, and ended
//! by the kernel, with the agent alive or dead.

use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    time::{Duration, Instant},
};

use jit_proto::{payload_type::BREAK_GLASS_TYPE, v1};
use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::shown;

fn started(extra: &str) -> Site {
    let mut site = Site::new();
    site.configure(extra);
    site.start();
    site
}

fn arguments<'a>(source: &'a str, port: &'a str, lasts: &'a str, reason: &'a str) -> [&'a str; 9] {
    ["break-glass", "--source", source, "--port", port, "--for", lasts, "--reason", reason]
}

/// Exit code, and what was printed.
fn run(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.run(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn open(site: &Site, lasts: &str) {
    let (code, text) = run(site, &arguments(CLIENT[0], "22/tcp", lasts, "controller gone"));
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("BREAK GLASS: 22/tcp is open to 198.51.100.2 until "), "{text}");
    assert!(site.client_gets_in(0, 22));
    assert!(!site.client_opens(1, 22) && !site.stranger_opens(0, 22));
}

fn codes(site: &Site) -> Vec<String> {
    shown(site, &[]).iter().map(|record| record["code"].as_str().unwrap().to_owned()).collect()
}

fn soon(status: &Value) -> String {
    status["soon"].to_string()
}

#[track_caller]
fn wait_until_closed(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while site.client_opens(0, 22) {
        assert!(Instant::now() < deadline, "it does not end");
    }
}

#[test]
fn it_opens_loudly_and_survives_a_restart_and_is_closed_like_a_grant() {
    let mut site = started("");
    open(&site, "30m");
    let (status, code) = site.status();
    assert_eq!(code, 0, "it degrades nothing: {status:#}");
    let loud = soon(&status);
    assert!(loud.contains("BREAK GLASS: root opened 22/tcp to 198.51.100.2, 30 min"), "{loud}");
    assert!(loud.contains("controller gone"), "{loud}");
    assert_eq!(status["grants"][0]["requester"], "root (break-glass)");
    assert!(site.log().contains("BREAK GLASS"), "{}", site.log());
    let records = shown(&site, &[]);
    let record = records.iter().find(|record| record["code"] == "B001").unwrap();
    assert_eq!((&record["why"], &record["by"]), (&"controller gone".into(), &"local uid 0".into()));
    site.end(Signal::KILL);
    assert!(site.client_gets_in(0, 22));
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert!(soon(&site.status().0).contains("BREAK GLASS"));
    assert_eq!(run(&site, &["close", "--user", "root (break-glass)"]).0, 0);
    site.assert_closed_to_all();
    assert!(!soon(&site.status().0).contains("BREAK GLASS"));
    assert!(codes(&site).contains(&"B002".to_owned()));
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn the_kernel_ends_it_with_the_agent_dead_and_the_next_start_records_that() {
    let mut site = started("");
    open(&site, "6s");
    site.end(Signal::KILL);
    wait_until_closed(&site);
    site.start();
    site.assert_closed_to_all();
    assert!(codes(&site).contains(&"B002".to_owned()), "{:?}", codes(&site));
}

#[test]
fn an_opening_that_the_kernel_does_not_hold_is_not_restored() {
    let mut site = started("");
    open(&site, "30m");
    site.end(Signal::TERM);
    // As after a reboot: the database has it, the kernel has nothing.
    assert_eq!(run(&site, &["detach", "--yes"]).0, 0);
    site.start();
    site.assert_closed_to_all();
    assert!(codes(&site).contains(&"B002".to_owned()), "{:?}", codes(&site));
}

#[test]
fn it_opens_no_more_than_the_host_allows() {
    let site = started("[break_glass]\nmax_duration = \"10m\"\n");
    for (source, port, lasts, reason, says) in [
        (CLIENT[0], "23/tcp", "5m", "x", "port_not_protected"),
        (CLIENT[0], "22/tcp", "11m", "x", "[break_glass] max_duration"),
        (CLIENT[0], "22/tcp", "5m", " ", "reason"),
        ("198.51.0.0/16", "22/tcp", "5m", "x", "source_too_wide"),
    ] {
        let (code, text) = run(&site, &arguments(source, port, lasts, reason));
        assert!(code != 0 && text.contains(says), "{says}: {code} {text}");
    }
    site.assert_closed_to_all();
    assert!(!codes(&site).contains(&"B001".to_owned()));
    open(&site, "10m");
    let off = started("[break_glass]\nmax_duration = \"off\"\n");
    let (code, text) = run(&off, &arguments(CLIENT[0], "22/tcp", "1m", "x"));
    assert!(code == 77 && text.contains("\"off\""), "{code} {text}");
    off.assert_closed_to_all();
}

#[test]
fn nobody_but_root_breaks_the_glass() {
    let site = started("");
    // A member of the socket's group.
    for directory in [site.path(""), site.path("run")] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(directory, open).unwrap();
    }
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(site.config(), world).unwrap();
    chown(site.path("run/agent.sock"), None, Some(65_534)).unwrap();
    // The built program may lie where only root may look.
    let program = site.path("jit-agent");
    jit_tests::programs::copy(&jit_tests::programs::binary("jit-agent"), &program);
    let mut command = std::process::Command::new(program);
    command.args(arguments(CLIENT[0], "22/tcp", "1m", "x")).arg("--config").arg(site.config());
    command.uid(65_534).gid(65_534);
    let output = site.host.run(|| command.output().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.contains("not_permitted"), "{text}");
    site.assert_closed_to_all();
}

/// The database has an opening by root without a signature. Whoever may push is not trusted as the
/// database is.
#[test]
fn a_push_of_its_type_is_refused_alone_and_in_a_batch() {
    let mut site = started("");
    let signed = v1::Envelope {
        payload_type: BREAK_GLASS_TYPE.into(),
        ..site.envelope(&CLIENT, Duration::from_secs(600))
    };
    let unsigned = v1::Envelope { signatures: Vec::new(), ..signed.clone() };
    for envelope in [&signed, &unsigned] {
        let request = v1::PushRequest { envelope: Some(envelope.clone()) };
        let refused = site.call(async |mut client| client.push(request).await).unwrap_err();
        assert!(refused.message().contains("bad_type"), "{refused:?}");
    }
    let request = v1::PushBatchRequest { envelopes: vec![signed, unsigned], ..Default::default() };
    let answer = site.call(async |mut client| client.push_batch(request).await).unwrap();
    for outcome in answer.into_inner().outcomes {
        assert_eq!((outcome.reason.as_str(), outcome.accepted), ("bad_type", false));
    }
    site.assert_closed_to_all();
    site.end(Signal::TERM);
    site.start();
    site.assert_closed_to_all();
}
