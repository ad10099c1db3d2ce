//! All mailboxes of a hub, and one that is larger than an answer.

use std::time::Instant;

use futures_util::StreamExt as _;
use jit_controller::bus::Bus;

use crate::{
    cluster::Cluster,
    letters::{after, grant, host, now},
};

/// Mailboxes that are read at the same time.
const AT_ONCE: usize = 64;

async fn fill(store: &Bus, hosts: u128) {
    let end = after(3_600_000);
    futures_util::stream::iter(0..hosts)
        .for_each_concurrent(512, |number| async move {
            let letter = grant(&host(&format!("host-{number}")), number, end);
            store.publish(&letter, now()).await.unwrap();
        })
        .await;
}

async fn resync(hosts: u128) {
    let (cluster, store) = Cluster::start().await;
    let begun = Instant::now();
    fill(&store, hosts).await;
    let filled = begun.elapsed();
    let hub = cluster.hub().await;
    let _changes = hub.changes().await.unwrap();
    let begun = Instant::now();
    let found = futures_util::stream::iter(0..hosts)
        .map(|number| {
            let hub = hub.clone();
            async move {
                let name = format!("host-{number}");
                loop {
                    match hub.mailbox(&name).await {
                        Ok(all) if all.len() == 1 => break,
                        // A server that knows less than the one that acknowledged.
                        Ok(_) | Err(_) if begun.elapsed().as_secs() < 120 => {}
                        other => panic!("{name}: {other:?}"),
                    }
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .count()
        .await;
    println!("{hosts} mailboxes: filled in {filled:?}, {found} read in {:?}", begun.elapsed());
}

/// `JIT_TEST_MAILBOXES=100000` makes it a fleet: filling them takes minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_reads_the_mailboxes_of_all_hosts() {
    let wanted = std::env::var("JIT_TEST_MAILBOXES").ok();
    resync(wanted.map_or(5_000, |number| number.parse().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_is_larger_than_an_answer_comes_as_a_whole() {
    let (cluster, store) = Cluster::start().await;
    let (web, end) = (host("web-1"), after(3_600_000));
    futures_util::stream::iter(0..2_500)
        .for_each_concurrent(512, |number| {
            let (store, letter) = (store.clone(), grant(&web, number, end));
            async move { store.publish(&letter, now()).await.map(drop).unwrap() }
        })
        .await;
    let hub = cluster.hub().await;
    let begun = Instant::now();
    loop {
        let all = hub.mailbox("web-1").await.unwrap();
        if all.len() == 2_500 {
            break;
        }
        assert!(begun.elapsed().as_secs() < 30, "{} came", all.len());
    }
}
