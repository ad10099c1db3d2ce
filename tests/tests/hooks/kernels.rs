//! What a kernel lacks: the next best hook is in force, and `status` and the audit name what is
//! missing. Without XDP links nothing is attached. In the virtual machines of `cargo xtask vm-test`
//! these tests run on kernels that lack something.

use std::time::Duration;

use jit_tests::{
    agent::{CLIENT, Site},
    lacks::{FRAGS, INGRESS_IFINDEX, TCX, kernel_lacks},
    sys,
};

use crate::rungs::{events, holds_by, interface};

const LONG: Duration = Duration::from_secs(600);
const NO_TCX: &str = "TC (tcx): this kernel has none (Linux 6.6)";

/// The hook that `tc` means on this kernel.
pub(crate) fn best_tc() -> &'static str {
    if kernel_lacks(TCX) { "clsact" } else { "tcx" }
}

#[test]
fn the_best_tc_hook_of_the_kernel_holds_and_a_missing_one_is_named() {
    holds_by("tc", best_tc());
    let mut site = Site::new();
    site.configure_gate("[\"*\"]", "tc");
    site.start();
    let lacks = kernel_lacks(TCX);
    let state = interface(&site, "s0");
    assert_eq!(state["note"].as_str().unwrap().contains(NO_TCX), lacks, "{state:#}");
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert_eq!(text.contains(NO_TCX), lacks, "{text}");
    let missing = events(&site, "A005");
    assert_eq!(missing.len(), if lacks { 2 } else { 0 }, "{missing:?}");
    assert!(missing.iter().all(|event| event.contains(NO_TCX)), "{missing:?}");
    let (status, code) = site.status_by_the_agent();
    assert_eq!(code, 0, "the next best hook is no failure: {status:#}");
}

/// Frames above one page come in fragments. XDP takes those from Linux 5.18 on.
#[test]
fn frames_of_nine_thousand_bytes_are_gated_by_the_best_hook_that_takes_them() {
    let mut site = Site::new();
    site.host.ip(&["link", "set", "c0", "mtu", "9000"]);
    site.client.ip(&["link", "set", "p0", "mtu", "9000"]);
    let config = site.base("[\"*\"]", "auto");
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22), "open without a gate");
    site.start();
    let lacks = kernel_lacks(FRAGS);
    let state = interface(&site, "c0");
    assert_eq!(state["hook"], if lacks { best_tc() } else { "xdp_native" }, "{state:#}");
    let note = state["note"].as_str().unwrap();
    assert_eq!(note.contains("native XDP refused at MTU 9000"), lacks, "{state:#}");
    assert_eq!(note.is_empty(), !lacks, "{state:#}");
    assert_eq!(interface(&site, "s0")["hook"], "xdp_native", "the other interface has its hook");
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_guard_that_knows_loopback_by_its_addresses_says_so() {
    let mut site = Site::new();
    site.configure_gate("[\"c0\"]", "auto");
    site.start();
    let guard = site.status_by_the_agent().0["socket_guard"].clone();
    assert_eq!(guard["attached"], true, "{guard:#}");
    let note = guard["note"].as_str().unwrap();
    assert_eq!(note.contains("before 5.17"), kernel_lacks(INGRESS_IFINDEX), "{guard:#}");
    assert!(!site.stranger_opens(0, 22) && !site.stranger_opens(1, 22));
}

#[test]
fn a_kernel_without_xdp_links_is_refused_in_a_clear_sentence_and_nothing_is_attached() {
    let site = Site::new();
    let mut command = site.command(&["run"]);
    sys::without_links(&mut command);
    let output = site.host.run(|| command.output().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("this kernel has no XDP links (Linux 5.9 and newer have them)"),
        "{said}"
    );
    assert!(said.contains("nothing is attached; update the kernel"), "{said}");
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(1, 22), "no port is closed");
}
