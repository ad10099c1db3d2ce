//! A configuration on trial, with a clock that the test sets: what a confirmation at the last moment
//! does, and what a trial leaves.

use std::time::Duration;

use jit_agent::{
    config::Config,
    gate::trial::{Confirmation, Trial},
    rules::clock::{BootNanos, Now},
};
use jit_proto::{Refusal, payload_type::GRANT_TYPE, v1};
use prost::Message as _;

use crate::{
    host::Host,
    support::{NOW, SSH, config, grant, later, sign, v4},
};

const MINUTE: i64 = 60_000;
const THIRD: &str = "[[signer]]\nid = \"third\"\npublic_key = \"3.pem\"\n";

/// Nanoseconds after the end of a trial of a minute; before it, if negative.
fn from_end(nanos: i64) -> Now {
    let end = later(MINUTE);
    Now { boot: BootNanos(end.boot.0.saturating_add_signed(nanos)), ..end }
}

fn seconds(seconds: i64) -> Now {
    from_end(seconds * 1_000_000_000)
}

/// A trial of a minute.
fn trial(before: &Config, config: Config, of_file: bool) -> Trial {
    Trial {
        config,
        before: before.clone(),
        before_since: NOW.wall,
        until: from_end(0).boot,
        begun: NOW.wall,
        of_file,
        by: "test".into(),
    }
}

/// A host in observe mode that enforces on trial.
fn enforcing() -> Host {
    let mut host = Host::start();
    let (_keys, config) = config("");
    let mut before = config.clone();
    before.gate.observe = true;
    host.gate().reconfigure(before.clone(), NOW).unwrap();
    host.gate().begin_trial(&trial(&before, config, false), NOW).unwrap();
    host
}

/// Whether the kernel drops packets then.
fn enforces(host: &Host, now: Now) -> bool {
    !host.kernel.settings_in_force().observes(None, || now.boot.0)
}

fn confirm(host: &mut Host, step: Confirmation, now: Now) -> bool {
    host.gate().confirm_trial(step, "test", now)
}

/// How the trial ended, by the answer to `status`, and the audit's codes of its end.
fn ended(host: &mut Host, now: Now) -> (String, Vec<String>) {
    let state = host.gate().status(now).trial.unwrap();
    let codes = host.codes().into_iter().filter(|code| code == "N003" || code == "B004");
    (state.ended, codes.collect())
}

#[test]
fn a_confirmation_before_the_end_wins_and_the_kernel_never_observes_meanwhile() {
    for before in [-1, -1_000, -3_000_000_000] {
        let mut host = enforcing();
        assert!(confirm(&mut host, Confirmation::Hold, from_end(before)));
        // The disk takes its time: the end passes.
        for after in [0, 1, 5_000_000_000] {
            host.gate().advance(from_end(after));
            assert!(enforces(&host, from_end(after)), "{before} {after}");
            assert_eq!(host.gate().status(from_end(after)).mode, "enforce");
        }
        assert!(confirm(&mut host, Confirmation::Commit, seconds(6)));
        host.gate().advance(seconds(60));
        assert!(enforces(&host, seconds(1_000_000)), "for good");
        assert_eq!(ended(&mut host, seconds(60)), ("confirmed".into(), vec!["N003".into()]));
    }
}

#[test]
fn a_confirmation_at_the_end_or_later_changes_nothing() {
    for after in [0, 1, 1_000_000_000] {
        let mut host = enforcing();
        assert!(!confirm(&mut host, Confirmation::Hold, from_end(after)), "{after}");
        assert!(!enforces(&host, from_end(after)), "the kernel has not waited for the gate");
        assert!(!confirm(&mut host, Confirmation::Commit, from_end(after)));
        host.gate().advance(from_end(after));
        assert!(!confirm(&mut host, Confirmation::Commit, from_end(after)));
        assert_eq!(ended(&mut host, from_end(after)), ("lapsed".into(), vec!["B004".into()]));
        assert_eq!(host.gate().status(seconds(2)).mode, "observe");
    }
}

