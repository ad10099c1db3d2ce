//! Another build of the agent takes over, and the first one takes over again: with the same tables,
//! and with tables of another layout in another directory of pins. Meanwhile a stranger tries to
//! get in, and a takeover may be broken off anywhere.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_common::ABI_VERSION;
use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, Site, TO_CLIENT},
    programs::{binary, next_agent},
};
use rustix::process::Signal;

use crate::{
    restarts::{Knocking, knock_while},
    sessions::{Session, listen},
};

const LONG: Duration = Duration::from_secs(600);
/// Number of a stranger's attempts in each test, the smallest number of restarts, and the longest
/// time for them.
const ATTEMPTS: u32 = 10_000;
const RESTARTS: u32 = 6;
const TIME: Duration = Duration::from_secs(240);
/// Number of moments at which a takeover is broken off.
const MOMENTS: u32 = 12;

/// Directories of versions below the pins.
fn versions(site: &Site) -> Vec<String> {
    let entries = fs::read_dir(site.pins()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The directory of this version, or of the next one.
fn version(next: bool) -> String {
    format!("v{}", if next { ABI_VERSION + 1 } else { ABI_VERSION })
}

fn program(next: bool) -> PathBuf {
    if next { next_agent() } else { binary("jit-agent") }
}

/// Restarts with these builds in turn, until there were enough attempts. No stranger may get in,
/// and no granted client may be refused.
fn nothing_opens_and_nothing_is_refused_while(what: &str, next: impl Fn(u32) -> bool) {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let (began, mut restarts) = (Instant::now(), 0);
    let counts = knock_while(&mut site, |site, counts| {
        while restarts < RESTARTS || counts.tried.load(Ordering::Relaxed) < ATTEMPTS {
            assert!(began.elapsed() < TIME, "{restarts} restarts");
            restarts += 1;
            site.end(if restarts % 2 == 0 { Signal::KILL } else { Signal::TERM });
            site.use_program(program(next(restarts)));
            site.start();
            assert_eq!(versions(site), [version(next(restarts))], "and no other version");
            let (status, code) = site.status_when_the_disk_answers();
            assert_eq!((status["state"].as_str(), code), (Some("enforcing"), 0), "{status:#}");
        }
    });
    let Knocking { tried, opened, granted, refused } = counts;
    println!(
        "{what}: {restarts} restarts in {:?}; without a grant {tried:?} attempts, {opened:?} opened; \
         with one {granted:?} opened, {refused:?} refused",
        began.elapsed()
    );
    assert!(granted.into_inner() > 50, "too few granted connections");
    assert_eq!((opened.into_inner(), refused.into_inner()), (0, 0));
}

#[test]
fn ten_thousand_attempts_during_upgrades_open_nothing_and_lose_nothing_granted() {
    nothing_opens_and_nothing_is_refused_while("the same layout", |_| false);
}

#[test]
fn ten_thousand_attempts_during_changes_of_the_layout_open_nothing_and_lose_nothing_granted() {
    nothing_opens_and_nothing_is_refused_while("another layout and back", |restart| {
        restart % 2 == 1
    });
}

/// Wherever a takeover is broken off, the gate stays closed, and either build continues from there.
#[test]
fn a_takeover_that_is_killed_anywhere_leaves_the_gate_closed_and_the_next_start_finishes_it() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    // The time of a whole takeover.
    site.end(Signal::KILL);
    site.use_program(program(true));
    let began = Instant::now();
    site.start();
    let whole = began.elapsed();
    let (mut seen, mut current) = (Vec::new(), true);
    for moment in 0..MOMENTS {
        let forward = !current;
        site.end(Signal::KILL);
        site.use_program(program(forward));
        site.spawn();
        // At any moment; or soon after the first pin of the new version.
        let delay = if moment % 2 == 0 {
            whole * moment / MOMENTS
        } else {
            let began = Instant::now();
            while versions(&site).len() < 2 {
                assert!(began.elapsed() < TIME, "no pins of a second version");
                thread::sleep(Duration::from_millis(1));
            }
            whole / 2 * (moment / 2) / MOMENTS
        };
        thread::sleep(delay);
        site.end(Signal::KILL);
        seen.push(versions(&site));
        let (status, _) = site.status();
        assert_eq!(status["state"], "degraded", "moment {moment}: {status:#}");
        site.assert_open_to_the_client_alone();
        // The same build continues, or the one before comes back.
        current = if moment % 4 < 2 { forward } else { current };
        site.use_program(program(current));
        site.start();
        assert_eq!(versions(&site), [version(current)], "moment {moment}");
        site.assert_open_to_the_client_alone();
    }
    println!("a takeover takes {whole:?}; pins when it was killed: {seen:?}");
    assert!(seen.iter().any(|pins| pins.len() == 2), "none in the middle: {seen:?}");
}

#[test]
fn a_second_agent_of_another_version_is_refused() {
    let mut site = Site::new();
    site.start();
    site.use_program(program(true));
    let second = site.run(&["run"]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another jit-agent holds"), "{said}");
    assert_eq!(versions(&site), [version(false)]);
}

/// The number of connections that a grant has used is on the disk, and so are its sessions that
/// must be cut.
#[test]
fn counts_and_pending_cuts_survive_a_change_of_the_layout() {
    let mut site = Site::new();
    site.serve(2222);
    site.configure(
        "[[port]]\nport = 2223\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n",
    );
    site.start();
    let twice = v1::Grant { max_connections: 2, ..site.grant(&[CLIENT[0]], LONG) };
    site.push(site.sign(&twice)).unwrap();
    assert!(site.client_gets_in(0, 22));
    let used = |site: &Site| site.status().0["grants"][0]["hits"].as_u64();
    assert_eq!(used(&site), Some(1));
    let draining = listen(&site, 2223);
    let lasts = Duration::from_secs(3);
    let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 2223, last: 2223 };
    let own = v1::Grant {
        ports: vec![port],
        sessions: v1::Sessions::Cut.into(),
        ..site.grant(&[CLIENT[1]], lasts)
    };
    let granted = Instant::now();
    site.push(site.sign(&own)).unwrap();
    let mut session = Session::open(&site, &draining, 1, 2223);
    site.end(Signal::TERM);
    thread::sleep((lasts + Duration::from_millis(100)).saturating_sub(granted.elapsed()));
    site.use_program(program(true));
    site.start();
    session.assert_cut_within(Duration::from_secs(2));
    assert_eq!(used(&site), Some(1));
    assert!(site.client_gets_in(0, 22), "the second of two");
    assert!(!site.client_opens(0, 22), "the third of two");
    site.end(Signal::TERM);
    site.use_program(program(false));
    site.start();
    assert!(!site.client_opens(0, 22), "nor back");
}

/// What the kernel has counted without an agent is in the old tables.
#[test]
fn connections_that_no_agent_saw_are_counted_by_another_layout() {
    let mut site = Site::new();
    site.start();
    for (source, limit) in CLIENT.into_iter().zip([1, 2]) {
        let grant = v1::Grant { max_connections: limit, ..site.grant(&[source], LONG) };
        site.push(site.sign(&grant)).unwrap();
    }
    site.end(Signal::KILL);
    assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22), "the kernel lets in");
    site.use_program(program(true));
    site.start();
    assert!(!site.client_opens(0, 22), "the second of one");
    assert!(site.client_gets_in(1, 22), "the second of two");
    site.end(Signal::KILL);
    site.use_program(program(false));
    site.start();
    assert!(!site.client_opens(0, 22) && !site.client_opens(1, 22), "nor back");
}

