//! The gate with a real database and a datapath in memory: what is answered is true.

use std::{cell::Cell, collections::BTreeMap, sync::Arc, time::Duration};

use jit_agent::{
    gate::{Target, about::CertificateEnd, channel, journal::Journal},
    kernel::datapath::{Datapath as _, memory::MemoryDatapath, probe::Syn},
    rules::ledger::Admission,
};
use jit_proto::{GrantId, Refusal, payload_type::GRANT_TYPE, v1};
use prost::Message as _;

use crate::{
    host::Host,
    support::{MINUTE, NOW, SSH, envelope, fresh_grant, grant, later, sign, v4},
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
fn a_stored_grant_that_a_start_refuses_does_not_come_back_at_a_later_one() {
    let third = "[[signer]]\nid = \"third\"\npublic_key = \"3.pem\"\n";
    let mut host = Host::with(third);
    let envelope = sign(GRANT_TYPE, &grant(1, &["203.0.113.7"]).encode_to_vec(), &[3]);
    let outcome = host.gate().push(vec![envelope.clone()], "test", NOW).remove(0);
    assert!(outcome.is_ok() && host.opens(0), "{outcome:?}");
    host.extra.clear();
    host.restart("boot-1", NOW);
    assert!(!host.opens(0));
    let refused = host.records().into_iter().find(|record| record["code"] == "G004").unwrap();
    assert_eq!(refused["reason"], "bad_signature");
    host.extra = third.to_owned();
    host.restart("boot-1", NOW);
    assert!(!host.opens(0), "what the audit calls refused stays closed");
    // The controller may push it again.
    let outcome = host.gate().push(vec![envelope], "test", NOW).remove(0);
    assert!(outcome.is_ok() && host.opens(0), "{outcome:?}");
}

#[test]
fn a_certificate_that_ends_is_reported_before_and_is_a_problem_after() {
    let mut host = Host::with(
        "[control]\nlisten = \"[::]:7443\"\ncertificate = \"1.pem\"\nkey = \"1.pem\"\n\
         client_ca = \"1.pem\"\n",
    );
    let end = NOW.wall + Duration::from_secs(20 * 86_400);
    let ends = |at| Some(CertificateEnd { at, soon: Duration::from_secs(14 * 86_400) });
    host.gate().set_certificate_end(ends(end), NOW);
    let mut asked = |days: i64| {
        let now = later(days * 24 * 60 * MINUTE);
        host.gate().tick(now);
        let status = host.gate().status(now);
        (status.problems.join("; "), status.soon.join("; "), status.control.unwrap_or_default())
    };
    let (problems, soon, control) = asked(1);
    assert!(!problems.contains("certificate") && !soon.contains("certificate"));
    assert_eq!(control.certificate_not_after_ms, end.0);
    let (problems, soon, _) = asked(19);
    assert!(!problems.contains("certificate"), "{problems}");
    assert!(soon.contains("the agent's certificate ends in 1d"), "{soon}");
    let (problems, soon, _) = asked(20);
    assert!(problems.contains("no controller can connect"), "{problems}");
    assert!(problems.contains("systemctl reload jit-agent"), "{problems}");
    assert!(!soon.contains("certificate"), "{soon}");
    let alarms = |host: &mut Host, code: &str| {
        let of =
            |record: &serde_json::Value| record["code"] == code && record["alarm"] == "certificate";
        host.records().iter().filter(|record| of(record)).count()
    };
    assert_eq!((alarms(&mut host, "S003"), alarms(&mut host, "S004")), (1, 0));
    let now = later(20 * 24 * 60 * MINUTE);
    host.gate().set_certificate_end(ends(now.wall + Duration::from_secs(86_400 * 90)), now);
    assert_eq!((alarms(&mut host, "S003"), alarms(&mut host, "S004")), (1, 1));
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
    let early = jit_agent::rules::clock::BootNanos(5_000_000_000);
    let now = jit_agent::rules::clock::Now { wall: later(4 * MINUTE).wall, boot: early };
    host.restart("boot-2", now);
    let end = jit_agent::rules::clock::BootNanos(early.0 + 6 * 60_000_000_000);
    assert!(host.kernel.opens(
        SSH,
        v4("203.0.113.7"),
        jit_agent::rules::clock::BootNanos(end.0 - 1)
    ));
    assert!(!host.kernel.opens(SSH, v4("203.0.113.7"), end));
}

/// Very many grants take long to verify, and until the programs are attached every port is open.
#[test]
fn after_a_reboot_the_ports_close_before_stored_grants_are_verified() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel = MemoryDatapath::default();
    let syn = Syn { source: v4("203.0.113.7"), source_port: 40_000, port: SSH, sequence: 7 };
    host.kernel.come_meanwhile(syn, NOW.boot);
    host.restart("boot-2", NOW);
    assert_eq!(host.kernel.let_in_meanwhile(), 0, "no grant was there when it was attached");
    assert!(host.opens(0));
}

