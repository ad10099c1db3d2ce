//! Checkpoints: what a host says of a hub that withholds, forks, rolls back and replays.

use jit_agent::{
    gate::Asked,
    rules::{clock::Now, freshness::Proof, ledger::Admission},
};
use jit_proto::{
    GrantId, Refusal, WallTime, mailbox,
    merkle::{self, Hash},
    payload_type::{CHECKPOINT_TYPE, GRANT_TYPE, REVOCATION_TYPE},
    v1,
};
use prost::Message as _;

use crate::{
    host::Host,
    support::{HOST, MINUTE, NOW, grant, later, revocation, sign, signed_revocation, try_config},
};

const KEYS: &str = "[[signer]]\nid = \"fresh\"\npublic_key = \"4.pem\"\nsigns = [\"checkpoint\"]\n\
                    [[signer]]\nid = \"revoker\"\npublic_key = \"3.pem\"\nsigns = [\"revocation\"]\n";
const SECOND: i64 = 1_000;

fn reporting() -> Host {
    Host::with(&format!("{KEYS}[freshness]\n"))
}

fn refusing() -> Host {
    Host::with(&format!("{KEYS}[freshness]\non_stale = \"refuse_new\"\n"))
}

fn of_grant(grant: &v1::Grant) -> Hash {
    mailbox::item(GRANT_TYPE, &grant.encode_to_vec())
}

fn of_revocation(one: &v1::Revocation) -> Hash {
    mailbox::item(REVOCATION_TYPE, &one.encode_to_vec())
}

fn ended(id: u8) -> Hash {
    mailbox::ended(GrantId([id; 16]))
}

/// A checkpoint of this host with these items and of another one, made at a time.
struct Point {
    message: v1::Checkpoint,
    items: Vec<Hash>,
    proof: Proof,
}

fn point(number: u64, millis: i64, items: &[Hash]) -> Point {
    let mut items = items.to_vec();
    items.sort_unstable();
    let own = mailbox::leaf(HOST, &mailbox::digest(items.iter()));
    let other = mailbox::leaf("web-2", &[9; 32]);
    let message = v1::Checkpoint {
        epoch: 1,
        number,
        issued_at_ms: NOW.wall.0 + millis,
        valid_for_ms: 25_000,
        root: merkle::node(&own, &other).to_vec().into(),
        hosts: 2,
    };
    Point { message, items, proof: Proof { index: 0, path: vec![other] } }
}

impl Point {
    fn asked(&self, listed: bool) -> Asked {
        Asked {
            envelope: sign(CHECKPOINT_TYPE, &self.message.encode_to_vec(), &[4]),
            proof: self.proof.clone(),
            list: listed.then(|| self.items.clone()),
        }
    }
}

fn compare(host: &mut Host, asked: Asked, now: Now) -> Result<(String, u32), Refusal> {
    let compared = host.gate().compare(asked, "test", now);
    compared.map(|one| (one.standing, one.missing)).map_err(|refused| refused.refusal)
}

/// What the host says first, and of the list if it asks for it.
fn brought(host: &mut Host, point: &Point, millis: i64) -> (String, u32) {
    let now = later(millis);
    let first = compare(host, point.asked(false), now).unwrap();
    if first.0 != "list_wanted" {
        return first;
    }
    compare(host, point.asked(true), now).unwrap()
}

fn says(host: &mut Host, millis: i64) -> String {
    host.gate().status(later(millis)).freshness.unwrap().state
}

/// The words of its problems.
fn words(host: &mut Host, millis: i64) -> Vec<String> {
    let problems = host.gate().status(later(millis)).problems;
    let word = |text: &String| text.rsplit_once('[').map(|(_, word)| word.replace(']', ""));
    let own = ["frozen", "withheld", "forked", "rolled_back"];
    problems.iter().filter_map(word).filter(|word| own.contains(&word.as_str())).collect()
}

fn word(text: &str) -> (String, u32) {
    (text.to_owned(), 0)
}

fn missing(number: u32) -> (String, u32) {
    ("missing".to_owned(), number)
}

