//! Policies in force at a gate with a real database: what they change, and what changes them.

use jit_agent::{
    gate::{PolicyPush, Target},
    kernel::datapath::memory::MemoryDatapath,
    rules::{
        clock::Now,
        commit::{MAX_JUMP, MAX_VERSION},
    },
};
use jit_common::PortKey;
use jit_proto::{Refusal, WallTime, payload_type::GRANT_TYPE, v1};
use prost::Message as _;

use crate::{
    policy_host::{CEILING, HTTP, Host, RDP, RELEASE, exemption, policy, seconds, section, signed},
    support::{MINUTE, NOW, SSH, envelope, grant, later, port, sign},
};

#[test]
fn a_diff_says_who_would_be_affected() {
    let exempt = "[[port]]\nport = 5432\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n\
        exempt = [{ source = \"10.0.0.5\", reason = \"probe\", owner = \"netops\" },\n\
        { source = \"10.0.0.6\", reason = \"over\", owner = \"x\", until = \"2026-05-31T00:00:00Z\" }]\n";
    let mut host = Host::with(&[exempt, RELEASE, CEILING].concat());
    let outcome = host.gate().push(vec![envelope(&grant(1, &["203.0.113.7"]))], "test", NOW);
    outcome[0].as_ref().unwrap();
    let mut proposal = policy(1, &[section(8080), section(5432)]);
    proposal.ports.remove(1);
    let answer = host.diff(&proposal);
    assert_eq!((answer.reason.as_str(), answer.detail.as_str()), ("ok", ""));
    let changes = answer.changes.unwrap();
    assert_eq!(changes.closed, [port(8080)]);
    assert_eq!(changes.opened, [port(3389)]);
    assert!(changes.confirm);
    let lost: Vec<_> = changes.exemptions_lost.iter().map(|lost| lost.exemption.clone()).collect();
    assert_eq!(lost, [Some(exemption("10.0.0.5", 0))], "the one that has ended is not lost");
    let changed: Vec<_> = changes.changed.iter().map(|port| port.what.join("; ")).collect();
    assert_eq!(
        changed[0],
        "sources 0.0.0.0/0,2001:db8::/32 -> 10.0.0.0/8; widest_v4 /8 -> /24; \
                            max_duration 3h -> 1h"
    );
    // 203.0.113.7 is not inside 10.0.0.0/8.
    let refused = &changes.grants[0];
    assert_eq!(
        (refused.reason.as_str(), refused.requester.as_str()),
        ("source_not_allowed", "ana@example.org")
    );
    // Nothing of it happened.
    assert!(host.is_armed(RDP) && !host.is_armed(HTTP));
    assert!(host.opens(SSH, "203.0.113.7", NOW) && host.version(NOW) == 0);
    assert_eq!(host.push(&proposal, NOW), Ok("pending".into()));
    let again = host.diff(&v1::Policy { version: 2, ..proposal }).changes.unwrap();
    assert!(again.closed.is_empty() && again.opened.is_empty() && again.changed.is_empty());
    assert!(again.confirm, "what waits is not confirmed by the next");
}

#[test]
fn live_grants_stay_until_their_end_unless_strict() {
    let mut host = Host::start();
    let mut admit = |id| {
        let grant = grant(id, &["203.0.113.7"]);
        host.gate().push(vec![envelope(&grant)], "test", NOW).remove(0).unwrap();
    };
    admit(1);
    assert_eq!(host.push(&policy(1, &[]), NOW), Ok("ok".into()));
    assert!(host.opens(SSH, "203.0.113.7", NOW), "10.0.0.0/8 is what new grants may open");
    host.restart("boot-1", seconds(1));
    assert!(host.opens(SSH, "203.0.113.7", seconds(1)), "a restart takes nothing away");
    let push =
        PolicyPush { envelope: signed(&policy(2, &[])), strict: true, ..PolicyPush::default() };
    // Also what an earlier policy shut out, without `strict`.
    assert_eq!(host.push_with(push, seconds(2)).unwrap().revoked, 1);
    assert!(!host.opens(SSH, "203.0.113.7", seconds(2)));
    let mut host = Host::start();
    let grant = grant(1, &["203.0.113.7"]);
    host.gate().push(vec![envelope(&grant)], "test", NOW).remove(0).unwrap();
    let push =
        PolicyPush { envelope: signed(&policy(1, &[])), strict: true, ..PolicyPush::default() };
    let answer = host.push_with(push, NOW).unwrap();
    assert_eq!((answer.revoked, answer.warning.as_str()), (1, ""));
    assert!(!host.opens(SSH, "203.0.113.7", NOW));
    let again = host.gate().push(vec![envelope(&grant)], "test", NOW).remove(0);
    assert_eq!(again.unwrap_err().refusal, Refusal::SourceNotAllowed);
}

