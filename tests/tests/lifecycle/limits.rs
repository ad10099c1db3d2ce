//! Grants for a number of connections, with a real agent: what the kernel keeps of them.

use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use jit_common::{ABI_VERSION, ConnectionKey, Counter, Flow, PlaceKey, Settings, map};
use jit_proto::v1;
use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;

use crate::{audit::shown, sessions::wait_until};

const LONG: Duration = Duration::from_secs(600);

fn table(site: &Site, name: &str) -> Map {
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{name}"));
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

/// Places that are taken, and handshakes that are not finished.
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

/// The kernel reports no connections because nobody reads: the audit of the next run has their
/// number, once.
#[test]
fn connections_that_the_kernel_could_not_report_are_in_the_audit() {
    let mut site = Site::new();
    site.start();
    let counters: PerCpuArray<MapData, u64> = table(&site, map::COUNTERS).try_into().unwrap();
    let unreported = |counters: &PerCpuArray<MapData, u64>| {
        counters.get(&Counter::Unreported.index(), 0).unwrap().iter().sum::<u64>()
    };
    site.admit(&CLIENT, LONG);
    site.end(Signal::KILL);
    // The settings of a gate that reports no connection.
    let mut settings: Array<MapData, Settings> = table(&site, map::SETTINGS).try_into().unwrap();
    settings.set(0, Settings::default(), 0).unwrap();
    assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22));
    assert_eq!(unreported(&counters), 2);
    for _ in 0..2 {
        site.start();
        let sums = || {
            let sums = shown(&site, &["--code", "C002"]);
            sums.iter().map(|record| record["count"].as_u64()).collect::<Vec<_>>()
        };
        assert_eq!(sums(), [Some(2)]);
        site.end(Signal::KILL);
    }
}

#[test]
fn the_kernel_forgets_the_connections_of_grants_that_have_ended() {
    let mut site = Site::new();
    site.start();
    admit(&site, 3, LONG);
    assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22));
    assert_eq!(kept(&site).0, 2);
    // The agent saw the session that was closed in order.
    wait_until(|| kept(&site) == (2, 0));
    assert_eq!(site.revoke_all(), 1);
    wait_until(|| kept(&site) == (0, 0));
    assert!(!site.client_opens(0, 22));
    // One that ends while no agent is running.
    admit(&site, 1000, Duration::from_secs(2));
    assert!(site.client_gets_in(0, 22));
    site.end(Signal::KILL);
    wait_until(|| !site.client_opens(0, 22));
    assert!(kept(&site).0 >= 1);
    site.start();
    assert_eq!(kept(&site), (0, 0));
    // What is in force stays.
    admit(&site, 1, LONG);
    assert!(site.client_gets_in(0, 22));
    site.end(Signal::KILL);
    site.start();
    assert_eq!(kept(&site).0, 1);
    assert!(!site.client_opens(0, 22));
}