#[test]
fn with_all_that_was_signed_and_ended_the_digest_agrees_without_a_list() {
    let mut host = reporting();
    let (open, gone) = (grant(1, &["203.0.113.7"]), grant(2, &["203.0.113.8"]));
    host.push(&open).unwrap();
    host.push(&gone).unwrap();
    assert_eq!(
        brought(&mut host, &point(1, 0, &[of_grant(&open), of_grant(&gone)]), 0),
        word("complete")
    );
    let one =
        v1::Revocation { all: false, grant_ids: vec![vec![2; 16].into()], ..revocation(SECOND) };
    host.gate().revoke_signed(&signed_revocation(&one), "test", later(SECOND)).unwrap();
    let after = [of_grant(&open), ended(2), of_revocation(&one)];
    assert_eq!(brought(&mut host, &point(2, SECOND, &after), SECOND), word("complete"));
    assert_eq!(says(&mut host, SECOND), "fresh");
    assert_eq!(words(&mut host, SECOND), [""; 0]);
    // The grant's end comes, then the revocation's.
    let end = 10 * MINUTE;
    assert_eq!(brought(&mut host, &point(3, end - 1, &after), end - 1), word("complete"));
    assert_eq!(brought(&mut host, &point(4, end, &[of_revocation(&one)]), end), word("complete"));
}

#[test]
fn a_withheld_grant_revocation_or_end_is_said_after_five_seconds_until_it_comes() {
    let open = grant(1, &["203.0.113.7"]);
    let signed = revocation(0);
    for (what, withheld) in [
        ("grant", of_grant(&grant(2, &["203.0.113.8"]))),
        ("revocation", of_revocation(&signed)),
        ("end", ended(1)),
    ] {
        let mut host = reporting();
        host.push(&open).unwrap();
        let own = if what == "end" { Vec::new() } else { vec![of_grant(&open)] };
        let items = [own, vec![withheld]].concat();
        assert_eq!(brought(&mut host, &point(1, 0, &items), 0), missing(1), "{what}");
        assert_eq!(words(&mut host, 5 * SECOND), [""; 0], "{what}: it may be on its way");
        assert_eq!(words(&mut host, 5 * SECOND + 1), ["withheld"], "{what}");
        let status = host.gate().status(later(6 * SECOND));
        assert_eq!((status.state.as_str(), status.freshness.unwrap().missing), ("degraded", 1));
        let now = later(7 * SECOND);
        match what {
            "grant" => drop(host.push_at(&grant(2, &["203.0.113.8"]), now).unwrap()),
            "revocation" => {
                host.gate().revoke_signed(&signed_revocation(&signed), "test", now).unwrap();
            }
            _ => drop(host.gate().revoke(
                &jit_agent::gate::Target::Ids(vec![GrantId([1; 16])]),
                "test",
                "x",
                now,
            )),
        }
        assert_eq!(brought(&mut host, &point(2, 8 * SECOND, &items), 8 * SECOND), word("complete"));
        assert_eq!(words(&mut host, 8 * SECOND), [""; 0], "{what}");
    }
}

#[test]
fn everything_withheld_and_a_replay_are_frozen() {
    let mut host = reporting();
    assert_eq!(words(&mut host, 30 * SECOND), [""; 0]);
    assert_eq!(words(&mut host, 30 * SECOND + 1), ["frozen"], "none ever came");
    let first = point(1, 31 * SECOND, &[]);
    assert_eq!(brought(&mut host, &first, 31 * SECOND), word("complete"));
    assert_eq!(words(&mut host, 56 * SECOND), [""; 0]);
    for again in 0..3 {
        let millis = (57 + again) * SECOND;
        assert_eq!(brought(&mut host, &first, millis), word("known"));
        assert_eq!(words(&mut host, millis), ["frozen"]);
    }
    assert_eq!(says(&mut host, 60 * SECOND), "frozen");
    host.gate().check_attachments(later(60 * SECOND));
    let raised = host.records();
    let alarm = raised.iter().find(|one| one["code"] == "S003").expect("an alarm");
    assert_eq!(alarm["alarm"], "frozen");
}

