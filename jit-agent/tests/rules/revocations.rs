//! Signed revocations: what is asked of one, what it closes, and that its key can do nothing else.

use jit_agent::{
    gate::{PolicyPush, Revoked},
    rules::{clock::Now, ledger::Admission},
};
use jit_proto::{
    Refusal, WallTime,
    payload_type::{GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
};
use prost::Message as _;

use crate::{
    host::Host,
    policy_host::{CEILING, policy},
    support::{
        HOST, MINUTE, NOW, REVOKER, envelope, grant, later, revocation, sign, signed_revocation,
    },
};

const ANA: &str = "ana@example.org";
const BO: &str = "bo@example.org";

/// A grant that was signed at a time, and lasts ten minutes from then on.
fn issued(id: u8, requester: &str, millis: i64) -> v1::Grant {
    let issued_at_ms = NOW.wall.0 + millis;
    v1::Grant {
        issued_at_ms,
        not_before_ms: issued_at_ms,
        not_after_ms: issued_at_ms + 10 * MINUTE,
        requester: requester.into(),
        ..grant(id, &["203.0.113.7"])
    }
}

fn of(requester: &str, until: i64) -> v1::Revocation {
    v1::Revocation { all: false, requester: requester.into(), ..revocation(until) }
}

fn of_ids(ids: &[u8], until: i64) -> v1::Revocation {
    let grant_ids = ids.iter().map(|id| vec![*id; 16].into()).collect();
    v1::Revocation { all: false, grant_ids, ..revocation(until) }
}

fn with(change: impl Fn(&mut v1::Revocation)) -> v1::Revocation {
    let mut one = revocation(0);
    change(&mut one);
    one
}

/// Everything that a refused revocation must not change.
fn state(host: &mut Host, now: Now) -> (Vec<v1::GrantState>, Option<v1::RevocationFloor>) {
    (host.gate().list(false, now), host.gate().status(now).revoked_before)
}

fn revoke(host: &mut Host, revocation: &v1::Revocation, now: Now) -> Result<Revoked, Refusal> {
    let envelope = signed_revocation(revocation);
    host.gate().revoke_signed(&envelope, "test", now).map_err(|refused| refused.refusal)
}

/// Number of ended grants, and whether anything changed.
fn outcome(host: &mut Host, revocation: &v1::Revocation, now: Now) -> Result<(u32, bool), Refusal> {
    revoke(host, revocation, now).map(|revoked| {
        assert_eq!(revoked.warning, "");
        (revoked.ended, revoked.changed)
    })
}

#[test]
fn a_signed_revocation_of_everything_closes_and_holds_for_ever() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    host.push(&v1::Grant { not_before_ms: NOW.wall.0 + MINUTE, ..issued(2, BO, 0) }).unwrap();
    assert!(host.opens(0));
    assert_eq!(outcome(&mut host, &revocation(0), NOW), Ok((2, true)));
    assert!(!host.opens(0));
    for boot in ["boot-1", "boot-2"] {
        host.restart(boot, later(1));
        assert_eq!(outcome(&mut host, &revocation(0), later(1)), Ok((0, false)), "a replay");
        for id in [1, 2, 3] {
            let answer = host.push_at(&issued(id, ANA, 0), later(1));
            assert_eq!(answer, Err(Refusal::Revoked), "{boot} {id}");
        }
    }
    assert_eq!(host.push_at(&issued(4, ANA, 1), later(1)), Ok(Admission::Active), "signed after");
    assert_eq!(outcome(&mut host, &revocation(0), later(2)), Ok((0, false)), "it lives on");
    assert!(host.opens(2));
}

