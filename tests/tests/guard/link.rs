//! The guard's link: adopted, read back, restored, taken off.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::{EbpfLoader, programs::SkLookup};
use jit_agent::kernel::datapath::{
    bpf,
    object::{OBJECT, PROGRAM_GUARD, PROGRAM_GUARD_LEGACY},
    pins::Pins,
    socket_guard::Guard,
};
use jit_common::ABI_VERSION;
use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_STRANGER, address, opens},
    kernel::Kernel,
    programs::next_agent,
};
use rustix::process::Signal;
use serde_json::Value;

/// This only ends a wait for what does not come: a busy machine may stand still for seconds.
const ENDS: Duration = Duration::from_secs(60);
/// Largest number of programs of this kind on one network namespace (`netns_bpf_max_progs`).
const MOST: usize = 64;

/// A host whose interface towards the stranger has no gate.
fn ungated(extra: &str) -> Site {
    let site = Site::new();
    let config = site.base("[\"c0\"]", "auto");
    site.write_config(&config.replace("[gate]", &format!("[gate]\n{extra}")));
    site
}

fn pin(site: &Site) -> PathBuf {
    site.pins().join(format!("v{ABI_VERSION}/links/socket_guard"))
}

fn guard(site: &Site) -> Value {
    site.status().0["socket_guard"].clone()
}

fn stranger_opens(site: &Site) -> bool {
    site.stranger.run(|| opens(address(TO_STRANGER, 0, 22), PATIENCE))
}

fn wait_for(site: &Site, condition: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < ENDS, "not within {ENDS:?}:\n{}", site.log());
        thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

#[test]
fn status_reports_the_guard_also_with_the_agent_dead() {
    let mut site = ungated("");
    site.start();
    let alive = guard(&site);
    assert_eq!((&alive["wanted"], &alive["attached"]), (&true.into(), &true.into()), "{alive:#}");
    assert!(alive["since"].is_string() && alive["note"] == "", "{alive:#}");
    let text = |site: &Site| String::from_utf8(site.run(&["status"]).stdout).unwrap();
    let gate = |text: &str| text.lines().find(|line| line.starts_with("gate ")).unwrap().to_owned();
    assert!(gate(&text(&site)).ends_with("    socket guard"), "{}", text(&site));
    site.end(Signal::KILL);
    let dead = guard(&site);
    assert_eq!(dead["attached"], true, "{dead:#}");
    assert_eq!(dead["since"], alive["since"]);
    assert!(gate(&text(&site)).ends_with("    socket guard"), "{}", text(&site));
    assert!(!stranger_opens(&site));
}

#[test]
fn a_restart_swaps_the_program_on_the_pinned_link() {
    let mut site = ungated("");
    site.start();
    let link = bpf::open_pin(&pin(&site)).unwrap();
    let before = bpf::guard_info(&link).unwrap();
    site.end(Signal::KILL);
    assert!(!stranger_opens(&site));
    site.start();
    let after = bpf::guard_info(&link).unwrap();
    assert_eq!(after.namespace, before.namespace, "the same link on the same namespace");
    assert_ne!(after.program, before.program, "with the new agent's program");
    assert!(!stranger_opens(&site));
    site.admit(&STRANGER, Duration::from_secs(600));
    assert!(stranger_opens(&site));
}

#[test]
fn a_guard_that_is_detached_comes_back_and_is_reported() {
    let mut site = ungated("");
    site.start();
    let link = bpf::open_pin(&pin(&site)).unwrap();
    bpf::detach_link(&link).unwrap();
    assert!(pin(&site).exists(), "the pin is still there");
    let took = wait_for(&site, || !stranger_opens(&site));
    println!("restored after {took:?}");
    wait_for(&site, || site.log().contains("the gate was missing: restored"));
    let audit = || fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    let reported = |code: &str| {
        let code = format!("\"{code}\"");
        let of_guard = |line: &&str| line.contains(&code) && line.contains("socket_guard");
        audit().lines().filter(of_guard).count()
    };
    wait_for(&site, || reported("A004") == 1);
    assert_eq!(reported("A003"), 1, "the loss was recorded first: {}", audit());
    assert_eq!(bpf::guard_info(&link).unwrap().namespace, 0, "the old link is on no namespace");
    site.end(Signal::KILL);
    assert!(!stranger_opens(&site), "the new link is pinned");
    assert_eq!(guard(&site)["attached"], true);
}

/// A `status` at once reports the missing guard, and restores it.
#[test]
fn a_guard_that_is_detached_is_not_called_attached() {
    let mut site = ungated("");
    site.start();
    // The agent may check at the same moment: then `status` does not report it.
    let found = (0..5).any(|_| {
        bpf::detach_link(bpf::open_pin(&pin(&site)).unwrap()).unwrap();
        let (status, code) = site.status();
        let said = status["problems"].to_string().contains("socket guard: its link was detached");
        assert_eq!(said, code == 1, "{status:#}");
        said && status["socket_guard"]["attached"] == false
    });
    assert!(found, "status never said that it was detached");
    let (status, code) = site.status();
    assert_eq!((&status["socket_guard"]["attached"], code), (&true.into(), 0), "{status:#}");
    assert!(!stranger_opens(&site));
}

