//! Policies and rollouts: what is sent in which order, and what a failure leaves.

use jit_client::controller::types::{
    PolicyView, RolloutCount, RolloutHostView, RolloutPlan, RolloutView, WavePlan,
};
use serde_json::json;

use crate::server::{Controller, ok, page, problem};

const START: &str = "rollouts start p.toml --why CHG-1 --wave env=canary --wave all --pause 0s";

fn view(state: &str, why: &str) -> RolloutView {
    let count = |state: &str| RolloutCount { wave: 0, state: state.into(), hosts: 1 };
    RolloutView {
        id: "01R".into(),
        policy: "01P".into(),
        state: state.into(),
        why: why.into(),
        waves: vec!["env=canary".into(), "all".into()],
        counts: vec![count(if state == "running" { "pushed" } else { "applied" })],
        ..RolloutView::default()
    }
}

fn controller() -> Controller {
    let controller = Controller::with_login();
    std::fs::write(controller.file("p.toml"), "[[port]]\nport = 22\n").unwrap();
    controller.says("POST /policies", ok(&PolicyView { id: "01P".into(), ..Default::default() }));
    controller
}

#[test]
fn the_plan_is_shown_before_anything_is_kept() {
    let controller = controller();
    let wave = WavePlan { name: "env=canary".into(), hosts: vec!["web-1".into()] };
    let plan = RolloutPlan { waves: vec![wave] };
    controller.says("POST /rollouts", ok(&plan));
    let said = controller.jitctl(&format!("{START} --preview")).good();
    assert!(said.contains("1     env=canary  1      web-1\n"), "{said}");
    controller.jitctl(START).fails(64, "Bring the policy to 1 host?");
    let asked = controller.asked();
    assert!(asked.iter().all(|one| one.query == "preview=true"), "{asked:?}");
    let none = RolloutPlan { waves: vec![WavePlan { name: "all".into(), hosts: Vec::new() }] };
    controller.says("POST /rollouts", ok(&none));
    controller.jitctl(&format!("{START} --yes")).fails(77, "the waves select no host");
    assert!(!controller.asked().iter().any(|one| one.call == "POST /policies"));
}

#[test]
fn it_is_watched_to_its_end_and_the_worst_host_is_the_exit_code() {
    let controller = controller();
    let plan =
        RolloutPlan { waves: vec![WavePlan { name: "all".into(), hosts: vec!["web-1".into()] }] };
    controller.answers("POST /rollouts", [ok(&plan), ok(&view("running", ""))]);
    let halted = view("halted", "web-1 is silent: silent: cannot connect");
    controller.answers("GET /rollouts/01R", [ok(&view("running", "")), ok(&halted)]);
    let host = RolloutHostView {
        host: "web-1".into(),
        state: "silent".into(),
        word: "silent".into(),
        detail: "cannot connect".into(),
        ..RolloutHostView::default()
    };
    controller.says("GET /rollouts/01R/hosts", page(&[host], None));
    let said = controller.jitctl(&format!("{START} --yes"));
    assert_eq!(said.exit, Some(69), "{said:?}");
    for says in ["wave 1 of 2: env=canary: 1 pushed\n", "cannot connect", "rollouts resume 01R"] {
        assert!(said.out.contains(says), "{says:?} is not in {said:?}");
    }
    let asked = controller.asked();
    let begun = asked.iter().rfind(|one| one.call == "POST /rollouts").unwrap().json();
    assert_eq!(
        (&begun["policy"], &begun["waves"], &begun["pause_ms"]),
        (&json!("01P"), &json!(["env=canary", "all"]), &json!(0))
    );
    let kept = asked.iter().find(|one| one.call == "POST /policies").unwrap().json();
    assert_eq!(kept, json!({"text": "[[port]]\nport = 22\n", "justification": "CHG-1"}));
}

#[test]
fn a_policy_that_was_kept_is_named_when_no_rollout_begins() {
    let controller = controller();
    let plan =
        RolloutPlan { waves: vec![WavePlan { name: "all".into(), hosts: vec!["web-1".into()] }] };
    let busy = problem(409, "conflict", "rollout 01Q goes on");
    controller.answers("POST /rollouts", [ok(&plan), busy]);
    let said = controller.jitctl(&format!("{START} --yes"));
    assert!(said.err.contains("jitctl rollouts start --policy 01P"), "{said:?}");
    said.fails(77, "rollout 01Q goes on");
    controller.jitctl("policy show --context prod").fails(64, "jitctl rollouts start");
    controller.jitctl("rollouts start p.toml --wave all --yes").fails(64, "--why");
    controller.jitctl("rollouts start --policy 01P --yes").fails(64, "--wave");
}

#[test]
fn a_rollout_is_halted_without_a_question_and_shown() {
    let controller = controller();
    let none: [RolloutHostView; 0] = [];
    controller.says("POST /rollouts/01R/halt", ok(&view("halted", "halted by ana@example.org")));
    controller.says("GET /rollouts/01R/hosts", page(&none, None));
    let said = controller.jitctl("rollouts halt 01R").good();
    for says in ["state      halted: halted by ana@example.org\n", "jitctl rollouts resume 01R"] {
        assert!(said.contains(says), "{says:?} is not in {said}");
    }
    let json = controller.jitctl("rollouts halt 01R --json").good();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["state"], "halted", "{json}");
    let halts =
        controller.asked().iter().filter(|one| one.call == "POST /rollouts/01R/halt").count();
    assert_eq!(halts, 2);
    controller.says("POST /rollouts/01R/halt", problem(409, "conflict", "rollout 01R has ended"));
    controller.jitctl("rollouts halt 01R").fails(77, "rollout 01R has ended");
}