#[test]
fn the_floor_is_exact_for_what_is_held_and_for_what_comes() {
    for whose in [None, Some(ANA)] {
        let mut host = Host::with(REVOKER);
        for (id, at) in [(1, 999), (2, 1_000), (3, 1_001)] {
            host.push_at(&issued(id, ANA, at), later(2_000)).unwrap();
        }
        host.push_at(&issued(4, BO, 0), later(2_000)).unwrap();
        let revocation = whose.map_or_else(|| revocation(1_000), |name| of(name, 1_000));
        let ended = if whose.is_none() { 3 } else { 2 };
        assert_eq!(outcome(&mut host, &revocation, later(2_000)), Ok((ended, true)));
        let held = host.gate().list(false, later(2_000));
        assert_eq!(held.len(), usize::from(4 - u8::try_from(ended).unwrap()));
        for (id, at, expected) in [
            (5, 1_000, Err(Refusal::Revoked)),
            (6, 1_001, Ok(Admission::Active)),
            (3, 1_001, Ok(Admission::Known)),
        ] {
            assert_eq!(host.push_at(&issued(id, ANA, at), later(2_000)), expected, "{id}");
        }
        let bo = host.push_at(&issued(7, BO, 1_000), later(2_000));
        assert_eq!(bo.is_ok(), whose.is_some(), "{bo:?}");
    }
}

#[test]
fn ids_are_refused_whenever_they_were_issued_and_set_no_floor() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    host.push(&issued(2, ANA, 0)).unwrap();
    let answer = revoke(&mut host, &of_ids(&[1, 9], -MINUTE), NOW).unwrap();
    assert_eq!((answer.ended, answer.unseen, answer.changed), (1, 1, true));
    for restarts in [false, true] {
        if restarts {
            host.restart("boot-1", NOW);
        }
        assert_eq!(host.push(&issued(9, ANA, 0)), Err(Refusal::Revoked));
        assert_eq!(host.push(&issued(1, ANA, 0)), Err(Refusal::Revoked));
        assert_eq!(host.push(&issued(2, ANA, 0)), Ok(Admission::Known));
        assert_eq!(outcome(&mut host, &of_ids(&[1, 9], -MINUTE), NOW), Ok((0, false)));
    }
    // Also one that was signed by a clock far ahead: its ids close, and it sets no floor.
    assert_eq!(outcome(&mut host, &of_ids(&[2], 60 * MINUTE), NOW), Ok((1, true)));
    let floors = host.gate().status(NOW).revoked_before;
    assert_eq!(floors.unwrap_or_default(), v1::RevocationFloor::default());
}

#[test]
fn a_floor_far_ahead_ends_what_is_held_at_once_and_comes_into_force_in_steps() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    let ahead = signed_revocation(&revocation(5 * MINUTE));
    let refused = host.gate().revoke_signed(&ahead, "test", NOW).unwrap_err();
    assert_eq!(refused.refusal, Refusal::NotYetValid);
    assert!(refused.detail.contains("1 grant ended, and what was signed until"), "{refused}");
    assert!(!host.opens(0), "to close never waits");
    let floor = |host: &mut Host, now| host.gate().status(now).revoked_before.unwrap().all_ms;
    assert_eq!(floor(&mut host, NOW), NOW.wall.0 + MINUTE);
    let at = later(2 * MINUTE);
    assert_eq!(host.push_at(&issued(2, ANA, MINUTE), at), Err(Refusal::Revoked));
    host.push_at(&issued(3, ANA, 2 * MINUTE), at).unwrap();
    assert_eq!(host.gate().revoke_signed(&ahead, "test", at).unwrap_err().refusal, {
        Refusal::NotYetValid
    });
    assert_eq!(floor(&mut host, at), NOW.wall.0 + 3 * MINUTE);
    let at = later(4 * MINUTE);
    let revoked = host.gate().revoke_signed(&ahead, "test", at).unwrap();
    assert!(revoked.changed, "a minute ahead is the most, and it is");
    assert_eq!(floor(&mut host, at), NOW.wall.0 + 5 * MINUTE);
}

