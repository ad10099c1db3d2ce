//! `jit-agent close` and `jitctl revoke`: closed at once and after a restart; they say what stays
//! open, and when there was nothing to end.

use std::{
    net::TcpStream,
    process::{Command, Output},
    time::Duration,
};

use jit_tests::{
    agent::{CLIENT, STRANGER, Site, TO_CLIENT, address, carries},
    programs::binary,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);

fn started() -> Site {
    let mut site = Site::new();
    site.start();
    site
}

/// Exit code, and what was printed.
fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn close(site: &Site, arguments: &[&str]) -> (i32, String) {
    said(&site.run(&[&["close"], arguments].concat()))
}

fn revoke(site: &Site, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(binary("jitctl"));
    command.arg("--socket").arg(site.path("run/agent.sock")).arg("revoke");
    said(&command.args(arguments).args(["--reason", "test"]).output().unwrap())
}

/// A session of the client.
fn session(site: &Site) -> TcpStream {
    let mut stream = site.client.run(|| TcpStream::connect(address(TO_CLIENT, 0, 22)).unwrap());
    let mut greeting = [0; 2];
    std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
    stream
}

#[test]
fn a_source_is_closed_at_once_and_stays_closed_after_a_restart() {
    let mut site = started();
    site.admit(&CLIENT, LONG);
    let mut stream = session(&site);
    let (code, text) = close(&site, &["--source", CLIENT[0]]);
    assert_eq!(code, 0, "{text}");
    let expected = "revoked 1 grant on this host\n1 session stays open (drain); --cut ends it\n";
    assert_eq!(text, expected);
    assert!(carries(&mut stream));
    site.assert_closed_to_all();
    let (code, text) = close(&site, &["--source", CLIENT[0], "--cut"]);
    assert_eq!((code, text.contains("ended 1 session")), (0, true), "{text}");
    assert!(!carries(&mut stream));
    let (code, text) = close(&site, &["--source", CLIENT[0]]);
    assert_eq!(code, 1, "{text}");
    let nothing = format!("nothing matched: no grant for {} was open or", CLIENT[0]);
    assert!(text.starts_with(&nothing), "{text}");
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn a_prefix_closes_what_lies_inside_it_and_what_covers_it() {
    let site = started();
    site.admit(&["198.51.100.0/24"], LONG);
    site.admit(&[STRANGER[0]], LONG);
    assert_eq!(close(&site, &["--source", "198.51.100.2/31"]).0, 0);
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
    assert_eq!(revoke(&site, &["--source", "203.0.113.0/28"]).0, 0);
    site.assert_closed_to_all();
}

#[test]
fn a_short_id_closes_the_only_grant_that_begins_with_it() {
    let site = started();
    let ids: Vec<_> = [CLIENT, STRANGER]
        .iter()
        .map(|sources| {
            let id = site.admit(sources, LONG).grant_id;
            jit_proto::GrantId::from_bytes(&id).unwrap().to_string()
        })
        .collect();
    // Random ids: eight letters are enough.
    assert_eq!(close(&site, &["--grant", &ids[0][..8]]).0, 0);
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
    assert_eq!(revoke(&site, &["--id", &ids[1][..8].to_lowercase()]).0, 0);
    site.assert_closed_to_all();
    let (code, text) = close(&site, &["--grant", "ZZZZZZ"]);
    assert_eq!((code, text.contains("an id that begins with ZZZZZZ")), (64, true), "{text}");
    let (code, text) = revoke(&site, &["--id", "01J9W7K3AAAAAAAAAAAAAAAAAA"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("never seen this id; it is barred from now on"), "{text}");
}

#[test]
fn a_user_and_everything_are_closed_and_an_exemption_is_named() {
    let site = started();
    site.admit(&[CLIENT[0]], LONG);
    site.admit(&[STRANGER[0]], LONG);
    assert_eq!(close(&site, &["--user", "li@example.org"]).0, 1);
    assert!(site.client_gets_in(0, 22));
    let (code, text) = close(&site, &["--user", "ana@example.org", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &value["revoked"]), (0, &2.into()));
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    assert_eq!(close(&site, &["--all"]).0, 0);
    site.assert_closed_to_all();
    let exempt = format!(
        "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n\
         exempt = [{{ source = \"{}\", reason = \"probe\", owner = \"netops\" }}]\n",
        CLIENT[0]
    );
    site.configure(&exempt);
    site.signal(Signal::HUP);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (_, text) = close(&site, &["--source", CLIENT[0]]);
        if text.contains("an exemption of 23/tcp lets") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
    }
}

#[test]
fn a_mistyped_command_does_not_suggest_detach() {
    let site = Site::new();
    let (code, text) = said(&site.run(&["detahc"]));
    assert_eq!((code, text.contains("'detach'")), (64, false), "{text}");
}

#[test]
fn with_the_agent_dead_a_source_is_closed_at_once_and_for_good() {
    let mut site = started();
    site.admit(&CLIENT, LONG);
    site.admit(&[STRANGER[0]], LONG);
    site.end(Signal::KILL);
    assert!(site.client_gets_in(0, 22));
    let (code, text) = close(&site, &["--source", CLIENT[0]]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("no agent answers; closed 1 entry of the kernel's"), "{text}");
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
    site.start();
    // The whole grant is revoked, its other source included.
    assert!(!site.client_opens(0, 22) && !site.client_opens(1, 22), "{}", site.log());
    assert!(site.stranger_gets_in(0, 22));
    let records = crate::audit::shown(&site, &[]);
    let revoked = records.iter().filter(|record| record["code"] == "G006").count();
    assert_eq!(revoked, 1, "{}", site.log());
    site.end(Signal::KILL);
    site.start();
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
}

#[test]
fn with_the_agent_dead_a_user_and_an_id_are_found_in_the_audit() {
    let mut site = started();
    let id = site.admit(&CLIENT, LONG).grant_id;
    let id = jit_proto::GrantId::from_bytes(&id).unwrap().to_string();
    site.end(Signal::KILL);
    assert_eq!(close(&site, &["--user", "li@example.org"]).0, 1);
    assert!(site.client_gets_in(0, 22));
    let (code, text) = close(&site, &["--grant", &id[..8]]);
    assert_eq!(code, 0, "{text}");
    site.assert_closed_to_all();
    site.start();
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    let (code, text) = close(&site, &["--user", "ana@example.org"]);
    assert_eq!(code, 0, "{text}");
    site.assert_closed_to_all();
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn with_the_agent_hung_everything_is_closed_at_once_and_stays_closed_when_it_goes_on() {
    let mut site = started();
    site.admit(&CLIENT, LONG);
    site.signal(Signal::STOP);
    let (code, text) = close(&site, &["--all"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("the agent hangs; closed 2 entries"), "{text}");
    site.assert_closed_to_all();
    site.signal(Signal::CONT);
    // Longer than a review of the tables takes to come round.
    let deadline = std::time::Instant::now() + Duration::from_secs(9);
    while std::time::Instant::now() < deadline {
        assert!(!site.client_opens(0, 22), "{}", site.log());
    }
    let (status, _) = site.status();
    assert_eq!(status["grants"], serde_json::json!([]), "{status:#}");
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn with_the_agent_dead_or_hung_the_command_itself_ends_sessions() {
    let mut site = started();
    site.admit(&CLIENT, LONG);
    let (mut kept, mut cut) = (session(&site), session(&site));
    site.signal(Signal::STOP);
    let (code, text) = close(&site, &["--source", CLIENT[0]]);
    assert!(
        code == 0 && text.contains("2 sessions stay open (drain); --cut ends"),
        "{code} {text}"
    );
    assert!(carries(&mut kept) && carries(&mut cut));
    let (code, text) = close(&site, &["--source", CLIENT[0], "--cut"]);
    assert!(code == 0 && text.contains("ended 2 sessions"), "{code} {text}");
    assert!(!carries(&mut kept) && !carries(&mut cut));
    site.signal(Signal::CONT);
    let records = || crate::audit::shown(&site, &[]);
    let ended = |records: &[serde_json::Value]| {
        let found = records.iter().find(|record| record["code"] == "C006").cloned();
        found.map(|record| record["sessions"].clone())
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while ended(&records()) != Some(2.into()) {
        assert!(std::time::Instant::now() < deadline, "{}", site.log());
    }
    site.admit(&[CLIENT[0]], LONG);
    site.admit(&[STRANGER[0]], LONG);
    let mut mine = session(&site);
    site.end(Signal::KILL);
    let (code, text) = close(&site, &["--source", STRANGER[0], "--cut"]);
    assert!(code == 0 && text.contains("ended 0 sessions"), "{code} {text}");
    assert!(carries(&mut mine));
    let (code, text) = close(&site, &["--all", "--cut", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &value["sessions_ended"]), (0, &1.into()), "{text}");
    assert!(!carries(&mut mine));
    site.assert_closed_to_all();
    site.start();
    site.assert_closed_to_all();
}