#[test]
fn a_reload_never_opens_what_a_policy_closed() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    // A lower ceiling: what was accepted stays, and `status` reports it.
    let lower = [RELEASE, "[ceiling]\n"].concat();
    host.reload(&lower, seconds(2)).unwrap();
    assert!(host.is_armed(HTTP));
    let problems = host.gate().status(seconds(2)).problems;
    assert!(
        problems.iter().any(|line| line.contains("would not allow it any more")),
        "{problems:?}"
    );
    // A port that is new in the file is protected, though the policy does not know it.
    let more = "[[port]]\nport = 5900\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n";
    host.reload(&[more, RELEASE, CEILING].concat(), seconds(3)).unwrap();
    assert!(host.is_armed(PortKey { port: 5900, ..HTTP }) && host.is_armed(HTTP));
    // The key that signed it goes: it stays in force, also over a restart, and that is reported.
    let other = RELEASE.replace("3.pem", "4.pem");
    host.reload(&[&other, CEILING].concat(), seconds(4)).unwrap();
    host.restart("boot-1", seconds(5));
    assert!(host.is_armed(HTTP));
    let soon = host.gate().status(seconds(5)).soon;
    assert!(soon.iter().any(|line| line.contains("pushed again")), "{soon:?}");
    let push = PolicyPush { envelope: signed(&policy(2, &[])), ..PolicyPush::default() };
    assert_eq!(host.push_with(push, seconds(6)).unwrap_err().0, Refusal::BadSignature);
    // An invalid file changes nothing.
    assert!(host.reload("[ceiling]\n", seconds(7)).is_err(), "no key signs policies");
    assert!(host.is_armed(HTTP));
}

#[test]
fn a_port_that_asks_for_more_keys_than_are_left_is_reported() {
    let third = "[[signer]]\nid = \"third\"\npublic_key = \"4.pem\"\n";
    let mut host = Host::with(&[third, RELEASE, CEILING].concat());
    let mut strict = policy(1, &[]);
    strict.ports[0].approvals = 3;
    assert_eq!(host.push(&strict, NOW), Ok("ok".into()));
    let reported = |host: &mut Host| {
        let problems = host.gate().status(NOW).problems;
        problems.iter().any(|line| line.contains("no grant can open it"))
    };
    assert!(!reported(&mut host));
    host.reload(&[RELEASE, CEILING].concat(), seconds(1)).unwrap();
    assert!(reported(&mut host) && host.is_armed(SSH));
}

#[test]
fn a_damaged_database_does_not_open_what_a_policy_closed() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    host.gate = None;
    let state = host.directory.path().join("state");
    std::fs::write(state.join("grants.redb"), b"not a database").unwrap();
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", seconds(2));
    assert!(host.is_armed(HTTP));
    assert_eq!(host.push(&policy(1, &[]), seconds(3)), Err(Refusal::StaleVersion));
    // Both copies: every port that a policy may arm is closed, by the ceiling's own rules.
    host.gate = None;
    std::fs::write(state.join("grants.redb"), b"not a database").unwrap();
    std::fs::write(state.join("policy.copy"), b"nor a policy").unwrap();
    host.kernel = MemoryDatapath::default();
    host.restart("boot-3", seconds(4));
    assert!(host.is_armed(HTTP) && host.is_armed(SSH) && host.is_armed(RDP));
    assert!(host.is_armed(PortKey { port: 8001, ..HTTP }));
    let problems = host.gate().status(seconds(4)).problems;
    assert!(problems.iter().any(|line| line.contains("policy.copy")), "{problems:?}");
    host.push(&policy(9, &[]), seconds(5)).unwrap();
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH));
}

