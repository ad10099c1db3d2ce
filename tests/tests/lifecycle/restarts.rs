//! Killed, restarted, stopped: no connection without a grant opens, and none with one is lost.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use jit_common::ABI_VERSION;
use jit_tests::agent::{CLIENT, Site, TO_CLIENT, TO_STRANGER, address, opens};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
/// Time of a stranger's attempt: long enough for an answer over veth, short enough for many in a
/// second.
const ATTEMPT: Duration = Duration::from_millis(4);
/// Time of a granted client: shorter than TCP's first retransmission, which would hide a lost SYN.
const GRANTED: Duration = Duration::from_millis(900);

/// Attempts of a stranger and a granted client, while `body` runs.
pub(crate) struct Knocking {
    pub(crate) tried: AtomicU32,
    pub(crate) opened: AtomicU32,
    pub(crate) granted: AtomicU32,
    pub(crate) refused: AtomicU32,
}

/// Sets the flag when it is dropped.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn knock_while(site: &mut Site, body: impl FnOnce(&mut Site, &Knocking)) -> Knocking {
    let counts = Knocking {
        tried: AtomicU32::new(0),
        opened: AtomicU32::new(0),
        granted: AtomicU32::new(0),
        refused: AtomicU32::new(0),
    };
    let done = AtomicBool::new(false);
    let open = |namespace: &jit_tests::netns::Namespace| {
        std::fs::File::open(format!("/run/netns/{}", namespace.name())).unwrap()
    };
    let (client, stranger) = (open(&site.client), open(&site.stranger));
    let enter = |file: &std::fs::File| {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(file), kind).unwrap();
    };
    thread::scope(|scope| {
        for worker in 0..6 {
            let (counts, done, stranger, enter) = (&counts, &done, &stranger, &enter);
            scope.spawn(move || {
                enter(stranger);
                while !done.load(Ordering::Relaxed) {
                    counts.tried.fetch_add(1, Ordering::Relaxed);
                    if opens(address(TO_STRANGER, worker % 2, 22), ATTEMPT) {
                        counts.opened.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            enter(&client);
            let mut family = 0;
            while !done.load(Ordering::Relaxed) {
                family += 1;
                let count = if opens(address(TO_CLIENT, family % 2, 22), GRANTED) {
                    &counts.granted
                } else {
                    &counts.refused
                };
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        // Also if the body panics: the scope waits for its threads.
        let _finished = Finished(&done);
        body(site, &counts);
    });
    counts
}

#[test]
fn a_start_where_all_is_well_logs_no_error() {
    let mut site = Site::new();
    for _ in 0..2 {
        site.start();
        let log = site.log();
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
        site.end(Signal::TERM);
    }
}

#[test]
fn ten_restarts_open_nothing_to_a_stranger_and_lose_nothing_granted() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let began = Instant::now();
    let counts = knock_while(&mut site, |site, _| {
        for restart in 0..10 {
            let asked = Instant::now();
            let left = left_ms(site);
            let answered = Instant::now();
            site.end(if restart % 2 == 0 { Signal::KILL } else { Signal::TERM });
            site.start();
            let passed = |since: Instant| i64::try_from(since.elapsed().as_millis()).unwrap();
            // Each answer was made at some moment between request and answer.
            let least = passed(answered);
            let gone = left - left_ms(site);
            let most = passed(asked);
            assert!(
                (least - 1_000..most + 1_000).contains(&gone),
                "{gone} ms less remain, after {least} to {most} ms"
            );
            thread::sleep(Duration::from_millis(50));
        }
    });
    let Knocking { tried, opened, granted, refused } = counts;
    println!("{tried:?} attempts, {granted:?} granted connections in {:?}", began.elapsed());
    assert!(tried.into_inner() > 1_000, "too few attempts");
    assert_eq!(opened.into_inner(), 0);
    assert!(granted.into_inner() > 20, "too few granted connections");
    assert_eq!(refused.into_inner(), 0);
}

#[test]
fn kill_9_under_a_stream_of_syns_opens_nothing_and_loses_nothing() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let counts = knock_while(&mut site, |site, _| {
        thread::sleep(Duration::from_millis(300));
        site.end(Signal::KILL);
        thread::sleep(Duration::from_millis(1_000));
    });
    assert!(counts.tried.into_inner() >= 200);
    assert_eq!(counts.opened.into_inner(), 0);
    assert!(counts.granted.into_inner() >= 10);
    assert_eq!(counts.refused.into_inner(), 0);
}

#[test]
fn pushes_and_revocations_survive_kill_9() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    site.start();
    site.assert_open_to_the_client_alone();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    assert_eq!(site.revoke_all(), 2);
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
    let replay = site.push(envelope).unwrap_err();
    assert!(replay.message().starts_with("revoked"), "{replay}");
}

#[test]
fn sigterm_detaches_nothing_and_detach_opens() {
    let mut site = Site::new();
    site.start();
    let refused = site.run(&["detach", "--yes"]);
    assert_eq!(refused.status.code(), Some(69), "a running agent keeps its gate");
    site.end(Signal::TERM);
    site.assert_closed_to_all();
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22));
    // systemd-tmpfiles makes the directory, and the unit needs it.
    assert!(site.holds_no_pins());
    assert_eq!(site.status().1, 2);
    let again = site.run(&["detach", "--yes"]);
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing is pinned"), "{again:?}");
    // A size to which the tables could not change while they were in use.
    site.configure("[limits]\nhosts = 77\n");
    site.start();
    site.assert_closed_to_all();
}

