//! What `status` reports with the agent dead: who gets in, and which interfaces have no gate.

use std::time::Duration;

use jit_agent::kernel::datapath::{bpf, pins::Pins};
use jit_proto::Hook;
use jit_tests::agent::{CLIENT, STRANGER, Site};
use rustix::process::Signal;
use serde_json::Value;

const LONG: Duration = Duration::from_secs(600);

/// A gate by XDP whose agent was killed. The stranger's IPv4 address is exempt. Of two more
/// exemptions one has ended.
fn killed() -> Site {
    let mut site = Site::new();
    let exempt = format!(
        "exempt = [{{ source = \"{}\", reason = \"probe\", owner = \"netops\" }}, \
         {{ source = \"192.0.2.7\", reason = \"move\", owner = \"x\", until = \"2120-01-01T00:00:00Z\" }}, \
         {{ source = \"192.0.2.8\", reason = \"old\", owner = \"x\", until = \"2020-01-01T00:00:00Z\" }}]\n",
        STRANGER[0]
    );
    let text = site.base("[\"*\"]", "native");
    let text = text.replace("[[signer]]", &format!("{exempt}[[signer]]"));
    site.write_config(&text.replace("hook = ", "exclude = [\"left*\"]\nhook = "));
    site.start();
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    site
}

fn problems(status: &Value) -> Vec<String> {
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[test]
fn with_the_agent_dead_exemptions_are_reported_as_exemptions() {
    let site = killed();
    assert!(site.stranger_opens(0, 22) && !site.stranger_opens(1, 22) && site.client_opens(0, 22));
    let (status, code) = site.status();
    assert_eq!((code, problems(&status).len()), (1, 1), "{status:#}");
    let grants: Vec<_> =
        status["grants"].as_array().unwrap().iter().map(|grant| &grant["sources"][0]).collect();
    assert_eq!(grants, CLIENT, "{status:#}");
    let exemptions = status["ports"][0]["exemptions"].as_array().unwrap();
    let reported: Vec<_> =
        exemptions.iter().map(|one| (&one["source"], one["until"].is_null())).collect();
    let (moved, probe) = ("192.0.2.7".into(), STRANGER[0].into());
    assert_eq!(reported, [(&moved, false), (&probe, true)], "{status:#}");
    // The kernel's deadline is on another clock.
    let until = exemptions[0]["until"].as_str().unwrap();
    assert!(["2119-12-31T23:59", "2120-01-01T00:00"].iter().any(|near| until.starts_with(near)));
    let screen = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    let exempt = format!("exempt   22/tcp {}  (in the kernel)\n", STRANGER[0]);
    assert!(screen.contains(&exempt) && screen.contains("grants   2 live\n"), "{screen}");
}

#[test]
fn with_the_agent_dead_each_interface_without_a_gate_is_a_problem() {
    let site = killed();
    // One interface that is new, one that is excluded, one whose link was detached.
    site.host.ip(&["link", "add", "late0", "type", "veth", "peer", "name", "left0"]);
    let link = Pins::new(site.pins()).link(site.host.index("s0"), Hook::XdpNative);
    bpf::detach_link(bpf::open_pin(&link).unwrap()).unwrap();
    let (status, code) = site.status();
    let reported = problems(&status);
    assert_eq!((code, reported.len()), (1, 3), "{status:#}");
    for says in ["s0 is left to the socket guard", "its link was detached", "late0 is left to"] {
        assert!(reported.iter().any(|problem| problem.contains(says)), "{says}: {reported:?}");
    }
    let listed = |name: &str| {
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().find(|one| one["name"] == name).map(|one| one["hook"].clone())
    };
    assert_eq!(listed("c0"), Some("xdp_native".into()));
    assert_eq!(listed("s0"), Some("guard_only".into()));
    assert_eq!(listed("late0"), Some("guard_only".into()));
    assert_eq!((listed("left0"), listed("lo")), (None, None));
    // An interface that is gone needs no gate, unless it is named.
    site.host.ip(&["link", "delete", "late0"]);
    site.host.ip(&["link", "delete", "s0"]);
    assert_eq!(problems(&site.status().0).len(), 1);
    site.configure_gate("[\"c0\", \"s0\"]", "native");
    let reported = problems(&site.status().0);
    assert!(reported.len() == 2 && reported[1].contains("s0 is left to"), "{reported:?}");
}

/// A classifier needs no pin to stay.
#[test]
fn with_the_agent_dead_a_classifier_without_its_pin_is_in_force() {
    let mut site = Site::new();
    site.configure_gate("[\"*\"]", "clsact");
    site.start();
    site.end(Signal::KILL);
    let pin = Pins::new(site.pins()).link(site.host.index("s0"), Hook::Clsact);
    std::fs::remove_file(pin).unwrap();
    let (status, _) = site.status();
    assert_eq!(problems(&status).len(), 1, "{status:#}");
    assert!(
        status["interfaces"].as_array().unwrap().iter().all(|one| one["hook"] == "clsact"),
        "{status:#}"
    );
    site.assert_closed_to_all();
}
