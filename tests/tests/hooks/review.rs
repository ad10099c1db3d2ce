//! Root writes into the kernel's tables past the agent: it is found within ten seconds, put right,
//! recorded, and never reported as protected.

use std::{
    fmt::Write as _,
    fs, thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, lpm_trie::Key};
use jit_common::{
    ABI_VERSION, Address, GrantEntry, HostKey, PROTECTED_WORDS, Place, PortKey, PortRule, PrefixV4,
    Protocol, SummarySize, map,
};
use jit_tests::agent::{CLIENT, STRANGER, Site};
use rustix::process::Signal;

use crate::rungs::events;

/// Longest time until a difference is put right (docs/operations.md, section "Put right by
/// itself").
const FOUND: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(600);
const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };

fn table(site: &Site, name: &str) -> Map {
    let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{name}"));
    Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()
}

fn summary_size(site: &Site) -> SummarySize {
    let entries = |name| {
        let pin = site.pins().join(format!("v{ABI_VERSION}/maps/{name}"));
        MapData::from_pin(pin).unwrap().info().unwrap().max_entries()
    };
    SummarySize::for_grants(entries(map::HOST_GRANTS), entries(map::PREFIX_GRANTS_V4))
}

fn trie(site: &Site) -> LpmTrie<MapData, PrefixV4, GrantEntry> {
    table(site, map::PREFIX_GRANTS_V4).try_into().unwrap()
}

fn hosts(site: &Site) -> HashMap<MapData, HostKey, GrantEntry> {
    table(site, map::HOST_GRANTS).try_into().unwrap()
}

fn forever() -> GrantEntry {
    GrantEntry::until(u64::MAX, 9)
}

fn bytes(address: &str) -> [u8; 4] {
    address.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

/// Lets the stranger's network in for ever, as somebody who knows the summary too.
fn forge(site: &Site) {
    let [a, b, c, _] = bytes(STRANGER[0]);
    let mut summary: Array<MapData, u64> = table(site, map::SUMMARY).try_into().unwrap();
    let place = Place::of_prefix(Address::v4([a, b, c, 0]), 24, SSH);
    let (index, bit) = place.word_and_bit(summary_size(site));
    let word = summary.get(&index, 0).unwrap();
    summary.set(index, word | bit, 0).unwrap();
    let key = Key::new(PrefixV4::HEAD_BITS + 24, PrefixV4::new(Address::v4([a, b, c, 0]), SSH));
    trie(site).insert(&key, forever(), 0).unwrap();
}

/// Waits until something holds, as long as the agent may take for it.
#[track_caller]
fn within(site: &Site, what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < FOUND, "{what}: not within {FOUND:?}\n{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
    println!("{what} after {:.1?}", began.elapsed());
}

/// Does it again and again until `status` meets it: the agent may put it right a moment before.
fn status_meets(site: &Site, word: &str, change: impl Fn()) {
    let met = (0..10).any(|_| {
        change();
        let (status, code) = site.status();
        assert!(code == 0 || status["problems"].to_string().contains(word), "{status:#}");
        code != 0
    });
    assert!(met, "status never said {word}");
}

#[test]
fn an_entry_that_root_wrote_is_removed_recorded_and_reported() {
    let mut site = Site::new();
    site.start();
    site.assert_closed_to_all();
    forge(&site);
    within(&site, "the network is closed again", || trie(&site).iter().next().is_none());
    assert!(!site.stranger_opens(0, 22));
    let recorded = events(&site, "K001");
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(site.status().0["foreign"].as_u64() >= Some(1));
    status_meets(&site, "not what the agent wrote", || forge(&site));
    assert!(!site.stranger_opens(0, 22), "the answer comes after it was removed");
    // Entries of forms that the agent never writes; the first covers every port.
    let address = bytes(STRANGER[0]);
    for (length, data) in [
        (0, PrefixV4::new(Address::v4(address), SSH)),
        (64, PrefixV4::new(Address::v4(address), SSH)),
    ] {
        trie(&site).insert(&Key::new(length, data), forever(), 0).unwrap();
    }
    hosts(&site).insert(HostKey::new(Address::v4(address), SSH), forever(), 0).unwrap();
    within(&site, "all are gone", || {
        trie(&site).iter().next().is_none() && hosts(&site).iter().next().is_none()
    });
    site.assert_closed_to_all();
}

/// Bits of the summary that are gone close what is granted, and open nothing.
#[test]
fn a_summary_that_root_cleared_is_written_again_recorded_and_reported() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let mut summary: Array<MapData, u64> = table(&site, map::SUMMARY).try_into().unwrap();
    for index in 0..summary.len() {
        summary.set(index, 0, 0).unwrap();
    }
    within(&site, "the client is let in again", || site.client_opens(0, 22));
    within(&site, "it is recorded", || !events(&site, "K002").is_empty());
    assert!(!site.stranger_opens(0, 22));
}