#[test]
fn a_disk_that_does_not_take_the_confirmation_gives_the_trial_its_end_back() {
    let mut host = enforcing();
    assert!(confirm(&mut host, Confirmation::Hold, seconds(-20)));
    assert!(confirm(&mut host, Confirmation::Release, seconds(-19)));
    assert!(enforces(&host, from_end(-1)) && !enforces(&host, from_end(0)));
    // Once more, and the end passes meanwhile.
    assert!(confirm(&mut host, Confirmation::Hold, from_end(-1)));
    assert!(enforces(&host, seconds(3)));
    assert!(confirm(&mut host, Confirmation::Release, seconds(3)));
    assert!(!enforces(&host, seconds(3)));
    host.gate().advance(seconds(3));
    assert_eq!(ended(&mut host, seconds(3)), ("lapsed".into(), vec!["B004".into()]));
}

#[test]
fn a_disk_that_hangs_while_it_is_confirmed_shuts_nobody_out_for_longer_than_ten_seconds() {
    let mut host = enforcing();
    assert!(confirm(&mut host, Confirmation::Hold, from_end(-1)));
    // Asked again, it does not get longer.
    assert!(confirm(&mut host, Confirmation::Hold, from_end(-1)));
    assert!(enforces(&host, seconds(9)) && !enforces(&host, seconds(10)));
    let wakes = host.gate().advance(seconds(9));
    assert!(wakes <= Duration::from_secs(1), "{wakes:?}");
    host.gate().advance(seconds(10));
    assert!(!confirm(&mut host, Confirmation::Commit, seconds(11)), "it is too late");
    assert_eq!(ended(&mut host, seconds(11)), ("lapsed".into(), vec!["B004".into()]));
    assert_eq!(host.gate().status(seconds(11)).mode, "observe");
}

/// Pushes a grant that this key signed.
fn push(host: &mut Host, grant: &v1::Grant, signer: u8) -> Result<(), Refusal> {
    let envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), &[signer]);
    let outcome = host.gate().push(vec![envelope], "test", NOW).remove(0);
    outcome.map(drop).map_err(|refused| refused.refusal)
}

#[test]
fn what_only_a_trial_allowed_ends_with_it_and_what_was_allowed_before_stays() {
    for confirmed in [false, true] {
        let mut host = Host::start();
        let (_keys, before) = config("");
        let (_keys, with_third) = config(THIRD);
        let opens =
            |host: &Host, source: &str, now: Now| host.kernel.opens(SSH, v4(source), now.boot);
        push(&mut host, &grant(1, &["203.0.113.7"]), 1).unwrap();
        assert!(push(&mut host, &grant(2, &["203.0.113.8"]), 3).is_err(), "nobody trusts it yet");
        host.gate().begin_trial(&trial(&before, with_third, true), NOW).unwrap();
        push(&mut host, &grant(2, &["203.0.113.8"]), 3).unwrap();
        push(&mut host, &grant(3, &["203.0.113.9"]), 1).unwrap();
        assert!(opens(&host, "203.0.113.8", seconds(-1)));
        if confirmed {
            assert!(confirm(&mut host, Confirmation::Hold, seconds(-1)));
            assert!(confirm(&mut host, Confirmation::Commit, seconds(-1)));
        }
        host.gate().advance(from_end(0));
        assert_eq!(opens(&host, "203.0.113.8", from_end(0)), confirmed);
        assert!(opens(&host, "203.0.113.7", from_end(0)), "it was there before");
        assert!(opens(&host, "203.0.113.9", from_end(0)), "the keys of before allow it");
        let revoked = host.records();
        let revoked = revoked.iter().filter(|record| record["code"] == "G006").count();
        assert_eq!(revoked, usize::from(!confirmed));
        // Nor does it come back with the next start.
        host.restart("boot-1", seconds(1));
        assert!(!opens(&host, "203.0.113.8", seconds(1)));
        assert!(opens(&host, "203.0.113.7", seconds(1)));
    }
}