/// Each gate counts for itself. For a moment one is in force on the client's interface and the
/// other on the stranger's, which is the last of many.
#[test]
fn a_limit_holds_while_the_layout_changes_under_attempts() {
    const ROUNDS: u32 = 4;
    const LIMIT: u32 = 20;
    const FROM: &str = "192.0.2.2";
    const TO: &str = "192.0.2.1";
    let mut site = Site::new();
    // Without the guard: the old version's guard would count connections by either interface until
    // it is removed.
    let config = site.base("[\"*\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    let pair = |number| format!("link add d{number} type veth peer name e{number}\n");
    let many: String = (0..20).map(pair).collect();
    site.host.ip_batch(&many);
    let (ours, theirs) = (format!("{TO}/24"), format!("{FROM}/24"));
    site.host.connect("z0", &[&ours], &site.stranger, "p1", &[&theirs]);
    site.start();
    let mut opened_each = Vec::new();
    for round in 0..ROUNDS {
        let next = round % 2 == 0;
        let grant = v1::Grant { max_connections: LIMIT, ..site.grant(&[CLIENT[0], FROM], LONG) };
        site.push(site.sign(&grant)).unwrap();
        site.end(Signal::KILL);
        let finished = Arc::new(AtomicBool::new(false));
        let links = site.pins().join(version(next)).join("links");
        let knocking = [(&site.client, TO_CLIENT[0]), (&site.stranger, TO)].map(|(from, to)| {
            let (links, finished) = (links.clone(), Arc::clone(&finished));
            let to = SocketAddr::new(to.parse().unwrap(), 22);
            from.spawn(move || knock_from_the_first_link_on(to, &links, &finished))
        });
        site.use_program(program(next));
        site.start();
        finished.store(true, Ordering::Relaxed);
        opened_each.push(knocking.map(|thread| thread.join().unwrap()));
        assert_eq!(site.revoke_all(), 1);
    }
    println!("of {LIMIT}, opened to the client and to the stranger: {opened_each:?}");
    assert!(
        opened_each.iter().all(|opened| opened.iter().sum::<u32>() <= LIMIT),
        "{opened_each:?}"
    );
    assert!(
        opened_each.iter().all(|opened| opened.iter().sum::<u32>() >= LIMIT / 2),
        "{opened_each:?}"
    );
}

/// Tries to connect from the first link of the new version on, until the takeover has finished and
/// nothing opens any more. Returns how often it opened.
fn knock_from_the_first_link_on(to: SocketAddr, links: &Path, finished: &AtomicBool) -> u32 {
    let began = Instant::now();
    let any = || fs::read_dir(links).is_ok_and(|mut entries| entries.next().is_some());
    while !any() && !finished.load(Ordering::Relaxed) {
        assert!(began.elapsed() < TIME, "no takeover");
        thread::sleep(Duration::from_micros(200));
    }
    let mut opened = 0;
    loop {
        let last = finished.load(Ordering::Relaxed);
        let open = TcpStream::connect_timeout(&to, Duration::from_millis(5)).is_ok();
        opened += u32::from(open);
        if last && !open {
            return opened;
        }
        assert!(began.elapsed() < TIME, "it still opens");
    }
}

#[test]
fn with_the_agent_dead_another_version_reports_whose_gate_it_is() {
    let mut site = Site::new();
    site.use_program(program(true));
    site.start();
    site.end(Signal::KILL);
    site.use_program(program(false));
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
    assert!(status["problems"][0].as_str().unwrap().contains("another version"), "{status:#}");
    assert_eq!(status["interfaces"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!(status["socket_guard"]["attached"], true, "{status:#}");
    site.assert_closed_to_all();
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0), "detach takes it off too");
    assert!(site.stranger_gets_in(0, 22) && site.holds_no_pins());
}

/// This version does not take over a part of what it does not know.
#[test]
fn unknown_pins_are_refused_in_one_sentence_and_stay_in_force() {
    let mut site = Site::new();
    site.start();
    site.end(Signal::KILL);
    let unknown = site.pins().join("v99/links/hook_of_tomorrow-3");
    fs::create_dir_all(unknown.parent().unwrap()).unwrap();
    fs::hard_link(site.pins().join(version(false)).join("links/socket_guard"), &unknown).unwrap();
    let refused = site.run(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("hook_of_tomorrow-3") && said.contains("version 99"), "{said}");
    site.assert_closed_to_all();
    fs::remove_file(&unknown).unwrap();
    site.start();
    assert_eq!(versions(&site), [version(false)]);
}