#[test]
fn a_clock_that_is_not_trusted_and_a_grant_that_waits_for_it_hold_up_nothing() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    host.push(&issued(2, BO, 0)).unwrap();
    host.gate().advance(later(5 * MINUTE));
    // A reboot with a clock an hour back: both grants wait, and nothing new is accepted.
    let back = Now { wall: WallTime(NOW.wall.0 - 60 * MINUTE), ..NOW };
    host.restart("boot-2", back);
    assert_eq!(host.push_at(&issued(3, ANA, 0), back), Err(Refusal::ClockUntrusted));
    assert_eq!(outcome(&mut host, &of(ANA, 0), back), Ok((1, true)));
    host.gate().advance(later(6 * MINUTE));
    let held = host.gate().list(false, later(6 * MINUTE));
    assert_eq!(held.len(), 1, "the other requester's is back");
    assert_eq!(host.push_at(&issued(1, ANA, 0), later(6 * MINUTE)), Err(Refusal::Revoked));
}

#[test]
fn every_flipped_bit_of_a_good_revocation_is_refused_and_changes_nothing() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    let before = state(&mut host, NOW);
    let good = signed_revocation(&revocation(0)).encode_to_vec();
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[index] ^= 1 << bit;
            let Ok(envelope) = v1::Envelope::decode(&*bytes) else { continue };
            let refused = host.gate().revoke_signed(&envelope, "test", NOW);
            assert!(refused.is_err(), "byte {index}, bit {bit}");
        }
    }
    assert_eq!(state(&mut host, NOW), before);
    assert_eq!(outcome(&mut host, &revocation(0), NOW), Ok((1, true)));
}

#[test]
fn what_was_encoded_again_is_refused() {
    let mut host = Host::with(REVOKER);
    let good = revocation(0).encode_to_vec();
    let unknown = [&good[..], &[0x98, 0x06, 1]].concat();
    let default = [&good[..], &[0x10, 0]].concat();
    let padded = {
        // The field `all`, with a varint of two bytes.
        let at = good.windows(2).position(|pair| pair == [0x28, 1]).unwrap();
        [&good[..at], &[0x28, 0x81, 0], &good[at + 2..]].concat()
    };
    for payload in [unknown, default, padded] {
        let envelope = sign(REVOCATION_TYPE, &payload, &[3]);
        let refused = host.gate().revoke_signed(&envelope, "test", NOW).unwrap_err();
        assert_eq!(refused.refusal, Refusal::Malformed, "{refused}");
    }
    // The same fields in another order have another signature.
    let at = good.windows(2).position(|pair| pair == [0x28, 1]).unwrap();
    let order = [&good[at..at + 2], &good[..at], &good[at + 2..]].concat();
    let envelope = v1::Envelope { payload: order.into(), ..signed_revocation(&revocation(0)) };
    let refused = host.gate().revoke_signed(&envelope, "test", NOW).unwrap_err();
    assert_eq!(refused.refusal, Refusal::BadSignature);
    assert!(host.gate().status(NOW).revoked_before.is_none_or(|floor| floor.all_ms == 0));
}