#[test]
fn exemptions_that_do_not_fit_change_nothing() {
    let limits = "[limits]\nhosts = 2\nprefixes = 1\n";
    let mut host = Host::with(&[RELEASE, CEILING, limits].concat());
    let exemptions = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|source| exemption(source, 0));
    let exempt = |count: usize| v1::PolicyPort {
        exemptions: exemptions.iter().take(count).cloned().collect(),
        ..section(8080)
    };
    host.push(&policy(1, &[exempt(2)]), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    assert_eq!(host.push(&policy(2, &[exempt(3)]), seconds(2)), Err(Refusal::Capacity));
    for _ in 0..2 {
        assert!(
            host.opens(HTTP, "10.0.0.2", seconds(2)) && !host.opens(HTTP, "10.0.0.3", seconds(2))
        );
        assert_eq!(host.version(seconds(2)), 1);
        host.restart("boot-1", seconds(2));
    }
    // A policy that returns does so even when grants have taken its exemptions' places.
    assert_eq!(host.push(&policy(3, &[section(8080)]), seconds(3)), Ok("pending".into()));
    let mut grant = grant(1, &["10.0.0.9"]);
    grant.ports = vec![port(8080)];
    host.gate().push(vec![envelope(&grant)], "test", seconds(3)).remove(0).unwrap();
    host.gate().advance(seconds(123));
    assert_eq!(host.version(seconds(123)), 1);
    assert!(host.opens(HTTP, "10.0.0.1", seconds(123)));
}

#[test]
fn a_scheduled_grant_is_asked_again_at_a_reload_and_when_it_begins() {
    let keys = "[[signer]]\nid = \"old\"\npublic_key = \"3.pem\"\n\
                not_after = \"2026-06-01T00:30:00Z\"\n";
    let scheduled = |id, begins: i64| {
        let mut grant = grant(id, &["203.0.113.7"]);
        grant.not_before_ms += begins * MINUTE;
        grant.not_after_ms = grant.not_before_ms + MINUTE;
        sign(GRANT_TYPE, &grant.encode_to_vec(), &[3])
    };
    let mut host = Host::with(keys);
    let live = sign(GRANT_TYPE, &grant(9, &["203.0.113.9"]).encode_to_vec(), &[3]);
    for envelope in [live, scheduled(1, 10), scheduled(2, 29), scheduled(3, 30)] {
        host.gate().push(vec![envelope], "test", NOW).remove(0).unwrap();
    }
    assert_eq!(host.gate().list(true, NOW).len(), 4);
    // Begins while the key counts: it opens. At the very end of the key's window: not.
    for (minute, opens) in [(10, true), (29, true), (30, false)] {
        host.gate().advance(later(minute * MINUTE));
        assert_eq!(host.opens(SSH, "203.0.113.7", later(minute * MINUTE)), opens, "{minute}");
        host.gate().advance(later(minute * MINUTE + MINUTE - 1));
    }
    // Rotation: the key goes, live grants stay, scheduled ones go with it.
    let mut host = Host::with(keys);
    let live = sign(GRANT_TYPE, &grant(9, &["203.0.113.9"]).encode_to_vec(), &[3]);
    for envelope in [live, scheduled(1, 10)] {
        host.gate().push(vec![envelope], "test", NOW).remove(0).unwrap();
    }
    host.reload("", seconds(1)).unwrap();
    let left = host.gate().list(true, seconds(1));
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].signed().unwrap().id.as_ref(), [9; 16]);
    assert!(host.opens(SSH, "203.0.113.9", seconds(1)));
    let fresh = host.gate().push(vec![scheduled(4, 0)], "test", seconds(1)).remove(0);
    assert_eq!(fresh.unwrap_err().refusal, Refusal::BadSignature);
    host.restart("boot-1", seconds(2));
    host.gate().advance(later(10 * MINUTE));
    assert!(!host.opens(SSH, "203.0.113.7", later(10 * MINUTE)), "gone from the disk as well");
    // With the key back it may be pushed again: it was never revoked.
    host.reload(keys, later(10 * MINUTE)).unwrap();
    host.gate().push(vec![scheduled(1, 10)], "test", later(10 * MINUTE)).remove(0).unwrap();
}

