//! Hosts that dial the hub: a stand-in of the agent connects with real TLS, and is called over that.

mod checkpoints;
mod closings;
#[expect(dead_code, reason = "the tests of hubs of the bus use more of it")]
mod double;
mod signed;
mod spares;
mod world;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jit_client::ca::Names;
use jit_controller::{fleet::Settings, model::Answer, store::hosts};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
};

use self::{
    double::{Double, connect, is_closed},
    world::{World, authority, of_dns, of_host},
};
use crate::databases::{Database, sqlite};

on_each_database! {
    a_grant_and_its_revocation_reach_a_host_that_has_dialled,
    two_machines_of_one_id_get_no_grant_before_somebody_has_looked,
    a_copy_of_a_machine_that_runs_is_noticed_though_it_has_the_same_boot,
}

async fn a_grant_and_its_revocation_reach_a_host_that_has_dialled(database: Database) {
    let world = World::new(database, &[("web-1", ""), ("db-1", "db.example.org")]).await;
    let web = Double::new("web-1", "a");
    web.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    // Without a host URI its DNS name says which host it is.
    let db = Double::new("db-1", "b");
    db.dial(world.hub, world.client(&of_dns(&["DB.example.org"]))).await.unwrap();
    for (host, agent) in [("web-1", web), ("db-1", db)] {
        world.up(host).await;
        let observed = world.observed(host).await;
        assert!(observed.uplink.starts_with("127.0.0.1:"), "{observed:?}");
        assert!(observed.connected_ms > 0);
        let request = world.request(host).await;
        world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
        assert_eq!(agent.pushes(), 1);
        world.revoke(&request.proposal.id).await;
        world.until("closed", async || !world.delivery(&request).await.pending).await;
        assert_eq!(agent.heard.revoked.lock().unwrap().len(), 1);
    }
    assert_eq!(world.fleet.hub_report().unwrap().held, 2);
}

async fn two_machines_of_one_id_get_no_grant_before_somebody_has_looked(database: Database) {
    let world = World::new(database, &[("web-1", "")]).await;
    let names = world.client(&of_host("web-1"));
    let (one, other) = (Double::new("web-1", "a"), Double::new("web-1", "b"));
    let mut first = one.dial(world.hub, Arc::clone(&names)).await.unwrap();
    world.up("web-1").await;
    let mut second = other.dial(world.hub, names).await.unwrap();
    world.until("an alarm", async || !world.observed("web-1").await.alarms.is_empty()).await;
    let alarm = world.observed("web-1").await.alarms.remove(0);
    assert_eq!(alarm.word, "clone");
    assert!(alarm.holds && alarm.text.contains("127.0.0.1"), "{alarm:?}");
    assert_eq!(world.desk.store().hosts_held().await.unwrap(), 1);
    let request = world.request("web-1").await;
    world.until("held", async || !world.delivery(&request).await.trouble.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let row = world.delivery(&request).await;
    assert!(row.trouble.contains("two machines"), "{row:?}");
    assert_eq!((one.pushes(), other.pushes()), (0, 0));
    // Nobody is thrown out.
    assert!(first.has_changed().is_ok() && second.has_changed().is_ok());
    clear(&world).await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!((one.pushes(), other.pushes()), (1, 0));
    drop(world);
    assert!(is_closed(&mut first).await && is_closed(&mut second).await);
}

/// Somebody has looked at the alarms.
async fn clear(world: &World) {
    let mut tx = world.desk.store().begin().await.unwrap();
    let mut observed = hosts::lock_observed(&mut tx, "web-1").await.unwrap().unwrap();
    observed.alarms.clear();
    hosts::set_observed(&mut tx, "web-1", &observed).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.desk.store().hosts_held().await.unwrap(), 0);
}

