//! A policy from the text in a browser to real agents, in waves.

use std::time::{Duration, Instant};

use jit_client::controller::{
    call::Call,
    types::{Page, RolloutView},
};
use jit_tests::{
    browser::{Browser, Driver},
    controller::{CLIENT, Stage, people::access},
};

use super::{
    asked::{MARK, assert_not_loaded_again, until},
    signed_in,
};
use crate::{
    asked::SCOPES,
    rollouts::{allow_policies, stage},
};

const LONG: Duration = Duration::from_secs(90);
/// SSH for a network that the client is not in, and a port that was open to all.
const POLICY: &str = "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n\
    [[port]]\nport = 443\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n\
    [[port]]\nport = 2222\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n";

/// Version of the policy that a host has.
fn version(stage: &Stage, host: usize) -> u64 {
    stage.host(host).status()["policy"]["version"].as_u64().unwrap_or(0)
}

/// Waits until a script returns this.
#[track_caller]
fn until_shown(browser: &Browser, script: &str, wanted: &str) {
    let began = Instant::now();
    loop {
        let seen = browser.script(script);
        if seen == wanted {
            return;
        }
        assert!(began.elapsed() < LONG, "{seen} and not {wanted}:\n{}", browser.text());
    }
}

#[test]
fn a_rollout_names_who_would_be_shut_out_and_its_page_follows_the_hosts() {
    let mut stage = stage(None, &["web-1", "web-2"], "");
    stage.host(0).serve(2222);
    allow_policies(&mut stage);
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let li = stage.person("li", "li@example.org", &["sre"], &SCOPES);
    // Ana has SSH on the first host.
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    li.approve(&asked.id);
    until(&stage, true);
    assert!(stage.client_gets_in(0, 2222), "nobody protects it");

    let driver = Driver::start(&stage, &stage.hub);
    let admin = signed_in(&driver, &stage, &stage.admin);
    admin.open("/policies/new");
    admin.fill("Text (TOML)", POLICY);
    admin.fill("Why it is needed", "CHG-1");
    admin.press("Save");
    admin.wait_for("Bring it to hosts");
    // What one host says.
    admin.fill("Host", "web-1");
    admin.press("Ask the host");
    admin.wait_for("2222/tcp (was open to all)");
    let text = admin.text();
    assert!(text.contains("of ana@example.org (live, until "), "{text}");
    assert!(!text.contains("would refuse it"), "the host takes it: {text}");

    admin.follow("Bring it to hosts");
    admin.fill("Waves, one a line", "env=canary\nall");
    admin.fill("A host returns", "1m");
    admin.fill("Time between two waves", "4s");
    admin.press("Show who gets it when");
    admin.wait_for("Somebody would be shut out.");
    let text = admin.text();
    for part in ["2222/tcp (was open to all)", "of ana@example.org (live, until "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("would refuse the policy") && !text.contains("would refuse it"),
        "{text}"
    );
    // Nothing has begun by that.
    let begun: Page<RolloutView> = stage.admin.get(&Call::get(["rollouts"]));
    assert!(begun.items.is_empty(), "{begun:#?}");
    assert_eq!((version(&stage, 0), version(&stage, 1)), (0, 0));
    assert!(stage.client_gets_in(0, 22) && stage.client_gets_in(0, 2222));

    admin.press("Begin with the first wave");
    admin.wait_for("Between waves");
    admin.script(MARK);
    let hosts = "return [...document.querySelectorAll('#live .state')]\
                 .map(one => one.innerText).join(', ');";
    let state = "return document.getElementById('state').innerText;";
    // What was agreed to stays until its end: the host says so, and nothing goes further.
    until_shown(&admin, state, "halted");
    assert_not_loaded_again(&admin);
    let text = admin.text();
    assert!(text.contains(&format!("{CLIENT} is not inside the sources")), "{text}");
    assert!(stage.client_gets_in(0, 22), "{}", stage.host(0).log());
    assert_eq!(version(&stage, 1), 0);

    ana.revoke(&asked.id);
    until(&stage, false);
    admin.press("Go on");
    admin.wait_for("running");
    admin.script(MARK);
    until_shown(&admin, hosts, "in force, in force");
    until_shown(&admin, state, "done");
    assert_not_loaded_again(&admin);
    assert!(version(&stage, 0) > 0 && version(&stage, 1) > 0);
    assert!(!stage.client_opens(0, 2222), "{}", stage.host(0).log());
    let shown = admin.script(
        "return [...document.querySelectorAll('progress')]\
         .map(one => one.value + '/' + one.max).join();",
    );
    assert_eq!(shown, "1/1,1/1");
}
