//! What a hub shows of itself.

use std::{net::SocketAddr, path::Path};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    double::Double,
    world::{World, program, until},
};

async fn shown(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What the command of the hub's machine says.
fn asked(directory: &Path) -> (Option<i32>, String) {
    let directory = directory.display().to_string();
    let done = tokio::task::block_in_place(|| program(&["health", "--dir", &directory]));
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.code(), said.into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_shows_its_hosts_and_whether_the_bus_is_there() {
    let mut world = World::new(&["web-1"]).await;
    let hub = world.hub("hub-a").await;
    let web = Double::new("web-1", "a");
    let _line = web.dial(hub.address, world.client("web-1")).await.unwrap();
    world.is_at("web-1", "hub-a").await;
    assert!(shown(hub.health, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(shown(hub.health, "/readyz").await.ends_with("ready\n"));
    let metrics = shown(hub.health, "/metrics").await;
    for line in ["jit_hub_hosts 1", "jit_hub_connections 1", "jit_hub_bus_connected 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("web-1"), "no host is named: {metrics}");
    let (code, said) = asked(&hub.directory);
    assert_eq!(code, Some(0), "{said}");
    for line in ["hub-a is ready", "connected: 1", "Everything is in order."] {
        assert!(said.contains(line), "{line}: {said}");
    }
    for number in 0..3 {
        world.cluster.kill(number);
    }
    until("seen", async || shown(hub.health, "/readyz").await.starts_with("HTTP/1.1 503")).await;
    assert!(shown(hub.health, "/metrics").await.contains("jit_hub_bus_connected 0\n"));
    assert!(shown(hub.health, "/metrics").await.contains("jit_hub_hosts 1\n"), "they stay");
    assert!(shown(hub.health, "/healthz").await.starts_with("HTTP/1.1 200"));
    let (code, said) = asked(&hub.directory);
    assert!(code == Some(69) && said.contains("no server of the bus is connected"), "{said}");
    let directory = hub.directory.clone();
    drop(hub);
    let (code, said) = asked(&directory);
    assert!(code == Some(69) && said.contains("hub-a does not answer"), "{said}");
}
