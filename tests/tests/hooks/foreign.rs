//! The gate beside foreign programs: they stay, and ours cannot be taken off by accident.

use std::{process::Command, time::Duration};

use aya::programs::XdpMode;
use jit_tests::{
    agent::{CLIENT, Site},
    kernel::Kernel,
    netns::Namespace,
};

use crate::rungs::{classifiers, events, interface};

const LONG: Duration = Duration::from_secs(600);

fn without_guard(hook: &str) -> Site {
    let site = Site::new();
    let config = site.base("[\"*\"]", hook);
    site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    site
}

/// Runs a program in a namespace. Returns whether it succeeded, and what it said.
fn run(namespace: &Namespace, line: &str) -> (bool, String) {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", namespace.name()))
        .args(line.split(' '))
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn beside_another_xdp_program_the_gate_uses_tc_and_says_so() {
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let mut site = without_guard("auto");
        // The same program over empty tables: it lets everything in.
        let mut foreign = Kernel::load();
        let index = site.host.index("s0");
        let link = site.host.run(|| foreign.attach("jit_gate", index, mode));
        let theirs = link.info().unwrap().program_id();
        site.start();
        let state = interface(&site, "s0");
        assert_eq!(state["hook"], "tcx", "{state:#}");
        let why = format!("another XDP program (id {theirs}) is there and stays");
        assert!(state["note"].as_str().unwrap().contains(&why), "{state:#}");
        assert!(events(&site, "A005").iter().any(|event| event.contains(&why)));
        assert_eq!(interface(&site, "c0")["hook"], "xdp_native");
        site.assert_closed_to_all();
        site.admit(&CLIENT, LONG);
        site.assert_open_to_the_client_alone();
        assert_eq!(link.info().unwrap().program_id(), theirs, "the foreign program is still there");
        // When it is gone, the next start takes the better hook.
        drop(link);
        site.end(rustix::process::Signal::TERM);
        site.start();
        assert_eq!(interface(&site, "s0")["hook"], "xdp_native");
        site.assert_open_to_the_client_alone();
    }
}

#[test]
fn the_kernel_refuses_to_take_the_gate_off_an_interface() {
    for (hook, kinds) in [("native", &["xdp", "xdpdrv"][..]), ("generic", &["xdpgeneric"])] {
        let mut site = without_guard(hook);
        site.start();
        for kind in kinds {
            let (done, said) = run(&site.host, &format!("ip link set dev s0 {kind} off"));
            assert!(!done, "{kind} off, {hook}: {said}");
            // A pinned program, as foreign tools load theirs.
            let pin = site.pins().join("foreign");
            let foreign = Kernel::load();
            jit_agent::kernel::datapath::bpf::pin(foreign.xdp(), &pin).unwrap();
            for force in ["", "-force "] {
                let line = format!("ip {force}link set dev s0 {kind} pinned {}", pin.display());
                let (done, said) = run(&site.host, &line);
                assert!(!done, "{line}, {hook}: {said}");
                assert!(said.contains("active"), "{line}, {hook}: {said}");
            }
            std::fs::remove_file(&pin).unwrap();
        }
        // A link is refused too.
        let foreign = Kernel::load();
        let index = site.host.index("s0");
        let refused = site.host.run(|| {
            use jit_agent::kernel::datapath::bpf::{LinkKind, attach};
            [LinkKind::XdpNative, LinkKind::XdpGeneric]
                .map(|kind| attach(foreign.xdp(), index, kind).unwrap_err().raw_os_error())
        });
        for code in refused {
            assert!(matches!(code, Some(libc::EBUSY | libc::EEXIST)), "{code:?}");
        }
        site.assert_closed_to_all();
        assert_eq!(site.status().1, 0);
        assert!(events(&site, "A003").is_empty());
    }
}

#[test]
fn other_classifiers_stay_where_they_are() {
    let mut site = without_guard("clsact");
    for line in [
        "tc qdisc add dev s0 clsact",
        "tc filter add dev s0 ingress pref 1 protocol ip u32 match ip dport 9 0xffff flowid 1:1",
    ] {
        let (done, said) = run(&site.host, line);
        assert!(done, "{line}: {said}");
    }
    site.start();
    assert_eq!(interface(&site, "s0")["hook"], "clsact");
    site.assert_closed_to_all();
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
    let shown = classifiers(&site.host, "s0");
    assert!(shown.contains("u32") && shown.contains("jit-agent"), "{shown}");
    let note = interface(&site, "s0")["note"].as_str().unwrap().to_owned();
    assert!(note.contains("another TC program runs before it"), "{note}");
    let (status, code) = site.status();
    assert_eq!(code, 1, "a gate that may be bypassed is not called protected: {status:#}");
    assert!(status["problems"].to_string().contains("s0: another TC program"), "{status:#}");
    site.end(rustix::process::Signal::TERM);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    let shown = classifiers(&site.host, "s0");
    assert!(shown.contains("u32") && !shown.contains("jit-agent"), "only ours is gone: {shown}");
    assert!(site.stranger_gets_in(0, 22));
}
