//! A second connection, to another hub, that waits until the one in use is lost.

use std::time::{Duration, Instant};

use jit_tests::agent::{CLIENT, Site};

use crate::{
    hub::{Hub, Shows, assert_uplink},
    uplink::{BACK, configure, is_connected, site},
};

const LONG: Duration = Duration::from_secs(600);
const PORTS: [u16; 2] = [7444, 7445];

fn hubs(site: &Site, spares: bool) -> [Hub; 2] {
    PORTS.map(|port| Hub::start(site, &at(port), &Shows { spares, ..Shows::name("hub") }))
}

fn at(port: u16) -> String {
    format!("{}:{port}", CLIENT[0])
}

/// Which hub is used, and which has the spare connection, once there is one.
#[track_caller]
fn used(site: &Site) -> usize {
    let both = |uplink: &serde_json::Value| is_connected(uplink) && uplink["spare"].is_string();
    let status = assert_uplink(site, 2 * BACK, both);
    let used = usize::from(status["uplink"]["hub"] == at(PORTS[1]));
    assert_eq!(status["uplink"]["spare"], at(PORTS[1 - used]), "{:#}", status["uplink"]);
    used
}

#[test]
fn a_spare_connection_is_used_without_a_handshake_when_the_other_is_lost() {
    let mut site = site();
    let hubs = hubs(&site, true);
    configure(&site, &PORTS, "");
    site.start();
    let now = used(&site);
    let (this, other) = (&hubs[now], &hubs[1 - now]);
    let mut agent = this.agent(BACK);
    let status = this.run(agent.status()).unwrap();
    assert_eq!(status.uplink.unwrap().spare, at(PORTS[1 - now]));
    assert!(other.try_agent(Duration::ZERO).is_none(), "it waits");
    let made = other.connections();
    let began = Instant::now();
    drop(agent);
    let mut next = other.agent(BACK);
    let grant = site.envelope(&CLIENT, LONG);
    assert!(other.run(next.push(grant)).unwrap().accepted);
    println!("lost, and a grant is open {:?} later", began.elapsed());
    assert_eq!(other.connections(), made, "no other connection was made for it");
    site.assert_open_to_the_client_alone();
    let status = assert_uplink(&site, BACK, |uplink| uplink["hub"] == at(PORTS[1 - now]));
    let uplink = &status["uplink"];
    assert_eq!((&uplink["connects"], &uplink["failures"]), (&2.into(), &1.into()), "{uplink:#}");
    // And there is another one.
    assert_eq!(used(&site), 1 - now);
    assert!(other.run(next.status()).is_ok());
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(text.contains(&format!(", spare {}", at(PORTS[now]))), "{text}");
}

#[test]
fn a_hub_of_an_older_release_takes_no_spare_connection_and_is_used_all_the_same() {
    let mut site = site();
    let hubs = hubs(&site, false);
    configure(&site, &PORTS, "");
    site.start();
    let status = assert_uplink(&site, BACK, is_connected);
    let now = usize::from(status["uplink"]["hub"] == at(PORTS[1]));
    let agent = hubs[now].agent(BACK);
    let until = Instant::now() + 2 * BACK;
    while hubs[1 - now].connections() == 0 {
        assert!(Instant::now() < until, "no spare connection was tried");
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = assert_uplink(&site, BACK, is_connected);
    assert!(status["uplink"]["spare"].is_null(), "{:#}", status["uplink"]);
    assert_eq!((&status["uplink"]["failures"], site.status().1), (&0.into(), 0));
    drop(agent);
    let mut next = hubs[1 - now].agent(BACK);
    assert!(hubs[1 - now].run(next.status()).is_ok());
}

#[test]
fn a_hub_that_speaks_unasked_on_a_spare_connection_is_left() {
    let mut site = site();
    // It takes a spare connection for one in use, and calls.
    let eager = jit_proto::uplink::SPARE;
    let eager = Hub::start(&site, &at(PORTS[1]), &Shows { alpn: eager, ..Shows::name("hub") });
    let first = Hub::start(&site, &at(PORTS[0]), &Shows::name("hub"));
    configure(&site, &PORTS, "");
    site.start();
    let mut agent = first.agent(BACK);
    let until = Instant::now() + 3 * BACK;
    while eager.connections() < 2 {
        assert!(Instant::now() < until, "it is tried {} times", eager.connections());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(first.run(agent.status()).is_ok());
    assert_uplink(&site, BACK, |uplink| {
        uplink["hub"] == at(PORTS[0]) && uplink["failures"].as_u64() <= Some(2)
    });
    site.assert_closed_to_all();
}
