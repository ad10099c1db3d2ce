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
    assert!(
        site.stranger_gets_in(0, 22) && !site.stranger_opens(1, 22) && site.client_gets_in(0, 22)
    );
    let (status, code) = site.status();
    assert_eq!((code, problems(&status).len()), (1, 1), "{status:#}");
    assert_eq!(status["grants"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(status["grants"][0]["sources"], serde_json::json!(CLIENT), "{status:#}");
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
    assert!(screen.contains(&exempt) && screen.contains("grants   1 live\n"), "{screen}");
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

#[test]
fn with_the_agent_dead_grants_have_their_names_and_nothing_is_written() {
    let site = killed();
    let state = || {
        let mut files: Vec<_> = std::fs::read_dir(site.path("state"))
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name(), file.metadata().unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = state();
    let (status, _) = site.status();
    let grant = &status["grants"][0];
    assert_eq!(grant["requester"], "ana@example.org", "{status:#}");
    assert_eq!(grant["justification"], "test", "{status:#}");
    assert!(grant["id"].as_str().unwrap().len() == 26, "{status:#}");
    let screen = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(screen.lines().next().unwrap().ends_with("DEGRADED"), "{screen}");
    assert!(screen.contains("ana@example.org"), "{screen}");
    assert_eq!(state(), before);
    // Without the database the kernel's entries are shown all the same.
    std::fs::write(site.path("state/grants.redb"), "no database").unwrap();
    let (status, code) = site.status();
    assert_eq!((code, status["grants"].as_array().unwrap().len()), (1, 2), "{status:#}");
    assert_eq!(status["grants"][0]["requester"], "(in the kernel)");
    let said = problems(&status).concat();
    assert!(said.contains("the grants have no names here: cannot read the database"), "{said}");
}

#[test]
fn with_the_agent_dead_by_its_configuration_the_next_step_is_check() {
    let site = killed();
    let good = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&good.replace("[gate]", "[gaet]"));
    let (status, code) = site.status();
    let said = problems(&status).concat();
    assert_eq!(code, 1, "{status:#}");
    assert!(said.contains("its configuration is refused (line "), "{said}");
    assert!(said.contains("`jit-agent check`") && !said.contains("systemctl restart"), "{said}");
    site.write_config(&good);
    let said = problems(&site.status().0).concat();
    assert!(said.contains("systemctl restart") && !said.contains("jit-agent check"), "{said}");
}

#[test]
fn a_real_status_is_as_its_schema_says_alive_and_dead() {
    let schema = include_str!("../../../jit-agent/docs/status.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let alive = site.status().0;
    site.end(Signal::KILL);
    for status in [alive, site.status().0] {
        schema.validate(&status).unwrap_or_else(|error| panic!("{error}: {status:#}"));
    }
}
