//! What the requester reads when hosts do not open: which host, and why.

use std::time::Duration;

use jit_agent::{
    disk::store::{Store, Transaction},
    system::sys,
};
use jit_client::controller::types::AnswerView;
use jit_tests::controller::{CLIENT, people::access, said};
use rustix::process::Signal;

use crate::asked::{stage, until};

#[test]
fn the_requester_reads_which_host_does_not_open_and_why() {
    let (mut stage, ana, _li) = stage(None, &["good", "late", "other", "silent", "narrow"], "dev");
    let [late, other, silent, narrow] = [1, 2, 3, 4];
    // The clock of this host is behind: it has been later there.
    stage.host_mut(late).end(Signal::KILL);
    let future = sys::now().wall + Duration::from_secs(3600);
    let (mut store, _) = Store::open(&stage.host(late).path("state"), future).unwrap();
    store.commit(&Transaction { floor: Some(future), ..Transaction::default() }).unwrap();
    drop(store);
    stage.host_mut(late).start();
    // This one was given another id.
    stage.host_mut(other).end(Signal::TERM);
    stage.host(other).configure("another", "\"0.0.0.0/0\"", "");
    stage.host_mut(other).start();
    stage.host_mut(silent).end(Signal::KILL);
    // This one lets nobody in but its own network, whoever signs.
    stage.host_mut(narrow).end(Signal::TERM);
    stage.host(narrow).configure("narrow", "\"10.0.0.0/8\"", "");
    stage.host_mut(narrow).start();
    stage.wait_for_condition("silent", "unreachable");
    stage.wait_until_enforcing("narrow");

    let hosts = ["good", "late", "other", "silent", "narrow"];
    let asked = ana.ask(&access(&hosts, CLIENT, "30m"));
    let view = until(&ana, &asked.id, |view| {
        // Whoever can answer does, if not at the first attempt.
        let is_deaf = |one: &AnswerView| {
            ["other", "silent"].contains(&one.host.as_str()) && !one.trouble.is_empty()
        };
        let heard = |one: &AnswerView| one.answer != "waiting" || is_deaf(one);
        view.answers.len() == hosts.len() && view.answers.iter().all(heard)
    });
    assert_eq!(view.state, "partly", "{view:#?}");
    let answer = |host: &str| view.answers.iter().find(|one| one.host == host).unwrap();
    assert_eq!(answer("good").answer, "open");
    for (host, word) in [("late", "clock_untrusted"), ("narrow", "source_not_allowed")] {
        assert_eq!((answer(host).answer.as_str(), answer(host).word.as_str()), ("refused", word));
        assert!(answer(host).detail.len() > 10, "{:#?}", answer(host));
    }
    assert!(answer("silent").trouble.contains("connect"), "{:#?}", answer("silent"));
    assert!(stage.client_gets_in(0, 22));
    for number in [late, other, narrow] {
        assert!(!stage.client_opens(number, 22), "{}", stage.host(number).id());
    }

    // The same as a person reads it.
    stage.login(&stage.client, &ana);
    let shown = stage.jitctl(&stage.client, &ana, &["requests", "show", &asked.id]);
    let text = String::from_utf8(shown.stdout.clone()).unwrap();
    println!("{text}");
    assert_eq!(shown.status.code(), Some(0), "{}", said(&shown));
    for (host, words) in [
        ("good", &["open"][..]),
        ("late", &["refused", "clock_untrusted"]),
        ("narrow", &["refused", "source_not_allowed"]),
        ("silent", &["unreachable", "cannot connect"]),
        ("other", &["unreachable", "says that it is \"another\""]),
    ] {
        let line = text.lines().find(|line| line.trim_start().starts_with(host));
        let line = line.unwrap_or_else(|| panic!("no line of {host}:\n{text}"));
        assert!(words.iter().all(|word| line.contains(word)), "{host}: {words:?}:\n{text}");
    }
}
