//! Clocks that are set, or slow, and hosts that are suspended.

use std::sync::{Arc, Mutex};

use jit_agent::{
    gate::{Target, channel, journal::Journal},
    kernel::datapath::memory::MemoryDatapath,
    rules::clock::Now,
};
use jit_proto::{GrantId, Refusal, WallTime, v1};

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, envelope, grant, later, v4},
};

const DAY: i64 = 24 * 60 * MINUTE;

fn set(now: Now, millis: i64) -> Now {
    Now { wall: WallTime(now.wall.0 + millis), ..now }
}

fn unseen(host: &mut Host, now: Now) {
    let revoked = host.gate().revoke(&Target::Ids(vec![GrantId([9; 16])]), "test", "", now);
    assert_eq!((revoked.ended, revoked.warning.as_str()), (0, ""));
}

/// Grant 9, issued now.
fn nine(now: Now) -> v1::Grant {
    let wall = now.wall.0;
    v1::Grant {
        issued_at_ms: wall,
        not_before_ms: wall,
        not_after_ms: wall + 10 * MINUTE,
        ..grant(9, &["203.0.113.7"])
    }
}

#[test]
fn a_step_of_the_clock_is_acted_on_at_once() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let journal = Arc::new(Journal::new("test".into()));
    let (handle, requests) = channel(journal);
    let clock = Mutex::new(NOW);
    let gate = host.gate.take().unwrap();
    let kernel = host.kernel.clone();
    let opens = |millis| kernel.opens(SSH, v4("203.0.113.7"), later(millis).boot);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let client = async {
            // The gate has read the clock once and waits.
            handle.status().await.unwrap();
            assert!(opens(10 * MINUTE - 1));
            *clock.lock().unwrap() = set(NOW, 9 * MINUTE);
            handle.clock_was_set();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(
                opens(MINUTE - 1) && !opens(MINUTE),
                "one minute is left, and the kernel knows"
            );
            drop(handle);
        };
        tokio::join!(gate.run(requests, || *clock.lock().unwrap(), || ()), client);
    });
}

#[test]
fn a_scheduled_grant_begins_when_the_clock_is_set_to_its_start() {
    let mut host = Host::start();
    let ahead = v1::Grant { not_before_ms: NOW.wall.0 + 5 * MINUTE, ..grant(1, &["203.0.113.7"]) };
    host.push(&ahead).unwrap();
    host.gate().advance(set(NOW, 5 * MINUTE - 1));
    assert!(!host.opens(0));
    host.gate().advance(set(NOW, 6 * MINUTE));
    assert!(host.opens(4 * MINUTE - 1) && !host.opens(4 * MINUTE), "until its end by that clock");
    // Set back within the allowed difference: a grant that has begun continues, for no longer.
    host.gate().advance(set(NOW, 5 * MINUTE + 1));
    assert!(host.opens(4 * MINUTE - 1) && !host.opens(4 * MINUTE));
}

#[test]
fn a_suspended_host_ends_its_grants_on_time() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    // Nothing ran for an hour, but both clocks ran on.
    assert!(!host.opens(60 * MINUTE), "before the agent does anything");
    host.gate().advance(later(60 * MINUTE));
    assert!(host.gate().list(false, later(60 * MINUTE)).is_empty());
}

#[test]
fn a_clock_that_is_ahead_for_a_moment_forgets_no_revoked_id() {
    let mut host = Host::start();
    unseen(&mut host, NOW);
    let ahead = set(later(1_000), 30 * DAY);
    host.gate().advance(ahead);
    host.gate().advance(set(later(3 * MINUTE), 30 * DAY));
    let back = later(4 * MINUTE);
    assert_eq!(host.push_at(&nine(back), back), Err(Refusal::ClockUntrusted));
    // The same after a restart in between.
    host.restart("boot-1", back);
    assert_eq!(host.push_at(&nine(back), back), Err(Refusal::ClockUntrusted));
    let same = set(later(5 * MINUTE), 30 * DAY);
    assert_eq!(host.push_at(&nine(same), same), Err(Refusal::Revoked));
    assert!(!host.kernel.opens(SSH, v4("203.0.113.7"), same.boot));
}