#[test]
fn a_dated_exemption_ends_on_time_also_when_the_clock_was_wrong() {
    let exempt = "[[port]]\nport = 5432\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n\
        exempt = [{ source = \"10.0.0.5\", reason = \"probe\", owner = \"netops\", \
        until = \"2026-06-01T01:00:00Z\" }]\n";
    let database = PortKey { port: 5432, ..HTTP };
    let mut host = Host::with(exempt);
    assert!(host.opens(database, "10.0.0.5", later(60 * MINUTE - 1)));
    assert!(!host.opens(database, "10.0.0.5", later(60 * MINUTE)));
    let shown = host.gate().status(NOW);
    let of_port = &shown.ports.iter().find(|port| !port.exemptions.is_empty()).unwrap().exemptions;
    assert_eq!(of_port[0].owner, "netops");
    // The clock was half an hour behind: set right, the exemption ends half an hour sooner.
    let set = Now { wall: WallTime(NOW.wall.0 + 30 * MINUTE), ..NOW };
    host.gate().advance(set);
    assert!(host.opens(database, "10.0.0.5", later(30 * MINUTE - 1)));
    assert!(!host.opens(database, "10.0.0.5", later(30 * MINUTE)));
    // Set back, it does not end later; a clock behind its floor makes nothing longer at a start.
    host.gate().advance(seconds(1));
    assert!(!host.opens(database, "10.0.0.5", later(30 * MINUTE)));
    host.restart("boot-1", seconds(2));
    assert!(!host.opens(database, "10.0.0.5", later(31 * MINUTE)));
}

/// One mistake, or one stolen key, must not use up all versions.
#[test]
fn a_version_far_above_all_before_is_refused() {
    let mut host = Host::start();
    for version in [u64::MAX, MAX_VERSION + 1, MAX_JUMP + 1] {
        assert_eq!(host.push(&policy(version, &[]), NOW), Err(Refusal::Malformed), "{version}");
        let answer = host.diff(&policy(version, &[]));
        assert!(answer.detail.contains("too high"), "{}", answer.detail);
    }
    // A time in milliseconds, and one that people write.
    for version in [1_780_272_000_000, 20_260_601_120_000] {
        assert_eq!(host.push(&policy(version, &[]), NOW), Ok("ok".into()), "{version}");
    }
}

#[test]
fn root_sets_the_floor_of_versions_back_and_it_holds_over_a_restart() {
    let mut host = Host::start();
    assert_eq!(host.push(&policy(MAX_JUMP, &[]), NOW), Ok("ok".into()));
    assert_eq!(host.push(&policy(8, &[]), NOW), Err(Refusal::StaleVersion));
    for version in [0, MAX_VERSION + 1] {
        let refused = host.gate().set_policy_floor(version, "local uid 0", NOW).unwrap_err();
        assert_eq!(refused.refusal, Refusal::Malformed);
    }
    let answer = host.gate().set_policy_floor(7, "local uid 0", NOW).unwrap();
    assert_eq!(answer.previous, MAX_JUMP);
    assert_eq!(host.version(NOW), MAX_JUMP, "the policy in force stays");
    for boot in ["boot-1", "boot-2"] {
        host.restart(boot, seconds(1));
        assert_eq!(host.gate().show_policy(NOW).state.unwrap().highest_version, 7, "{boot}");
        assert_eq!(host.push(&policy(7, &[]), seconds(1)), Err(Refusal::StaleVersion));
    }
    assert_eq!(host.push(&policy(8, &[]), seconds(1)), Ok("ok".into()));
    assert_eq!(host.version(seconds(1)), 8);
    let audit = host.directory.path().join("state/audit/audit.jsonl");
    let text = std::fs::read_to_string(audit).unwrap();
    let record = text.lines().find(|line| line.contains("P006")).unwrap();
    let record: serde_json::Value = serde_json::from_str(record).unwrap();
    assert_eq!((&record["version"], &record["previous"]), (&7.into(), &MAX_JUMP.into()));
    assert_eq!(record["by"], "local uid 0");
}

