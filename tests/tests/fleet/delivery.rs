//! Grants and revocations on their way.

use std::time::Duration;

use jit_controller::model::{Answer, State};
use rustix::process::Signal;

use crate::{desk::Controller, yard::Yard};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_unreachable_host_gets_its_grant_when_it_is_back() {
    let mut yard = Yard::new();
    let (one, two) = (yard.add("web-1"), yard.add("web-2"));
    yard.serve(one);
    yard.start(one);
    let controller = Controller::new(&yard, &[("web-1", one), ("web-2", two)]);
    assert!(!yard.opens(one));
    let id = controller.request(&yard, &["web-1", "web-2"], HOUR);
    controller.until("web-1 is open, and web-2 is not reached", LONG, |controller| {
        controller.state(&id) == State::Partly
            && !controller.delivery(&id, "web-2").trouble.is_empty()
    });
    assert!(yard.opens(one), "{}", yard.log(one));
    let silent = controller.delivery(&id, "web-2");
    assert_eq!((silent.answer, silent.pending), (Answer::Waiting, true));
    assert!(silent.trouble.contains("nobody listens there"), "{}", silent.trouble);
    assert_eq!(controller.observed("web-2").condition.word(), "unreachable");
    yard.start(two);
    let took = controller.until("web-2 is open", LONG, |it| it.state(&id) == State::Open);
    println!("open {took:?} after the agent listens again");
    assert_eq!(controller.delivery(&id, "web-2").trouble, "");
    // It breaks off: the connection is made again, and what is asked for meanwhile is delivered.
    yard.stop(one, Signal::KILL);
    let again = controller.request(&yard, &["web-1"], HOUR);
    yard.start(one);
    controller.until("the second is open", LONG, |it| it.state(&again) == State::Open);
    assert!(controller.recorded("H003", "web-2") >= 2);
}

#[test]
fn a_revocation_overtakes_a_grant_that_waits_and_does_not_wait_for_slow_hosts() {
    let mut yard = Yard::new();
    let (one, two) = (yard.add("web-1"), yard.add("web-2"));
    yard.serve(two);
    yard.start(one);
    let controller = Controller::new(&yard, &[("web-1", one), ("web-2", two)]);
    // The grant waits for a host that is down, and is revoked before the host is back.
    let waits = controller.request(&yard, &["web-2"], HOUR);
    controller
        .until("web-2 is not reached", LONG, |it| !it.delivery(&waits, "web-2").trouble.is_empty());
    controller.revoke(&waits);
    yard.start(two);
    controller.until("web-2 knows that it has ended", LONG, |it| {
        it.delivery(&waits, "web-2").answer == Answer::Closed
    });
    assert!(!yard.opens(two));
    // A host that takes calls and answers none does not hold up a revocation at another one.
    let open = controller.request(&yard, &["web-2"], HOUR);
    controller.until("it is open", LONG, |it| it.state(&open) == State::Open);
    assert!(yard.opens(two), "{}", yard.log(two));
    yard.signal(one, Signal::STOP);
    let slow: Vec<_> = (0..100).map(|_| controller.request(&yard, &["web-1"], HOUR)).collect();
    std::thread::sleep(Duration::from_millis(200));
    controller.revoke(&open);
    let took = controller.until("it is closed", Duration::from_secs(2), |it| {
        it.delivery(&open, "web-2").answer == Answer::Closed
    });
    println!("closed after {took:?} beside a host that does not answer");
    assert!(!yard.opens(two));
    controller.until("the slow host has trouble", LONG, |it| {
        !it.delivery(&slow[0], "web-1").trouble.is_empty()
    });
    yard.signal(one, Signal::CONT);
    controller.until("all of the slow host are open", LONG, |it| {
        slow.iter().all(|id| it.state(id) == State::Open)
    });
}

#[test]
fn the_host_that_refuses_is_named_with_its_word_and_sentence() {
    let mut yard = Yard::new();
    let (one, two) = (yard.add("web-1"), yard.add("web-2"));
    yard.configure(two, "web-2", "max_duration = \"10m\"", "");
    yard.start(one);
    yard.start(two);
    let controller = Controller::new(&yard, &[("web-1", one), ("web-2", two)]);
    let id = controller.request(&yard, &["web-1", "web-2"], HOUR);
    controller
        .until("both have answered", LONG, |it| it.deliveries(&id).iter().all(|one| !one.pending));
    assert_eq!(controller.state(&id), State::Partly);
    let refused = controller.delivery(&id, "web-2");
    assert_eq!((refused.answer, refused.word.as_str()), (Answer::Refused, "lifetime"));
    assert!(refused.detail.contains("at most 600s"), "{}", refused.detail);
    assert_eq!(controller.observed("web-2").ports[0].max_duration_ms, 600_000);
    assert_eq!(controller.observed("web-1").ports[0].approvals, 1);
}

#[test]
fn denied_addresses_are_asked_from_the_host() {
    let mut yard = Yard::new();
    let one = yard.add("web-1");
    yard.serve(one);
    yard.start(one);
    let controller = Controller::new(&yard, &[("web-1", one)]);
    controller.until("it is reached", LONG, |it| it.observed("web-1").seen_ms > 0);
    assert!(!yard.opens(one));
    let port = "22/tcp".parse().unwrap();
    let found =
        || controller.runtime.block_on(controller.fleet().recent_denials("web-1", port, 60_000));
    controller.until("the host has seen it", LONG, |_| {
        found().is_ok_and(|found| {
            found.iter().any(|(ip, _)| ip.to_string() == crate::yard::CONTROLLER)
        })
    });
    let unknown = controller.fleet().recent_denials("web-9", port, 60_000);
    assert!(controller.runtime.block_on(unknown).unwrap_err().to_string().contains("web-9"));
}