#[test]
fn missing_and_impossible_fields_are_refused_by_their_word() {
    let mut host = Host::with(REVOKER);
    let id = |byte: u8, length: usize| vec![vec![byte; length].into()];
    for (name, bad, word) in [
        ("no host", with(|one| one.hosts.clear()), Refusal::Malformed),
        ("an empty host", with(|one| one.hosts.push(String::new())), Refusal::Malformed),
        ("both", with(|one| one.every_host = true), Refusal::Malformed),
        ("nothing", with(|one| one.all = false), Refusal::Malformed),
        ("two", with(|one| one.requester = ANA.into()), Refusal::Malformed),
        ("three", with(|one| one.grant_ids = id(1, 16)), Refusal::Malformed),
        ("short id", with(|one| (one.all, one.grant_ids) = (false, id(1, 15))), Refusal::Malformed),
        ("zero id", with(|one| (one.all, one.grant_ids) = (false, id(0, 16))), Refusal::Malformed),
        ("twice", of_ids(&[1, 2, 1], 0), Refusal::Malformed),
        ("no time", with(|one| one.issued_before_ms = 0), Refusal::Malformed),
        ("no end", with(|one| one.keep_until_ms = one.issued_before_ms), Refusal::Malformed),
        ("author", with(|one| one.author.clear()), Refusal::Malformed),
        ("long author", with(|one| one.author = "x".repeat(257)), Refusal::Malformed),
        ("reason", with(|one| one.reason.clear()), Refusal::Malformed),
        ("long reason", with(|one| one.reason = "x".repeat(2049)), Refusal::Malformed),
        ("long requester", of(&"x".repeat(257), 0), Refusal::Malformed),
        ("another host", with(|one| one.hosts = vec!["web-2".into()]), Refusal::WrongHost),
        ("a star", with(|one| one.hosts = vec!["*".into()]), Refusal::WrongHost),
        (
            "ids",
            with(|one| {
                one.all = false;
                one.grant_ids =
                    (1..=4097_u128).map(|id| id.to_be_bytes().to_vec().into()).collect();
            }),
            Refusal::TooLarge,
        ),
    ] {
        let refused = revoke(&mut host, &bad, NOW).unwrap_err();
        assert_eq!(refused, word, "{name}");
    }
    assert!(host.gate().status(NOW).revoked_before.is_none_or(|floor| floor.all_ms == 0));
    let everywhere = with(|one| (one.hosts, one.every_host) = (vec![], true));
    assert_eq!(outcome(&mut host, &everywhere, NOW), Ok((0, true)));
    let among = with(|one| one.hosts = vec!["web-2".into(), HOST.into()]);
    assert_eq!(outcome(&mut host, &among, NOW), Ok((0, false)), "the same floor");
}

#[test]
fn a_key_for_revocations_can_do_nothing_else_and_no_other_key_can_do_that() {
    let release = "[[signer]]\nid = \"release\"\npublic_key = \"4.pem\"\nsigns = [\"policy\"]\n";
    let mut host = Host::with(&[REVOKER, release, CEILING].concat());
    let body = revocation(0).encode_to_vec();
    let mut send = |envelope: v1::Envelope| {
        host.gate().revoke_signed(&envelope, "test", NOW).map_err(|refused| refused.refusal)
    };
    for (seeds, word) in [
        (&[1][..], Refusal::UnknownKey),
        (&[1, 2], Refusal::UnknownKey),
        (&[4], Refusal::UnknownKey),
        (&[5], Refusal::BadSignature),
        (&[], Refusal::BadSignature),
    ] {
        assert_eq!(send(sign(REVOCATION_TYPE, &body, seeds)), Err(word), "{seeds:?}");
    }
    assert_eq!(send(sign(GRANT_TYPE, &body, &[3])), Err(Refusal::BadType));
    assert_eq!(send(sign(POLICY_TYPE, &body, &[3])), Err(Refusal::BadType));
    let crossed =
        v1::Envelope { payload_type: REVOCATION_TYPE.into(), ..sign(GRANT_TYPE, &body, &[3]) };
    assert_eq!(send(crossed), Err(Refusal::BadSignature));
    assert_eq!(send(envelope(&issued(1, ANA, 0))), Err(Refusal::BadType));
    // The bodies of the others under this type.
    let (grant, other) = (issued(1, ANA, 0).encode_to_vec(), policy(1, &[]).encode_to_vec());
    assert_eq!(send(sign(REVOCATION_TYPE, &grant, &[3])), Err(Refusal::Malformed));
    assert_eq!(send(sign(REVOCATION_TYPE, &other, &[3])), Err(Refusal::Malformed));
    // And the key under the other types.
    for body in [&grant, &body] {
        let pushed = host.gate().push(vec![sign(GRANT_TYPE, body, &[3])], "test", NOW).remove(0);
        assert_eq!(pushed.unwrap_err().refusal, Refusal::UnknownKey);
        let pushed = host.gate().push(vec![sign(REVOCATION_TYPE, body, &[3])], "test", NOW);
        assert_eq!(pushed[0].as_ref().unwrap_err().refusal, Refusal::BadType);
    }
    for body in [&other, &body] {
        let envelope = sign(POLICY_TYPE, body, &[3]);
        let push = PolicyPush { envelope, ..PolicyPush::default() };
        let refused = host.gate().push_policy(push, "test", NOW).unwrap_err();
        assert_eq!(refused.refusal, Refusal::UnknownKey);
    }
    // Beside a key that may, it counts for nothing: neither for a threshold nor for a port.
    let rdp = v1::Grant { ports: vec![crate::support::port(3389)], ..issued(5, ANA, 0) };
    let signed = sign(GRANT_TYPE, &rdp.encode_to_vec(), &[1, 3]);
    let pushed = host.gate().push(vec![signed], "test", NOW).remove(0);
    assert_eq!(pushed.unwrap_err().refusal, Refusal::ApprovalsMissing);
    assert!(!host.opens(0));
    assert!(host.gate().list(true, NOW).is_empty());
    // Beside keys that may not, one that may is enough.
    let envelope = sign(REVOCATION_TYPE, &body, &[1, 3]);
    assert!(host.gate().revoke_signed(&envelope, "test", NOW).unwrap().changed);
}