async fn a_copy_of_a_machine_that_runs_is_noticed_though_it_has_the_same_boot(database: Database) {
    let world = World::new(database, &[("web-1", "")]).await;
    let names = world.client(&of_host("web-1"));
    let (one, copy) = (Double::new("web-1", "a"), Double::new("web-1", "a"));
    let mut first = one.dial(world.hub, Arc::clone(&names)).await.unwrap();
    world.up("web-1").await;
    // It cannot be known at once: an agent that makes a new connection looks the same.
    let mut second = copy.dial(world.hub, names).await.unwrap();
    world.until("an alarm", async || !world.observed("web-1").await.alarms.is_empty()).await;
    let alarm = world.observed("web-1").await.alarms.remove(0);
    assert_eq!(alarm.word, "clone");
    assert!(alarm.holds && alarm.text.contains("took its place"), "{alarm:?}");
    let request = world.request("web-1").await;
    world.until("held", async || !world.delivery(&request).await.trouble.is_empty()).await;
    let row = world.delivery(&request).await;
    assert!(row.trouble.contains("two machines"), "{row:?}");
    assert_eq!((one.pushes(), copy.pushes()), (0, 0));
    // Nobody is thrown out, so neither comes back to throw out the other.
    assert!(first.has_changed().is_ok() && second.has_changed().is_ok());
    // One of the two is ended, and somebody clears the alarm.
    one.leave();
    assert!(is_closed(&mut first).await);
    clear(&world).await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!((one.pushes(), copy.pushes()), (0, 1));
    second.mark_unchanged();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_host_of_the_inventory_is_refused_and_the_reason_is_kept() {
    let hosts = [("web-1", "web.example.org"), ("db-1", "db.example.org"), ("db-2", "")];
    let world = World::new(sqlite().await, &hosts).await;
    let stranger = authority().0;
    let mut without_alpn = (*world.client(&of_host("web-1"))).clone();
    without_alpn.alpn_protocols.clear();
    let mut other_alpn = without_alpn.clone();
    other_alpn.alpn_protocols = vec![b"h2".to_vec()];
    for (client, words) in [
        (world.client_of(&stranger, &of_host("web-1")), "invalid peer certificate"),
        (world.config(None), "no certificates"),
        (world.client(&of_host("web-9")), "the inventory has not"),
        (world.client(&of_dns(&["x.example.org"])), "no host of the inventory"),
        (world.client(&of_dns(&["web-1", "db-2"])), "several hosts"),
        (
            world.client(&Names { uri: vec!["spiffe://example.org/x".into()], ..Names::default() }),
            "neither a host URI nor a DNS name",
        ),
        (world.thief(), "the name of this controller"),
        (Arc::new(without_alpn), "it does not offer the protocol"),
        (Arc::new(other_alpn), "any known protocol"),
    ] {
        if let Ok(mut stream) = connect(world.hub, client, [127, 0, 0, 1]).await {
            // In TLS 1.3 a client hears only afterwards that its certificate was refused.
            let mut bytes = [0; 1];
            let heard = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes));
            assert!(!matches!(heard.await.expect("it was not closed"), Ok(1)), "{words}");
        }
        world.refused(words).await;
    }
    assert_eq!(world.fleet.hub_report().unwrap().held, 0);
    assert_eq!(world.observed("web-1").await.connected_ms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_names_another_id_than_its_certificate_is_not_used() {
    let world = World::new(sqlite().await, &[("web-1", ""), ("web-2", "")]).await;
    let agent = Double::new("web-2", "a");
    let mut closed = agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.until("an alarm", async || !world.observed("web-1").await.alarms.is_empty()).await;
    assert_eq!(world.observed("web-1").await.alarms[0].word, "wrong_id");
    assert!(is_closed(&mut closed).await);
    assert_eq!(world.observed("web-2").await.connected_ms, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_of_one_network_keep_no_other_out() {
    let few = |settings: &mut Settings| settings.hub.as_mut().unwrap().handshakes = 8;
    let world = World::with(sqlite().await, &[("web-1", "")], few).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(world.hub).await.unwrap());
    }
    // A second network that does the same does not get the rest.
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.1.1:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(world.hub).await.unwrap());
    }
    let began = Instant::now();
    let stream = connect(world.hub, world.client(&of_host("web-1")), [127, 0, 9, 1]).await;
    let took = began.elapsed();
    assert!(stream.is_ok() && took < Duration::from_secs(2), "{took:?}");
    world.refused("was not complete within 5 s").await;
    // Whoever waited for one of these begins a handshake, or is sent away.
    let end = began + Duration::from_secs(18);
    for mut stream in silent {
        let closed = tokio::time::timeout_at(end.into(), stream.read_u8()).await;
        assert!(closed.expect("it was not closed").is_err());
    }
    world.refused("there were too many handshakes of its network for 10 s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_of_the_same_machine_replaces_the_old_one_after_its_calls() {
    let world = World::new(sqlite().await, &[("web-1", "")]).await;
    let client = world.client(&of_host("web-1"));
    let old = Double::new("web-1", "a");
    old.heard.slow.store(true, Ordering::SeqCst);
    let mut closed = old.dial(world.hub, Arc::clone(&client)).await.unwrap();
    world.up("web-1").await;
    let before = world.observed("web-1").await.uplink;
    let request = world.request("web-1").await;
    world.until("under way", async || old.heard.begun.load(Ordering::SeqCst)).await;
    let new = Double::new("web-1", "a");
    let mut second = new.dial(world.hub, Arc::clone(&client)).await.unwrap();
    world.until("replaced", async || world.observed("web-1").await.uplink != before).await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!((old.pushes(), new.pushes()), (1, 0));
    old.leave();
    assert!(is_closed(&mut closed).await);
    let request = world.request("web-1").await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!((old.pushes(), new.pushes()), (1, 1));
    // The old one was ended in time: it is no other machine's.
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(second.has_changed().is_ok());
    assert_eq!(world.observed("web-1").await.alarms, []);
    assert_eq!(world.fleet.hub_report().unwrap().held, 1);
    second.mark_unchanged();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_ends_answers_what_is_under_way_and_takes_nobody() {
    let world = World::new(sqlite().await, &[("web-1", "")]).await;
    let agent = Double::new("web-1", "a");
    agent.heard.slow.store(true, Ordering::SeqCst);
    let client = world.client(&of_host("web-1"));
    let mut closed = agent.dial(world.hub, Arc::clone(&client)).await.unwrap();
    world.up("web-1").await;
    let request = world.request("web-1").await;
    world.until("under way", async || agent.heard.begun.load(Ordering::SeqCst)).await;
    let began = Instant::now();
    world.fleet.drain().await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(is_closed(&mut closed).await);
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!(agent.pushes(), 1);
    assert!(agent.dial(world.hub, client).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_all_agents_come_back_and_nothing_is_lost() {
    const AGENTS: usize = 200;
    let ids: Vec<_> = (0..AGENTS).map(|number| format!("h-{number}")).collect();
    let hosts: Vec<_> = ids.iter().map(|id| (id.as_str(), "")).collect();
    let mut world = World::new(sqlite().await, &hosts).await;
    let mut agents = Vec::new();
    for id in &ids {
        let (agent, client, hub) = (Double::new(id, id), world.client(&of_host(id)), world.hub);
        let again = agent.clone();
        agents.push(agent);
        // As an agent does: whenever it has no connection, it makes one.
        tokio::spawn(async move {
            loop {
                if let Ok(mut closed) = again.dial(hub, Arc::clone(&client)).await {
                    while closed.changed().await.is_ok() {}
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let held = async |world: &World| {
        let all = async || world.fleet.hub_report().unwrap().held == AGENTS;
        world.until("all are connected", all).await;
    };
    held(&world).await;
    world = world.restart();
    let mut requests = Vec::new();
    for id in &ids {
        requests.push(world.request(id).await);
    }
    held(&world).await;
    for request in &requests {
        world.until("opened", async || world.delivery(request).await.answer == Answer::Open).await;
    }
    // How soon, the bench of the fleet measures.
    assert!(agents.iter().all(|agent| agent.pushes() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_too_large_together_cost_nobody_else_his() {
    const MIB: usize = 1024 * 1024;
    let ids: Vec<_> = (0..8).map(|number| format!("hostile-{number}")).collect();
    let hosts = ids.iter().map(String::as_str).chain(["web-1", "large-1"]);
    let hosts: Vec<_> = hosts.map(|id| (id, "")).collect();
    let little = |settings: &mut Settings| settings.answers = MIB;
    let world = World::with(sqlite().await, &hosts, little).await;
    let mut closed = Vec::new();
    for id in &ids {
        let agent = Double::new(id, id);
        agent.heard.text.store(2 * MIB, Ordering::SeqCst);
        closed.push(agent.dial(world.hub, world.client(&of_host(id))).await.unwrap());
    }
    let agent = Double::new("web-1", "a");
    agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    let request = world.request("web-1").await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    for closed in &mut closed {
        assert!(is_closed(closed).await);
    }
    for id in &ids {
        assert_eq!(world.observed(id).await.connected_ms, 0);
    }
    // What they took is free again: one large answer has its room.
    let agent = Double::new("large-1", "b");
    agent.heard.text.store(MIB * 7 / 8, Ordering::SeqCst);
    agent.dial(world.hub, world.client(&of_host("large-1"))).await.unwrap();
    world.up("large-1").await;
}
