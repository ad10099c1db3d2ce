//! What must work between neighbouring releases, whichever side is the older one: `cargo xtask previous`
//! runs this with programs of two releases. So it uses only what every release has.

use std::fs;

use jit_client::controller::{
    call::Call,
    types::{PolicyInput, PolicyView, RolloutView},
};
use jit_tests::controller::{CLIENT, people::access};
use rustix::process::Signal;

use crate::{
    asked::{SCOPES, until},
    rollouts::{allow_policies, input_of, policy, stage, until_over},
};

const HOSTS: [&str; 2] = ["web-1", "web-2"];

#[test]
fn neighbouring_releases_open_end_and_bring_policies() {
    let mut stage = stage(None, &HOSTS, "");
    allow_policies(&mut stage);
    for (number, id) in HOSTS.iter().enumerate() {
        stage.enter_host(number, id, &[("env", "stage")]);
    }
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let li = stage.person("li", "li@example.org", &["sre"], &SCOPES);
    let open = |ends: &str| {
        let asked = ana.ask(&access(&HOSTS, CLIENT, ends));
        li.approve(&asked.id);
        let open = li.settled(&asked.id);
        assert_eq!((open.state.as_str(), open.counts.open), ("open", 2), "{open:#?}");
        assert!((0..HOSTS.len()).all(|number| stage.client_gets_in(number, 22)));
        assert!((0..HOSTS.len()).all(|number| !stage.stranger_opens(number, 22)));
        asked.id
    };
    let first = open("30m");
    ana.revoke(&first);
    until(&li, &first, |view| view.counts.closed == 2);
    assert!((0..HOSTS.len()).all(|number| !stage.client_opens(number, 22)));

    let input = PolicyInput { text: policy(), justification: "CHG-1".into() };
    let kept: PolicyView = stage.admin.get(&Call::post(["policies"]).json(&input));
    let begun: RolloutView = stage.admin.get(&Call::post(["rollouts"]).json(&input_of(&kept.id)));
    let done = until_over(&stage, &begun.id);
    assert_eq!(done.state, "done", "{done:#?}\n{}", stage.log());

    // Both sides come back after a restart, and know what they had agreed on.
    let second = open("30m");
    stage.end_controller(Signal::TERM);
    stage.host_mut(0).end(Signal::TERM);
    stage.host_mut(0).start();
    stage.start_controller(&[]);
    for id in HOSTS {
        stage.wait_until_enforcing(id);
    }
    // The clients find out here that their connections have ended: a POST is not sent twice.
    assert!([&ana, &li].iter().all(|person| person.request(&second).state == "open"));
    assert!(stage.client_gets_in(0, 22) && stage.client_gets_in(1, 22));
    ana.revoke(&second);
    until(&li, &second, |view| view.counts.closed == 2);
    assert!(!stage.client_opens(0, 22) && !stage.client_opens(1, 22));
    let versions = HOSTS.map(|id| stage.admin.host(id).version);
    println!("agents {versions:?}, {}", fs::read_link("/proc/self/exe").unwrap().display());
}
