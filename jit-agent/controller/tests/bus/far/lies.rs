//! A hub that was broken into reports what is not true of hosts that it does not have: it ends no delivery
//! for good, and is seen.

use std::time::Duration;

use jit_controller::{
    bus::{Bus, Outcome, Report},
    clock::now_ms,
    model::Answer,
    store::{Request, Wanted},
};

use super::{
    closed,
    double::Double,
    opened,
    signed::{request, revoke},
    world::{World, until},
};

/// Says this of a host's grant.
async fn lie(liar: &Bus, world: &World, request: &Request, ends: bool, answer: &str) {
    let row = world.delivery(request).await;
    let outcome = Outcome {
        host: row.host,
        item: "00".repeat(32),
        grant: row.grant_id,
        ends,
        answer: answer.into(),
        word: "lie".into(),
        detail: String::new(),
        at_ms: now_ms(),
    };
    liar.report(&Report::Answer(outcome)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_answers_for_hosts_of_another_ends_nothing_for_good_and_is_seen() {
    let world = World::new(&["web-1", "web-2"]).await;
    let hub = world.hub("hub-a").await;
    let liar = world.cluster.hub().await;
    let (web, late) = (Double::new("web-1", "a"), Double::new("web-2", "b"));
    let _web = web.dial(hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "hub-a").await;

    // It says that a host has refused, which has not been there yet.
    let refused = request(&world.desk, "web-2").await;
    until("published", async || world.delivery(&refused).await.attempts > 0).await;
    lie(&liar, &world, &refused, false, "refused").await;
    until("believed", async || world.delivery(&refused).await.answer == Answer::Refused).await;
    // The host gets it all the same, and then it counts as open.
    let _late = late.dial(hub.address, world.client("web-2")).await.unwrap();
    opened(&world, &refused).await;
    assert_eq!(late.pushes(), 1);
    until("seen", async || {
        let alarms = world.observed("web-2").await.alarms;
        alarms.iter().any(|alarm| alarm.word == "hubs_differ" && !alarm.holds)
    })
    .await;

    // It says that the end has come to a host, all the time from before it is wanted.
    let open = request(&world.desk, "web-1").await;
    opened(&world, &open).await;
    for _ in 0..20 {
        lie(&liar, &world, &open, true, "closed").await;
    }
    let lying = async {
        loop {
            lie(&liar, &world, &open, true, "closed").await;
        }
    };
    let ending = async {
        revoke(&world.desk, &open.proposal.id).await;
        closed(&world, &open).await;
        until("ended at the host", async || web.heard.revoked.lock().unwrap().len() == 1).await;
    };
    tokio::select! {
        () = ending => {}
        () = lying => {}
    }
    assert_eq!(world.delivery(&open).await.wanted, Wanted::Revoke);

    // It cannot say that something is open that has ended.
    lie(&liar, &world, &open, false, "open").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.delivery(&open).await.answer, Answer::Closed);
}