#[test]
fn a_clock_behind_its_floor_opens_nothing() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel = MemoryDatapath::default();
    let behind = jit_proto::WallTime(NOW.wall.0 - 2 * MINUTE);
    let now = jit_agent::rules::clock::Now { wall: behind, ..NOW };
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

/// The entries of a batch are written together, and one by one if one of them does not fit.
#[test]
fn of_a_batch_only_the_grant_that_the_kernel_refuses_is_taken_back() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    // From now on only an entry that is there already can be written.
    host.kernel.refuse_openings(true);
    let batch = [(2, "203.0.113.7"), (3, "203.0.113.8"), (4, "203.0.113.7")];
    let batch = batch.map(|(id, source)| envelope(&grant(id, &[source])));
    let outcomes = host.gate().push(batch.into(), "test", NOW);
    let refused = outcomes.iter().map(|outcome| outcome.as_ref().err().map(|why| why.refusal));
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused, [None, Some(Refusal::Capacity), None]);
    host.kernel.refuse_openings(false);
    host.restart("boot-1", NOW);
    assert_eq!(host.gate().list(false, NOW).len(), 3);
    assert!(host.opens(0) && !host.kernel.opens(SSH, v4("203.0.113.8"), NOW.boot));
}

#[test]
fn without_an_audit_nothing_new_opens_and_everything_closes() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.gate = None;
    // A file where the audit's directory should be: nothing can be written.
    let audit = host.directory.path().join("state/audit");
    std::fs::rename(&audit, audit.with_extension("aside")).unwrap();
    std::fs::write(&audit, "").unwrap();
    host.restart("boot-1", NOW);
    assert!(host.opens(0), "what was in force stays");
    assert_eq!(host.push(&grant(2, &["203.0.113.8"])), Err(Refusal::Storage));
    assert!(!host.kernel.opens(SSH, v4("203.0.113.8"), NOW.boot));
    assert!(host.gate().status(NOW).problems.iter().any(|problem| problem.contains("audit")));
    assert_eq!(host.gate().revoke(&Target::All, "test", "", NOW).ended, 1);
    assert!(!host.opens(0));
    std::fs::remove_file(&audit).unwrap();
    std::fs::rename(audit.with_extension("aside"), &audit).unwrap();
    assert_eq!(host.push(&fresh_grant(3, &["203.0.113.9"])), Ok(Admission::Active));
    let codes = host.codes();
    assert_eq!(codes.iter().filter(|code| *code == "G001").count(), 2, "{codes:?}");
    assert!(
        codes.contains(&"G006".to_owned()),
        "reported when the audit took records again: {codes:?}"
    );
}

#[test]
fn a_grant_that_the_kernel_refuses_is_reported_as_refused() {
    let mut host = Host::start();
    host.kernel.refuse(Some(true));
    host.push(&grant(1, &["203.0.113.7"])).unwrap_err();
    let codes = host.codes();
    let ours: Vec<_> = codes.iter().filter(|code| code.starts_with('G')).collect();
    assert_eq!(ours, ["G004"]);
}