/// The kernel follows a program that selects a socket, whatever the guard decides.
#[test]
fn another_program_that_selects_sockets_is_reported_by_its_number() {
    let mut site = ungated("");
    site.start();
    assert_eq!(site.status().1, 0);
    let kernel = Kernel::load();
    let foreign = site.host.run(|| {
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        bpf::attach_guard(kernel.guard(), &namespace).unwrap()
    });
    let id = bpf::guard_info(&foreign).unwrap().program;
    let reported = |site: &Site| {
        let (status, code) = site.status();
        let problems = status["problems"].to_string();
        assert_eq!((status["socket_guard"]["attached"].as_bool(), code), (Some(true), 1));
        problems.contains(&format!("sk_lookup, id {id})"))
    };
    assert!(reported(&site));
    site.end(Signal::KILL);
    assert!(reported(&site), "also with the agent dead");
    site.start();
    assert!(reported(&site));
    bpf::detach_link(&foreign).unwrap();
    assert_eq!(site.status().1, 0, "the other program is gone");
}

#[test]
fn a_guard_with_another_program_gets_ours_back() {
    let mut site = ungated("");
    site.start();
    let link = bpf::open_pin(&pin(&site)).unwrap();
    let ours = bpf::guard_info(&link).unwrap();
    // The same program over empty tables: it protects nothing.
    let empty = Kernel::load();
    bpf::update_link(&link, empty.guard()).unwrap();
    wait_for(&site, || bpf::guard_info(&link).unwrap() == ours);
    assert!(!stranger_opens(&site));
}

#[test]
fn a_pin_that_is_removed_comes_back() {
    let mut site = ungated("");
    site.start();
    fs::remove_file(pin(&site)).unwrap();
    assert!(!stranger_opens(&site), "the agent holds the link as well");
    wait_for(&site, || pin(&site).exists());
    site.end(Signal::KILL);
    assert!(!stranger_opens(&site));
}

#[test]
fn with_the_agent_dead_a_detached_guard_is_not_called_protection() {
    let mut site = ungated("");
    site.start();
    site.end(Signal::KILL);
    bpf::detach_link(bpf::open_pin(&pin(&site)).unwrap()).unwrap();
    let (status, _) = site.status();
    assert_eq!(status["socket_guard"]["attached"], false, "{status:#}");
    assert!(status["problems"].to_string().contains("socket guard is not in force"), "{status:#}");
    site.start();
    assert!(!stranger_opens(&site), "a start attaches it again");
}

#[test]
fn detach_takes_the_guard_off_and_says_so() {
    let mut site = ungated("");
    site.start();
    site.end(Signal::TERM);
    let output = site.run(&["detach", "--yes"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("1 interface and the socket guard is off"), "{said}");
    assert!(stranger_opens(&site));
    assert!(site.holds_no_pins());
}

#[test]
fn a_reload_takes_the_guard_off_and_brings_it_back() {
    let mut site = ungated("socket_guard = true");
    site.start();
    assert!(!stranger_opens(&site));
    let on = fs::read_to_string(site.config()).unwrap();
    site.write_config(&on.replace("socket_guard = true", "socket_guard = false"));
    site.signal(Signal::HUP);
    wait_for(&site, || stranger_opens(&site));
    let off = guard(&site);
    assert_eq!((&off["wanted"], &off["attached"]), (&false.into(), &false.into()), "{off:#}");
    assert!(!pin(&site).exists());
    site.write_config(&on);
    site.signal(Signal::HUP);
    wait_for(&site, || !stranger_opens(&site));
    assert_eq!(guard(&site)["attached"], true);
}

#[test]
fn a_guard_that_the_kernel_refuses_leaves_the_rest_in_force_and_is_tried_again() {
    let mut site = ungated("");
    let kernel = Kernel::load();
    let others: Vec<_> = site.host.run(|| {
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        (0..MOST).map(|_| bpf::attach_guard(kernel.guard(), &namespace).unwrap()).collect()
    });
    site.start();
    let (status, code) = site.status();
    assert_eq!(code, 1, "{status:#}");
    assert_eq!(status["socket_guard"]["attached"], false, "{status:#}");
    let problems = status["problems"].to_string();
    assert!(problems.contains("socket guard is not in force"), "{problems}");
    assert!(problems.contains("refuses to attach"), "{problems}");
    assert!(!site.client_opens(0, 22), "the interface is gated");
    assert!(stranger_opens(&site), "the open interface is not called protected");
    drop(others);
    wait_for(&site, || !stranger_opens(&site));
    assert_eq!(guard(&site)["attached"], true);
    let address: SocketAddr = address(TO_STRANGER, 1, 22);
    assert!(!site.stranger.run(|| opens(address, PATIENCE)));
}

/// After an upgrade the new guard cannot be loaded.
#[test]
fn the_guard_of_another_version_is_reported_as_such_and_can_be_taken_off() {
    let mut site = ungated("");
    site.use_program(next_agent());
    site.start();
    site.end(Signal::KILL);
    let pins = Pins::new(site.pins());
    site.host.run(|| {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        // A program that is loaded cannot be loaded once more.
        for name in [PROGRAM_GUARD, PROGRAM_GUARD_LEGACY] {
            let program: &mut SkLookup = object.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let mut guard = Guard::new(pins);
        let state = guard.keep(true, &mut object);
        assert_eq!((state.attached, state.held_by), (false, Some(ABI_VERSION + 1)), "{state:?}");
        let (_, problem) = state.problem().unwrap();
        assert!(problem.contains("that of another version"), "{problem}");
        assert!(!stranger_opens(&site), "the old guard is in force");
        let off = guard.keep(false, &mut object);
        assert_eq!((off.attached, off.held_by, off.problem()), (false, None, None));
    });
    assert!(stranger_opens(&site), "the command in the problem takes it off");
}