/// Somebody removed the pins and their directory: classifiers stay, because they need no pin.
#[test]
fn detach_removes_classifiers_without_pins_and_leaves_no_directory_of_root() {
    let mut site = Site::new();
    site.configure_gate("[\"*\"]", "clsact");
    site.start();
    site.end(Signal::TERM);
    let version = site.pins().join(format!("v{ABI_VERSION}"));
    for kind in ["links", "maps"] {
        for pin in std::fs::read_dir(version.join(kind)).unwrap().flatten() {
            std::fs::remove_file(pin.path()).unwrap();
        }
        std::fs::remove_dir(version.join(kind)).unwrap();
    }
    std::fs::remove_dir(&version).unwrap();
    std::fs::remove_dir(site.pins()).unwrap();
    site.assert_closed_to_all();
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22));
    assert!(!site.pins().exists());
}

/// Very many grants take seconds to put back: the ports do not wait for them.
#[test]
fn where_nothing_is_pinned_the_ports_close_before_stored_grants_are_put_back() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.end(Signal::TERM);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    assert!(site.stranger_gets_in(0, 22), "the gate is open after detach");
    site.start();
    assert!(site.log().contains("the ports are closed; stored grants follow"), "{}", site.log());
    assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22));
}

#[test]
fn with_the_agent_dead_status_reports_what_the_kernel_enforces() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    let (status, code) = site.status();
    assert_eq!(code, 1);
    assert_eq!(status["grants"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(status["grants"][0]["sources"], serde_json::json!(CLIENT), "{status:#}");
    let left = status["grants"][0]["left_ms"].as_i64().unwrap();
    assert!((590_000..=600_000).contains(&left), "{left}");
    assert_eq!(status["interfaces"].as_array().unwrap().len(), 2);
    // Before Linux 5.11 the kernel counts the gate's tables against the limits of whoever asks.
    let said = status["problems"].to_string();
    assert!(!said.contains("cannot be read"), "{said}");
}

#[test]
fn with_the_agent_stopped_status_still_answers_within_seconds() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    site.signal(Signal::STOP);
    let database = std::fs::read(site.path("state/grants.redb")).unwrap();
    let began = Instant::now();
    let (status, code) = site.status();
    // Two seconds, and room for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1));
    assert!(status["problems"][0].as_str().unwrap().contains("does not answer"), "{status:#}");
    assert_eq!(status["grants"][0]["requester"], "ana@example.org", "{status:#}");
    // `grants` finds both addresses of the grant, and says where they are from.
    for source in CLIENT {
        let listed = site.run(&["grants", "--source", source]);
        let screen = String::from_utf8(listed.stdout).unwrap();
        assert!(screen.contains("1 live") && screen.contains("ana@example.org"), "{screen}");
        let said = String::from_utf8(listed.stderr).unwrap();
        assert!(said.contains("the grants in the kernel now"), "{said}");
    }
    // The agent holds the file. Nothing was written to it.
    assert_eq!(std::fs::read(site.path("state/grants.redb")).unwrap(), database);
    site.signal(Signal::CONT);
    assert_eq!(site.status().1, 0);
}

#[test]
fn an_interface_that_is_gone_is_reported() {
    let mut site = Site::new();
    site.configure_gate("[\"c0\", \"s0\"]", "auto");
    site.start();
    site.host.ip(&["link", "delete", "s0"]);
    wait_for(|| site.status().1 == 1);
    let (status, _) = site.status();
    assert!(status["problems"][0].as_str().unwrap().contains("s0"), "{status:#}");
    assert!(!site.client_opens(0, 22));
}

#[test]
fn with_a_broken_configuration_detach_claims_nothing_and_status_says_so() {
    let mut site = Site::new();
    site.start();
    site.end(Signal::TERM);
    let good = std::fs::read_to_string(site.config()).unwrap();
    site.write_config("[gate\n");
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(78));
    let (status, _) = site.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains("cannot be read"), "{problems}");
    site.assert_closed_to_all();
    site.write_config(&good);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
}

#[test]
fn sighup_takes_a_good_configuration_and_leaves_the_old_one_for_a_bad_one() {
    let mut site = Site::new();
    site.serve(2222);
    site.start();
    assert!(site.stranger_gets_in(0, 2222));
    site.configure("[[port]]\nport = 2222\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n");
    site.signal(Signal::HUP);
    wait_for(|| !site.stranger_opens(0, 2222));
    site.configure("[[port]]\nport = \"none\"\n");
    site.signal(Signal::HUP);
    wait_for(|| site.log().contains("nothing changed"));
    assert!(!site.stranger_opens(0, 2222) && !site.stranger_opens(0, 22));
}

#[test]
fn a_gate_that_somebody_takes_off_comes_back() {
    let mut site = Site::new();
    site.start();
    std::fs::remove_dir_all(site.pins().join(format!("v{ABI_VERSION}/links"))).ok();
    for pin in std::fs::read_dir(site.pins().join(format!("v{ABI_VERSION}/links")))
        .into_iter()
        .flatten()
        .flatten()
    {
        std::fs::remove_file(pin.path()).unwrap();
    }
    assert!(!site.stranger_opens(0, 22), "the agent holds the links as well");
    wait_for(|| {
        let pins = std::fs::read_dir(site.pins().join(format!("v{ABI_VERSION}/links")));
        pins.is_ok_and(|pins| pins.count() == 3)
    });
    site.end(Signal::KILL);
    assert!(!site.stranger_opens(0, 22));
}

fn left_ms(site: &Site) -> i64 {
    site.status().0["grants"][0]["left_ms"].as_i64().unwrap()
}

/// Up to 6 seconds: the agent checks its links every 2.
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(6);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen within 6 s");
        thread::sleep(Duration::from_millis(100));
    }
}
