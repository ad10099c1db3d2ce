//! The self-test tries the programs on frames: it finds a table that somebody emptied, though every
//! program is attached. Its frames are not counted.

use std::{
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use jit_common::{ABI_VERSION, PROTECTED_WORDS, map};
use jit_tests::{agent::Site, tun};

use crate::rungs::events;

/// A little more than twice the time between two self-tests.
const FOUND: Duration = Duration::from_secs(25);

/// Makes every port unprotected without the agent.
fn unprotect_all(site: &Site) {
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{}", map::PROTECTED));
    let table = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let mut words: Array<MapData, u64> = table.try_into().unwrap();
    for word in 0..PROTECTED_WORDS {
        words.set(word, 0, 0).unwrap();
    }
}

fn wait_for(site: &Site, code: &str, count: usize) {
    let began = Instant::now();
    let recorded = || events(site, code).iter().filter(|event| event.contains("self_test")).count();
    while recorded() < count {
        assert!(began.elapsed() < FOUND, "no {code}:\n{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_emptied_table_is_noticed_and_filled_again() {
    for (hook, programs) in [
        ("native", ["jit_gate_frags", "jit_gate_tc_l3"]),
        ("clsact", ["jit_gate_tc", "jit_gate_tc_l3"]),
    ] {
        let mut site = Site::new();
        tun::connect("t0", &site.host, &site.client);
        site.host.ip(&["link", "set", "t0", "up"]);
        site.configure_gate("[\"*\"]", hook);
        site.start();
        unprotect_all(&site);
        wait_for(&site, "S003", 1);
        let raised = events(&site, "S003").join("\n");
        for program in programs {
            let said = format!("{program} lets pass a SYN from 192.0.2.77 to port 22");
            assert!(raised.contains(&said), "{raised}");
        }
        assert!(raised.contains("2001:db8:77::77"), "both families: {raised}");
        let (status, code) = site.status();
        assert_eq!((status["state"].as_str(), code), (Some("degraded"), 1), "{status:#}");
        assert!(status["problems"].to_string().contains("lets pass a SYN"), "{status:#}");
        wait_for(&site, "S004", 1);
        let (status, code) = site.status();
        assert_eq!(code, 0, "{status:#}");
        // At least three self-tests have run, each with two dropped frames for each program.
        assert_eq!(status["dropped"]["by_reason"], serde_json::json!({}), "{status:#}");
        assert_eq!(status["dropped"]["by_port"], serde_json::json!({}), "{status:#}");
        site.assert_closed_to_all();
    }
}