#[test]
fn a_fork_and_an_earlier_one_are_recorded_and_said_for_an_hour() {
    let mut host = reporting();
    let one = point(5, 0, &[]);
    assert_eq!(brought(&mut host, &one, 0), word("complete"));
    let other = point(5, 0, &[[1; 32]]);
    assert_eq!(compare(&mut host, other.asked(false), NOW), Ok(word("forked")));
    let earlier = point(4, 0, &[]);
    assert_eq!(compare(&mut host, earlier.asked(false), NOW), Ok(word("rolled_back")));
    let freshness = host.gate().status(NOW).freshness.unwrap();
    let said = (freshness.number, freshness.contradictions, freshness.contradiction.as_str());
    assert_eq!(said, (5, 2, "rolled_back"), "the first one stays");
    assert_eq!(words(&mut host, 0), ["rolled_back"]);
    let records = host.records();
    let codes = records.iter().filter(|one| one["code"] == "F001");
    let reasons: Vec<_> = codes.map(|one| one["reason"].as_str().unwrap().to_owned()).collect();
    assert_eq!(reasons, ["forked", "rolled_back"]);
    for (number, millis) in (6..).zip((10 * SECOND..=60 * MINUTE).step_by(20_000)) {
        let next = point(number, millis, &[]);
        assert_eq!(brought(&mut host, &next, millis), word("complete"));
    }
    assert_eq!(words(&mut host, 60 * MINUTE - 1), ["rolled_back"]);
    assert_eq!(words(&mut host, 60 * MINUTE), [""; 0]);
}

#[test]
fn after_a_restart_what_is_stored_has_arrived_and_no_earlier_checkpoint_is_taken() {
    let mut host = reporting();
    let (open, gone) = (grant(1, &["203.0.113.7"]), grant(2, &["203.0.113.8"]));
    host.push(&open).unwrap();
    host.push(&gone).unwrap();
    let target = jit_agent::gate::Target::Ids(vec![GrantId([2; 16])]);
    host.gate().revoke(&target, "test", "x", NOW);
    let items = [of_grant(&open), ended(2)];
    assert_eq!(brought(&mut host, &point(7, 0, &items), 0), word("complete"));
    host.gate().stop("test", NOW);
    for boot in ["boot-1", "boot-2"] {
        host.restart(boot, later(SECOND));
        let earlier = point(6, SECOND, &items);
        assert_eq!(
            compare(&mut host, earlier.asked(false), later(SECOND)),
            Ok(word("rolled_back")),
            "{boot}"
        );
        assert_eq!(brought(&mut host, &point(7, 0, &items), SECOND), word("complete"), "{boot}");
    }
}

#[test]
fn a_grant_that_the_host_refuses_has_arrived_and_one_that_nobody_trusts_has_not() {
    let mut host = reporting();
    let refused = v1::Grant { ports: vec![crate::support::port(80)], ..grant(1, &["203.0.113.7"]) };
    assert_eq!(host.push(&refused), Err(Refusal::PortNotProtected));
    let strange = grant(2, &["203.0.113.7"]);
    let false_one = sign(GRANT_TYPE, &strange.encode_to_vec(), &[4]);
    let outcome = host.gate().push(vec![false_one], "test", NOW).remove(0);
    assert_eq!(outcome.map_err(|refused| refused.refusal).err(), Some(Refusal::UnknownKey));
    let items = [of_grant(&refused), of_grant(&strange)];
    assert_eq!(brought(&mut host, &point(1, 0, &items), 0), missing(1));
    // What a floor refused counts as ended.
    host.gate().revoke_signed(&signed_revocation(&revocation(0)), "test", NOW).unwrap();
    assert_eq!(host.push(&grant(3, &["203.0.113.9"])), Err(Refusal::Revoked));
    let items = [of_grant(&refused), ended(3), of_revocation(&revocation(0))];
    assert_eq!(brought(&mut host, &point(2, 0, &items), 0), word("complete"));
}

#[test]
fn only_a_key_for_checkpoints_signs_one_and_a_host_without_freshness_takes_none() {
    let mut host = reporting();
    let one = point(1, 0, &[]);
    for (seed, expected) in [(1, Refusal::UnknownKey), (3, Refusal::UnknownKey)] {
        let forged = sign(CHECKPOINT_TYPE, &one.message.encode_to_vec(), &[seed]);
        let asked = Asked { envelope: forged, ..one.asked(false) };
        assert_eq!(compare(&mut host, asked, NOW), Err(expected));
    }
    let as_grant = sign(GRANT_TYPE, &one.message.encode_to_vec(), &[4]);
    let asked = Asked { envelope: as_grant, ..one.asked(false) };
    assert_eq!(compare(&mut host, asked, NOW), Err(Refusal::BadType));
    // The key opens nothing and closes nothing.
    let opens = sign(GRANT_TYPE, &grant(1, &["203.0.113.7"]).encode_to_vec(), &[4]);
    let outcome = host.gate().push(vec![opens], "test", NOW).remove(0);
    assert_eq!(outcome.err().map(|refused| refused.refusal), Some(Refusal::UnknownKey));
    let closes = sign(REVOCATION_TYPE, &revocation(0).encode_to_vec(), &[4]);
    let closed = host.gate().revoke_signed(&closes, "test", NOW);
    assert_eq!(closed.err().map(|refused| refused.refusal), Some(Refusal::UnknownKey));
    let ahead = point(2, 61 * SECOND, &[]);
    assert_eq!(compare(&mut host, ahead.asked(false), NOW), Err(Refusal::NotYetValid));
    assert_eq!(host.gate().status(NOW).freshness.unwrap().number, 0, "none was taken");
    let mut without = Host::with(KEYS);
    assert_eq!(compare(&mut without, one.asked(false), NOW), Err(Refusal::NotPermitted));
    assert_eq!(without.gate().status(NOW).freshness, None);
}

