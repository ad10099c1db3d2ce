//! What no honest hub sends with a checkpoint: each is refused by name, and the host goes on.

use std::time::{Duration, Instant};

use jit_proto::{
    mailbox::MAX_LISTED,
    payload_type::{CHECKPOINT_TYPE, GRANT_TYPE},
    v1,
};
use jit_tests::agent::CLIENT;
use prost::Message as _;

use crate::{
    uplink::BACK,
    withheld::{AMPLE, LONG, World, word},
};

/// Calls at once.
const CALLS: usize = 400;

fn message(epoch: u64, number: u64) -> v1::Checkpoint {
    v1::Checkpoint {
        epoch,
        number,
        issued_at_ms: jit_agent::system::sys::now().wall.0,
        valid_for_ms: 60_000,
        root: vec![7; 32].into(),
        hosts: 2,
    }
}

#[test]
fn what_is_out_of_its_bounds_is_refused_and_nothing_of_it_is_kept() {
    let mut world = World::new("");
    assert_eq!(world.check(1, &[]), word("complete"));
    let good = world.checkpoints.point(2, AMPLE, &[]).request(true);
    let of = |message: &v1::Checkpoint| v1::CompareMailboxRequest {
        checkpoint: Some(world.checkpoints.sign(message)),
        ..good.clone()
    };
    let as_grant = |payload_type: &str| {
        let signed = world.site.sign(&world.site.grant(&CLIENT, LONG));
        let envelope = v1::Envelope { payload_type: payload_type.into(), ..signed };
        v1::CompareMailboxRequest { checkpoint: Some(envelope), ..good.clone() }
    };
    let long = |path: usize, items: usize| v1::CompareMailboxRequest {
        path: vec![1; path].into(),
        items: vec![2; items].into(),
        ..good.clone()
    };
    let ahead =
        v1::Checkpoint { issued_at_ms: message(1, 1).issued_at_ms + 120_000, ..message(1, 3) };
    let most = MAX_LISTED * 32;
    for (request, says) in [
        (of(&message(0, 3)), "malformed"),
        (of(&message(1, 0)), "malformed"),
        (of(&v1::Checkpoint { hosts: u64::MAX, ..message(1, 3) }), "malformed"),
        (of(&v1::Checkpoint { valid_for_ms: u32::MAX, ..message(1, 3) }), "malformed"),
        (of(&v1::Checkpoint { issued_at_ms: i64::MIN, ..message(1, 3) }), "malformed"),
        (of(&v1::Checkpoint { issued_at_ms: i64::MAX, ..message(1, 3) }), "not_yet_valid"),
        (of(&ahead), "not_yet_valid"),
        (as_grant(GRANT_TYPE), "bad_type"),
        (as_grant(CHECKPOINT_TYPE), "bad_signature"),
        (long(33 * 32, 0), "at most 32"),
        (long(31, 0), "32 bytes"),
        (long(32, most + 32), "at most 10000"),
        (long(32, most + 1), "32 bytes"),
        (long(32, 8 * 1024 * 1024), ""),
    ] {
        let refused = world.hub.run(world.agent.compare_mailbox(request)).unwrap_err().to_string();
        assert!(refused.contains(says), "{says}: {refused}");
    }
    assert_eq!(world.freshness()["number"], 1, "none was taken");
    // The key opens nothing, also if a grant is signed by it.
    let grant = world.site.grant(&CLIENT, LONG).encode_to_vec();
    let by_it = world.checkpoints.sign_as(GRANT_TYPE, grant);
    let refused = world.hub.run(world.agent.push(by_it)).map(|outcome| outcome.accepted);
    assert!(!matches!(refused, Ok(true)), "{refused:?}");
    world.site.assert_closed_to_all();
    assert_eq!(world.check(2, &[]), word("complete"));
    world.assert_fresh();
}

#[test]
fn the_last_number_of_all_is_followed_by_a_new_epoch() {
    let mut world = World::new("");
    assert_eq!(world.check(u64::MAX, &[]), word("complete"));
    assert_eq!(world.check(1, &[]), word("rolled_back"));
    let next = v1::CompareMailboxRequest {
        checkpoint: Some(world.checkpoints.sign(&message(2, 1))),
        ..world.checkpoints.point(1, AMPLE, &[]).request(false)
    };
    let said = world.hub.run(world.agent.compare_mailbox(next)).unwrap();
    assert_eq!(said.standing, "list_wanted", "it is taken, and its root is another one");
    assert_eq!(world.freshness()["epoch"], 2);
    // Whoever had the key can have used up the epochs, too. The runbook says what to do then.
    let last = v1::CompareMailboxRequest {
        checkpoint: Some(world.checkpoints.sign(&message(u64::MAX, u64::MAX))),
        ..world.checkpoints.point(1, AMPLE, &[]).request(false)
    };
    world.hub.run(world.agent.compare_mailbox(last)).unwrap();
    assert_eq!(world.check(5, &[]), word("rolled_back"));
    for (section, expects) in [("", false), ("[freshness]\n", true)] {
        world.reload(section);
        let end = Instant::now() + BACK;
        while world.freshness().is_null() == expects {
            assert!(Instant::now() < end, "{section}");
        }
    }
    assert_eq!(world.check(5, &[]), word("complete"));
}

#[test]
fn very_many_comparisons_at_once_hold_up_nobody() {
    let mut world = World::new("");
    assert_eq!(world.check(1, &[]), word("complete"));
    let good = world.checkpoints.point(2, AMPLE, &[]).request(true);
    let mut forged = good.clone();
    forged.checkpoint.as_mut().unwrap().signatures[0].signature = vec![9; 64].into();
    let listed = v1::CompareMailboxRequest { items: vec![3; MAX_LISTED * 32].into(), ..good };
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let mut agent = world.agent.clone();
            let request = if number.is_multiple_of(2) { forged.clone() } else { listed.clone() };
            world.hub.spawn(async move { agent.compare_mailbox(request).await })
        })
        .collect();
    // Meanwhile a grant opens, and the local command answers.
    let began = Instant::now();
    let grant = world.site.grant(&CLIENT, LONG);
    assert_eq!(world.push(&grant), "ok");
    let opened = began.elapsed();
    let state = world.freshness()["state"].clone();
    println!("opened after {opened:?}, status after {:?}: {state}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    world.site.assert_open_to_the_client_alone();
    let mut refused = 0;
    for call in calls {
        if world.hub.run(call).unwrap().is_err() {
            refused += 1;
        }
    }
    assert!(refused >= CALLS / 2, "{refused}: each false signature is refused");
    assert_eq!(world.site.status().0["freshness"]["contradictions"], 0);
}
