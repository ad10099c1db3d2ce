//! Connections that wait until their agent has lost the one in use.

use std::{sync::Arc, time::Duration};

use jit_client::ca::Names;
use jit_controller::{
    clock::now_ms,
    fleet::{Settings, import},
    model::{Answer, Host},
};
use jit_proto::uplink::{IN_USE, SPARE};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{
    double::{Double, connect, is_closed},
    world::{World, of_host},
};
use crate::databases::sqlite;

const SILENT: Duration = Duration::from_secs(2);
const ENDS: Duration = Duration::from_secs(10);

async fn spare(world: &World, names: &Names) -> TlsStream<TcpStream> {
    let mut config = (*world.client(names)).clone();
    config.alpn_protocols = vec![SPARE.to_vec()];
    connect(world.hub, Arc::new(config), [127, 0, 0, 1]).await.unwrap()
}

async fn held(world: &World, number: usize) {
    world.until("held", async || world.fleet.hub_report().unwrap().held == number).await;
}

/// Whether the hub closes it, and says nothing.
async fn ends(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut bytes = [0];
    timeout(ENDS, stream.read(&mut bytes)).await.is_ok_and(|read| !matches!(read, Ok(1)))
}

/// How often the hub has refused somebody with these words.
fn refusals(world: &World, words: &str) -> u64 {
    let report = world.fleet.hub_report().unwrap();
    report.refused.iter().filter(|one| one.why.contains(words)).map(|one| one.count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_connection_waits_until_it_is_used_and_is_none_of_its_host_before() {
    let world = World::new(sqlite().await, &[("web-1", "")]).await;
    let web = of_host("web-1");
    let mut waits = spare(&world, &web).await;
    held(&world, 1).await;
    let agent = Double::new("web-1", "a");
    let mut closed = agent.dial(world.hub, world.client(&web)).await.unwrap();
    world.up("web-1").await;
    let before = world.observed("web-1").await;
    assert!(timeout(SILENT, waits.read_u8()).await.is_err(), "it is not called");
    let request = world.request("web-1").await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!(world.observed("web-1").await.uplink, before.uplink);
    agent.leave();
    assert!(is_closed(&mut closed).await);
    waits.write_all(&[IN_USE]).await.unwrap();
    let _served = agent.serve(waits);
    world.until("moved", async || world.observed("web-1").await.uplink != before.uplink).await;
    let request = world.request("web-1").await;
    world.until("opened", async || world.delivery(&request).await.answer == Answer::Open).await;
    assert_eq!(agent.pushes(), 2);
    assert_eq!(world.observed("web-1").await.alarms, []);
    assert_eq!(world.fleet.hub_report().unwrap().held, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_connection_gives_nobody_more_than_another_one() {
    let few = |settings: &mut Settings| settings.hub.as_mut().unwrap().connections = 4;
    let world = World::with(sqlite().await, &[("web-1", ""), ("db-1", "")], few).await;
    // It says something else.
    let mut wrong = spare(&world, &of_host("web-1")).await;
    wrong.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(ends(&mut wrong).await);
    world.refused("did not take it into use").await;
    // Its host is none of the inventory, or is none any more when it is used.
    let mut stranger = spare(&world, &of_host("web-9")).await;
    assert!(ends(&mut stranger).await);
    world.refused("the inventory has not").await;
    let mut removed = spare(&world, &of_host("db-1")).await;
    held(&world, 1).await;
    let plan = import::Plan {
        removed: vec![Host { id: "db-1".into(), ..Host::default() }],
        ..import::Plan::default()
    };
    let mut tx = world.desk.store().begin().await.unwrap();
    import::apply(&mut tx, &plan, "test", now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    // The hub looks at the inventory from time to time.
    world
        .until("removed", async || {
            let mut another = spare(&world, &of_host("db-1")).await;
            let _silent = timeout(Duration::from_millis(200), another.read_u8()).await;
            refusals(&world, "\"db-1\"") > 0
        })
        .await;
    let before = refusals(&world, "\"db-1\"");
    removed.write_all(&[IN_USE]).await.unwrap();
    assert!(ends(&mut removed).await);
    world.until("refused", async || refusals(&world, "\"db-1\"") > before).await;
    held(&world, 0).await;
    // Half of the places are for agents that have no other connection; a certificate has two.
    let mut waiting =
        vec![spare(&world, &of_host("web-1")).await, spare(&world, &of_host("web-1")).await];
    held(&world, 2).await;
    let mut third = spare(&world, &of_host("web-1")).await;
    assert!(ends(&mut third).await);
    world.refused("only while half of its places are free").await;
    let agent = Double::new("web-1", "a");
    let _closed = agent.dial(world.hub, world.client(&of_host("web-1"))).await.unwrap();
    world.up("web-1").await;
    // The hub ends: they look for another one, and are not waited for.
    let began = std::time::Instant::now();
    world.fleet.drain().await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    for waits in &mut waiting {
        assert!(ends(waits).await);
    }
}