/// What `status` says of a grant, and whether it names it in a problem.
fn outside(host: &mut Host, now: Now) -> (String, bool) {
    let status = host.gate().status(now);
    let named = |line: &String| line.contains("--end-outside");
    let outside = status.grants.first().map(|state| state.outside.clone());
    (outside.unwrap_or_default(), status.problems.iter().any(named))
}

#[test]
fn an_open_grant_outside_the_present_configuration_is_shown_until_it_ends() {
    let narrow = "sources = [\"10.0.0.0/8\"]";
    let section = |keys: &str| {
        format!(
            "[[port]]\nport = 5900\nprotocol = \"tcp\"\n{keys}\n[[signer]]\nid = \"third\"\npublic_key = \"3.pem\"\n"
        )
    };
    let wide = section("sources = [\"0.0.0.0/0\"]");
    for (after, word) in [
        (section(narrow), "source_not_allowed"),
        (section("sources = [\"0.0.0.0/0\"]\nmax_duration = \"1m\""), "lifetime"),
        (section("sources = [\"0.0.0.0/0\"]\napprovals = 2"), "approvals_missing"),
        ("[[signer]]\nid = \"third\"\npublic_key = \"3.pem\"\n".into(), "port_not_protected"),
        (wide.replace("3.pem", "4.pem"), "unknown_key"),
    ] {
        let mut host = Host::with(&wide);
        let grant = v1::Grant { ports: vec![port(5900)], ..grant(1, &["203.0.113.7"]) };
        let envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), &[3]);
        host.gate().push(vec![envelope], "test", NOW).remove(0).unwrap();
        assert_eq!(outside(&mut host, NOW), (String::new(), false));
        host.reload(&after, NOW).unwrap();
        let (text, problem) = outside(&mut host, NOW);
        assert!(text.starts_with(word) && problem, "{word}: {text}");
        // A removed key's grants end at a start; the others stay, and are shown again.
        host.restart("boot-1", seconds(1));
        if word == "unknown_key" {
            assert!(host.gate().list(false, seconds(1)).is_empty());
        } else {
            let (text, problem) = outside(&mut host, seconds(1));
            assert!(text.starts_with(word) && problem, "{word}: {text}");
            host.gate().revoke(&Target::All, "test", "", seconds(2));
        }
        let problems = host.gate().status(seconds(2)).problems;
        assert!(!problems.iter().any(|line| line.contains("--end-outside")), "{problems:?}");
        // What the file allows again is not outside.
        let mut host = Host::with(&wide);
        let envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), &[3]);
        host.gate().push(vec![envelope], "test", NOW).remove(0).unwrap();
        host.reload(&after, NOW).unwrap();
        host.reload(&wide, NOW).unwrap();
        assert_eq!(outside(&mut host, NOW), (String::new(), false), "{word}");
    }
}

/// A push that timed out is repeated: the same policy, with `strict`, ends what it would refuse.
#[test]
fn strict_also_ends_what_the_policy_in_force_refuses_already() {
    let mut host = Host::start();
    let grant = grant(1, &["203.0.113.7"]);
    host.gate().push(vec![envelope(&grant)], "test", NOW).remove(0).unwrap();
    assert_eq!(host.push(&policy(1, &[]), NOW), Ok("ok".into()));
    assert!(outside(&mut host, NOW).1);
    let push =
        PolicyPush { envelope: signed(&policy(1, &[])), strict: true, ..PolicyPush::default() };
    let answer = host.push_with(push, seconds(1)).unwrap();
    assert_eq!((answer.reason.as_str(), answer.revoked), ("known", 1));
    assert!(!host.opens(SSH, "203.0.113.7", seconds(1)));
}
