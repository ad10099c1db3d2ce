//! Grants that end on the host itself: the controller says so, and never "open".

use std::{fs, time::Duration};

use jit_controller::model::{Answer, State};
use rustix::process::Signal;

use crate::{desk::Controller, yard::Yard};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_grant_that_is_closed_on_its_host_is_closed_at_the_controller_at_once() {
    let mut yard = Yard::new();
    let (one, two) = (yard.add("web-1"), yard.add("web-2"));
    for host in [one, two] {
        yard.serve(host);
        yard.start(host);
    }
    let mut controller = Controller::new(&yard, &[("web-1", one), ("web-2", two)]);
    // By events alone: within the test nobody is asked for the status.
    controller.restart(|settings| settings.follow_every = HOUR);
    let both = controller.request(&yard, &["web-1", "web-2"], HOUR);
    let other = controller.request(&yard, &["web-1"], HOUR);
    controller.until("all are open", LONG, |it| {
        it.state(&both) == State::Open && it.state(&other) == State::Open
    });
    yard.command(one, &["close", "--grant", &both, "--reason", "it is 3 a.m."]);
    let took = controller.until("web-1 is closed", LONG, |it| it.state(&both) == State::Partly);
    println!("the controller knew {took:?} after the host had ended it");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let row = controller.delivery(&both, "web-1");
    assert_eq!((row.answer, row.word.as_str(), row.pending), (Answer::Closed, "revoked", false));
    assert!(row.detail.contains("by local"), "{}", row.detail);
    assert!(row.detail.contains("it is 3 a.m."), "{}", row.detail);
    assert_eq!(controller.delivery(&both, "web-2").answer, Answer::Open);
    assert_eq!(controller.state(&other), State::Open);
    assert!(yard.opens(one), "the other grant still opens");
    // Where nothing is open any more it has ended.
    yard.command(two, &["close", "--all"]);
    controller.until("it has ended", LONG, |it| it.state(&both) == State::Ended);
    assert_eq!(controller.recorded("R012", &both), 1);
    // What the controller itself ends is that, and no news of the host.
    controller.revoke(&other);
    controller
        .until("it is closed", LONG, |it| it.delivery(&other, "web-1").answer == Answer::Closed);
    assert_eq!(controller.state(&other), State::Revoked);
}

#[test]
fn what_ended_while_nobody_looked_is_seen_when_the_host_is_followed_again() {
    let mut yard = Yard::new();
    let one = yard.add("web-1");
    yard.serve(one);
    yard.start(one);
    let mut controller = Controller::new(&yard, &[("web-1", one)]);
    let id = controller.request(&yard, &["web-1"], HOUR);
    let stays = controller.request(&yard, &["web-1"], HOUR);
    controller.until("both are open", LONG, |it| {
        it.state(&id) == State::Open && it.state(&stays) == State::Open
    });
    controller.fleet = None;
    yard.command(one, &["close", "--grant", &id]);
    controller.restart(|_| ());
    controller.until("it has ended", LONG, |it| it.state(&id) == State::Ended);
    assert_eq!(controller.state(&stays), State::Open);
    // Installed anew, the host knows nothing: what is still wanted is sent again, and opens.
    yard.stop(one, Signal::TERM);
    yard.forget(one);
    yard.start(one);
    controller.until("it was sent again", LONG, |it| it.recorded("R010", "lost") == 1);
    controller.until("it is open again", LONG, |it| it.state(&stays) == State::Open);
    assert!(yard.opens(one));
    assert_eq!(controller.state(&id), State::Ended, "what was ended there is not sent again");
    // Without its database, but with the kernel's tables, it cannot know what was revoked: it refuses,
    // and the controller says so.
    yard.stop(one, Signal::TERM);
    fs::remove_dir_all(yard.state(one)).unwrap();
    yard.start(one);
    controller.until("it is refused", LONG, |it| it.state(&stays) == State::Refused);
    let row = controller.delivery(&stays, "web-1");
    assert_eq!((row.answer, row.word.as_str()), (Answer::Refused, "revoked"), "{}", row.detail);
    assert!(!yard.opens(one));
}
