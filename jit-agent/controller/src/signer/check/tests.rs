use serde_json::json;

use super::*;
use crate::model::{Needs, Proposal, proposal::tests::ssh};

const NOW: i64 = 1_803_888_060_000;

fn id_at(ms: i64, last: u8) -> GrantId {
    let [_, _, a, b, c, d, e, f] = ms.to_be_bytes();
    GrantId([a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

fn proposal() -> Proposal {
    Proposal { id: id_at(ssh().created_ms, 1).to_string(), ..ssh() }
}

fn decision(subject: &str) -> Decision {
    Decision {
        request: proposal().id,
        subject: subject.into(),
        account: subject.into(),
        ruling: Ruling::Approve,
        groups: ["sre".to_owned()].into(),
        reason: String::new(),
        hash: proposal().hash(),
        at_ms: NOW - 1000,
    }
}

/// Li of `sre` has agreed to Ana's request.
fn agreed() -> SignRequest {
    let verdict = json!({
        "rules_version": 1,
        "outcome": "manual",
        "needs": { "sre": 1 },
        "max_duration_ms": null,
        "rules": [{
            "id": "ssh", "effect": "permit", "action": "initiate", "reason": "", "asks": ["1 of sre"],
            "hosts": ["web-1"], "hosts_total": 1,
        }],
        "denied": [],
    });
    let mut request = SignRequest {
        proposal: proposal(),
        verdict: serde_json::from_value(verdict).unwrap(),
        decisions: vec![decision("li@example.org")],
        approved_ms: NOW - 1000,
        approvers: vec!["li@example.org".into()],
        replaces: Vec::new(),
        number: 0,
        payload: Vec::new(),
        shortens: None,
    };
    remade(&mut request);
    request
}

/// Makes the payload of what the request says now.
fn remade(request: &mut SignRequest) {
    let replaces: Vec<_> = request.replaces.iter().map(|id| id.parse().unwrap()).collect();
    let SignRequest { proposal, approvers, approved_ms, .. } = request;
    let parts = grant::parts(proposal, approvers, &replaces, *approved_ms).unwrap();
    request.payload = parts[request.number].payload.clone();
}

fn check(request: &SignRequest) -> Result<Passed, Refused> {
    grant(request, &Limits::default(), NOW)
}

/// The word with which the request is refused after this change.
fn word(change: impl FnOnce(&mut SignRequest)) -> &'static str {
    let mut request = agreed();
    change(&mut request);
    check(&request).map(|_| ()).map_err(|refused| refused.word).unwrap_err()
}

#[test]
fn what_was_agreed_to_passes() {
    let passed = check(&agreed()).unwrap();
    assert_eq!(passed.part.payload, agreed().payload);
    assert_eq!(passed.part.id.to_string(), proposal().id);
    assert!(passed.narrows.is_none());
}

#[test]
fn a_payload_that_was_changed_after_the_approval_is_refused() {
    type Change = fn(&mut v1::Grant);
    let changes: [Change; 11] = [
        |g| g.hosts.push("db-1".into()),
        |g| g.sources[0].prefix_length = 24,
        |g| g.ports[0].last = 443,
        |g| g.not_after_ms += 1,
        |g| g.not_before_ms -= 1,
        |g| g.issued_at_ms += 1,
        |g| g.requester.push('x'),
        |g| g.approvers.clear(),
        |g| g.justification.push('x'),
        |g| g.max_connections = 1,
        |g| g.replaces = vec![1; 16].into(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let changed = word(|request| {
            let mut grant = v1::Grant::decode(request.payload.as_slice()).unwrap();
            change(&mut grant);
            request.payload = grant.encode_to_vec();
        });
        assert_eq!(changed, "payload_differs", "{number}");
    }
    assert_eq!(word(|request| request.payload.push(0)), "payload_differs");
    assert_eq!(word(|request| request.payload.clear()), "payload_differs");
    assert_eq!(word(|request| request.number = 1), "payload_differs");
}

#[test]
fn a_proposal_that_was_changed_after_the_approval_is_refused() {
    let changed = word(|request| {
        request.proposal.ports = vec!["3389".parse().unwrap()];
        remade(request);
    });
    assert_eq!(changed, "hash_differs");
}

#[test]
fn a_replayed_decision_is_refused() {
    let other = id_at(ssh().created_ms, 2).to_string();
    assert_eq!(word(|request| request.decisions[0].request = other.clone()), "other_request");
    assert_eq!(word(|request| request.decisions[0].hash = "0".repeat(64)), "hash_differs");
    // The whole request again under another id, with the old decision.
    let again = word(|request| {
        request.proposal.id = other.clone();
        remade(request);
    });
    assert_eq!(again, "other_request");
}

#[test]
fn nobody_approves_himself_with_a_second_account() {
    let own = word(|request| {
        let admin = Decision { account: "ana-admin".into(), ..decision("ana@example.org") };
        request.decisions = vec![admin];
        request.approvers = vec!["ana@example.org".into()];
        remade(request);
    });
    assert_eq!(own, "self_approval");
    // Nor beside somebody else.
    assert_eq!(
        word(|request| request.decisions.push(decision("ana@example.org"))),
        "self_approval"
    );
}

#[test]
fn who_must_agree_is_counted_again() {
    assert_eq!(word(|request| request.decisions.clear()), "approval_missing");
    let two = Needs([("sre".to_owned(), 2)].into());
    assert_eq!(word(|request| request.verdict.needs = two.clone()), "approval_missing");
    let twice = word(|request| {
        request.verdict.needs = two.clone();
        let second = Decision { account: "li-admin".into(), ..decision("li@example.org") };
        request.decisions.push(second);
    });
    assert_eq!(twice, "approval_missing");
    assert_eq!(word(|request| request.verdict.needs = Needs::default()), "approval_missing");
    let elsewhere = ["dba".to_owned()].into();
    assert_eq!(word(|request| request.decisions[0].groups = elsewhere), "approval_missing");
    let no = word(|request| {
        request.decisions.push(Decision { ruling: Ruling::Deny, ..decision("bo") });
    });
    assert_eq!(no, "denied");
    let huge = Needs([("a".to_owned(), u32::MAX), ("b".to_owned(), u32::MAX)].into());
    assert_eq!(word(|request| request.verdict.needs = huge), "malformed");
}

#[test]
fn a_grant_names_those_who_have_agreed_and_nobody_else() {
    for approvers in
        [&[][..], &["bo"], &["li@example.org", "bo"], &["li@example.org", "li@example.org"]]
    {
        let named = word(|request| {
            request.approvers = approvers.iter().map(|one| (*one).to_owned()).collect();
            remade(request);
        });
        assert_eq!(named, "approvers_differ", "{approvers:?}");
    }
}

#[test]
fn what_the_trace_of_the_rules_does_not_cover_is_refused() {
    assert_eq!(word(|request| request.verdict.rules.clear()), "not_covered");
    assert_eq!(word(|request| request.verdict.rules[0].hosts[0] = "web-2".into()), "not_covered");
    assert_eq!(word(|request| request.verdict.rules[0].action = "read".into()), "not_covered");
    assert_eq!(word(|request| request.verdict.rules[0].effect = "forbid".into()), "denied");
    assert_eq!(word(|request| request.verdict.denied.push("no".into())), "denied");
    assert_eq!(word(|request| request.verdict.outcome = Outcome::Denied), "denied");
    assert_eq!(word(|request| request.verdict.max_duration_ms = Some(3_599_999)), "over_limit");
    // A rule that only forbids going by itself is no hindrance, and no permit.
    let mut manual = agreed();
    let by_itself = |effect: &str| Rule {
        effect: effect.into(),
        action: "auto_approve".into(),
        ..manual.verdict.rules[0].clone()
    };
    let (forbid, permit) = (by_itself("forbid"), by_itself("permit"));
    manual.verdict.rules.push(forbid.clone());
    check(&manual).unwrap();
    assert_eq!(word(|request| request.verdict.rules = vec![forbid]), "not_covered");
    // Of two hosts one would go by itself: people agree to both.
    manual.verdict.rules = vec![permit];
    check(&manual).unwrap();
    // Not an automatic approval either: the rule permits to ask.
    let automatic = word(|request| {
        request.verdict.outcome = Outcome::Automatic;
        request.decisions.clear();
        request.approvers.clear();
        remade(request);
    });
    assert_eq!(automatic, "not_covered");
}

#[test]
fn an_automatic_approval_needs_a_rule_and_nobody() {
    let mut request = agreed();
    request.verdict.outcome = Outcome::Automatic;
    request.verdict.rules[0].action = "auto_approve".into();
    request.decisions.clear();
    request.approvers.clear();
    remade(&mut request);
    check(&request).unwrap();
    request.approvers.push("the boss".into());
    remade(&mut request);
    assert_eq!(check(&request).unwrap_err().word, "approvers_differ");
}

#[test]
fn of_many_hosts_the_number_in_the_trace_counts() {
    let many = |total| {
        let mut request = agreed();
        request.proposal.hosts = (0..300).map(|number| format!("web-{number:03}")).collect();
        let rule = &mut request.verdict.rules[0];
        rule.hosts = request.proposal.hosts.iter().take(20).cloned().collect();
        rule.hosts_total = total;
        request.decisions[0].hash = request.proposal.hash();
        request.number = 1;
        remade(&mut request);
        check(&request).map(|passed| passed.part.hosts.len()).map_err(|refused| refused.word)
    };
    assert_eq!(many(300), Ok(44));
    assert_eq!(many(299), Err("not_covered"));
}

#[test]
fn wrong_clocks_are_named() {
    let late = |request: &mut SignRequest| {
        request.approved_ms = NOW + SKEW_MS + 1;
        remade(request);
    };
    assert_eq!(word(late), "clock_off");
    assert_eq!(word(|request| request.decisions[0].at_ms = NOW + 3_600_000), "clock_off");
    let early = |request: &mut SignRequest| {
        request.approved_ms = request.proposal.created_ms - SKEW_MS - 1;
        remade(request);
    };
    assert_eq!(word(early), "clock_off");
    let request = agreed();
    let after = |ms| grant(&request, &Limits::default(), NOW + ms).unwrap_err().word;
    assert_eq!(after(3_600_000), "ended");
    assert_eq!(after(MAX_AGE_MS), "too_old");
}

#[test]
fn an_approval_that_came_too_late_is_refused() {
    let late = word(|request| {
        request.proposal.approve_until_ms = NOW - 2000;
        request.decisions[0].hash = request.proposal.hash();
        remade(request);
    });
    assert_eq!(late, "too_late");
}

#[test]
fn lists_that_are_out_of_order_are_malformed() {
    let twice = |request: &mut SignRequest| {
        request.proposal.hosts = vec!["web-1".into(), "web-1".into()];
    };
    assert_eq!(word(twice), "malformed");
    assert_eq!(word(|request| request.proposal.reason.clear()), "malformed");
}

#[test]
fn a_grant_ends_only_those_of_the_request_that_it_replaces() {
    let old = id_at(ssh().created_ms, 9);
    let replacing = |ids: Vec<String>, replaces: Option<String>| {
        let mut request = agreed();
        request.proposal.replaces = replaces;
        request.decisions[0].hash = request.proposal.hash();
        request.replaces = ids;
        remade(&mut request);
        check(&request).map(|_| ()).map_err(|refused| refused.word)
    };
    assert_eq!(replacing(vec![old.to_string()], Some(old.to_string())), Ok(()));
    assert_eq!(replacing(vec![], Some(old.to_string())), Ok(()));
    assert_eq!(replacing(vec![old.to_string()], None), Err("replaces_differ"));
    let other = id_at(ssh().created_ms, 10).to_string();
    assert_eq!(replacing(vec![other], Some(old.to_string())), Err("replaces_differ"));
}

/// Ana's request, ended half an hour earlier.
fn shorter() -> SignRequest {
    let old = agreed();
    let mut request = agreed();
    request.proposal.id = id_at(NOW, 3).to_string();
    request.proposal.replaces = Some(old.proposal.id.clone());
    request.proposal.duration_ms = 1_800_000;
    request.verdict.outcome = Outcome::Automatic;
    request.verdict.rules.clear();
    request.decisions.clear();
    request.approvers.clear();
    request.approved_ms = NOW;
    request.replaces = vec![old.proposal.id.clone()];
    request.shortens = Some(old.payload);
    remade(&mut request);
    request
}

#[test]
fn a_grant_that_only_narrows_another_needs_nobody() {
    let passed = check(&shorter()).unwrap();
    assert_eq!(passed.narrows.unwrap().0.to_string(), agreed().proposal.id);
    let mut wider = shorter();
    wider.proposal.duration_ms = 3_600_001;
    remade(&mut wider);
    assert_eq!(check(&wider).unwrap_err().word, "widens");
    let mut praised = shorter();
    praised.approvers = vec!["bo".into()];
    remade(&mut praised);
    assert_eq!(check(&praised).unwrap_err().word, "approvers_differ");
    // Without the old grant it is a request like any other.
    assert_eq!(
        check(&SignRequest { shortens: None, ..shorter() }).unwrap_err().word,
        "not_covered"
    );
}

#[test]
fn everything_that_makes_the_bytes_of_a_request_is_in_its_mark() {
    let mark = |change: fn(&mut SignRequest)| {
        let mut request = agreed();
        change(&mut request);
        mark(&request)
    };
    let first = mark(|_| {});
    assert_ne!(mark(|request| request.approved_ms += 1), first);
    assert_ne!(mark(|request| request.approvers.clear()), first);
    assert_ne!(mark(|request| request.replaces.push(String::new())), first);
    assert_ne!(mark(|request| request.proposal.reason.push('x')), first);
    assert_eq!(mark(|request| request.number = 7), first);
}

#[test]
fn policies_are_signed_only_if_the_settings_say_so() {
    let policy = v1::Policy {
        hosts: vec!["web-1".into()],
        version: 7,
        issued_at_ms: NOW,
        author: "ana".into(),
        ..v1::Policy::default()
    };
    let check = |change: fn(&mut v1::Policy), policies| {
        let mut policy = policy.clone();
        change(&mut policy);
        let limits = Limits { policies, hosts: vec!["web-*".into()], ..Limits::default() };
        super::policy(&policy.encode_to_vec(), &limits, NOW).map_err(|refused| refused.word)
    };
    assert!(check(|_| {}, true).is_ok());
    assert_eq!(check(|_| {}, false).unwrap_err(), "policies_off");
    assert_eq!(check(|p| p.hosts.push("db-1".into()), true).unwrap_err(), "over_limit");
    assert_eq!(check(|p| p.hosts.clear(), true).unwrap_err(), "malformed");
    assert_eq!(check(|p| p.issued_at_ms += 120_000, true).unwrap_err(), "clock_off");
    let limits = Limits { policies: true, ..Limits::default() };
    assert_eq!(super::policy(b"\xff", &limits, NOW).unwrap_err().word, "malformed");
}
