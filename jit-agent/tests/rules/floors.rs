//! Floors of revocations: what was signed at or before a revocation of everything, or of a
//! requester, stays closed, whether this host has seen it or not.

use std::fs;

use jit_agent::{
    gate::Target,
    rules::{clock::Now, ledger::Admission},
};
use jit_proto::{GrantId, Refusal, WallTime, v1};

use crate::{
    host::Host,
    support::{MINUTE, NOW, envelope, grant, later},
};

const ANA: &str = "ana@example.org";
const BO: &str = "bo@example.org";

/// A grant that was signed at a time, and lasts ten minutes from then on.
fn signed(id: u8, requester: &str, millis: i64) -> v1::Grant {
    let issued_at_ms = NOW.wall.0 + millis;
    v1::Grant {
        issued_at_ms,
        not_before_ms: issued_at_ms,
        not_after_ms: issued_at_ms + 10 * MINUTE,
        requester: requester.into(),
        ..grant(id, &["203.0.113.7"])
    }
}

fn floor_of(host: &mut Host, now: Now) -> (i64, Vec<(String, i64)>) {
    let floors = host.gate().status(now).revoked_before.unwrap();
    let mut by_requester: Vec<_> = floors.by_requester.into_iter().collect();
    by_requester.sort();
    (floors.all_ms - NOW.wall.0, by_requester)
}

fn of(name: &str) -> Target {
    Target::Requester(name.into())
}

#[test]
fn what_was_signed_before_a_revocation_of_everything_stays_closed_for_ever() {
    let mut host = Host::start();
    host.push(&signed(1, ANA, 0)).unwrap();
    assert_eq!(host.gate().revoke(&Target::All, "test", "incident", later(MINUTE)).ended, 1);
    for (boot, restarts) in [("boot-1", false), ("boot-1", true), ("boot-2", true)] {
        if restarts {
            host.restart(boot, later(MINUTE));
        }
        for (id, requester, millis) in [(2, ANA, 0), (3, BO, MINUTE - 1), (4, BO, MINUTE)] {
            let answer = host.push_at(&signed(id, requester, millis), later(MINUTE));
            assert_eq!(answer, Err(Refusal::Revoked), "{boot}: signed at {millis}");
            assert!(!host.opens(MINUTE));
        }
        assert_eq!(floor_of(&mut host, later(MINUTE)).0, MINUTE, "{boot}");
    }
    let fresh = signed(5, ANA, MINUTE + 1);
    assert_eq!(host.push_at(&fresh, later(MINUTE + 1)), Ok(Admission::Active), "signed anew");
    assert_eq!(host.push_at(&fresh, later(MINUTE + 1)), Ok(Admission::Known));
    assert!(host.opens(MINUTE + 1));
}

#[test]
fn a_refusal_by_the_floor_says_until_when_and_what_to_do() {
    let mut host = Host::start();
    host.gate().revoke(&Target::All, "test", "", NOW);
    let mut refused = |grant: v1::Grant| {
        host.gate().push(vec![envelope(&grant)], "test", NOW).remove(0).unwrap_err()
    };
    let all = refused(signed(1, ANA, 0));
    assert_eq!(all.id, Some(GrantId([1; 16])));
    assert!(all.detail.contains("every grant that was signed until 2026-06-01"), "{all}");
    assert!(all.detail.contains("sign a new one"), "{all}");
    host.gate().revoke(&of(ANA), "test", "", later(1));
    let outcome = host.gate().push(vec![envelope(&signed(2, ANA, 1))], "test", later(1)).remove(0);
    let one = outcome.unwrap_err();
    assert!(one.detail.contains("every grant of ana@example.org that was signed until"), "{one}");
}

#[test]
fn the_floor_of_a_requester_is_that_of_no_other() {
    let mut host = Host::start();
    let next = v1::Grant { not_before_ms: later(5 * MINUTE).wall.0, ..signed(1, ANA, 0) };
    assert_eq!(host.push(&next), Ok(Admission::Scheduled));
    host.push(&v1::Grant { sources: grant(9, &["203.0.113.9"]).sources, ..signed(2, BO, 0) })
        .unwrap();
    assert_eq!(host.gate().revoke(&of(ANA), "test", "", NOW).ended, 1, "the scheduled one, too");
    for restarts in [false, true] {
        if restarts {
            host.restart("boot-1", NOW);
        }
        assert_eq!(host.push(&signed(3, ANA, 0)), Err(Refusal::Revoked));
        assert_eq!(host.gate().list(false, NOW).len(), 1);
    }
    assert_eq!(host.push(&signed(4, BO, 0)), Ok(Admission::Active));
    let floors = floor_of(&mut host, NOW);
    assert_eq!(floors, (-NOW.wall.0, vec![(ANA.into(), NOW.wall.0)]));
    host.gate().advance(later(6 * MINUTE));
    assert_eq!(host.gate().list(false, later(6 * MINUTE)).len(), 2, "it never began");
}

#[test]
fn a_revocation_of_ids_sets_no_floor() {
    let mut host = Host::start();
    host.push(&signed(1, ANA, 0)).unwrap();
    host.gate().revoke(&Target::Ids(vec![GrantId([1; 16])]), "test", "", NOW);
    assert_eq!(host.push(&signed(2, ANA, 0)), Ok(Admission::Active));
    assert!(!host.codes().contains(&"G010".to_owned()));
}

