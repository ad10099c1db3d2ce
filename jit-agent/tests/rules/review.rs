//! The kernel's tables against the ledger: what root writes past the agent is found, removed or
//! written again, recorded and shown; and the boot clock is that of the kernel programs.

use jit_agent::{
    gate::Target,
    kernel::datapath::Datapath as _,
    rules::{
        clock::{BootNanos, Now},
        reconcile::{Access, Entry, EntryKey, Write},
    },
};
use jit_common::{Event, PortRule, Reason, Segment, Settings};
use jit_proto::v1;
use serde_json::Value;

use crate::{
    host::Host,
    support::{NOW, SSH, grant, later, v4},
};

const FOREVER: BootNanos = BootNanos(u64::MAX);
/// The latest time until a difference is found, milliseconds.
const FOUND: i64 = 10_000;

fn key(source: &str) -> EntryKey {
    EntryKey { port: SSH, source: source.parse().unwrap() }
}

/// An entry as root would write it.
fn forged(source: &str, slot: u32) -> Write {
    let unlimited = Access { deadline: FOREVER, cut: false, slot };
    Write::Set(key(source), Entry { unlimited, ..Entry::CLOSED })
}

/// Lets the gate work for as long as it may take, tick by tick.
fn ticks(host: &mut Host, from: i64) {
    for millis in (from..=from + FOUND).step_by(2_000) {
        host.gate().advance(later(millis));
        host.gate().tick(later(millis));
    }
}

fn records(host: &mut Host, code: &str) -> Vec<Value> {
    host.records().into_iter().filter(|record| record["code"] == code).collect()
}

fn problems(host: &mut Host) -> String {
    host.gate().status(NOW).problems.join("; ")
}

fn connection(source: [u8; 4], slot: u32, at: Now) -> Event {
    let segment = Segment {
        source: jit_common::Address::v4(source),
        destination: v4("198.51.100.1"),
        source_port: 40_000,
        port: SSH,
        opens: true,
        sequence: 1,
    };
    Event::new(at.boot.0, 2, false, slot, Reason::Granted, &segment)
}

#[test]
fn a_foreign_entry_is_removed_recorded_and_a_problem_until_the_next_review() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    ticks(&mut host, 0);
    assert_eq!(host.gate().status(NOW).foreign, 0);
    host.kernel.write(&forged("198.18.0.0/24", 0)).unwrap();
    let stranger = v4("198.18.0.9");
    assert!(host.kernel.opens(SSH, stranger, later(0).boot));
    // Two ticks are enough here: nothing has to be waited for.
    let at = later(FOUND + 4_000);
    host.gate().tick(at);
    assert!(!host.kernel.opens(SSH, stranger, at.boot) && host.opens(0));
    let said = problems(&mut host);
    assert!(said.contains("198.18.0.0/24 at 22/tcp"), "{said}");
    let removed = records(&mut host, "K001");
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert_eq!(
        (&removed[0]["source"], &removed[0]["port"]),
        (&"198.18.0.0/24".into(), &"22/tcp".into())
    );
    ticks(&mut host, FOUND + 6_000);
    let said = problems(&mut host);
    assert!(!said.contains("198.18.0.0/24"), "{said}");
    assert_eq!(host.gate().status(NOW).foreign, 1, "it is counted for as long as the agent runs");
}

#[test]
fn entries_of_grants_that_somebody_changed_or_removed_are_written_again() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7", "203.0.113.0/24"])).unwrap();
    ticks(&mut host, 0);
    let before = host.kernel.tables();
    // One lasts longer, the other is gone.
    host.kernel.write(&forged("203.0.113.7", 1)).unwrap();
    host.kernel.write(&Write::Remove(key("203.0.113.0/24"))).unwrap();
    ticks(&mut host, FOUND + 2_000);
    ticks(&mut host, 2 * FOUND + 4_000);
    let after = host.kernel.tables();
    assert_eq!((after.hosts, after.prefixes), (before.hosts, before.prefixes));
    assert_eq!(records(&mut host, "K002").len(), 2);
    assert_eq!(records(&mut host, "K001").len(), 0);
}

