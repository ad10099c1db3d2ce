//! Each server and a hub is killed while grants go out: none is lost. How soon the hosts answer is printed;
//! `JIT_BUS_GRANTS` is another number of grants for each part.

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use jit_controller::{clock::now_ms, store::Request};
use rustls::ClientConfig;
use tokio::time::{interval, sleep};

use super::{
    double::Double,
    opened,
    signed::request,
    world::{Hub, World},
};

const HOSTS: usize = 20;
const GRANTS: usize = 120;
/// Between two grants.
const STEADY: Duration = Duration::from_millis(20);
/// The time after it was killed in which whoever had a connection to it makes a new one.
const OUTAGE_MS: i64 = 1000;
/// Until a server that came back has what it missed.
const BACK: Duration = Duration::from_secs(5);

/// Keeps an agent connected to one of two hubs, as the real one does.
fn roam(agent: Double, hubs: [SocketAddr; 2], first: usize, client: Arc<ClientConfig>) {
    tokio::spawn(async move {
        for number in first.. {
            match agent.dial(hubs[number % 2], Arc::clone(&client)).await {
                Ok(mut line) => while line.changed().await.is_ok() {},
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
}

/// Pushes grants to all hosts in turn; a third of them is out when somebody is killed.
async fn push(
    world: &mut World,
    hosts: &[&str],
    what: &str,
    kill: impl FnOnce(&mut World),
) -> Vec<Request> {
    let count = env::var("JIT_BUS_GRANTS").map_or(GRANTS, |count| count.parse().unwrap());
    let mut ticks = interval(STEADY);
    let (mut all, mut kill, mut killed_ms) = (Vec::new(), Some(kill), i64::MAX);
    for number in 0..count {
        ticks.tick().await;
        if number > count / 3
            && let Some(kill) = kill.take()
        {
            kill(world);
            killed_ms = now_ms();
        }
        all.push(request(&world.desk, hosts[number % hosts.len()]).await);
    }
    let (mut every, mut outside) = (Vec::new(), Vec::new());
    for request in &all {
        opened(world, request).await;
        let (from, row) = (request.proposal.created_ms, world.delivery(request).await);
        every.push(row.answered_ms - from);
        if from < killed_ms || from > killed_ms + OUTAGE_MS {
            outside.push(row.answered_ms - from);
        }
    }
    for (which, mut times) in [("all", every), ("all but those of that second", outside)] {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100];
        eprintln!(
            "{what} killed, {} grants, {which}: p50 {} ms, p90 {} ms, p99 {} ms, longest {} ms",
            times.len(),
            at(50),
            at(90),
            at(99),
            times[times.len() - 1]
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_and_a_hub_is_killed_while_grants_go_out_and_none_is_lost() {
    let names: Vec<_> = (0..HOSTS).map(|number| format!("host-{number}")).collect();
    let hosts: Vec<_> = names.iter().map(String::as_str).collect();
    let mut world = World::new(&hosts).await;
    let hubs: [Hub; 2] = [world.hub("hub-a").await, world.hub("hub-b").await];
    let addresses = [hubs[0].address, hubs[1].address];
    let mut agents = Vec::new();
    for (number, name) in hosts.iter().enumerate() {
        let agent = Double::new(name, "a");
        roam(agent.clone(), addresses, number, world.client(name));
        agents.push(agent);
    }
    for (number, name) in hosts.iter().enumerate() {
        world.is_at(name, if number % 2 == 0 { "hub-a" } else { "hub-b" }).await;
    }
    let mut count = 0;
    for number in 0..3 {
        let what = format!("server {}", number + 1);
        count += push(&mut world, &hosts, &what, |world| world.cluster.kill(number)).await.len();
        world.cluster.restart(number);
        sleep(BACK).await;
    }
    let [first, _second] = hubs;
    count += push(&mut world, &hosts, "a hub", |_| drop(first)).await.len();
    let got: usize = agents.iter().map(Double::pushes).sum();
    assert_eq!(got, count, "each host has what was for it, and nothing else");
}
