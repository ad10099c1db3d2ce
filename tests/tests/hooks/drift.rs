//! Somebody takes the gate off, or removes its pins: it comes back within 5 s and is reported.
//! Until then `status` does not call the host protected.

use std::{
    fs,
    io::ErrorKind,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_agent::{gate::TICK, kernel::datapath::bpf};
use jit_common::ABI_VERSION;
use jit_tests::{
    agent::{CLIENT, PATIENCE, Site, opens},
    kernel::Kernel,
    netns::Namespace,
};
use rustix::process::Signal;

use crate::rungs::{events, interface};

/// Longest time until the gate is restored (docs/operations.md, section "Put right by itself").
const RESTORE: Duration = Duration::from_secs(5);
/// This only ends a wait for what does not come: a busy machine may stand still for seconds.
const ENDS: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// A started agent with this hook and without the socket guard.
fn started(hook: &str) -> Site {
    let mut site = Site::new();
    let config = site.base("[\"*\"]", hook);
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.start();
    site
}

fn pin(site: &Site, hook: &str, name: &str) -> PathBuf {
    let index = site.host.index(name);
    site.pins().join(format!("v{ABI_VERSION}/links/{hook}-{index}"))
}

fn link(site: &Site, hook: &str, name: &str) -> OwnedFd {
    bpf::open_pin(&pin(site, hook, name)).unwrap()
}

fn tc(namespace: &Namespace, line: &str) {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace.name()))
        .args(["tc"])
        .args(line.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "tc {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Takes the gate off s0 twice: once it comes back by itself, and once somebody asks `status`
/// meanwhile.
fn restores(site: &Site, reported: &str, why: &str, take_off: impl Fn()) {
    let recorded = |code, count| events(site, code).len() == count;
    let began = Instant::now();
    take_off();
    while !recorded("A004", 1) {
        assert!(began.elapsed() < ENDS, "not within {ENDS:?}:\n{}", site.log());
        thread::sleep(Duration::from_millis(5));
    }
    println!("{reported}: back after {:.1?}", began.elapsed());
    assert!(recorded("A003", 1) && site.status().1 == 0);
    // The agent may check at the same moment: then `status` does not report it.
    let found = (0..5).any(|_| {
        take_off();
        let (status, code) = site.status();
        assert!(code == 0 || status["problems"].to_string().contains(why), "{status:#}");
        code == 1 && status["state"] == "degraded"
    });
    assert!(found, "status never said that {why}");
    let (status, code) = site.status();
    assert_eq!(code, 0, "`status` restored it: {status:#}");
    assert_eq!(interface(site, "s0")["hook"], reported);
    assert_eq!(events(site, "A003").len(), events(site, "A004").len());
}

fn closed_and_open_with_a_grant(site: &mut Site) {
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
    site.end(Signal::KILL);
    site.assert_open_to_the_client_alone();
}

/// What is changed while the agent restores it is found at the next look.
#[test]
fn two_looks_are_within_the_time_that_is_promised() {
    assert!(2 * TICK < RESTORE);
}

#[test]
fn a_link_that_is_detached_comes_back_and_is_reported() {
    for (hook, reported) in [("native", "xdp_native"), ("generic", "xdp_generic"), ("tc", "tcx")] {
        let mut site = started(hook);
        let s0 = pin(&site, reported, "s0");
        restores(&site, reported, "s0: its link was detached", || {
            bpf::detach_link(link(&site, reported, "s0")).unwrap();
            assert!(s0.exists(), "the pin is still there");
        });
        closed_and_open_with_a_grant(&mut site);
    }
}

#[test]
fn a_classifier_that_is_taken_off_comes_back_and_is_reported() {
    for line in ["filter del dev s0 ingress", "qdisc del dev s0 clsact"] {
        let mut site = started("clsact");
        restores(&site, "clsact", "s0: its classifier was taken off", || tc(&site.host, line));
        closed_and_open_with_a_grant(&mut site);
    }
}

#[test]
fn a_link_with_another_program_gets_ours_back() {
    let mut site = started("native");
    // The same program over empty tables: it protects nothing.
    let empty = Kernel::load();
    restores(&site, "xdp_native", "s0: it runs another program", || {
        bpf::update_link(link(&site, "xdp_native", "s0"), empty.xdp()).unwrap();
    });
    closed_and_open_with_a_grant(&mut site);
}

/// All pins, as paths below the pin directory.
fn pinned(site: &Site) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for kind in ["links", "maps"] {
        let directory = site.pins().join(format!("v{ABI_VERSION}/{kind}"));
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path()));
    }
    all.sort();
    all
}

