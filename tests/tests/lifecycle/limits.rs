//! Grants for a number of connections, with a real agent: what the kernel keeps of them.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use jit_common::{ABI_VERSION, ConnectionKey, Flow, PlaceKey, map};
use jit_proto::v1;
use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;

use crate::sessions::wait_until;

const LONG: Duration = Duration::from_secs(600);

fn table(site: &Site, name: &str) -> Map {
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{name}"));
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

/// Places that are taken, and handshakes that go on.
fn kept(site: &Site) -> (usize, usize) {
    let places: HashMap<MapData, PlaceKey, Flow> = table(site, map::PLACES).try_into().unwrap();
    let connections: HashMap<MapData, ConnectionKey, u32> =
        table(site, map::CONNECTIONS).try_into().unwrap();
    (places.keys().count(), connections.keys().count())
}

fn admit(site: &Site, most: u32, lasts: Duration) {
    let grant = v1::Grant { max_connections: most, ..site.grant(&CLIENT, lasts) };
    site.push(site.sign(&grant)).unwrap();
}

#[test]
fn the_kernel_forgets_the_connections_of_grants_that_are_over() {
    let mut site = Site::new();
    site.start();
    admit(&site, 3, LONG);
    assert!(site.client_opens(0, 22) && site.client_opens(1, 22));
    assert_eq!(kept(&site).0, 2);
    // A session that was closed in an orderly way was seen.
    wait_until(|| kept(&site) == (2, 0));
    assert_eq!(site.revoke_all(), 1);
    wait_until(|| kept(&site) == (0, 0));
    assert!(!site.client_opens(0, 22));
    // One that ends while no agent is running.
    admit(&site, 1000, Duration::from_secs(2));
    assert!(site.client_opens(0, 22));
    site.end(Signal::KILL);
    wait_until(|| !site.client_opens(0, 22));
    assert!(kept(&site).0 >= 1);
    site.start();
    assert_eq!(kept(&site), (0, 0));
    // What is in force stays.
    admit(&site, 1, LONG);
    assert!(site.client_opens(0, 22));
    site.end(Signal::KILL);
    site.start();
    assert_eq!(kept(&site).0, 1);
    assert!(!site.client_opens(0, 22));
}
