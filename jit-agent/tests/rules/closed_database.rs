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
    support::{NOW, SSH, config, grant, later, v4},
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
    let mut host = Host::start();
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
    let (_keys, config) = config("");
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
