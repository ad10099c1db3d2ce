//! A hub that is killed, and two machines of one id at two hubs.

use std::time::Duration;

use super::{
    double::Double,
    signed::request,
    world::{World, until},
};

/// Waits until two machines are seen as this host, and sees that nothing new is opened there.
async fn held(world: &World, host: &str, agents: [&Double; 2]) {
    until("an alarm", async || {
        let alarms = world.observed(host).await.alarms;
        alarms.iter().any(|alarm| alarm.word == "clone" && alarm.holds)
    })
    .await;
    let held = request(&world.desk, host).await;
    until("held", async || world.delivery(&held).await.trouble.contains("two machines")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(agents.map(Double::pushes), [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_of_one_id_at_two_hubs_are_seen_and_get_nothing_new() {
    let world = World::new(&["web-1", "web-2", "web-3"]).await;
    let hubs = [world.hub("hub-a").await, world.hub("hub-b").await];
    // Another boot is seen at once, the copy of a running machine when no agent would still be at both.
    let other = [Double::new("web-1", "a"), Double::new("web-1", "b")];
    let copy = [Double::new("web-2", "a"), Double::new("web-2", "a")];
    let moves = [Double::new("web-3", "a"), Double::new("web-3", "a")];
    let mut lines = Vec::new();
    for (number, hub) in hubs.iter().enumerate() {
        for pair in [&other, &copy, &moves] {
            let agent = &pair[number];
            lines.push(agent.dial(hub.address, world.client(&agent.host)).await.unwrap());
            let name = if number == 0 { "hub-a" } else { "hub-b" };
            if number == 0 {
                world.is_at(&agent.host, name).await;
            }
        }
    }
    // One that goes to the other hub leaves the first one.
    moves[0].leave();
    let began = std::time::Instant::now();
    held(&world, "web-1", [&other[0], &other[1]]).await;
    eprintln!("another boot at another hub: held after {:?}", began.elapsed());
    held(&world, "web-2", [&copy[0], &copy[1]]).await;
    eprintln!("the same boot at another hub: held after {:?}", began.elapsed());
    assert!(world.observed("web-3").await.alarms.is_empty(), "it has moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_a_hub_that_was_killed_are_shown_as_not_connected() {
    let mut world = World::new(&["web-1", "web-2"]).await;
    let first_hub = world.hub("hub-a").await;
    let second_hub = world.hub("hub-b").await;
    let (web, other) = (Double::new("web-1", "a"), Double::new("web-2", "b"));
    let _web = web.dial(first_hub.address, world.client("web-1")).await.unwrap();
    let _other = other.dial(second_hub.address, world.client("web-2")).await.unwrap();
    world.is_at("web-1", "hub-a").await;
    world.is_at("web-2", "hub-b").await;
    // One that begins anew does not know the hub from itself.
    world.restart_office();
    drop(first_hub);
    until("silent", async || world.observed("web-1").await.condition.word() == "unreachable").await;
    let trouble = world.observed("web-1").await.trouble;
    assert!(trouble.contains("its hub hub-a is silent"), "{trouble}");
    assert_eq!(world.observed("web-2").await.condition.word(), "enforcing");
}