#[test]
fn the_window_of_the_key_holds() {
    for (limits, expected) in [
        ("not_before = \"2026-06-01T00:00:01Z\"", Err(Refusal::UnknownKey)),
        ("not_after = \"2026-06-01T00:00:00Z\"", Err(Refusal::UnknownKey)),
        ("not_before = \"2026-06-01T00:00:00Z\"\nnot_after = \"2026-06-01T00:00:01Z\"", Ok(true)),
    ] {
        let mut host = Host::with(&[REVOKER, limits, "\n"].concat());
        host.push(&issued(1, ANA, 0)).unwrap();
        let answer = revoke(&mut host, &revocation(0), NOW).map(|revoked| revoked.changed);
        assert_eq!(answer, expected, "{limits}");
        assert_eq!(host.opens(0), expected.is_err(), "{limits}");
    }
}

#[test]
fn the_audit_says_who_signed_what_and_is_not_flooded_by_replays() {
    let mut host = Host::with(REVOKER);
    host.push(&issued(1, ANA, 0)).unwrap();
    for _ in 0..100 {
        revoke(&mut host, &of(ANA, 0), NOW).unwrap();
        revoke(&mut host, &of_ids(&[7], 0), NOW).unwrap();
        revoke(&mut host, &with(|one| one.hosts = vec!["web-2".into()]), NOW).unwrap_err();
    }
    let records = host.records();
    let of_code =
        |code: &str| -> Vec<_> { records.iter().filter(|record| record["code"] == code).collect() };
    let signed = of_code("G011");
    assert_eq!(signed[0]["requester"], ANA);
    assert_eq!(signed[0]["signers"], serde_json::json!(["revoker"]));
    assert_eq!(signed[0]["author"], BO);
    assert_eq!(signed[0]["why"], "stolen key");
    assert_eq!(signed[0]["ended"], 1);
    assert_eq!(signed[0]["floor"], "2026-06-01T00:00:00Z");
    assert_eq!(signed[0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(signed[1]["ids"], 1);
    let refused = of_code("G012");
    assert_eq!(refused[0]["reason"], "wrong_host");
    assert_eq!((of_code("G010").len(), of_code("G006").len()), (1, 2));
    assert!(signed.len() < 100 && refused.len() < 100, "{} {}", signed.len(), refused.len());
}
