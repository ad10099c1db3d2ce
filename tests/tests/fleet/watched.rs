//! What must not go unnoticed: another id, two machines with one id, an audit that was cut.

use std::{fs, path::Path, process::Command, time::Duration};

use jit_controller::model::State;
use rustix::process::Signal;

use crate::{desk::Controller, yard::Yard};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_agent_with_another_id_is_an_alarm_and_gets_nothing_until_the_address_is_right() {
    let mut yard = Yard::new();
    let (wrong, right) = (yard.add("db-7"), yard.add("web-1"));
    yard.start(wrong);
    yard.start(right);
    let controller = Controller::new(&yard, &[("web-1", wrong)]);
    let id = controller.request(&yard, &["web-1"], HOUR);
    controller.until("the alarm", LONG, |it| it.alarms("web-1") == ["wrong_id"]);
    controller.until("the requester sees why", LONG, |it| {
        it.delivery(&id, "web-1").trouble.contains("\"db-7\"")
    });
    assert_eq!(controller.recorded("H004", "wrong_id"), 1);
    controller.put("web-1", &yard.address(right), &[]);
    controller.until("it is open", LONG, |it| it.state(&id) == State::Open);
    // The alarm stays until somebody has looked.
    assert_eq!(controller.alarms("web-1"), ["wrong_id"]);
}

#[test]
fn two_agents_with_one_id_are_an_alarm() {
    let mut yard = Yard::new();
    let (one, two) = (yard.add("web-1"), yard.add("web-1"));
    yard.start(one);
    let controller = Controller::new(&yard, &[("web-1", one), ("web-2", two)]);
    controller.until("web-1 answers", LONG, |it| it.observed("web-1").seen_ms > 0);
    assert_eq!(controller.alarms("web-1"), Vec::<String>::new());
    yard.start(two);
    controller.until("the alarm at both", LONG, |it| {
        it.alarms("web-1") == ["clone"] && it.alarms("web-2").contains(&"clone".to_owned())
    });
    let text = &controller.observed("web-1").alarms[0].text;
    assert!(text.contains(&yard.address(one)) && text.contains(&yard.address(two)), "{text}");
    assert!(controller.recorded("H004", "clone") >= 2);
}

fn copy(from: &Path, to: &Path) {
    let _old = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn an_audit_that_was_cut_is_noticed() {
    let mut yard = Yard::new();
    let one = yard.add("web-1");
    yard.start(one);
    let controller = Controller::new(&yard, &[("web-1", one)]);
    let seq = |controller: &Controller| {
        let head = controller.observed("web-1").audit_head;
        head.split(':').next().and_then(|seq| seq.parse::<u64>().ok()).unwrap_or(0)
    };
    let head_after = |controller: &Controller, before: u64| {
        controller.until("another head", LONG, |it| seq(it) > before);
        seq(controller)
    };
    let first = head_after(&controller, 0);
    yard.stop(one, Signal::TERM);
    copy(&yard.state(one), &yard.path("copy"));
    let mut last = first;
    for _ in 0..3 {
        yard.start(one);
        last = head_after(&controller, last);
        yard.stop(one, Signal::TERM);
    }
    assert_eq!(controller.alarms("web-1"), Vec::<String>::new());
    // Root of the host puts back what the audit was before.
    copy(&yard.path("copy"), &yard.state(one));
    yard.start(one);
    controller.until("the alarm", LONG, |it| it.alarms("web-1") == ["audit_cut"]);
    let text = &controller.observed("web-1").alarms[0].text;
    assert!(text.contains(&last.to_string()), "{last}: {text}");
    assert_eq!(controller.recorded("H004", "audit_cut"), 1);
    let heads = controller.runtime.block_on(controller.desk.store().host_audit_heads(
        "web-1",
        i64::MAX,
        99,
    ));
    assert!(!heads.unwrap().is_empty());
}