#[test]
fn an_id_revoked_by_a_slow_clock_stays_refused_by_the_right_one() {
    // The host started with a clock of last month. The clock is set right later.
    let slow = set(NOW, -30 * DAY);
    let mut host = Host::at(slow);
    unseen(&mut host, slow);
    let right = later(2_000);
    host.gate().advance(right);
    host.gate().advance(later(3 * MINUTE));
    for boot in ["boot-1", "boot-2"] {
        let now = later(4 * MINUTE);
        assert_eq!(host.push_at(&nine(now), now), Err(Refusal::Revoked), "before {boot}");
        host.kernel = MemoryDatapath::default();
        host.restart(boot, now);
        assert_eq!(host.push_at(&nine(now), now), Err(Refusal::Revoked), "{boot}");
    }
}

#[test]
fn a_clock_that_is_not_trusted_still_revokes_for_long_enough() {
    let mut host = Host::start();
    let slow = set(later(1_000), -30 * DAY);
    host.gate().advance(slow);
    unseen(&mut host, slow);
    let right = later(2 * MINUTE);
    host.gate().advance(right);
    host.restart("boot-2", right);
    assert_eq!(host.push_at(&nine(right), right), Err(Refusal::Revoked));
}

#[test]
fn a_revoked_id_is_forgotten_when_both_clocks_say_that_its_time_has_ended() {
    let mut host = Host::start();
    unseen(&mut host, NOW);
    let after = later(9 * DAY);
    host.gate().advance(after);
    let outcome = host.gate().push(vec![envelope(&nine(after))], "test", after);
    assert!(outcome[0].is_ok(), "{outcome:?}");
    host.gate().revoke(&Target::All, "test", "", after);
    host.restart("boot-1", after);
    assert_eq!(host.push_at(&nine(after), after), Err(Refusal::Revoked), "revoked again");
}

#[test]
fn grants_held_back_by_a_wrong_clock_return_unless_revoked_meanwhile() {
    for revoke in [None, Some(Target::All), Some(Target::Requester("ana@example.org".into()))] {
        let mut host = Host::start();
        host.push(&grant(1, &["203.0.113.7"])).unwrap();
        host.kernel = MemoryDatapath::default();
        let slow = set(later(MINUTE), -DAY);
        host.restart("boot-2", slow);
        host.gate().advance(slow);
        assert!(!host.opens(MINUTE), "not with a wrong clock");
        let ended = revoke.as_ref().map(|target| host.gate().revoke(target, "", "", slow).ended);
        let right = later(2 * MINUTE);
        host.gate().advance(right);
        match ended {
            None => assert!(host.opens(10 * MINUTE - 1) && !host.opens(10 * MINUTE)),
            Some(ended) => {
                assert_eq!(ended, 1);
                assert!(!host.opens(2 * MINUTE));
                host.restart("boot-2", right);
                let again = host.push_at(&grant(1, &["203.0.113.7"]), right);
                assert_eq!(again, Err(Refusal::Revoked));
            }
        }
    }
}

#[test]
fn a_grant_that_returns_when_the_clock_is_right_closes_what_it_replaces() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let next = v1::Grant {
        not_before_ms: NOW.wall.0 + 2 * MINUTE,
        replaces: vec![1; 16].into(),
        ..grant(2, &["203.0.113.9"])
    };
    host.push(&next).unwrap();
    let opens = |host: &Host, source: &str| host.kernel.opens(SSH, v4(source), later(MINUTE).boot);
    let slow = set(later(MINUTE), -DAY);
    host.restart("boot-1", slow);
    host.gate().advance(slow);
    assert!(opens(&host, "203.0.113.7") && !opens(&host, "203.0.113.9"), "held back");
    // No time has passed: the successor closes it, not a deadline.
    host.gate().advance(set(later(MINUTE), MINUTE));
    assert!(!opens(&host, "203.0.113.7") && opens(&host, "203.0.113.9"));
}
