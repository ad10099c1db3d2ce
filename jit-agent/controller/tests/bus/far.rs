//! Hubs that are processes of their own: the real program, three real servers, a real signer, and hosts that
//! connect with real TLS and answer for themselves.

mod checkpoints;
mod closings;
#[expect(dead_code, reason = "the tests of a hub with a database use more of it")]
#[path = "../controller/uplinks/double.rs"]
mod double;
mod health;
mod killed;
mod lies;
mod renewals;
mod rivals;
#[path = "../controller/uplinks/signed.rs"]
mod signed;
mod waves;
mod world;

use std::time::Duration;

use jit_controller::{model::Answer, store::Request};
use rustix::process::{Pid, Signal, kill_process};

use self::{
    double::{Double, is_closed},
    signed::{request, revoke},
    world::{World, program, until},
};

async fn opened(world: &World, request: &Request) {
    until("opened", async || world.delivery(request).await.answer == Answer::Open).await;
}

async fn closed(world: &World, request: &Request) {
    until("closed", async || {
        let row = world.delivery(request).await;
        row.answer == Answer::Closed && !row.pending
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gets_all_at_whichever_hub_it_is_and_what_ended_stays_so() {
    let mut world = World::new(&["web-1", "web-2"]).await;
    let web = Double::new("web-1", "a");
    // Nobody has it yet.
    let early = request(&world.desk, "web-1").await;
    let first_hub = world.hub("hub-a").await;
    let mut gone = web.dial(first_hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "at the hub hub-a").await;
    opened(&world, &early).await;
    let second = request(&world.desk, "web-1").await;
    opened(&world, &second).await;
    revoke(&world.desk, &early.proposal.id).await;
    closed(&world, &early).await;
    assert_eq!(web.heard.revoked.lock().unwrap().len(), 1);
    assert_eq!(web.pushes(), 2);

    // The hub is killed, and what comes meanwhile waits for the next one.
    let second_hub = world.hub("hub-b").await;
    drop(first_hub);
    assert!(is_closed(&mut gone).await);
    let third = request(&world.desk, "web-1").await;
    revoke(&world.desk, &second.proposal.id).await;
    world.restart_office();
    let mut gone = web.dial(second_hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "at the hub hub-b").await;
    opened(&world, &third).await;
    closed(&world, &second).await;
    // What comes a second time changes nothing at a host, and what has ended stays so.
    assert_eq!(web.pushes(), 3);
    assert_eq!(web.heard.revoked.lock().unwrap().len(), 2);
    assert_eq!(world.delivery(&early).await.answer, Answer::Closed);

    // In order it says goodbye.
    let mut second_hub = second_hub;
    kill_process(Pid::from_child(&second_hub.child), Signal::TERM).unwrap();
    assert!(is_closed(&mut gone).await);
    let child = &mut second_hub.child;
    let status = tokio::task::block_in_place(|| child.wait()).unwrap();
    assert!(status.success(), "{status}: {}", second_hub.said());
    until("it left", async || world.observed("web-1").await.condition.word() == "unreachable")
        .await;
    let observed = world.observed("web-1").await;
    assert!(observed.trouble.contains("has left"), "{observed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_of_one_id_at_one_hub_are_seen_and_get_nothing_new() {
    let world = World::new(&["web-1"]).await;
    let hub = world.hub("hub-a").await;
    let (one, other) = (Double::new("web-1", "a"), Double::new("web-1", "b"));
    let _first = one.dial(hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "at the hub hub-a").await;
    let _second = other.dial(hub.address, world.client("web-1")).await.unwrap();
    until("an alarm", async || !world.observed("web-1").await.alarms.is_empty()).await;
    let alarm = world.observed("web-1").await.alarms.remove(0);
    assert!(alarm.word == "clone" && alarm.holds, "{alarm:?}");
    let held = request(&world.desk, "web-1").await;
    until("held", async || world.delivery(&held).await.trouble.contains("two machines")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((one.pushes(), other.pushes()), (0, 0));
    other.leave();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_hub_is_checked_and_serves_only_as_a_hub() {
    let world = World::new(&[]).await;
    let (directory, _) = world.hub_files("hub-a");
    let directory = directory.display().to_string();
    let checked = program(&["check", "--dir", &directory]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("is that of the hub hub-a") && said.contains("3 servers"), "{said}");
    let served = program(&["serve", "--roles", "api,signer", "--dir", &directory]);
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(!served.status.success() && said.contains("start it with --roles hub"), "{said}");
    std::fs::write(format!("{directory}/hub.key"), "nonsense").unwrap();
    let served = program(&["serve", "--roles", "hub", "--dir", &directory]);
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(!served.status.success() && said.contains("hub.key"), "{said}");
}
