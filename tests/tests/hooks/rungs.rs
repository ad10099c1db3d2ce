//! Each hook closes, and opens with a grant. `status` says why a hook is not the best one. A
//! restart keeps the hook without a gap. `detach` takes every kind off.

use std::{process::Command, time::Duration};

use jit_tests::{
    agent::{CLIENT, PATIENCE, Site, opens},
    netns::Namespace,
    tun,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::kernels::best_tc;

const LONG: Duration = Duration::from_secs(600);

/// The state of an interface in `status --json`.
pub(crate) fn interface(site: &Site, name: &str) -> Value {
    let (status, _) = site.status_by_the_agent();
    let interfaces = status["interfaces"].as_array().unwrap();
    interfaces
        .iter()
        .find(|interface| interface["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {status:#}"))
        .clone()
}

/// Events with this code in the audit, each as JSON text.
pub(crate) fn events(site: &Site, code: &str) -> Vec<String> {
    let text = std::fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    let marked = format!("\"{code}\"");
    text.lines().filter(|line| line.contains(&marked)).map(str::to_owned).collect()
}

/// The output of `tc` about the ingress of an interface.
pub(crate) fn classifiers(namespace: &Namespace, interface: &str) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace.name()))
        .args(["tc", "filter", "show", "dev", interface, "ingress"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Over both families: closed, open with a grant, closed again, also with the agent killed and
/// after a restart. After `detach` all is open.
pub(crate) fn holds_by(hook: &str, reported: &str) {
    let mut site = Site::new();
    site.configure_gate("[\"*\"]", hook);
    let config = std::fs::read_to_string(site.config()).unwrap();
    // Without the guard, which would hide a gate that lets everything in.
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.serve(80);
    site.start();
    let (status, code) = site.status_by_the_agent();
    assert_eq!((status["state"].as_str(), code), (Some("enforcing"), 0), "{status:#}");
    for name in ["c0", "s0"] {
        let state = interface(&site, name);
        assert_eq!((&state["hook"], &state["attached"]), (&reported.into(), &true.into()));
        assert!(state["since"].is_string(), "{state:#}");
    }
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
    assert!(site.stranger_gets_in(0, 80) && site.stranger_gets_in(1, 80), "unprotected port");
    site.end(Signal::KILL);
    site.assert_open_to_the_client_alone();
    assert_eq!(interface(&site, "s0")["hook"], reported, "read from the kernel");
    site.start();
    assert_eq!(interface(&site, "s0")["hook"], reported);
    assert_eq!(events(&site, "A001").len(), 2, "the restart attaches nothing");
    assert_eq!(events(&site, "A002").len(), 2, "the restart adopts");
    assert!(events(&site, "A003").is_empty() && events(&site, "A004").is_empty());
    site.assert_open_to_the_client_alone();
    assert_eq!(site.revoke_all(), 1);
    site.assert_closed_to_all();
    site.end(Signal::TERM);
    let output = site.run(&["detach", "--yes"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("gone from 2 interfaces"), "{said}");
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22));
    assert!(site.holds_no_pins());
}

#[test]
fn native_xdp_holds() {
    holds_by("native", "xdp_native");
    holds_by("auto", "xdp_native");
}

#[test]
fn generic_xdp_holds() {
    holds_by("generic", "xdp_generic");
}

#[test]
fn tc_by_a_link_holds() {
    holds_by("tc", "tcx");
}

#[test]
fn tc_by_a_classifier_holds() {
    holds_by("clsact", "clsact");
}

/// A site with a second way to the client: a tun device of this kind (`ARPHRD_*`).
fn with_tun(kind: u16) -> Site {
    let site = Site::new();
    tun::connect_as("t0", &site.host, &site.client, kind);
    for (namespace, addresses) in [
        (&site.host, ["192.0.2.1/24", "2001:db8:9::1/64"]),
        (&site.client, ["192.0.2.2/24", "2001:db8:9::2/64"]),
    ] {
        for address in addresses {
            namespace.address("t0", address);
        }
        namespace.ip(&["link", "set", "t0", "up"]);
    }
    site
}

fn client_opens_by_tun(site: &Site) -> [bool; 2] {
    ["192.0.2.1:22", "[2001:db8:9::1]:22"]
        .map(|address| site.client.run(|| opens(address.parse().unwrap(), PATIENCE)))
}

fn a_tun_device_is_gated_by(hook: &str, reported: &str) {
    let mut site = with_tun(libc::ARPHRD_NONE);
    let config = site.base("[\"*\"]", hook);
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    assert_eq!(client_opens_by_tun(&site), [true; 2], "open without a gate");
    site.start();
    let state = interface(&site, "t0");
    assert_eq!(state["hook"], reported, "{state:#}");
    assert_eq!(client_opens_by_tun(&site), [false; 2]);
    site.admit(&["192.0.2.2", "2001:db8:9::2"], LONG);
    assert_eq!(client_opens_by_tun(&site), [true; 2]);
    site.revoke_all();
    assert_eq!(client_opens_by_tun(&site), [false; 2]);
}

#[test]
fn a_device_without_an_ethernet_header_is_gated_by_tc() {
    a_tun_device_is_gated_by("auto", best_tc());
    a_tun_device_is_gated_by("native", best_tc());
    a_tun_device_is_gated_by("clsact", "clsact");
}

#[test]
fn a_device_with_an_unknown_header_is_left_to_the_guard_and_reported() {
    let mut site = with_tun(libc::ARPHRD_IEEE1394);
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
    let state = interface(&site, "t0");
    assert_eq!((&state["hook"], &state["attached"]), (&"guard_only".into(), &false.into()));
    assert!(state["note"].as_str().unwrap().contains("ARPHRD 24"), "{state:#}");
    assert!(status["problems"].to_string().contains("t0 is left to the socket guard"));
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(text.contains("1 SOCKET GUARD ONLY: t0 (its frames"), "{text}");
    let lesser = events(&site, "A005");
    assert!(lesser.len() == 1 && lesser[0].contains("\"t0\""), "{lesser:?}");
    assert_eq!(client_opens_by_tun(&site), [false; 2]);
    site.admit(&["192.0.2.2", "2001:db8:9::2"], LONG);
    assert_eq!(client_opens_by_tun(&site), [true; 2]);
}

#[test]
fn a_device_without_native_xdp_gets_the_next_hook_and_status_says_why() {
    let mut site = Site::new();
    for (namespace, name, remote, address) in [
        (&site.host, "c0", "198.51.100.2", "192.0.2.1/24"),
        (&site.client, "p0", "198.51.100.1", "192.0.2.2/24"),
    ] {
        namespace.ip(&[
            "link", "add", "x0", "type", "vxlan", "id", "4", "dstport", "4789", "remote", remote,
            "dev", name,
        ]);
        namespace.address("x0", address);
        namespace.ip(&["link", "set", "x0", "up"]);
    }
    let config = site.base("[\"*\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    let opens = |site: &Site| site.client.run(|| opens("192.0.2.1:22".parse().unwrap(), PATIENCE));
    assert!(opens(&site), "open without a gate");
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("enforcing"), 0), "{status:#}");
    let state = interface(&site, "x0");
    assert_eq!(state["hook"], "tcx", "{state:#}");
    assert!(state["note"].as_str().unwrap().starts_with("native XDP: the driver has none"));
    let lesser = events(&site, "A005");
    assert!(lesser.len() == 1 && lesser[0].contains("\"x0\"") && lesser[0].contains("the driver"));
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(text.contains("x0  TC (tcx) (native XDP: the driver has none)"), "{text}");
    assert!(!opens(&site));
    site.admit(&["192.0.2.2"], LONG);
    assert!(opens(&site));
}