/// The audit and the database are synced at the same time: a power failure may take the record
/// alone, of a grant that nobody got an answer about.
#[test]
fn a_grant_whose_record_a_power_failure_took_is_recorded_at_the_next_start() {
    let mut host = Host::start();
    let audit = host.directory.path().join("state/audit");
    let files = ["audit.jsonl", "audit.head"].map(|name| audit.join(name));
    let before = files.clone().map(|file| std::fs::read(file).unwrap());
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let begins = (NOW.wall.0 + 5 * MINUTE, NOW.wall.0 + 10 * MINUTE);
    let later_one =
        v1::Grant { not_before_ms: begins.0, not_after_ms: begins.1, ..grant(2, &["203.0.113.8"]) };
    host.push(&later_one).unwrap();
    host.gate = None;
    for (file, bytes) in files.iter().zip(before) {
        std::fs::write(file, bytes).unwrap();
    }
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", later(MINUTE));
    assert!(host.opens(MINUTE));
    let records = host.records();
    for (code, source) in [("G003", "203.0.113.7"), ("G002", "203.0.113.8")] {
        let found = records.iter().find(|record| record["code"] == code);
        assert_eq!(found.unwrap()["sources"], serde_json::json!([source]), "{records:?}");
    }
}

#[test]
fn what_opens_again_after_a_reboot_is_reported_with_its_reason() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", later(MINUTE));
    host.restart("boot-2", later(MINUTE));
    let codes = host.codes();
    assert_eq!(codes.iter().filter(|code| *code == "G003").count(), 1, "{codes:?}");
    host.restart("boot-2", later(20 * MINUTE));
    assert!(host.codes().contains(&"G005".to_owned()), "it ended while no agent was running");
}

#[test]
fn connections_of_a_grant_are_reported_one_by_one_and_then_as_sums_and_drops_never() {
    use jit_common::{Event, Reason};
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let mut event = Event {
        time: 0,
        source: [0; 16],
        destination: [0; 16],
        interface: 1,
        slot: 1,
        port: 22,
        source_port: 50_000,
        family: 4,
        protocol: 6,
        reason: Reason::Granted as u8,
        observed: 0,
        reserved: [0; 8],
    };
    event.source[..4].copy_from_slice(&[203, 0, 113, 7]);
    for _ in 0..1_000 {
        host.gate().saw_packet(&event, NOW);
    }
    let denied = Event { reason: Reason::Denied as u8, slot: 0, ..event };
    let exempted = Event { slot: 0, ..event };
    for _ in 0..1_000 {
        host.gate().saw_packet(&denied, NOW);
        host.gate().saw_packet(&exempted, NOW);
    }
    host.gate().advance(later(2 * MINUTE));
    let count = |host: &mut Host, code: &str| host.codes().iter().filter(|c| *c == code).count();
    assert_eq!((count(&mut host, "C001"), count(&mut host, "C002")), (60, 1));
    let sum = host.records().into_iter().find(|record| record["code"] == "C002").unwrap();
    assert_eq!((&sum["count"], &sum["source"]), (&940.into(), &"203.0.113.7".into()));
}

#[test]
fn refusals_without_end_do_not_fill_the_audit() {
    let mut host = Host::start();
    for _ in 0..50 {
        let bad = v1::Envelope { payload_type: "x".repeat(10_000), ..v1::Envelope::default() };
        host.gate().push(vec![bad; 100], "spiffe://example.org/stolen", NOW);
    }
    host.gate().advance(later(2 * MINUTE));
    let size = std::fs::metadata(host.directory.path().join("state/audit/audit.jsonl"));
    assert!(size.unwrap().len() < 512 * 1024);
    let records = host.records();
    let reported = records.iter().filter(|record| record["code"] == "G004").count();
    let sum = records.iter().find(|record| record["code"] == "L007").unwrap();
    assert_eq!(u64::try_from(reported).unwrap() + sum["count"].as_u64().unwrap(), 5_000);
    assert_eq!(sum["by"], "spiffe://example.org/stolen");
}

