//! Interfaces that come, are renamed, move to another network namespace and back, or change while
//! the agent runs. These tests do not ask `status` meanwhile: it would make the agent check its
//! links.

use std::{process::Command, time::Instant};

use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_STRANGER, carries, opens},
    netns::Namespace,
    sockets,
};
use rustix::process::Signal;

use crate::path::{self, Gate, PROMISED, Path, connect, is_pinned, serve, wait_until_gated};

const PATH: Path =
    Path { from: ["198.18.10.2", "2001:db8:18:a::2"], to: ["198.18.10.1", "2001:db8:18:a::1"] };

#[test]
fn an_interface_that_appears_is_closed_at_once_and_gated_within_a_second() {
    // First it is shown to be a way in: without a gate it opens at once.
    let mut site = Site::new();
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_open(&site, "without an agent");
    site.host.ip(&["link", "delete", "n0"]);
    site.start();
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_closed(&site, "at once, with the guard");
    wait_until_gated(&site, "n0");
    PATH.assert_gated(&site, "by program and guard");
}

#[test]
fn an_interface_that_appears_is_gated_within_a_second_without_the_guard() {
    let mut site = Site::new();
    Gate::PACKETS.configure(&site);
    site.start();
    for round in 0..5 {
        connect(&site, "n0", "p9", &PATH);
        wait_until_gated(&site, "n0");
        PATH.assert_closed(&site, &format!("round {round}"));
        if round == 4 {
            PATH.assert_gated(&site, "after it came for the fifth time");
        }
        site.host.ip(&["link", "delete", "n0"]);
    }
}

#[test]
fn an_interface_that_appears_with_the_agent_dead_is_closed_and_gated_at_its_start() {
    let mut site = Site::new();
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_open(&site, "without an agent");
    site.host.ip(&["link", "delete", "n0"]);
    site.start();
    site.admit(&PATH.from, path::LONG);
    site.end(Signal::KILL);
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_open(&site, "with a grant from before, by the guard alone");
    site.start();
    wait_until_gated(&site, "n0");
    assert_eq!(site.revoke_all(), 1);
    site.end(Signal::KILL);
    PATH.assert_closed(&site, "with the agent dead");
    site.host.ip(&["link", "delete", "n0"]);
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_closed(&site, "by the guard alone");
    site.start();
    PATH.assert_gated(&site, "after the next start");
}

#[test]
fn an_interface_that_is_renamed_is_gated_by_its_new_name() {
    let mut site = Site::new();
    connect(&site, "n0", "p9", &PATH);
    Gate { interfaces: "[\"c0\", \"e*\"]", ..Gate::PACKETS }.configure(&site);
    site.start();
    PATH.assert_open(&site, "under a name that is not wanted");
    rename(&site, "n0", "e0");
    wait_until_gated(&site, "e0");
    PATH.assert_gated(&site, "under a name that is wanted");
    rename(&site, "e0", "n0");
    PATH.assert_open(&site, "under the old name again");
}

#[test]
fn an_interface_that_is_renamed_among_wanted_names_never_opens() {
    let mut site = Site::new();
    connect(&site, "n0", "p9", &PATH);
    PATH.assert_open(&site, "without an agent");
    Gate::PACKETS.configure(&site);
    site.start();
    rename(&site, "n0", "e0");
    PATH.assert_gated(&site, "at once after the renaming");
}

#[test]
fn an_interface_that_moves_away_and_back_is_gated_again() {
    let path = Path { from: STRANGER, to: TO_STRANGER };
    let elsewhere = Namespace::new();
    serve(&elsewhere, 22, *b"el");
    let mut site = Site::new();
    let put = |namespace: &Namespace| {
        namespace.address("s0", &format!("{}/24", path.to[0]));
        namespace.address("s0", &format!("{}/64", path.to[1]));
        namespace.ip(&["link", "set", "s0", "up"]);
    };
    Gate::PACKETS.configure(&site);
    site.start();
    path.assert_closed(&site, "before it moves");
    // Once the agent has time to notice, once it has not.
    for wait in [true, false] {
        let index = site.host.index("s0");
        site.host.ip(&["link", "set", "s0", "netns", elsewhere.name()]);
        if wait {
            put(&elsewhere);
            path.assert_open(&site, "in another namespace, whose gate this is not");
            assert!(!is_pinned(&site, index), "no link is pinned for an interface that is gone");
        }
        elsewhere.ip(&["link", "set", "s0", "netns", site.host.name()]);
        put(&site.host);
        // A pin of before proves nothing: only a closed port does.
        let back = Instant::now();
        while path.greetings(&site, PATIENCE) != [None, None] {
            assert!(back.elapsed() < PROMISED + PATIENCE, "open after it came back");
        }
        path.assert_gated(&site, "after it came back");
    }
}

#[test]
fn an_interface_whose_mtu_changes_stays_gated_and_keeps_its_sessions() {
    let path = Path { from: STRANGER, to: TO_STRANGER };
    let mut site = Site::new();
    path.assert_open(&site, "without an agent");
    Gate::PACKETS.configure(&site);
    site.start();
    site.admit(&path.from, path::LONG);
    let to = jit_tests::agent::address(path.to, 0, 22);
    let mut session = site.stranger.run(|| {
        let from = jit_tests::agent::address(path.from, 0, 0);
        sockets::connect_from(from, to, sockets::PATIENCE).unwrap()
    });
    std::io::Read::read_exact(&mut session, &mut [0; 2]).unwrap();
    for mtu in ["9000", "1400", "1500"] {
        site.host.ip(&["link", "set", "s0", "mtu", mtu]);
        site.stranger.ip(&["link", "set", "p0", "mtu", mtu]);
        assert!(carries(&mut session), "MTU {mtu}");
        assert!(site.stranger.run(|| opens(to, PROMISED)), "MTU {mtu}");
    }
    assert_eq!(site.revoke_all(), 1);
    path.assert_closed(&site, "with another MTU");
}

/// A listed interface may be gone before a program is attached to it.
#[test]
fn the_agent_starts_while_interfaces_come_and_go() {
    let mut site = Site::new();
    for round in 0..3 {
        let changes = site.path("changes");
        let lines: String = (0..1_000)
            .map(|number| {
                let name = format!("x{round}n{number}");
                format!("link add {name} type veth peer name y{number}\nlink delete {name}\n")
            })
            .collect();
        std::fs::write(&changes, lines).unwrap();
        // A line that the busy kernel refuses does not end the others.
        let batch = ["-force", "-n", site.host.name(), "-batch"];
        let mut changing = Command::new("ip").args(batch).arg(&changes).spawn().unwrap();
        site.start();
        let ended = changing.try_wait().unwrap();
        changing.kill().unwrap();
        changing.wait().unwrap();
        assert_eq!(ended, None, "interfaces came and went until the end");
        site.assert_closed_to_all();
        site.end(Signal::TERM);
    }
}

/// Renames an interface and keeps its addresses. It is set down meanwhile: older kernels rename no
/// interface that is up.
fn rename(site: &Site, from: &str, to: &str) {
    site.host.ip_batch(&format!(
        "link set {from} down\n\
         link set {from} name {to}\n\
         addr replace {}/64 dev {to} nodad\n\
         link set {to} up\n\
         addr replace {}/64 dev {to} nodad\n",
        PATH.to[1], PATH.to[1]
    ));
}
