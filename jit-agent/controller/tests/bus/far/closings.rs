//! Signed revocations of everything reach hosts at all hubs, and those that come later. `JIT_CLOSINGS` says
//! how many hosts are measured; otherwise 100.

use std::{
    env,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use jit_controller::store::{Closing, closings::Heard};

use super::{
    double::Double,
    signed::close,
    world::{World, until},
};

async fn said(world: &World, closing: &Closing, heard: Heard) -> i64 {
    let counts = world.desk.store().closing_counts(&closing.id).await.unwrap();
    counts.get(&heard).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_hosts_at_all_hubs_and_those_that_come_later() {
    let mut world = World::new(&["web-1", "web-2", "db-1"]).await;
    let hubs = [world.hub("hub-a").await, world.hub("hub-b").await];
    let agents = ["web-1", "web-2", "db-1"].map(|id| Double::new(id, id));
    let [web, late, db] = &agents;
    db.heard.refuses.store(true, Ordering::SeqCst);
    let _web = web.dial(hubs[0].address, world.client("web-1")).await.unwrap();
    let _db = db.dial(hubs[1].address, world.client("db-1")).await.unwrap();
    world.is_at("web-1", "hub-a").await;
    world.is_at("db-1", "hub-b").await;
    let everything = close(&world.desk, &[]).await;
    until("one", async || said(&world, &everything, Heard::Delivered).await == 1).await;
    // One that refuses is shown with its reason, and asked again.
    until("refused", async || said(&world, &everything, Heard::Refused).await == 1).await;
    let rows = world.desk.store().closing_hosts(&everything.id, None, "", 9).await.unwrap();
    let refused = rows.iter().find(|row| row.host == "db-1").unwrap();
    assert_eq!((refused.word.as_str(), refused.detail.as_str()), ("unknown_key", "no such key"));
    db.heard.refuses.store(false, Ordering::SeqCst);
    // One for some hosts is not given to others.
    let some = close(&world.desk, &["web-2"]).await;
    world.restart_office();
    let _late = late.dial(hubs[1].address, world.client("web-2")).await.unwrap();
    for closing in [&everything, &some] {
        until("all", async || {
            let kept = world.desk.store().closing(&closing.id).await.unwrap().unwrap();
            kept.complete_ms > 0
        })
        .await;
    }
    let heard = |agent: &Double| {
        let mut all: Vec<_> = agent.heard.closed.lock().unwrap().clone();
        all.dedup();
        all.len()
    };
    assert_eq!((heard(web), heard(late), heard(db)), (1, 2, 1));
    let all = late.heard.closed.lock().unwrap().clone();
    assert!(all.iter().any(|envelope| Some(envelope) == everything.envelope.as_ref()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_at_two_hubs_hear_a_revocation_of_everything_at_once() {
    let count = env::var("JIT_CLOSINGS").map_or(100, |count| count.parse().unwrap());
    let ids: Vec<_> = (0..count).map(|number| format!("h-{number:05}")).collect();
    let hosts: Vec<_> = ids.iter().map(String::as_str).collect();
    let world = World::new(&hosts).await;
    let hubs = [world.hub("hub-a").await, world.hub("hub-b").await];
    let agents: Vec<_> = ids.iter().map(|id| Double::new(id, id)).collect();
    // A handshake has a bounded time: some at a time.
    let dialled = stream::iter(agents.iter().enumerate()).map(async |(number, agent)| {
        agent.dial(hubs[number % 2].address, world.client(&agent.host)).await.unwrap()
    });
    let _lines: Vec<_> = dialled.buffer_unordered(16).collect().await;
    for (number, id) in ids.iter().enumerate() {
        world.is_at(id, if number % 2 == 0 { "hub-a" } else { "hub-b" }).await;
    }
    // A first one, so that nothing of a first time is measured.
    let first = close(&world.desk, &[hosts[0]]).await;
    until("first", async || said(&world, &first, Heard::Delivered).await == 1).await;
    let began = Instant::now();
    let closing = close(&world.desk, &[]).await;
    let made = began.elapsed();
    let all = || agents.iter().all(|agent| agent.heard.all.load(Ordering::SeqCst));
    while !all() {
        assert!(began.elapsed() < Duration::from_secs(60), "not all have heard it");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let heard = began.elapsed();
    let everybody = i64::from(count);
    until("kept", async || said(&world, &closing, Heard::Delivered).await == everybody).await;
    eprintln!(
        "{count} hosts at two hubs: signed and committed {made:?}, heard by the last {heard:?}, kept {:?}",
        began.elapsed()
    );
}