#[test]
fn the_configuration_needs_a_key_that_signs_checkpoints_and_nothing_else() {
    let why = |extra: &str| try_config(extra).err().unwrap_or_default();
    assert_eq!(why(&format!("{KEYS}[freshness]\n")), "");
    assert!(why("[freshness]\n").contains("signs = [\"checkpoint\"]"));
    let both = KEYS.replacen("[\"checkpoint\"]", "[\"checkpoint\", \"revocation\"]", 1);
    assert!(why(&both).contains("signs nothing else"), "{}", why(&both));
    let other = format!("{KEYS}[freshness]\non_stale = \"open\"\n");
    assert!(why(&other).contains("on_stale"), "{}", why(&other));
}

#[test]
fn where_nothing_stale_may_open_a_late_grant_does_not_unless_the_list_awaits_it() {
    let mut host = refusing();
    let issued = |id: u8, millis: i64| v1::Grant {
        issued_at_ms: NOW.wall.0 + millis,
        ..grant(id, &["203.0.113.7"])
    };
    let (early, late) = (issued(1, 0), issued(2, 0));
    assert_eq!(host.push(&early), Ok(Admission::Active), "no checkpoint is due yet");
    // The second one was revoked before the host saw it, and its end is withheld with the list.
    let one = point(1, SECOND, &[of_grant(&early)]);
    assert_eq!(brought(&mut host, &one, SECOND), word("complete"));
    assert_eq!(host.push_at(&late, later(SECOND)), Err(Refusal::Stale));
    assert_eq!(host.push_at(&early, later(SECOND)), Ok(Admission::Known));
    let new = issued(3, 2 * SECOND);
    assert_eq!(host.push_at(&new, later(2 * SECOND)), Ok(Admission::Active));
    // One that the list awaits comes late, and opens.
    let awaited = issued(4, 0);
    let items = [of_grant(&early), of_grant(&new), of_grant(&awaited)];
    assert_eq!(brought(&mut host, &point(2, 10 * SECOND, &items), 10 * SECOND), missing(1));
    assert_eq!(host.push_at(&late, later(11 * SECOND)), Err(Refusal::Stale));
    assert_eq!(host.push_at(&awaited, later(20 * SECOND)), Ok(Admission::Active));
    // Without a fresh checkpoint nothing new opens, whenever it was signed.
    let newest = issued(5, 60 * SECOND);
    assert_eq!(host.push_at(&newest, later(60 * SECOND)), Err(Refusal::Stale));
    assert_eq!(WallTime(newest.issued_at_ms), later(60 * SECOND).wall);
    let mut lax = reporting();
    assert_eq!(lax.push_at(&newest, later(60 * SECOND)), Ok(Admission::Active), "it only says so");
}

#[test]
fn a_list_that_is_not_the_checkpoints_is_none() {
    let mut host = reporting();
    let open = grant(1, &["203.0.113.7"]);
    host.push(&open).unwrap();
    let one = point(1, 0, &[of_grant(&open), [7; 32]]);
    assert_eq!(compare(&mut host, one.asked(false), NOW), Ok(word("list_wanted")));
    let short = Asked { list: Some(vec![of_grant(&open)]), ..one.asked(false) };
    assert_eq!(compare(&mut host, short, NOW), Ok(missing(0)), "a hub that leaves one out");
    assert_eq!(words(&mut host, 6 * SECOND), ["withheld"]);
}
