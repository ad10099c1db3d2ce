//! What a revocation closes stays closed, with real processes and connections: also for grants that
//! were signed before it and come later. And what a start or a reload leaves is said.

use std::{fs, time::Duration};

use jit_proto::v1::{self, revoke_request::What};
use jit_tests::agent::{CLIENT, STRANGER, Site};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);

fn revoke(site: &Site, what: What) {
    let request = v1::RevokeRequest { what: Some(what), reason: "incident".into(), cut: false };
    let answer = site.call(async |mut client| client.revoke(request).await).unwrap();
    assert_eq!(answer.into_inner().warning, "");
}

fn assert_refused(site: &Site, envelope: &v1::Envelope, when: &str) {
    let refused = site.push(envelope.clone()).unwrap_err();
    assert!(refused.message().starts_with("revoked: "), "{when}: {refused}");
    site.assert_closed_to_all();
}

fn problems(site: &Site) -> String {
    let (status, _) = site.status();
    let lines = status["problems"].as_array().unwrap();
    lines.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// A controller that may revoke could otherwise fill the log with one call after the other.
#[test]
fn a_requester_that_no_grant_can_have_is_refused_and_fills_no_log() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let before = site.log().len();
    let request = v1::RevokeRequest {
        what: Some(What::Requester("x".repeat(900_000))),
        reason: "incident".into(),
        cut: false,
    };
    for _ in 0..10 {
        let refused = site.call(async |mut client| client.revoke(request.clone()).await);
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("no grant has a requester"), "{refused}");
    }
    let more = site.log().len() - before;
    assert!(more < 10_000, "{more} bytes of log");
    site.assert_open_to_the_client_alone();
}

#[test]
fn what_was_signed_before_a_revocation_opens_nothing_after_it_also_over_kill_9() {
    let requester = What::Requester("ana@example.org".into());
    for what in [What::All(true), requester] {
        let mut site = Site::new();
        site.start();
        // Signed by the controller, and not pushed yet.
        let older = site.envelope(&[CLIENT, STRANGER].concat(), LONG);
        site.admit(&CLIENT, LONG);
        site.assert_open_to_the_client_alone();
        revoke(&site, what.clone());
        site.assert_closed_to_all();
        assert_refused(&site, &older, "at once");
        for signal in [Signal::KILL, Signal::TERM] {
            site.end(signal);
            site.assert_closed_to_all();
            site.start();
            assert_refused(&site, &older, "after a restart");
        }
        let (status, _) = site.status();
        let floors = &status["revoked_before"];
        let floor = match what {
            What::All(_) => &floors["all"],
            _ => &floors["by_requester"]["ana@example.org"],
        };
        assert!(floor.is_string(), "{floors}");
        site.admit(&CLIENT, LONG);
        site.assert_open_to_the_client_alone();
    }
}

#[test]
fn an_emptied_database_is_reported_with_what_it_lost() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
    site.end(Signal::KILL);
    fs::write(site.path("state/grants.redb"), "").unwrap();
    site.start();
    site.assert_closed_to_all();
    let lost = problems(&site);
    assert!(lost.contains("2 open entries were closed"), "{lost}");
    assert!(lost.contains(CLIENT[0]) && lost.contains("it is empty"), "{lost}");
    let audit = fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    assert!(audit.contains("S014") && audit.contains("S008"), "{audit}");
    site.end(Signal::TERM);
    site.start();
    assert_eq!(problems(&site), "", "the next start is a clean one");
}

#[test]
fn one_command_ends_what_a_reload_left_outside() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let narrow = site.base("[\"*\"]", "auto").replace("\"0.0.0.0/0\"", "\"192.0.2.0/24\"");
    site.write_config(&narrow);
    site.signal(Signal::HUP);
    let shown = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        problems(&site).contains("outside the present configuration")
    });
    assert!(shown, "{}\n{}", problems(&site), site.log());
    assert!(problems(&site).contains("jit-agent grants --end-outside"), "{}", problems(&site));
    site.assert_open_to_the_client_alone();
    let ended = site.run(&["grants", "--end-outside"]);
    let text = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && text.contains("source_not_allowed"), "{text}");
    site.assert_closed_to_all();
    assert_eq!(problems(&site), "");
}

#[test]
fn root_sets_the_version_of_policies_back_and_only_within_bounds() {
    let mut site = Site::new();
    site.start();
    let set = site.run(&["policy", "reset-version", "41"]);
    let text = String::from_utf8_lossy(&set.stdout);
    assert!(set.status.success() && text.contains("higher than 41; before: 0"), "{text}");
    let (status, _) = site.status();
    assert_eq!(status["policy"]["highest_version"], 41);
    assert_eq!(site.run(&["policy", "reset-version", "0"]).status.code(), Some(64));
    let audit = fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    assert!(audit.contains("P006"), "{audit}");
}
