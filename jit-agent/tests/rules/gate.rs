//! The gate with a real database and a datapath in memory: what is answered is true.

use jit_agent::{
    datapath::memory::MemoryDatapath, gate::Target, grant::GrantId, ledger::Admission,
    refusal::Refusal,
};
use jit_proto::v1;

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, envelope, grant, later, v4},
};

#[test]
fn what_was_accepted_survives_a_restart_with_the_same_end() {
    let mut host = Host::start();
    assert_eq!(host.push(&grant(1, &["203.0.113.7"])), Ok(Admission::Active));
    host.kernel.take_writes();
    host.restart("boot-1", later(MINUTE));
    assert_eq!(host.kernel.take_writes(), [], "nothing is written again");
    assert!(host.opens(10 * MINUTE - 1) && !host.opens(10 * MINUTE));
    let listed = host.gate().list(false, later(MINUTE));
    assert_eq!(listed[0].left_ms, 9 * MINUTE);
    assert_eq!(host.push(&grant(1, &["203.0.113.7"])), Ok(Admission::Known));
}

#[test]
fn a_revocation_survives_a_restart() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let revoked = host.gate().revoke(&Target::All, "test", "over", NOW);
    assert_eq!((revoked.ended, revoked.warning.as_str()), (1, ""));
    assert!(!host.opens(0));
    host.restart("boot-1", NOW);
    assert!(!host.opens(0));
    assert_eq!(host.push(&grant(1, &["203.0.113.7"])), Err(Refusal::Revoked));
}

#[test]
fn what_was_left_in_the_kernel_without_a_grant_is_closed_at_start() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    // The disk is lost, the kernel's tables are not.
    host.gate = None;
    std::fs::remove_dir_all(host.directory.path().join("state")).unwrap();
    assert!(host.opens(0));
    host.restart("boot-1", NOW);
    assert!(!host.opens(0));
}

#[test]
fn after_a_reboot_a_grant_lasts_no_longer_than_it_had_left() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    // Another boot: the boot clock starts anew, the kernel's tables are empty.
    host.kernel = MemoryDatapath::default();
    let early = jit_agent::clock::BootNanos(5_000_000_000);
    let now = jit_agent::clock::Now { wall: later(4 * MINUTE).wall, boot: early };
    host.restart("boot-2", now);
    let end = jit_agent::clock::BootNanos(early.0 + 6 * 60_000_000_000);
    assert!(host.kernel.opens(SSH, v4("203.0.113.7"), jit_agent::clock::BootNanos(end.0 - 1)));
    assert!(!host.kernel.opens(SSH, v4("203.0.113.7"), end));
}

#[test]
fn a_clock_behind_its_floor_opens_nothing() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel = MemoryDatapath::default();
    let behind = jit_agent::clock::WallTime(NOW.wall.0 - 2 * MINUTE);
    let now = jit_agent::clock::Now { wall: behind, ..NOW };
    host.restart("boot-2", now);
    assert!(!host.opens(0));
    let outcome = host.gate().push(vec![envelope(&grant(2, &["203.0.113.7"]))], "test", now);
    assert_eq!(outcome[0].as_ref().unwrap_err().refusal, Refusal::ClockUntrusted);
    assert!(host.gate().status(now).problems.iter().any(|p| p.contains("clock")));
}

#[test]
fn a_kernel_that_refuses_takes_the_grant_back_everywhere() {
    for (full, expected) in [(true, Refusal::Capacity), (false, Refusal::Storage)] {
        let mut host = Host::start();
        host.kernel.refuse(Some(full));
        assert_eq!(host.push(&grant(1, &["203.0.113.7"])), Err(expected));
        host.kernel.refuse(None);
        assert!(host.gate().list(true, NOW).is_empty());
        host.restart("boot-1", NOW);
        assert!(!host.opens(0), "not on the disk either");
    }
}

#[test]
fn a_closing_that_fails_is_tried_again_and_told() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel.refuse(Some(false));
    let revoked = host.gate().revoke(&Target::Ids(vec![GrantId([1; 16])]), "test", "", NOW);
    assert!(revoked.warning.contains("refused by the test"));
    assert!(!host.gate().status(NOW).problems.is_empty());
    host.kernel.refuse(None);
    host.gate().advance(NOW);
    assert!(!host.opens(0));
}

#[test]
fn quiet_time_raises_the_floor_on_the_disk() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.gate().advance(later(9 * MINUTE));
    // A reboot with the clock back where it was when the grant was pushed: trusted by nobody.
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", NOW);
    assert!(!host.opens(0), "it had a minute left, not ten");
}

#[test]
fn in_a_batch_each_envelope_has_its_own_outcome() {
    let mut host = Host::start();
    let mut bad = envelope(&grant(2, &["203.0.113.8"]));
    bad.signatures.clear();
    let batch = vec![
        envelope(&grant(1, &["203.0.113.7"])),
        bad,
        envelope(&grant(1, &["203.0.113.7"])),
        envelope(&grant(3, &["203.0.113.9"])),
    ];
    let words: Vec<_> = host
        .gate()
        .push(batch, "test", NOW)
        .into_iter()
        .map(|outcome| match outcome {
            Ok(accepted) => accepted.admission.word(),
            Err(refused) => refused.refusal.word(),
        })
        .collect();
    assert_eq!(words, ["ok", "bad_signature", "known", "ok"]);
    let revoked = host.gate().revoke(&Target::Requester("ana@example.org".into()), "test", "", NOW);
    assert_eq!(revoked.ended, 2);
}

#[test]
fn expiry_leaves_nothing_behind() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7", "198.51.100.0/24"])).unwrap();
    host.gate().advance(later(10 * MINUTE));
    assert!(host.kernel.tables().hosts.is_empty() && host.kernel.tables().prefixes.is_empty());
    let ended = host.gate().list(true, later(10 * MINUTE));
    assert_eq!(ended[0].state(), v1::State::Expired);
    host.restart("boot-1", later(10 * MINUTE));
    assert!(host.gate().list(true, later(10 * MINUTE)).is_empty());
}

#[test]
fn hits_belong_to_the_grant_that_let_them_in() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel.count(1, 3);
    assert_eq!(host.gate().list(false, NOW)[0].hits, 3);
    host.gate().revoke(&Target::All, "test", "", NOW);
    assert_eq!(host.gate().list(true, NOW)[0].hits, 3);
    // The next grant in the slot starts at zero.
    host.push(&grant(2, &["203.0.113.7"])).unwrap();
    assert_eq!(host.gate().list(false, NOW)[0].hits, 0);
}
