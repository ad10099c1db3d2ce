//! A server is killed while grants are published.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use jit_controller::bus::{Bus, Change};
use tokio::time::timeout;

use crate::{
    cluster::{Cluster, Who, is_partial},
    letters::{after, grant, host, now},
};

const GRANTS: u128 = 1000;
const HOSTS: u128 = 50;

fn name(number: u128) -> String {
    format!("host-{}", number % HOSTS)
}

/// Publishes all, as the outbox does: again until it is acknowledged. Kills a server in between.
async fn publish_all(
    store: &Bus,
    cluster: &mut Cluster,
    killed: usize,
) -> BTreeMap<String, Instant> {
    let end = after(600_000);
    let mut sent = BTreeMap::new();
    let mut publishing = tokio::task::JoinSet::new();
    for number in 0..GRANTS {
        if number == GRANTS / 3 {
            cluster.kill(killed);
        }
        let letter = grant(&host(&name(number)), number, end);
        let text = std::str::from_utf8(&letter.envelope).unwrap().to_owned();
        sent.insert(text, Instant::now());
        let store = store.clone();
        publishing.spawn(async move {
            while let Err(error) = store.publish(&letter, now()).await {
                eprintln!("again: {error}");
            }
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let all = publishing.join_all();
    timeout(Duration::from_secs(120), all).await.expect("all are acknowledged in the end");
    sent
}

async fn kill(killed: usize) {
    let (mut cluster, _) = Cluster::start().await;
    // Neither is connected to the server that is killed: the other test is about a connection that
    // ends.
    let others: Vec<_> = (0..3).filter(|number| *number != killed).collect();
    let store = Bus::of_store(cluster.settings_with(Who::Controller, &others)).await.unwrap();
    let hub = Bus::of_hub(cluster.settings_with(Who::Hub, &others)).await.unwrap();
    let mut changes = hub.changes().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let listener = tokio::spawn(async move {
        let mut received = BTreeMap::new();
        while let Ok(Some(change)) = timeout(Duration::from_secs(20), changes.next()).await {
            if let Change::Published { envelope, .. } = change {
                let text = String::from_utf8(envelope.to_vec()).unwrap();
                received.entry(text).or_insert_with(Instant::now);
                if received.len() == usize::try_from(GRANTS).unwrap() {
                    break;
                }
            }
        }
        received
    });
    let sent = publish_all(&store, &mut cluster, killed).await;
    let received = listener.await.unwrap();
    let mut times: Vec<_> =
        received.iter().map(|(text, at)| at.duration_since(sent[text])).collect();
    times.sort();
    let share = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!(
        "server {killed} killed: {} of {GRANTS} heard, publish to receipt p50 {:?} p99 {:?} most {:?}",
        received.len(),
        share(50),
        share(99),
        times.last()
    );

    let mut stored = BTreeSet::new();
    for number in 0..HOSTS {
        let all = loop {
            match hub.mailbox(&name(number)).await {
                Ok(all) => break all,
                Err(error) => assert!(is_partial(&error), "{error}"),
            }
        };
        stored.extend(all.iter().map(|one| String::from_utf8(one.envelope.to_vec()).unwrap()));
    }
    let lost: Vec<_> = sent.keys().filter(|text| !stored.contains(*text)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    cluster.restart(killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_is_lost_when_the_first_server_is_killed() {
    kill(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_is_lost_when_the_second_server_is_killed() {
    kill(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grant_is_lost_when_the_third_server_is_killed() {
    kill(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_server_dies_notices_the_gap_and_reads_all_again() {
    let (mut cluster, store) = Cluster::start().await;
    // One server, then another: the connection moves when the first one dies.
    let hub = Bus::of_hub(cluster.settings_with(Who::Hub, &[1])).await.unwrap();
    let mut changes = hub.changes().await.unwrap();
    assert!(timeout(Duration::from_millis(500), changes.next()).await.is_err(), "no gap yet");
    cluster.kill(1);
    let gap = timeout(Duration::from_secs(10), changes.next()).await.unwrap();
    assert_eq!(gap, Some(Change::Gap));
    let letters: Vec<_> =
        (0..20).map(|number| grant(&host("web-1"), number, after(600_000))).collect();
    let published = futures_util::stream::iter(&letters).for_each_concurrent(20, |letter| {
        let store = store.clone();
        async move { while store.publish(letter, now()).await.is_err() {} }
    });
    timeout(Duration::from_secs(60), published).await.unwrap();
    cluster.restart(1);
    let gap = timeout(Duration::from_secs(30), changes.next()).await.unwrap();
    assert_eq!(gap, Some(Change::Gap), "it is back, and something may have passed");
    let begun = Instant::now();
    loop {
        match hub.mailbox("web-1").await {
            Ok(all) if all.len() == letters.len() => break,
            other => assert!(begun.elapsed() < Duration::from_secs(30), "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