#[test]
fn a_configured_hook_that_does_not_work_is_reported_and_the_others_hold() {
    let mut site = Site::new();
    site.host.ip(&["link", "add", "b0", "type", "bridge"]);
    let config = site.base("[\"*\"]", "native").replace("[gate]", "[gate]\nsocket_guard = false");
    site.write_config(&config);
    site.start();
    site.assert_closed_to_all();
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
    let problems = status["problems"].to_string();
    assert!(problems.contains("b0 is not gated") && problems.contains("has none"), "{problems}");
}

#[test]
fn a_named_interface_that_is_missing_is_reported_and_the_others_hold() {
    let mut site = Site::new();
    let config = site.base("[\"c0\", \"s0\", \"late0\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.start();
    site.assert_closed_to_all();
    let (status, code) = site.status();
    assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
    let problems = status["problems"].to_string();
    assert!(problems.contains("late0") && problems.contains("no such interface"), "{problems}");
}

#[test]
fn an_agent_whose_hooks_all_fail_says_so_and_ends() {
    let site = Site::new();
    site.host.ip(&["link", "add", "b0", "type", "bridge"]);
    let config = site.base("[\"b0\"]", "native").replace("[gate]", "[gate]\nsocket_guard = false");
    site.write_config(&config);
    let output = site.run(&["run"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains("b0") && errors.contains("the driver has none"), "{errors}");
}

/// Each start tries a better hook. If that fails, the hook in force must stay.
#[test]
fn a_start_whose_better_hook_fails_keeps_the_hook_in_force() {
    let mut site = Site::new();
    site.host.ip(&["link", "add", "b0", "type", "bridge"]);
    let config = site.base("[\"*\"]", "tc").replace("[gate]", "[gate]\nsocket_guard = false");
    site.write_config(&config);
    site.start();
    assert_eq!(interface(&site, "b0")["hook"], best_tc());
    site.end(Signal::TERM);
    site.write_config(&config.replace("\"tc\"", "\"native\""));
    site.start();
    site.assert_closed_to_all();
    assert_eq!(interface(&site, "s0")["hook"], "xdp_native");
    assert_eq!(interface(&site, "b0")["hook"], best_tc());
}

#[test]
fn a_reload_changes_the_hook_without_a_gap() {
    let mut site = Site::new();
    let config = site.base("[\"*\"]", "tc").replace("[gate]", "[gate]\nsocket_guard = false");
    site.write_config(&config);
    site.start();
    for (choice, reported) in [
        ("clsact", "clsact"),
        ("generic", "xdp_generic"),
        ("native", "xdp_native"),
        ("generic", "xdp_generic"),
        ("auto", "xdp_native"),
        ("tc", best_tc()),
    ] {
        site.write_config(&config.replace("\"tc\"", &format!("\"{choice}\"")));
        site.signal(Signal::HUP);
        let began = std::time::Instant::now();
        while interface(&site, "s0")["hook"] != reported {
            assert!(began.elapsed() < Duration::from_secs(5), "{choice}: {}", site.log());
            assert!(!site.stranger_opens(0, 22), "a gap on the way to {choice}");
        }
        site.assert_closed_to_all();
        assert_eq!(classifiers(&site.host, "s0").contains("jit-agent"), choice == "clsact");
    }
    assert!(events(&site, "A003").is_empty(), "nothing was lost");
}
