//! Checkpoints reach hosts at hubs, and what has not arrived is published again.

use super::{
    double::Double,
    opened,
    signed::{request, revoke},
    world::{World, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_come_over_the_bus_and_what_has_not_arrived_is_sent_again() {
    let world = World::new(&["db-1", "web-1", "web-2"]).await;
    let hub = world.hub("hub-a").await;
    let web = Double::new("web-1", "a");
    let _line = web.dial(hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "hub-a").await;
    let complete = async || web.last_said() == Some("complete");
    until("an empty mailbox", complete).await;
    let (kept, ended) = (request(&world.desk, "web-1").await, request(&world.desk, "web-1").await);
    opened(&world, &kept).await;
    opened(&world, &ended).await;
    revoke(&world.desk, &ended.proposal.id).await;
    super::closed(&world, &ended).await;
    until("both", complete).await;
    // It loses all that it has heard.
    let before = web.heard.compared.lock().unwrap().len();
    web.heard.pushed.lock().unwrap().clear();
    web.heard.revoked.lock().unwrap().clear();
    until("sent again", async || {
        let compared = web.heard.compared.lock().unwrap();
        let said: Vec<_> = compared.iter().skip(before).map(|(_, said)| *said).collect();
        said.contains(&"missing") && said.ends_with(&["complete"])
    })
    .await;
    assert_eq!(web.pushes(), 1, "the one that is live");
    assert_eq!(web.heard.revoked.lock().unwrap().len(), 1, "and the end of the other");
    // It contradicts what it has seen.
    *web.heard.says.lock().unwrap() = Some("forked");
    until("an alarm", async || {
        world.observed("web-1").await.alarms.iter().any(|alarm| alarm.word == "forked")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_agent_that_knows_no_checkpoints_keeps_its_connection() {
    let world = World::new(&["web-1"]).await;
    let hub = world.hub("hub-a").await;
    let web = Double::new("web-1", "a");
    *web.heard.unknown.lock().unwrap() = Some(0);
    let line = web.dial(hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "hub-a").await;
    until("asked again", async || *web.heard.unknown.lock().unwrap() >= Some(3)).await;
    assert!(line.has_changed().is_ok(), "it is still connected");
    let asked = request(&world.desk, "web-1").await;
    opened(&world, &asked).await;
}