/// Removes all pins, also while the agent puts them back: then the directory is not empty at its end.
fn remove_pins(site: &Site) {
    let began = Instant::now();
    while let Err(error) = fs::remove_dir_all(site.pins()) {
        assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
        assert!(began.elapsed() < ENDS, "{error}");
    }
}

#[test]
fn removed_pins_come_back_with_the_same_tables() {
    for hook in ["native", "tc", "clsact"] {
        let mut site = started(hook);
        site.admit(&CLIENT, LONG);
        let before = pinned(&site);
        let began = Instant::now();
        remove_pins(&site);
        assert!(!site.stranger_opens(0, 22), "the agent holds links and tables too");
        while pinned(&site) != before {
            assert!(began.elapsed() < ENDS, "not within {ENDS:?}:\n{}", site.log());
            thread::sleep(Duration::from_millis(5));
        }
        println!("{hook}: pins back after {:.1?}", began.elapsed());
        // The agent may check at the same moment: then `status` does not report it.
        let found = (0..5).any(|_| {
            remove_pins(&site);
            let (status, code) = site.status();
            let said = status["problems"].to_string();
            code == 1 && said.contains("the tables: their pins are gone")
        });
        assert!(found, "status never said so");
        let (status, code) = site.status();
        assert_eq!(code, 0, "{status:#}\n{}", site.log());
        assert_eq!(pinned(&site), before);
        let lost = events(&site, "A003");
        assert!(lost.iter().any(|event| event.contains("HOST_GRANTS")), "{lost:?}");
        let second = site.run(&["run"]);
        assert_eq!(second.status.code(), Some(69), "the new directory is locked as well");
        site.assert_open_to_the_client_alone();
        site.end(Signal::KILL);
        site.assert_open_to_the_client_alone();
        site.start();
        site.assert_open_to_the_client_alone();
        site.end(Signal::TERM);
        assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
        assert!(site.stranger_gets_in(0, 22), "no gate is left without a pin");
    }
}

/// Makes a veth pair to the stranger whose end on the host has this index.
fn connect(site: &Site, index: &str, peer: &str) {
    let stranger = site.stranger.name();
    site.host.ip(&[
        "link", "add", "x0", "index", index, "type", "veth", "peer", "name", peer, "netns",
        stranger,
    ]);
    for (namespace, name, address) in
        [(&site.host, "x0", "192.0.2.1/24"), (&site.stranger, peer, "192.0.2.2/24")]
    {
        namespace.address(name, address);
        namespace.ip(&["link", "set", name, "up"]);
    }
}

/// While the agent is down, an interface with our link on it moves to another network namespace. A
/// new one with the same index and name takes its place.
#[test]
fn a_new_interface_with_the_index_of_a_gated_one_is_not_reported_as_gated() {
    let knock =
        |site: &Site| site.stranger.run(|| opens("192.0.2.1:22".parse().unwrap(), PATIENCE));
    for (hook, reported) in
        [("native", "xdp_native"), ("generic", "xdp_generic"), ("tc", "tcx"), ("clsact", "clsact")]
    {
        let mut site = Site::new();
        let config = site.base("[\"*\"]", hook);
        site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
        connect(&site, "1000", "y0");
        site.start();
        assert!(!knock(&site));
        site.end(Signal::KILL);
        let elsewhere = Namespace::new();
        site.host.ip(&["link", "set", "x0", "netns", elsewhere.name()]);
        assert_eq!(elsewhere.index("x0"), 1000, "it keeps its index");
        site.stranger.ip(&["link", "set", "y0", "down"]);
        connect(&site, "1000", "y1");
        let began = Instant::now();
        while !knock(&site) {
            assert!(began.elapsed() < ENDS, "nothing is attached to the new one");
        }
        let state = interface(&site, "x0");
        assert_eq!(state["attached"], false, "the new one is not attached: {state:#}");
        site.start();
        assert_eq!(interface(&site, "x0")["hook"], reported);
        assert!(!knock(&site), "{hook}: the new one is gated");
        site.admit(&["192.0.2.2"], LONG);
        assert!(knock(&site));
        assert_eq!(site.status().1, 0);
    }
}