#[test]
fn revoking_everything_empties_what_the_ledger_does_not_know() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    ticks(&mut host, 0);
    for source in ["198.18.0.0/24", "198.18.1.1"] {
        host.kernel.write(&forged(source, 9)).unwrap();
    }
    let at = later(FOUND + 100);
    let revoked = host.gate().revoke(&Target::All, "test", "over", at);
    assert_eq!((revoked.ended, revoked.warning.as_str()), (1, ""));
    for source in ["203.0.113.7", "198.18.0.1", "198.18.1.1"] {
        assert!(!host.kernel.opens(SSH, v4(source), at.boot), "{source}");
    }
    assert_eq!(records(&mut host, "K001").len(), 2);
}

#[test]
fn an_entry_of_a_form_that_no_grant_has_is_reported() {
    let mut host = Host::start();
    host.kernel.add_odd("a prefix that covers every port");
    ticks(&mut host, 2_000);
    let removed = records(&mut host, "K001");
    assert!(removed[0]["detail"].as_str().unwrap().contains("every port"), "{removed:?}");
}

#[test]
fn a_limit_that_somebody_raised_is_written_again() {
    let mut host = Host::start();
    let few = v1::Grant { max_connections: 3, ..grant(1, &["203.0.113.7"]) };
    host.push(&few).unwrap();
    ticks(&mut host, 0);
    assert_eq!(records(&mut host, "K002").len(), 0);
    let slots = host.kernel.tables().slots;
    let (slot, counted) = slots.iter().find(|(_, slot)| slot.limit == 3).unwrap();
    host.kernel.set_limit(*slot, 1_000).unwrap();
    host.gate().tick(later(FOUND + 2_000));
    assert_eq!(host.kernel.slot(*slot), *counted);
    assert_eq!(records(&mut host, "K002").len(), 1);
}

#[test]
fn ports_rules_and_settings_that_somebody_changed_are_written_again() {
    let mut host = Host::start();
    let wanted = host.kernel.policy().unwrap();
    let mut rules = wanted.0.clone();
    rules.remove(&SSH);
    let observes = PortRule { observe: 1, ..PortRule::default() };
    let mut from = 0;
    for (change, said) in [
        ((rules, wanted.1), "22/tcp was not protected"),
        (([(SSH, observes)].into(), wanted.1), "the rule of 22/tcp was another one"),
        ((wanted.0.clone(), Settings { observe: 1, ..wanted.1 }), "the gate observed only"),
    ] {
        host.kernel.protect(&change.0).unwrap();
        host.kernel.settings(change.1).unwrap();
        ticks(&mut host, from);
        from += FOUND + 2_000;
        assert_eq!(host.kernel.policy().unwrap(), wanted, "{said}");
        let recorded = records(&mut host, "K003");
        let last = recorded.last().unwrap()["detail"].as_str().unwrap().to_owned();
        assert!(last.contains(said), "{last}");
    }
}

#[test]
fn a_connection_that_nothing_explains_is_an_alarm_and_one_at_the_end_of_a_grant_is_none() {
    let mut host = Host::with("");
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let slot = *host.kernel.tables().slots.keys().next().unwrap();
    let granted = |at| connection([203, 0, 113, 7], slot, at);
    host.gate().saw_packet(&granted(later(5_000)), later(5_000));
    // The event of a connection from just before the revocation comes after it.
    host.gate().revoke(&Target::All, "test", "over", later(6_000));
    host.gate().saw_packet(&granted(later(5_999)), later(6_010));
    assert_eq!(records(&mut host, "K004").len(), 0);
    let at = later(20_000);
    host.gate().saw_packet(&granted(at), at);
    host.gate().saw_packet(&connection([198, 18, 0, 1], 0, at), at);
    let recorded = records(&mut host, "K004");
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert_eq!(recorded[1]["source"], "198.18.0.1");
    let said = problems(&mut host);
    assert!(said.contains("198.18.0.1 was let in to 22/tcp"), "{said}");
}

#[test]
fn a_boot_clock_that_is_off_is_corrected_and_said() {
    let mut host = Host::start();
    host.gate().tick(NOW);
    host.kernel.clock_is_off(3_600_000_000_000);
    host.gate().tick(later(FOUND));
    let said = problems(&mut host);
    assert!(said.contains("boot clock was 3600000 ms off"), "{said}");
    host.gate().tick(later(2 * FOUND));
    assert!(!problems(&mut host).contains("boot clock"));
}
