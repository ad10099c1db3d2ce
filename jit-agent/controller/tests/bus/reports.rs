//! What hubs report reaches the store.

use std::time::Duration;

use jit_controller::bus::{Outcome, Presence, Report};
use tokio::time::timeout;

use crate::cluster::{Cluster, Who};

const WAIT: Duration = Duration::from_secs(60);

fn answer(host: &str, detail: &str) -> Report {
    Report::Answer(Outcome {
        host: host.into(),
        item: "00".repeat(32),
        grant: String::new(),
        ends: false,
        answer: "open".into(),
        word: String::new(),
        detail: detail.into(),
        at_ms: 5,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_stays_until_the_store_has_it() {
    let (cluster, store) = Cluster::start().await;
    let hub = cluster.hub().await;
    let first = answer("web-1", "a");
    hub.report(&first).await.unwrap();
    hub.report(&first).await.unwrap();
    let second = Report::Presence(Presence {
        host: "web-1".into(),
        hub: "hub-a".into(),
        connected: true,
        since_ms: 7,
        at_ms: 8,
        peer: String::new(),
        status: String::new(),
        rival: String::new(),
    });
    hub.report(&second).await.unwrap();
    // Nonsense is taken out, and stops nothing.
    let (bad, _said) = cluster.raw(Who::Hub).await;
    bad.publish("jit.v1.up.x.answer", "nonsense".into()).await.unwrap();
    bad.flush().await.unwrap();
    let third = answer("web-2", "b");
    hub.report(&third).await.unwrap();

    let mut reports = store.reports();
    let mut found = Vec::new();
    for _ in 0..3 {
        let received = timeout(WAIT, reports.next()).await.unwrap();
        found.push(received.report.clone());
        // The first one does not reach the store.
        if found.len() > 1 {
            received.stored().await;
        }
    }
    assert_eq!(found, [first.clone(), second, third], "in order, what came twice once");
    let again = timeout(WAIT, reports.next()).await.unwrap();
    assert_eq!(again.report, first, "it comes again");
    again.stored().await;
    assert!(timeout(Duration::from_secs(3), reports.next()).await.is_err(), "nothing more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_is_too_long_is_refused_and_a_long_sentence_is_cut() {
    let (cluster, store) = Cluster::start().await;
    let hub = cluster.hub().await;
    let long = answer(&"h".repeat(20_000), "");
    assert!(hub.report(&long).await.is_err());
    hub.report(&answer("web-1", &"ä".repeat(100_000))).await.unwrap();
    let received = timeout(WAIT, store.reports().next()).await.unwrap();
    let Report::Answer(outcome) = &received.report else { panic!("{:?}", received.report) };
    assert_eq!(outcome.detail.chars().count(), 2048);
}