#[test]
fn a_closing_that_fails_is_tried_again_and_reported() {
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
    host.push(&fresh_grant(2, &["203.0.113.7"])).unwrap();
    assert_eq!(host.gate().list(false, NOW)[0].hits, 0);
}

#[test]
fn whatever_byte_of_an_envelope_is_flipped_the_tables_stay_as_they_are() {
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    host.kernel.take_writes();
    let bytes = envelope(&grant(2, &["203.0.113.8"])).encode_to_vec();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        *bytes.get_mut(at).unwrap() ^= 0x55;
        let Ok(flipped) = v1::Envelope::decode(bytes.as_slice()) else { continue };
        let outcome = host.gate().push(vec![flipped], "test", NOW).remove(0);
        assert!(outcome.is_err(), "byte {at}: {outcome:?}");
        assert_eq!(host.kernel.take_writes(), [], "byte {at}");
    }
    assert_eq!(host.gate().list(true, NOW).len(), 1);
    host.restart("boot-1", NOW);
    assert_eq!(host.gate().list(true, NOW).len(), 1, "nothing on the disk either");
    // The same envelope as it was sent gets in.
    assert_eq!(host.push(&grant(2, &["203.0.113.8"])), Ok(Admission::Active));
}

#[test]
fn a_table_that_somebody_emptied_is_found_by_the_self_test_and_filled_again() {
    let mut host = Host::start();
    let said = |host: &mut Host, seconds: i64| {
        let now = later(seconds * 1_000);
        host.gate().tick(now);
        host.gate().status(now).problems.join("; ")
    };
    assert!(!said(&mut host, 0).contains("lets pass"));
    host.kernel.protect(&BTreeMap::new()).unwrap();
    assert!(!said(&mut host, 9).contains("lets pass"), "not looked at yet");
    let found = said(&mut host, 10);
    for sender in ["192.0.2.77", "2001:db8:77::77"] {
        let sentence = format!("the decision lets pass a SYN from {sender} to port 22");
        assert!(found.contains(&sentence), "{found}");
    }
    assert!(!said(&mut host, 20).contains("lets pass"), "filled again");
}

#[test]
fn the_self_test_expects_no_drop_where_a_grant_lets_its_senders_in() {
    let mut host = Host::start();
    host.push(&grant(1, &["192.0.0.0/8", "198.0.0.0/8", "203.0.0.0/8", "2001:db8:77::/64"]))
        .unwrap();
    host.gate().tick(NOW);
    let problems = host.gate().status(NOW).problems.join("; ");
    assert!(!problems.contains("the decision"), "{problems}");
}

#[test]
fn a_revocation_waits_for_one_batch_at_most_whatever_is_asked_before_it() {
    const BATCHES: u8 = 40;
    let mut host = Host::start();
    host.push(&grant(1, &["203.0.113.7"])).unwrap();
    let (handle, requests) = channel(Arc::new(Journal::new("test".into())));
    let gate = host.gate.take().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let answered = Cell::new(0);
        let pushes = futures_util::future::join_all((0..BATCHES).map(|batch| {
            let (handle, answered) = (handle.clone(), &answered);
            async move {
                let grants =
                    (0..6_u8).map(|id| envelope(&grant(10 + batch * 6 + id, &["10.0.0.1"])));
                let outcomes = handle.push(grants.collect(), "test".into()).await.unwrap();
                assert!(outcomes.iter().all(Result::is_ok));
                answered.set(answered.get() + 1);
            }
        }));
        let revocation = async {
            // All of the pushes wait by now.
            tokio::task::yield_now().await;
            let before = answered.get();
            let revoked = handle.revoke(Target::Ids(vec![GrantId([1; 16])]), "test", "").await;
            assert_eq!(revoked.unwrap().ended, 1);
            assert!(answered.get() <= before + 1, "{} after {before}", answered.get());
            assert!(!host.opens(0));
            drop(handle);
        };
        tokio::join!(gate.run(requests, || NOW, || ()), pushes, revocation);
        assert_eq!(answered.get(), BATCHES);
    });
}
