//! Sessions that the host translates to itself: a redirect to another port, DNAT to another of its
//! addresses, and translated sources. On the wire they have other addresses or ports than at their
//! sockets. In `drain` they go on like any other session.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use jit_common::{ABI_VERSION, Flow, map};
use jit_tests::agent::{PATIENCE, STRANGER, Site, TO_STRANGER, address};
use rustix::process::Signal;

use crate::{forwarded::nft, path::LONG};

/// Where the service listens when it is not at the protected port.
const SERVICE: u16 = 2022;
/// Within this time a session goes on: its translation is read every 2 s, and its peer sends again
/// after 0.2, 0.6, 1.4, 3 and 6.2 s.
const GOES_ON: Duration = Duration::from_secs(10);

/// A translation: nftables' chain and its rules.
type Translation = (&'static str, &'static [&'static str]);

const CHAIN: &str = "add chain inet t p { type nat hook prerouting priority dstnat ; }";
const REDIRECT: Translation =
    (CHAIN, &["add rule inet t p iifname s0 tcp dport 22 redirect to :2022"]);
const OTHER_ADDRESS: Translation = (
    CHAIN,
    &[
        "add rule inet t p iifname s0 tcp dport 22 dnat ip to 198.51.100.1",
        "add rule inet t p iifname s0 tcp dport 22 dnat ip6 to 2001:db8:1::1",
    ],
);
const SOURCES: Translation = (
    "add chain inet t p { type nat hook input priority 100 ; }",
    &[
        "add rule inet t p iifname s0 tcp dport 22 snat ip to 198.51.100.1",
        "add rule inet t p iifname s0 tcp dport 22 snat ip6 to 2001:db8:1::1",
    ],
);

fn site((chain, rules): Translation) -> Site {
    let site = Site::new();
    // The guard judges a translated source, which no grant covers.
    let config = site.base("[\"*\"]", "auto");
    if chain == SOURCES.0 {
        site.write_config(&config.replace("[gate]", "[gate]\nsocket_guard = false"));
    }
    site.serve(SERVICE);
    nft(&site.host, "add table inet t");
    nft(&site.host, chain);
    rules.iter().for_each(|rule| nft(&site.host, rule));
    site
}

/// The stranger's sessions, of both families.
fn sessions(site: &Site) -> [TcpStream; 2] {
    [0, 1].map(|family| {
        let to = address(TO_STRANGER, family, 22);
        let mut session = site.stranger.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        session.read_exact(&mut [0; 2]).unwrap();
        session
    })
}

#[track_caller]
fn assert_go_on(site: &Site, sessions: &mut [TcpStream], when: &str) {
    for session in sessions {
        let began = Instant::now();
        session.set_read_timeout(Some(GOES_ON)).unwrap();
        session.write_all(b"ping").unwrap();
        let answer = session.read_exact(&mut [0; 4]);
        assert!(answer.is_ok(), "{when}: {answer:?} after {:?}\n{}", began.elapsed(), site.log());
    }
    // The session is no way in for others.
    for family in [0, 1] {
        assert!(!site.stranger_opens(family, 22), "{when}: a new connection, family {family}");
    }
}

fn assert_drains(translation: Translation) {
    let mut site = site(translation);
    let mut before = sessions(&site);
    site.start();
    assert_go_on(&site, &mut before, "at the first start");
    site.admit(&STRANGER, LONG);
    let mut after = sessions(&site);
    site.revoke_all();
    assert_go_on(&site, &mut before, "opened before the start, after a revocation");
    assert_go_on(&site, &mut after, "after the revocation");
    site.end(Signal::KILL);
    assert_go_on(&site, &mut after, "with the agent dead");
    site.start();
    assert_go_on(&site, &mut after, "after a restart");
}

#[test]
fn sessions_through_a_redirect_go_on_in_drain() {
    assert_drains(REDIRECT);
}

#[test]
fn sessions_through_a_translation_to_another_own_address_go_on_in_drain() {
    assert_drains(OTHER_ADDRESS);
}

#[test]
fn sessions_whose_sources_are_translated_go_on_in_drain() {
    assert_drains(SOURCES);
}

/// The grant ends in the kernel, with the agent dead.
#[test]
fn a_translated_session_outlives_its_grant_with_the_agent_dead() {
    let mut site = site(REDIRECT);
    site.start();
    let lasts = Duration::from_secs(15);
    let began = Instant::now();
    site.admit(&STRANGER, lasts);
    let mut sessions = sessions(&site);
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{}", map::TRANSLATED));
    let table = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let known = HashMap::<_, Flow, Flow>::try_from(table).unwrap();
    while known.keys().count() < sessions.len() {
        assert!(began.elapsed() < lasts, "the agent reads the translations\n{}", site.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    site.end(Signal::KILL);
    assert!(began.elapsed() < lasts, "the agent is dead before the grant ends");
    std::thread::sleep((lasts + Duration::from_millis(100)).saturating_sub(began.elapsed()));
    assert_go_on(&site, &mut sessions, "after the grant's end");
}