#[test]
fn entries_of_a_grant_that_root_changed_or_removed_are_written_again() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let key = HostKey::new(Address::v4(bytes(CLIENT[0])), SSH);
    let written = hosts(&site).get(&key, 0).unwrap();
    hosts(&site).insert(key, forever(), 0).unwrap();
    within(&site, "its end is right again", || hosts(&site).get(&key, 0).ok() == Some(written));
    hosts(&site).remove(&key).unwrap();
    within(&site, "it is there again", || hosts(&site).get(&key, 0).ok() == Some(written));
    // The record may come a moment after the entry.
    within(&site, "both are recorded", || events(&site, "K002").len() == 2);
    assert_eq!(events(&site, "K001").len(), 0);
    site.assert_open_to_the_client_alone();
}

#[test]
fn revoking_everything_empties_the_tables_of_what_root_wrote() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    for _ in 0..3 {
        forge(&site);
        site.revoke_all();
        assert!(trie(&site).iter().next().is_none(), "it is gone when the answer comes");
    }
    site.assert_closed_to_all();
}

#[test]
fn ports_that_root_opened_are_closed_again_and_never_reported_as_protected() {
    let mut site = Site::new();
    site.start();
    let unprotect = || {
        let mut words: Array<MapData, u64> = table(&site, map::PROTECTED).try_into().unwrap();
        for word in 0..PROTECTED_WORDS {
            words.set(word, 0, 0).unwrap();
        }
    };
    status_meets(&site, "22/tcp was not protected", unprotect);
    site.assert_closed_to_all();
    let observe = || {
        let mut rules: Array<MapData, PortRule> = table(&site, map::PORT_RULES).try_into().unwrap();
        let rule = rules.get(&SSH.index(), 0).unwrap();
        rules.set(SSH.index(), PortRule { observe: 1, ..rule }, 0).unwrap();
    };
    status_meets(&site, "the rule of 22/tcp was another one", observe);
    site.assert_closed_to_all();
    // Nobody asks: it is put right all the same.
    let before = events(&site, "K003").len();
    observe();
    within(&site, "the rule is right again", || events(&site, "K003").len() > before);
    site.assert_closed_to_all();
}

#[test]
fn a_connection_that_no_grant_explains_is_recorded() {
    let mut site = Site::new();
    site.start();
    // The agent may remove the entry before the stranger comes. What comes in the first second after
    // its start may have been let in by an earlier run.
    within(&site, "it is recorded", || {
        forge(&site);
        site.stranger_opens(0, 22) && !events(&site, "K004").is_empty()
    });
    let (status, code) = site.status();
    assert_eq!(code, 1, "{status:#}");
    assert!(status["problems"].to_string().contains("was let in to 22/tcp"), "{status:#}");
    within(&site, "the entry is gone", || trie(&site).iter().next().is_none());
}

/// What the review costs beside 100,000 entries.
#[test]
fn with_a_hundred_thousand_entries_a_foreign_one_is_found_in_time() {
    const ENTRIES: u32 = 100_000;
    let mut site = Site::new();
    let mut exempt = String::new();
    for number in 0..ENTRIES {
        let [_, b, c, d] = number.to_be_bytes();
        write!(exempt, "{{ source = \"10.{b}.{c}.{d}\", reason = \"r\", owner = \"o\" }},")
            .unwrap();
    }
    let text = site.base("[\"*\"]", "auto");
    let text = text.replace("[[signer]]", &format!("exempt = [{exempt}]\n[[signer]]"));
    site.write_config(&format!("{text}[limits]\nhosts = 120000\n"));
    site.start();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", site.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (began, before) = (Instant::now(), ticks());
    forge(&site);
    within(&site, "among 100,000 it is closed", || trie(&site).iter().next().is_none());
    thread::sleep(FOUND.saturating_sub(began.elapsed()));
    let used = ticks() - before;
    let percent = used as f64 / began.elapsed().as_secs_f64();
    println!("the agent used {percent:.1} % of a CPU (a hundred ticks are a second)");
    site.end(Signal::TERM);
}
