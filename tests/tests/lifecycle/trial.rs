//! `jit-agent enforce` and `confirm`, and reloads that close something: on trial, until a new session
//! confirms them; otherwise the kernel, or the agent, goes back to what was before.

use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, STRANGER, Site, TO_CLIENT, TO_STRANGER, address, carries};
use rustix::process::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(600);
/// The shortest trial.
const SHORT: &str = "10s";
/// Longest wait for the end of a short trial.
const LAPSED: Duration = Duration::from_secs(25);
/// The longest wait for what a busy machine does late.
const PATIENCE: Duration = Duration::from_secs(60);

/// A site in observe mode; `extra` follows its configuration.
pub(crate) fn observing(extra: &str) -> Site {
    let mut site = Site::new();
    let base = site.base("[\"*\"]", "auto");
    let base = base.replace("[gate]\n", "[gate]\nmode = 'observe' # until it is known who comes\n");
    site.write_config(&format!("{base}{extra}"));
    site.start();
    assert!(site.stranger_gets_in(0, 22), "nothing is closed yet");
    site
}

/// Exit code, and what was printed.
pub(crate) fn said(site: &Site, arguments: &[&str], session: Option<&TcpStream>) -> (i32, String) {
    let mut command = site.command(arguments);
    command.env_remove("SSH_CONNECTION");
    if let Some(stream) = session {
        let (local, peer) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        let variable = format!("{} {} {} {}", peer.ip(), peer.port(), local.ip(), local.port());
        command.env("SSH_CONNECTION", variable);
    }
    let output = site.host.run(|| command.output().unwrap());
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

pub(crate) fn enforce(site: &Site, within: &str) -> (i32, String) {
    said(site, &["enforce", "--yes", "--no-wait", "--confirm-within", within], None)
}

#[track_caller]
pub(crate) fn enforced(site: &Site, within: &str) -> Instant {
    let (code, text) = enforce(site, within);
    assert_eq!(code, 0, "{text}\n{}", site.log());
    assert!(text.contains("ENFORCING ON TRIAL"), "{text}");
    Instant::now()
}

fn greeted(stream: TcpStream) -> TcpStream {
    let mut stream = stream;
    std::io::Read::read_exact(&mut stream, &mut [0; 2]).unwrap();
    stream
}

fn session(site: &Site) -> TcpStream {
    greeted(site.client.run(|| TcpStream::connect(address(TO_CLIENT, 0, 22)).unwrap()))
}

fn stranger(site: &Site) -> TcpStream {
    greeted(site.stranger.run(|| TcpStream::connect(address(TO_STRANGER, 0, 22)).unwrap()))
}

/// Waits until the stranger gets in again; returns when that was.
#[track_caller]
pub(crate) fn reopened(site: &Site) -> Instant {
    let end = Instant::now() + PATIENCE;
    while !site.stranger_opens(0, 22) {
        assert!(Instant::now() < end, "the stranger is shut out still\n{}", site.log());
    }
    Instant::now()
}

pub(crate) fn audit(site: &Site, code: &str) -> usize {
    let (_, text) = said(site, &["audit", "show", "--json"], None);
    text.lines().filter(|line| line.contains(&format!("\"{code}\""))).count()
}

/// The same for records that the agent writes a moment after the kernel has acted: waits for the first.
#[track_caller]
pub(crate) fn recorded(site: &Site, code: &str) -> usize {
    wait_for(site, code, || audit(site, code) > 0);
    audit(site, code)
}

#[track_caller]
pub(crate) fn wait_for(site: &Site, what: &str, seen: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < end, "{what}\n{}", site.log());
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn boot_of_trial(site: &Site, boot: &str) {
    edit_trial(site, "boot_id", boot.into());
}

/// Changes a field of the trial's record in the state.
pub(crate) fn edit_trial(site: &Site, field: &str, value: Value) {
    let path = site.path("state/configuration.trial");
    let mut trial: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    trial[field] = value;
    fs::write(&path, serde_json::to_vec(&trial).unwrap()).unwrap();
}

/// The reason of the file on the disk that is not in force, or an empty text.
pub(crate) fn refused(site: &Site) -> String {
    site.status().0["configuration"]["refused"].as_str().unwrap().to_owned()
}

#[test]
fn enforce_shuts_a_stranger_out_and_only_a_new_session_confirms_it() {
    let mut site = observing("");
    site.admit(&CLIENT, LONG);
    let (mut old, mut shut_out) = (session(&site), stranger(&site));
    let (code, text) = said(&site, &["enforce", "--dry-run"], Some(&shut_out));
    assert_eq!(code, 0, "{text}");
    for says in [
        "[gate] mode observe -> enforce",
        "open sessions without a grant or an exemption: 1",
        "<- THIS SESSION",
        "YOU come from 203.0.113.2 without a grant",
        "203.0.113.2 -> 22/tcp",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(site.stranger_gets_in(0, 22), "a question changes nothing");
    let (code, text) = said(&site, &["enforce", "--no-wait"], None);
    assert_eq!((code, text.contains("add --yes")), (64, true), "{text}");
    let (code, text) = said(&site, &["confirm", "--from-console"], None);
    assert_eq!((code, text.contains("no trial goes on")), (69, true), "{text}");

    enforced(&site, "5m");
    site.assert_open_to_the_client_alone();
    assert!(carries(&mut old) && carries(&mut shut_out), "sessions outlive a drained port");
    let (status, code) = site.status();
    assert_eq!(
        (code, status["state"].as_str(), status["mode"].as_str()),
        (1, Some("degraded"), Some("enforce"))
    );
    let problem = status["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("enforcing on trial, ") && problem.ends_with("[trial]"),
        "{problem}"
    );
    assert!(status["trial"]["left_ms"].as_u64().unwrap() > 240_000, "{status}");
    let (code, text) = enforce(&site, "5m");
    assert_eq!((code, text.contains("a trial goes on, ")), (69, true), "{text}");

    // None of these shows that anybody still gets in.
    let (code, text) = said(&site, &["confirm"], None);
    assert_eq!((code, text.contains("no SSH session")), (64, true), "{text}");
    let (code, text) = said(&site, &["confirm"], Some(&old));
    assert_eq!((code, text.contains("was open before the trial")), (69, true), "{text}");
    let (code, text) = said(&site, &["confirm", "--from-console"], Some(&old));
    assert_eq!((code, text.contains("you came by SSH")), (64, true), "{text}");
    let gone = session(&site);
    let addresses = gone.try_clone().unwrap();
    gone.shutdown(std::net::Shutdown::Both).unwrap();
    thread::sleep(Duration::from_millis(300));
    let (code, text) = said(&site, &["confirm"], Some(&old_addresses(&addresses, &old)));
    assert_ne!(code, 0, "{text}");
    assert!(fs::read_to_string(site.config()).unwrap().contains("'observe'"));

    let new = session(&site);
    let (code, text) = said(&site, &["confirm"], Some(&new));
    assert_eq!(code, 0, "{text}\n{}", site.log());
    assert!(text.contains("says mode = \"enforce\" now"), "{text}");
    let file = fs::read_to_string(site.config()).unwrap();
    assert!(file.contains("mode = \"enforce\" # until it is known who comes"), "{file}");
    let (status, code) = site.status_when_the_disk_answers();
    assert_eq!((code, status["trial"]["ended"].as_str()), (0, Some("confirmed")), "{status}");
    assert_eq!((audit(&site, "N002"), audit(&site, "N003"), audit(&site, "B004")), (1, 1, 0));
    let (code, text) = enforce(&site, "5m");
    assert_eq!((code, text.contains("enforces already")), (69, true), "{text}");
    site.end(Signal::KILL);
    site.start();
    site.assert_open_to_the_client_alone();
    assert_eq!(site.status_when_the_disk_answers().1, 0);
}

/// The session that has ended, or another one that shows nothing if the kernel keeps no addresses.
fn old_addresses(ended: &TcpStream, old: &TcpStream) -> TcpStream {
    let usable = ended.peer_addr().is_ok() && ended.local_addr().is_ok();
    if usable { ended.try_clone().unwrap() } else { old.try_clone().unwrap() }
}

#[test]
fn the_kernel_itself_ends_a_trial_of_an_agent_that_is_dead() {
    let mut site = observing("");
    let begun = enforced(&site, SHORT);
    site.end(Signal::KILL);
    site.assert_closed_to_all();
    let took = reopened(&site).duration_since(begun);
    assert!((Duration::from_secs(8)..LAPSED).contains(&took), "{took:?}");
    let (status, code) = site.status();
    assert_eq!((code, status["mode"].as_str()), (2, Some("observe")), "{status}");
    site.start();
    assert!(site.stranger_gets_in(0, 22), "it is over");
    let (status, code) = site.status();
    assert_eq!((code, status["state"].as_str()), (2, Some("not_enforcing")));
    assert_eq!((audit(&site, "N002"), recorded(&site, "B004")), (1, 1));
    site.end(Signal::TERM);
    site.start();
    assert_eq!(audit(&site, "B004"), 1, "it is reported once");
}

#[test]
fn the_kernel_itself_ends_a_trial_of_an_agent_that_hangs() {
    // Only this port: the gate enforced before.
    let mut site = Site::new();
    let base = site.base("[\"*\"]", "auto");
    let observed =
        base.replace("port = 22\n", "port = 22\nmode = \"observe\"\nsessions = \"cut\"\n");
    let closed = "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n";
    site.write_config(&format!("{observed}{closed}"));
    site.serve(23);
    site.start();
    let mut shut_out = stranger(&site);
    let begun = enforced(&site, SHORT);
    site.signal(Signal::STOP);
    site.assert_closed_to_all();
    assert!(!site.stranger_opens(0, 23));
    let took = reopened(&site).duration_since(begun);
    assert!((Duration::from_secs(8)..LAPSED).contains(&took), "{took:?}");
    assert!(!site.stranger_opens(0, 23), "a port that enforced before goes on with it");
    assert!(carries(&mut shut_out), "no session is destroyed on trial");
    site.signal(Signal::CONT);
    let end = Instant::now() + LAPSED;
    while site.status().0["trial"]["ended"] != "lapsed" {
        assert!(Instant::now() < end, "{}", site.log());
    }
    assert!(site.stranger_gets_in(0, 22) && !site.stranger_opens(0, 23));
    assert!(carries(&mut shut_out));
    // Confirmed, it ends the sessions of a port that cuts.
    enforced(&site, "5m");
    assert_eq!(said(&site, &["confirm", "--from-console"], None).0, 0);
    let end = Instant::now() + LAPSED;
    while carries(&mut shut_out) {
        assert!(Instant::now() < end, "{}", site.log());
    }
}

#[test]
fn a_restart_goes_on_with_the_trial_to_the_same_end_and_another_boot_does_not() {
    let mut site = observing("");
    site.admit(&CLIENT, LONG);
    let old = session(&site);
    enforced(&site, "30s");
    site.end(Signal::KILL);
    site.start();
    site.assert_open_to_the_client_alone();
    let (status, _) = site.status();
    assert!((1..30_000).contains(&status["trial"]["left_ms"].as_u64().unwrap()), "{status}");
    let (code, text) = said(&site, &["confirm"], Some(&old));
    assert_eq!((code, text.contains("was open before the trial")), (69, true), "{text}");
    site.end(Signal::TERM);
    boot_of_trial(&site, "another");
    site.start();
    assert!(site.stranger_gets_in(0, 22));
    assert_eq!((site.status().1, recorded(&site, "B004")), (2, 1));
    assert_eq!(refused(&site), "");
    enforced(&site, SHORT);
    site.assert_open_to_the_client_alone();
    reopened(&site);
    let (status, _) = site.status();
    assert_eq!(status["trial"]["ended"], "lapsed", "{}", site.log());
}

#[test]
fn at_each_crash_of_a_confirmation_what_status_says_is_true() {
    let mut site = observing("");
    let trial = site.path("state/configuration.trial");
    enforced(&site, SHORT);
    // The command ended after it had written the file.
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(&text.replace("'observe'", "\"enforce\""));
    site.end(Signal::KILL);
    reopened(&site);
    site.start();
    assert!(site.stranger_gets_in(0, 22), "nobody confirmed it");
    assert!(refused(&site).contains("nobody confirmed it in time"), "{}", refused(&site));
    site.end(Signal::KILL);
    boot_of_trial(&site, "another");
    site.start();
    assert!(site.stranger_gets_in(0, 22), "and it does not come into force by itself");
    // A reload tries it again.
    site.write_config(&text.replace("'observe'", "\"enforce\"").replace("\"off\"", "\"5m\""));
    site.signal(Signal::HUP);
    let end = Instant::now() + LAPSED;
    while site.status().0["trial"]["left_ms"].as_u64().is_none_or(|left| left == 0) {
        assert!(Instant::now() < end, "{}", site.log());
    }
    site.assert_closed_to_all();
    assert_eq!(refused(&site), "");
    // The agent ended after the disk had the good configuration, and before the trial was gone.
    let record = fs::read(&trial).unwrap();
    assert_eq!(said(&site, &["confirm", "--from-console"], None).0, 0);
    assert!(!trial.exists());
    fs::write(&trial, record).unwrap();
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
    let (status, code) = site.status_when_the_disk_answers();
    assert_eq!((code, &status["trial"]), (0, &Value::Null), "{status}");
}

#[test]
fn a_reload_that_closes_something_returns_unless_it_is_confirmed() {
    let mut site = Site::new();
    let base = site.base("[\"*\"]", "auto").replace("\"off\"", "\"30s\"");
    let exempt = format!(
        "exempt = [{{ source = \"{}\", reason = \"probe\", owner = \"netops\" }}]\n",
        STRANGER[0]
    );
    let exempting = base.replace("port = 22\n", &format!("port = 22\n{exempt}"));
    site.write_config(&exempting);
    site.start();
    assert!(site.stranger_gets_in(0, 22));
    let mut shut_out = stranger(&site);
    let on_trial = || site.status().0["trial"]["left_ms"].as_u64().is_some_and(|left| left > 0);
    // Longer than on a quiet machine: what is looked at in the trial must be seen before it ends.
    let lapsed = 3 * LAPSED;
    let wait_for = |what: &str, seen: &dyn Fn() -> bool| {
        let end = Instant::now() + lapsed;
        while !seen() {
            assert!(Instant::now() < end, "{what}\n{}", site.log());
        }
    };
    // The exemption is gone, and sessions are cut.
    let closing = base.replace("port = 22\n", "port = 22\nsessions = \"cut\"\n");
    site.write_config(&closing);
    site.signal(Signal::HUP);
    wait_for("the trial begins", &on_trial);
    site.assert_closed_to_all();
    let (status, code) = site.status();
    assert_eq!((code, status["trial"]["of_file"].as_bool()), (1, Some(true)), "{status}");
    assert!(
        status["trial"]["closes"].to_string().contains("no exemption for 203.0.113.2"),
        "{status}"
    );
    // The same file again does not make it longer.
    site.signal(Signal::HUP);
    wait_for("the trial ends", &|| !on_trial());
    assert!(site.stranger_gets_in(0, 22) && carries(&mut shut_out), "{}", site.log());
    assert!(refused(&site).contains("nobody confirmed it in time"), "{}", site.log());
    assert_eq!(fs::read_to_string(site.config()).unwrap(), closing);
    // The end is in the audit first, and then in the state: the next run records it no second time,
    // also if it was killed between the two.
    site.end(Signal::KILL);
    edit_trial(&site, "lapsed", false.into());
    site.start();
    assert!(site.stranger_gets_in(0, 22), "the file that nobody confirmed stays out");
    assert!(refused(&site).contains("nobody confirmed it in time"));
    assert_eq!(recorded(&site, "B004"), 1);
    // Asked for again, and confirmed.
    site.signal(Signal::HUP);
    let on_trial = || site.status().0["trial"]["left_ms"].as_u64().is_some_and(|left| left > 0);
    let end = Instant::now() + lapsed;
    while !on_trial() {
        assert!(Instant::now() < end, "{}", site.log());
    }
    let (code, text) = said(&site, &["confirm", "--from-console"], None);
    assert_eq!(code, 0, "{text}");
    site.assert_closed_to_all();
    let end = Instant::now() + lapsed;
    while carries(&mut shut_out) {
        assert!(Instant::now() < end, "confirmed, it cuts\n{}", site.log());
    }
    let (status, code) = site.status_when_the_disk_answers();
    assert_eq!((code, status["configuration"]["refused"].as_str()), (0, Some("")), "{status}");
    // What opens needs no trial, nor does what closes nothing.
    site.write_config(&exempting.replace("drain", "cut"));
    site.signal(Signal::HUP);
    let end = Instant::now() + lapsed;
    while !site.stranger_opens(0, 22) {
        assert!(Instant::now() < end, "{}", site.log());
    }
    assert!(!on_trial());
}
