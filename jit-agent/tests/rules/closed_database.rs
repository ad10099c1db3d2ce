//! A database that cannot be opened at the start: the gate is in force without it, and nothing that
//! was revoked meanwhile comes back with it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_agent::{
    app::audit_settings,
    disk::audit::Audit,
    gate::{Gate, Target, database::Waiting, faults::Faults, journal::Journal},
    rules::clock::Now,
};
use jit_proto::{GrantId, Refusal, v1};

use crate::{
    host::Host,
    support::{
        NOW, REVOKER, SSH, config, fresh_grant, grant, later, revocation, signed_revocation, v4,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn requested(id: u8, source: &str, requester: &str) -> v1::Grant {
    v1::Grant { requester: requester.into(), ..grant(id, &[source]) }
}

/// Three grants are stored and open. The agent starts again, and others could write to the state.
fn closed() -> Host {
    let mut host = Host::with(REVOKER);
    for grant in [
        requested(1, "203.0.113.1", "ana@example.org"),
        requested(2, "203.0.113.2", "li@example.org"),
        requested(3, "203.0.113.3", "li@example.org"),
    ] {
        host.push(&grant).unwrap();
    }
    host.gate = None;
    let state = host.directory.path().join("state");
    mode(&state, 0o777);
    let (_keys, config) = config(REVOKER);
    let waiting = Waiting::open(&state, PATIENCE).unwrap_err();
    let audit = Audit::closed(&state, audit_settings(&config), NOW);
    let boards = (Arc::new(Journal::new("test".into())), Faults::default());
    let stand_in = waiting.stand_in();
    let kernel = host.kernel.clone();
    let gate = Gate::start(config, kernel, stand_in, audit, boards, "boot-1".into(), NOW);
    let mut gate = gate.unwrap();
    gate.await_database(waiting, NOW);
    host.gate = Some(gate);
    host
}

/// Mends the directory, and waits until the gate has the database.
fn mend(host: &mut Host) -> Now {
    mode(&host.directory.path().join("state"), 0o700);
    let deadline = Instant::now() + PATIENCE;
    for step in 1.. {
        let now = later(step * 3_000);
        host.gate().advance(now);
        if host.gate().status(now).problems.iter().all(|text| !text.contains("stay closed")) {
            return now;
        }
        assert!(Instant::now() < deadline, "{:?}", host.gate().status(now).problems);
        std::thread::sleep(Duration::from_millis(5));
    }
    NOW
}

fn opens(host: &Host, last: u8, now: Now) -> bool {
    host.kernel.opens(SSH, v4(&format!("203.0.113.{last}")), now.boot)
}

#[test]
fn without_its_database_the_gate_is_closed_and_says_so() {
    let mut host = closed();
    let status = host.gate().status(NOW);
    let problems = status.problems.join("\n");
    assert_eq!(status.state, "degraded", "{problems}");
    assert!(problems.contains("others could write") && problems.contains("stay closed"));
    assert!((1..=3).all(|last| !opens(&host, last, NOW)));
    let refused = host.push(&grant(9, &["203.0.113.9"])).unwrap_err();
    assert_eq!(refused, Refusal::Storage);
    assert!(!opens(&host, 9, NOW));
    let now = mend(&mut host);
    assert!((1..=3).all(|last| opens(&host, last, now)), "and all are back");
    host.push(&grant(9, &["203.0.113.9"])).unwrap();
}

#[test]
fn what_is_revoked_without_the_database_stays_revoked_with_it() {
    for (target, back) in [
        (Target::All, [false, false, false]),
        (Target::Requester("li@example.org".into()), [true, false, false]),
        (Target::Ids(vec![GrantId([2; 16])]), [true, false, true]),
        (Target::Source("203.0.113.2/31".parse().unwrap()), [true, false, false]),
    ] {
        let mut host = closed();
        let revoked = host.gate().revoke(&target, "root", "test", NOW);
        assert!(revoked.warning.contains("not durable"), "{}", revoked.warning);
        let now = mend(&mut host);
        let open = [1, 2, 3].map(|last| opens(&host, last, now));
        assert_eq!(open, back, "{target:?}");
        // Also after another start.
        host.restart("boot-1", now);
        let open = [1, 2, 3].map(|last| opens(&host, last, now));
        assert_eq!(open, back, "{target:?}, after a restart");
    }
}

#[test]
fn what_a_key_revokes_without_the_database_stays_revoked_with_it() {
    let order = |until| v1::Revocation { all: false, ..revocation(until) };
    let li = |until| v1::Revocation { requester: "li@example.org".into(), ..order(until) };
    let grant_ids = vec![vec![2; 16].into(), vec![9; 16].into()];
    for (order, back, late) in [
        (revocation(0), [false, false, false], true),
        // All were signed after it: it closes none.
        (revocation(-1), [true, true, true], false),
        (li(0), [true, false, false], false),
        (v1::Revocation { grant_ids, ..order(0) }, [true, false, true], true),
    ] {
        let mut host = closed();
        // Also when it comes often, without an end.
        for _ in 0..100 {
            let revoked = host.gate().revoke_signed(&signed_revocation(&order), "x", NOW).unwrap();
            assert!(revoked.warning.contains("not durable"), "{}", revoked.warning);
        }
        let mut now = mend(&mut host);
        for restarted in [false, true] {
            if restarted {
                host.restart("boot-1", now);
            }
            let open = [1, 2, 3].map(|last| opens(&host, last, now));
            assert_eq!(open, back, "{order:?}, restarted: {restarted}");
            let unseen = host.push_at(&grant(9, &["203.0.113.9"]), now);
            let expected = if late { Err(Refusal::Revoked) } else { Ok(()) };
            assert_eq!(unseen.map(drop), expected, "{order:?}, restarted: {restarted}");
            host.push_at(&fresh_grant(8, &["203.0.113.8"]), now).unwrap();
            now = later(now.wall.0 - NOW.wall.0 + 1);
        }
    }
}

/// By a clock that is far ahead. Its floor rises with the time, and stays that of one requester.
#[test]
fn a_revocation_that_comes_without_end_closes_no_more_than_it_names() {
    let mut host = closed();
    let order =
        v1::Revocation { all: false, requester: "li@example.org".into(), ..revocation(3_600_000) };
    let envelope = signed_revocation(&order);
    for millis in 0..100 {
        let refused = host.gate().revoke_signed(&envelope, "x", later(millis)).unwrap_err();
        assert_eq!(refused.refusal, Refusal::NotYetValid);
    }
    let now = mend(&mut host);
    assert_eq!([1, 2, 3].map(|last| opens(&host, last, now)), [true, false, false]);
    let of = |id, requester: &str, issued_at_ms| {
        let source = format!("203.0.113.{id}");
        v1::Grant { issued_at_ms, ..requested(id, &source, requester) }
    };
    let floor = NOW.wall.0 + 99 + 60_000;
    let late = later(120_000);
    let refused = host.push_at(&of(4, "li@example.org", floor), late);
    assert_eq!(refused, Err(Refusal::Revoked));
    host.push_at(&of(5, "li@example.org", floor + 1), late).unwrap();
    host.push_at(&of(6, "ana@example.org", NOW.wall.0), late).unwrap();
}
