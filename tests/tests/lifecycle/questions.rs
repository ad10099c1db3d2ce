//! The questions of the engineer on call, each answered by one command (docs/operations.md, section
//! "One question, one command"): with real pushes, real connections, and words that a person can act on.

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use jit_agent::disk::store::{Store, Transaction};
use jit_proto::{GrantId, v1};
use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    disk::Disk,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
const ANA: &str = "ana@example.org";

fn started() -> Site {
    let mut site = Site::new();
    site.start();
    site
}

fn said(output: &Output) -> String {
    let [out, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{errors}")
}

/// One command, whose answer has these words.
#[track_caller]
fn answers(site: &Site, command: &[&str], words: &[&str]) {
    let text = said(&site.run(command));
    for word in words {
        assert!(text.contains(word), "no {word:?} in the answer of {command:?}:\n{text}");
    }
}

/// The same, as soon as the kernel has reported what it is about.
#[track_caller]
fn soon_answers(site: &Site, command: &[&str], words: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let whole = || {
        let text = said(&site.run(command));
        words.iter().all(|word| text.contains(word))
    };
    while !whole() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    answers(site, command, words);
}

fn id(outcome: &v1::Outcome) -> String {
    GrantId::from_bytes(&outcome.grant_id).unwrap().to_string()
}

/// Why can this user not get in?
#[test]
fn the_users_grant_was_refused_because_the_signers_window_has_ended() {
    let mut site = Site::new();
    let text = site.base("[\"*\"]", "auto");
    let ended = "id = \"test\"\nnot_after = \"2020-01-01T00:00:00Z\"";
    site.write_config(&text.replace("id = \"test\"", ended));
    site.start();
    let refused = site.push(site.envelope(&[CLIENT[0]], LONG)).unwrap_err();
    let word = refused.message().split(':').next().unwrap().to_owned();
    assert!(!site.client_opens(0, 22));
    let words = ["CLOSED: ", &word, ANA, "2020-01-01T00:00:00Z", "\"test\"", "jitctl grant"];
    answers(&site, &["why", CLIENT[0], "22", "--user", ANA], &words);
    answers(&site, &["denials", "--user", ANA], &[&word, ANA, CLIENT[0]]);
}

#[test]
fn the_user_comes_from_another_address() {
    let site = started();
    site.admit(&[CLIENT[0]], LONG);
    assert!(!site.stranger_opens(0, 22));
    let words = ["CLOSED: ", "no grant covers it", ANA, "is for 198.51.100.2, not for this source"];
    answers(&site, &["why", STRANGER[0], "22", "--user", ANA], &words);
    answers(&site, &["why", STRANGER[0], "22", "--user", ANA], &["--source 203.0.113.2"]);
}

#[test]
fn the_grant_has_ended() {
    let site = started();
    let grant = id(&site.admit(&[CLIENT[0]], Duration::from_millis(1_200)));
    thread::sleep(Duration::from_millis(1_300));
    assert!(!site.client_opens(0, 22));
    let words = ["CLOSED: ", &grant, ANA, "ended at 20", "jitctl grant", "--for 1h"];
    soon_answers(&site, &["why", CLIENT[0], "22"], &words);
}

#[test]
fn another_grant_covers_the_source() {
    let site = started();
    let own = id(&site.admit(&[CLIENT[0]], LONG));
    let mut wide = site.grant(&["198.51.100.0/24"], LONG);
    wide.requester = "li@example.org".into();
    let other = id(&site.push(site.sign(&wide)).unwrap());
    assert_eq!(site.run(&["close", "--grant", &own]).status.code(), Some(0));
    assert!(site.client_gets_in(0, 22));
    let words = ["OPEN: ", &other, "li@example.org", "lets it in, for 198.51.100.0/24", "left"];
    answers(&site, &["why", CLIENT[0], "22"], &words);
    answers(&site, &["grants", "--source", CLIENT[0]], &["198.51.100.0/24", "li@example.org"]);
}

#[test]
fn the_interface_has_no_gate() {
    let mut site = Site::new();
    let text = site.base("[\"c0\"]", "auto");
    site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.start();
    assert!(site.stranger_gets_in(0, 22));
    let words = ["OPEN: ", "s0 has no gate", "no socket guard stops it"];
    answers(&site, &["why", STRANGER[0], "22"], &words);
    answers(&site, &["status"], &["s0", "every protected port can be reached by it; gate it"]);
}

#[test]
fn the_agent_is_dead_or_hangs() {
    let mut site = started();
    let grant = id(&site.admit(&[CLIENT[0]], LONG));
    let of_the_kernel = |site: &Site, silence: &str, next: &str| {
        let began = Instant::now();
        answers(site, &["status"], &[silence, next, "22/tcp", CLIENT[0], ANA]);
        answers(site, &["why", CLIENT[0], "22"], &["OPEN: ", "no agent answers", "left"]);
        answers(site, &["why", STRANGER[0], "22"], &["CLOSED: ", "jitctl grant", "break-glass"]);
        assert!(began.elapsed() < Duration::from_secs(20));
    };
    site.signal(Signal::STOP);
    of_the_kernel(&site, "the agent does not answer", "systemctl restart jit-agent");
    site.signal(Signal::CONT);
    site.end(Signal::KILL);
    of_the_kernel(&site, "no agent answers", "systemctl restart jit-agent");
    // The cause is the configuration: no restart helps.
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&text.replace("port = 22", "port = \"ssh\""));
    answers(&site, &["status"], &["no agent answers", "jit-agent check", CLIENT[0]]);
    site.write_config(&text);
    answers(&site, &["close", "--grant", &grant, "--cut"], &["closed 1 entry", "ended 0 sessions"]);
    site.assert_closed_to_all();
}

