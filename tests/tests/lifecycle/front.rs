//! The process that talks to the network: what it may do, and what its end does.

use std::{
    fs,
    io::Read as _,
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site, TO_CLIENT, address, carries};
use rustix::process::{Pid, Signal, kill_process};

use crate::controllers::{call, site};

/// The longest time until controllers are served again after the front was killed.
const BACK: Duration = Duration::from_secs(2);
/// The same after it was stopped: the gate first waits for its answer.
const REPLACED: Duration = Duration::from_secs(30);
/// The longest time for the answer of the local socket meanwhile.
const SOON: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);

fn front(site: &Site) -> Option<u32> {
    let (status, _) = site.status();
    status["front"]["pid"].as_u64().and_then(|pid| pid.try_into().ok())
}

/// The front, as soon as it runs.
fn started(site: &Site) -> u32 {
    assert_replaced(site, 0, REPLACED)
}

/// Also when nobody has asked yet how it ended.
fn has_ended(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_none_or(|(_, state)| state.trim_start().starts_with('Z'))
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn lists(site: &Site) -> bool {
    call(site, "pki/ca.pem", "pki", "reader", &["list"]).status.success()
}

/// Waits for another front than this, which serves.
#[track_caller]
fn assert_replaced(site: &Site, before: u32, within: Duration) -> u32 {
    let began = Instant::now();
    loop {
        let now = front(site).filter(|pid| *pid != before);
        if let Some(now) = now.filter(|_| lists(site)) {
            println!("served again after {:?}", began.elapsed());
            return now;
        }
        assert!(began.elapsed() < within, "front {now:?} after {before}:\n{}", site.log());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_process_that_talks_to_the_network_holds_nothing_that_opens_the_gate() {
    let site = site();
    assert!(lists(&site));
    let pid = started(&site);
    let (status, _) = site.status();
    assert_eq!(status["front"]["keeps"], "", "{status}");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads: Vec<_> = threads.map(|thread| thread.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in &threads {
        let text = fs::read_to_string(thread.join("status")).unwrap();
        let line = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim_start_matches(':').trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(line(set), "0".repeat(16), "{set} of {thread:?}");
        }
        assert_eq!((line("NoNewPrivs"), line("Seccomp")), ("1".into(), "2".into()));
        assert_eq!(line("PPid"), site.pid().to_string());
    }
    let descriptors = links(Path::new(&format!("/proc/{pid}/fd")));
    for descriptor in &descriptors {
        let plain = ["socket:", "pipe:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"];
        let plain = plain.iter().any(|kind| descriptor.starts_with(kind));
        assert!(plain || descriptor == "/dev/null", "{descriptors:?}");
    }
    let of_gate = links(Path::new(&format!("/proc/{}/fd", site.pid())));
    assert!(of_gate.iter().any(|one| one.contains("bpf")), "the gate has them: {of_gate:?}");
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
}

fn links(directory: &Path) -> Vec<String> {
    let all = fs::read_dir(directory).unwrap().flatten();
    all.filter_map(|one| Some(fs::read_link(one.path()).ok()?.display().to_string())).collect()
}

#[test]
fn a_front_that_is_killed_comes_back_and_the_gate_does_not_notice() {
    let mut site = site();
    let [v4, v6] = CLIENT;
    assert!(site.admit(&[v4, v6], LONG).accepted);
    let mut session = site.client.run(|| TcpStream::connect(address(TO_CLIENT, 0, 22)).unwrap());
    session.read_exact(&mut [0; 2]).unwrap();
    let mut pid = started(&site);
    for ends in 1..=2 {
        signal(pid, Signal::KILL);
        site.assert_open_to_the_client_alone();
        // A front that ends again soon is started again after a pause.
        let within = if ends == 1 { BACK } else { 3 * BACK };
        pid = assert_replaced(&site, pid, within);
        assert!(carries(&mut session));
        let (status, exit) = site.status();
        assert_eq!(status["front"]["ends"], ends, "{status}");
        let why = status["front"]["last_end"].as_str().unwrap();
        assert!(why.contains("ended by signal 9"), "{why}");
        assert!(status["front"]["last_end_at"].is_string());
        assert_eq!((exit, &status["control"]["problem"]), (0, &"".into()), "{status}");
    }
    let text = site.run(&["status"]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("its process ended by itself 2 times"), "{text}");
    // An ordered end is none of its own.
    site.end(Signal::TERM);
    assert!(has_ended(pid));
}

#[test]
fn a_front_that_hangs_is_replaced_and_holds_up_nobody_on_the_host() {
    let site = site();
    let pid = started(&site);
    signal(pid, Signal::STOP);
    let began = Instant::now();
    assert!(site.admit(&[CLIENT[0]], LONG).accepted);
    assert_eq!(site.revoke_all(), 1);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let began = Instant::now();
    while front(&site) == Some(pid) {
        assert!(began.elapsed() < REPLACED, "{}", site.log());
        thread::sleep(Duration::from_millis(100));
    }
    assert_replaced(&site, pid, REPLACED);
    let (status, _) = site.status();
    let why = status["front"]["last_end"].as_str().unwrap();
    assert!(why.contains("it did not answer 2 questions in turn"), "{why}");
}

#[test]
fn the_front_ends_with_a_killed_agent_and_the_next_one_listens_at_once() {
    let mut site = site();
    let pid = started(&site);
    // One that hangs would keep the port.
    signal(pid, Signal::STOP);
    site.end(Signal::KILL);
    site.start();
    assert!(lists(&site));
    assert!(has_ended(pid), "the front before");
    assert_ne!(front(&site), Some(pid));
}