#[test]
fn a_controller_whose_clock_is_ahead_signs_nothing_past_the_floor() {
    let mut host = Host::start();
    let ahead = |id| v1::Grant { issued_at_ms: NOW.wall.0 + 30_000, ..signed(id, ANA, 0) };
    host.push(&ahead(1)).unwrap();
    host.gate().revoke(&of(ANA), "test", "", NOW);
    assert_eq!(host.push(&ahead(2)), Err(Refusal::Revoked));
    // The same with a grant that waits for the clock.
    let mut host = Host::start();
    host.push(&ahead(1)).unwrap();
    host.gate().advance(later(5 * MINUTE));
    let slow = Now { wall: later(MINUTE).wall, ..later(6 * MINUTE) };
    host.restart("boot-2", slow);
    assert_eq!(host.gate().revoke(&Target::All, "test", "", slow).ended, 1, "held back");
    host.gate().advance(later(6 * MINUTE));
    assert_eq!(host.push_at(&signed(3, BO, 5 * MINUTE), later(6 * MINUTE)), Err(Refusal::Revoked));
    assert_eq!(
        host.push_at(&signed(4, BO, 5 * MINUTE + 1), later(6 * MINUTE)),
        Ok(Admission::Active),
        "the floor is the latest time that the host has seen, not that of the slow clock"
    );
}

#[test]
fn a_clock_that_is_set_moves_no_floor() {
    let mut host = Host::start();
    host.gate().revoke(&Target::All, "test", "", NOW);
    for step in [-30_000, 3_600_000, 0] {
        let now = Now { wall: WallTime(NOW.wall.0 + step), boot: later(1_000).boot };
        host.gate().advance(now);
        let answer = host.push_at(&signed(1, ANA, 0), now);
        assert!(answer.is_err(), "clock set by {step}: {answer:?}");
    }
    assert_eq!(floor_of(&mut host, NOW).0, 0);
}

#[test]
fn a_floor_is_in_the_audit_with_its_time_its_peer_and_its_reason() {
    let mut host = Host::start();
    host.push(&signed(1, ANA, 0)).unwrap();
    host.gate().revoke(&of(ANA), "hub", "laptop stolen", NOW);
    host.gate().revoke(&Target::All, "hub", "all out", later(MINUTE));
    let records = host.records();
    let floors: Vec<_> = records.iter().filter(|record| record["code"] == "G010").collect();
    assert_eq!(floors.len(), 2);
    assert_eq!(floors[0]["requester"], ANA);
    assert_eq!(floors[0]["floor"], NOW.wall.to_string());
    assert_eq!((&floors[0]["ended"], &floors[0]["why"]), (&1.into(), &"laptop stolen".into()));
    assert_eq!((&floors[1]["all"], &floors[1]["by"]), (&true.into(), &"hub".into()));
}

/// Nothing was held, so no id is in the database: the floor alone shows that a copy is older.
#[test]
fn an_older_or_lost_database_does_not_bring_back_what_is_under_a_floor() {
    for damage in ["older", "gone", "torn"] {
        let mut host = Host::start();
        host.gate().advance(NOW);
        host.gate = None;
        let file = host.directory.path().join("state/grants.redb");
        let older = fs::read(&file).unwrap();
        host.restart("boot-1", NOW);
        host.gate().revoke(&Target::All, "test", "", NOW);
        host.gate = None;
        match damage {
            "older" => fs::write(&file, &older).unwrap(),
            "gone" => fs::remove_file(&file).unwrap(),
            _ => fs::write(&file, "not a database").unwrap(),
        }
        host.restart("boot-1", later(MINUTE));
        let problems = host.gate().status(later(MINUTE)).problems;
        assert!(problems.iter().any(|line| line.contains("database")), "{damage}: {problems:?}");
        for millis in [0, MINUTE] {
            let answer = host.push_at(&signed(1, ANA, millis), later(MINUTE));
            assert_eq!(answer, Err(Refusal::Revoked), "{damage}: signed at {millis}");
        }
    }
}

#[test]
fn so_many_requesters_that_one_floor_stands_for_several_refuse_more_and_never_less() {
    let mut host = Host::start();
    host.push(&signed(1, BO, 0)).unwrap();
    for number in 0..1_100_i64 {
        host.gate().revoke(&of(&format!("user {number}")), "test", "", later(number));
    }
    for restarts in [false, true] {
        if restarts {
            host.restart("boot-1", later(2_000));
        }
        let (all, by_requester) = floor_of(&mut host, later(2_000));
        assert_eq!((all, by_requester.len()), (75, 1_024));
        for (requester, millis) in [("user 3", 3), ("user 3", 75), ("user 500", 500), (BO, 75)] {
            let answer = host.push_at(&signed(2, requester, millis), later(2_000));
            assert_eq!(answer, Err(Refusal::Revoked), "{requester} {millis}");
        }
        assert!(host.opens(2_000), "a grant that is held falls under no floor of others");
    }
    assert_eq!(host.push_at(&signed(3, BO, 76), later(2_000)), Ok(Admission::Active));
}