/// Nothing opens by it, and the grants of before stay.
#[test]
fn the_clock_is_earlier_than_it_has_been() {
    let mut site = started();
    site.admit(&[STRANGER[0]], LONG);
    site.end(Signal::KILL);
    let later = jit_agent::system::sys::now().wall + Duration::from_secs(3600);
    let (mut store, _) = Store::open(&site.path("state"), later).unwrap();
    store.commit(&Transaction { floor: Some(later), ..Transaction::default() }).unwrap();
    drop(store);
    site.start();
    let refused = site.push(site.envelope(&[CLIENT[0]], LONG)).unwrap_err();
    assert!(refused.message().starts_with("clock_untrusted"), "{refused}");
    answers(&site, &["status"], &["clock says 20", "but it has been", "before"]);
    let words = ["CLOSED: ", "clock_untrusted", "clock says 20", "but it has been"];
    answers(&site, &["why", CLIENT[0], "22", "--user", ANA], &words);
    // It needs no clock.
    let glass = ["break-glass", "--source", CLIENT[0], "--port", "22/tcp", "--for", "1m"];
    let opened = said(&site.run(&[&glass[..], &["--reason", "clock"]].concat()));
    assert!(opened.starts_with("BREAK GLASS"), "{opened}");
    assert!(site.client_gets_in(0, 22));
}

#[test]
fn the_disk_is_full() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    disk.fill();
    // The files use up their own free space soon.
    let push = |last: u8| site.push(site.envelope(&[&format!("203.0.113.{last}")], LONG)).err();
    let refused = (9..255).find_map(push).expect("the disk is full");
    assert!(refused.message().starts_with("storage"), "{refused}");
    answers(&site, &["status"], &["database", "No space left on device"]);
    answers(&site, &["denials", "--user", ANA], &["storage", ANA, "203.0.113."]);
    drop(site);
    drop(disk);
}

#[test]
fn who_got_in_and_who_tried_last_night() {
    let mut site = started();
    let grant = id(&site.admit(&[CLIENT[0]], LONG));
    assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22));
    let mut foreign = site.grant(&[STRANGER[0]], LONG);
    foreign.hosts = vec!["another".into()];
    foreign.requester = "eve@example.org".into();
    site.push(site.sign(&foreign)).unwrap_err();
    let got_in = ["audit", "show", "--since", "12h", "--code", "C001"];
    soon_answers(&site, &got_in, &[&grant, ANA, CLIENT[0], "22/tcp", "connection"]);
    let tried = ["denials", "--since", "12h"];
    let words = [STRANGER[0], "22/tcp", "denied", "eve@example.org", "wrong_host"];
    soon_answers(&site, &tried, &words);
    // The agent need not be there for the first.
    site.end(Signal::KILL);
    answers(&site, &got_in, &[&grant, ANA, CLIENT[0]]);
    answers(&site, &tried, &["no agent answers"]);
}
