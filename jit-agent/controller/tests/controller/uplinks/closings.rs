//! Signed revocations reach hosts that have dialled, those that come later, and a thousand at once. Their
//! agents are stand-ins; the signer is real. `JIT_CLOSINGS` says how many hosts are measured; otherwise 100.

use std::{
    env,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use jit_controller::{
    fleet::Settings,
    model::Answer,
    store::{Closing, closings::Heard},
};

use super::{double::Double, signed::close, world::World, world::of_host};
use crate::databases::{Database, sqlite};

on_each_database! {
    who_is_connected_and_who_comes_later_hears_the_same_bytes,
    a_host_that_refuses_is_shown_and_asked_again_when_it_comes_back,
    what_the_controller_has_just_ended_is_not_taken_for_lost,
}

impl World {
    /// Ends everything that was granted until now.
    pub(super) async fn close(&self, hosts: &[&str]) -> Closing {
        close(&self.desk, hosts).await
    }

    /// How many hosts have said this.
    async fn said(&self, closing: &Closing, heard: Heard) -> i64 {
        let counts = self.desk.store().closing_counts(&closing.id).await.unwrap();
        counts.get(&heard).copied().unwrap_or_default()
    }
}

async fn who_is_connected_and_who_comes_later_hears_the_same_bytes(database: Database) {
    let world = World::new(database, &[("web-1", ""), ("web-2", ""), ("db-1", "")]).await;
    let agents = ["web-1", "web-2", "db-1"].map(|id| Double::new(id, id));
    let [web, late, db] = &agents;
    for agent in [web, db] {
        agent.dial(world.hub, world.client(&of_host(&agent.host))).await.unwrap();
        world.up(&agent.host).await;
    }
    let closing = world.close(&[]).await;
    world.until("two", async || world.said(&closing, Heard::Delivered).await == 2).await;
    let some = world.close(&["web-2"]).await;
    assert_eq!((web.closed(), late.closed(), db.closed()), (1, 0, 1));
    assert_eq!(world.said(&some, Heard::Waiting).await, 1);
    // A hub that starts anew knows who has heard it.
    let world = world.restart();
    late.dial(world.hub, world.client(&of_host("web-2"))).await.unwrap();
    web.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    for closing in [&closing, &some] {
        world.until("all", async || world.said(closing, Heard::Waiting).await == 0).await;
    }
    world.up("web-1").await;
    assert_eq!((web.closed(), late.closed(), db.closed()), (1, 2, 1));
    let all = late.heard.closed.lock().unwrap().clone();
    assert!(all.iter().any(|envelope| Some(envelope) == closing.envelope.as_ref()));
    let kept = world.desk.store().closing(&closing.id).await.unwrap().unwrap();
    assert!(kept.complete_ms > 0);
}

async fn a_host_that_refuses_is_shown_and_asked_again_when_it_comes_back(database: Database) {
    let world = World::new(database, &[("web-1", "")]).await;
    let agent = Double::new("web-1", "a");
    agent.heard.refuses.store(true, Ordering::SeqCst);
    agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    let closing = world.close(&[]).await;
    world.until("refused", async || world.said(&closing, Heard::Refused).await == 1).await;
    let rows = world.desk.store().closing_hosts(&closing.id, None, "", 9).await.unwrap();
    assert_eq!((rows[0].word.as_str(), rows[0].detail.as_str()), ("unknown_key", "no such key"));
    agent.heard.refuses.store(false, Ordering::SeqCst);
    // The agent dials again: the new connection takes the place of the old one.
    agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.until("done", async || world.said(&closing, Heard::Delivered).await == 1).await;
}

/// The store has the end of each grant a moment later than the hosts, with very many of them seconds later.
async fn what_the_controller_has_just_ended_is_not_taken_for_lost(database: Database) {
    let often = |settings: &mut Settings| settings.follow_every = Duration::from_millis(20);
    let world = World::with(database, &[("web-1", "")], often).await;
    let agent = Double::new("web-1", "a");
    agent.heard.lists.store(true, Ordering::SeqCst);
    agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    let request = world.request("web-1").await;
    world.until("open", async || world.delivery(&request).await.answer == Answer::Open).await;
    let closing = world.close(&[]).await;
    world.until("done", async || world.said(&closing, Heard::Delivered).await == 1).await;
    let before = agent.heard.asked.load(Ordering::SeqCst);
    world.until("asked", async || agent.heard.asked.load(Ordering::SeqCst) > before + 2).await;
    assert_eq!(agent.heard.pushed.lock().unwrap().len(), 1, "it was pushed again");
    assert_eq!(world.delivery(&request).await.answer, Answer::Open, "nobody has written the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_hear_a_revocation_of_everything_at_once() {
    let count = env::var("JIT_CLOSINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let ids: Vec<_> = (0..count).map(|number| format!("h-{number:05}")).collect();
    let hosts: Vec<_> = ids.iter().map(|id| (id.as_str(), "")).collect();
    let world = World::with(sqlite().await, &hosts, |settings| {
        let hub = settings.hub.as_mut().unwrap();
        hub.handshakes = 512;
        hub.connections = hub.connections.max(hosts.len());
    })
    .await;
    let agents: Vec<_> = ids.iter().map(|id| Double::new(id, id)).collect();
    // A handshake has a bounded time: some at a time.
    let dialled = stream::iter(&agents).for_each_concurrent(16, async |agent| {
        let client = world.client(&of_host(&agent.host));
        agent.dial(world.hub, Arc::clone(&client)).await.unwrap();
    });
    dialled.await;
    let last = ids.last().unwrap();
    for id in &ids {
        world.up(id).await;
    }
    world.up(last).await;
    // A first one, so that nothing of a first time is measured.
    let first = world.close(&[last]).await;
    world.until("first", async || world.said(&first, Heard::Delivered).await == 1).await;
    let began = Instant::now();
    let closing = world.close(&[]).await;
    let made = began.elapsed();
    let all = || agents.iter().all(|agent| agent.heard.all.load(Ordering::SeqCst));
    while !all() {
        assert!(began.elapsed().as_secs() < 60, "not all have heard it");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let heard = began.elapsed();
    let everybody = i64::try_from(ids.len()).unwrap();
    world.until("kept", async || world.said(&closing, Heard::Delivered).await == everybody).await;
    println!(
        "{count} hosts: signed and committed {made:?}, heard by the last {heard:?}, kept {:?}",
        began.elapsed()
    );
    // Far more than it takes, on a machine that does other things, too.
    assert!(heard.as_secs() < 20, "{heard:?}");
}
