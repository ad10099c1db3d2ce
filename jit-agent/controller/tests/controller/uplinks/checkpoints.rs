//! Checkpoints that the hub brings to a stand-in, which compares what it has heard as an agent does.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jit_controller::{fleet::SignCheckpoint, model::Answer};
use jit_proto::v1;
use prost::Message as _;

use super::{
    double::Double,
    world::{World, of_host},
};
use crate::databases::Database;

on_each_database! {
    what_has_not_arrived_is_sent_again_and_then_all_has,
    a_signed_revocation_that_ends_no_grant_is_a_piece_of_its_own,
    a_host_that_contradicts_raises_one_alarm,
}

/// Numbers them. Nobody verifies here who signs.
fn unsigned() -> SignCheckpoint {
    let number = Arc::new(AtomicU64::new(0));
    Arc::new(move |wish| {
        let checkpoint = v1::Checkpoint {
            epoch: 1,
            number: number.fetch_add(1, Ordering::Relaxed) + 1,
            issued_at_ms: wish.issued_at_ms,
            valid_for_ms: 25_000,
            root: wish.root.into(),
            hosts: wish.hosts,
        };
        let payload = checkpoint.encode_to_vec().into();
        Box::pin(async move { Ok(v1::Envelope { payload, ..v1::Envelope::default() }) })
    })
}

fn make(world: &World) -> tokio::task::AbortHandle {
    let fleet = world.fleet.clone();
    let maker = async move { fleet.make_checkpoints(Duration::from_millis(100), unsigned()).await };
    tokio::spawn(maker).abort_handle()
}

async fn what_has_not_arrived_is_sent_again_and_then_all_has(database: Database) {
    let world = World::new(database, &[("db-1", ""), ("web-1", ""), ("web-2", "")]).await;
    let web = Double::new("web-1", "a");
    web.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    let maker = make(&world);
    let complete = async || web.last_said() == Some("complete");
    world.until("an empty mailbox", complete).await;
    let (kept, ended) = (world.request("web-1").await, world.request("web-1").await);
    for request in [&kept, &ended] {
        world.until("opened", async || world.delivery(request).await.answer == Answer::Open).await;
    }
    world.revoke(&ended.proposal.id).await;
    world.until("closed", async || !world.delivery(&ended).await.pending).await;
    world.until("both", complete).await;
    // It loses all that it has heard.
    let before = web.heard.compared.lock().unwrap().len();
    web.heard.pushed.lock().unwrap().clear();
    web.heard.revoked.lock().unwrap().clear();
    let found = async || {
        let compared = web.heard.compared.lock().unwrap();
        let said: Vec<_> = compared.iter().skip(before).map(|(_, said)| *said).collect();
        said.contains(&"missing") && said.ends_with(&["complete"])
    };
    world.until("sent again", found).await;
    assert_eq!(web.pushes(), 1, "the one that is live");
    assert_eq!(web.heard.revoked.lock().unwrap().len(), 1, "and the end of the other");
    let numbers: Vec<_> =
        web.heard.compared.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    maker.abort();
}

async fn a_signed_revocation_that_ends_no_grant_is_a_piece_of_its_own(database: Database) {
    let world = World::new(database, &[("web-1", ""), ("web-2", "")]).await;
    let agents = ["web-1", "web-2"].map(|id| Double::new(id, id));
    for agent in &agents {
        agent.dial(world.hub, world.client(&of_host(&agent.host))).await.unwrap();
        world.up(&agent.host).await;
    }
    let [web, other] = &agents;
    let maker = make(&world);
    let complete = async || agents.iter().all(|agent| agent.last_said() == Some("complete"));
    world.until("empty mailboxes", complete).await;
    let (_some, _all) = (world.close(&["web-1"]).await, world.close(&[]).await);
    let different = |agent: &Double| {
        let closed = agent.heard.closed.lock().unwrap();
        closed.iter().map(|envelope| envelope.payload.to_vec()).collect::<BTreeSet<_>>().len()
    };
    let arrived = async || (different(web), different(other)) == (2, 1);
    world.until("delivered", arrived).await;
    let compared = |agent: &Double| agent.heard.compared.lock().unwrap().len();
    world.until("all of it", complete).await;
    let (before, count) = (compared(web), (web.closed(), other.closed()));
    world.until("the next ones", async || compared(web) > before + 3).await;
    assert_eq!((web.closed(), other.closed()), count, "nothing is missing");
    // What is lost, or was withheld, comes again.
    for agent in &agents {
        let before = compared(agent);
        agent.heard.closed.lock().unwrap().clear();
        let found = async || {
            let said: Vec<_> =
                agent.heard.compared.lock().unwrap().iter().skip(before).copied().collect();
            said.iter().any(|(_, said)| *said == "missing")
                && said.last().is_some_and(|(_, said)| *said == "complete")
        };
        world.until("sent again", found).await;
    }
    assert!(arrived().await);
    maker.abort();
}

async fn a_host_that_contradicts_raises_one_alarm(database: Database) {
    let world = World::new(database, &[("web-1", "")]).await;
    let web = Double::new("web-1", "a");
    web.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    *web.heard.says.lock().unwrap() = Some("rolled_back");
    let maker = make(&world);
    world.until("an alarm", async || !world.observed("web-1").await.alarms.is_empty()).await;
    let alarm = world.observed("web-1").await.alarms.remove(0);
    assert_eq!((alarm.word.as_str(), alarm.holds), ("rolled_back", false));
    world.until("the next ones", async || web.last_said() == Some("complete")).await;
    assert_eq!(world.observed("web-1").await.alarms.len(), 1);
    maker.abort();
}
