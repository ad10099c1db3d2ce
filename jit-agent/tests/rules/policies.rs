//! What is asked of a pushed policy before it is accepted.

use jit_agent::{gate::PolicyPush, rules::clock::Now};
use jit_proto::{
    Refusal, WallTime,
    payload_type::{GRANT_TYPE, POLICY_TYPE},
    v1,
};
use prost::Message as _;

use crate::{
    policy_host::{CEILING, HTTP, Host, RELEASE, exemption, policy, seconds, section, signed},
    support::{MINUTE, NOW, envelope, grant, sign, try_config},
};

#[test]
fn a_version_only_rises_also_over_restarts() {
    let mut host = Host::start();
    assert_eq!(host.push(&policy(5, &[]), NOW), Ok("ok".into()));
    assert_eq!(host.push(&policy(5, &[]), NOW), Ok("known".into()), "the very same");
    let other = v1::Policy { justification: "another".into(), ..policy(5, &[]) };
    for restart in [false, true] {
        if restart {
            host.restart("boot-1", seconds(1));
        }
        assert_eq!(host.push(&policy(4, &[]), seconds(2)), Err(Refusal::StaleVersion));
        assert_eq!(host.push(&other, seconds(2)), Err(Refusal::StaleVersion));
        assert_eq!(host.push(&policy(5, &[]), seconds(2)), Ok("known".into()));
    }
    host.push(&policy(7, &[]), seconds(3)).unwrap();
    assert_eq!(host.push(&policy(5, &[]), seconds(4)), Err(Refusal::StaleVersion), "a replay");
    assert_eq!(host.push(&policy(6, &[]), seconds(4)), Err(Refusal::StaleVersion));
}

#[test]
fn types_keys_and_hosts_are_not_mixed_up() {
    let mut host = Host::start();
    let body = policy(1, &[]).encode_to_vec();
    let mut push = |envelope| {
        let push = PolicyPush { envelope, ..PolicyPush::default() };
        host.push_with(push, NOW).map(|answer| answer.reason).map_err(|(refusal, _)| refusal)
    };
    assert_eq!(push(sign(GRANT_TYPE, &body, &[3])), Err(Refusal::BadType));
    assert_eq!(push(sign(POLICY_TYPE, &body, &[1])), Err(Refusal::UnknownKey), "signs grants");
    assert_eq!(push(sign(POLICY_TYPE, &body, &[4])), Err(Refusal::BadSignature));
    assert_eq!(push(sign(POLICY_TYPE, &body, &[])), Err(Refusal::BadSignature));
    let crossed =
        v1::Envelope { payload_type: POLICY_TYPE.into(), ..sign(GRANT_TYPE, &body, &[3]) };
    assert_eq!(push(crossed), Err(Refusal::BadSignature));
    assert_eq!(push(envelope(&grant(1, &["10.0.0.1"]))), Err(Refusal::BadType));
    let elsewhere = v1::Policy { hosts: vec!["web-2".into(), "*".into()], ..policy(1, &[]) };
    assert_eq!(push(signed(&elsewhere)), Err(Refusal::WrongHost));
    // And as a grant: the type counts, and the key's `signs`.
    let mut admit = |envelope| {
        let outcome = host.gate().push(vec![envelope], "test", NOW).remove(0);
        outcome.map(|_| ()).map_err(|refused| refused.refusal)
    };
    assert_eq!(admit(signed(&policy(1, &[]))), Err(Refusal::BadType));
    let by_release = sign(GRANT_TYPE, &grant(1, &["10.0.0.1"]).encode_to_vec(), &[3]);
    assert_eq!(admit(by_release), Err(Refusal::UnknownKey));
    assert_eq!(host.version(NOW), 0);
}

#[test]
fn every_flipped_bit_of_a_good_policy_is_refused() {
    let mut host = Host::start();
    let good = signed(&policy(1, &[section(8080)]));
    let payload = good.payload.to_vec();
    for index in 0..payload.len() {
        for bit in 0..8 {
            let mut payload = payload.clone();
            payload[index] ^= 1 << bit;
            let envelope = v1::Envelope { payload: payload.into(), ..good.clone() };
            let push = PolicyPush { envelope, ..PolicyPush::default() };
            assert_eq!(host.push_with(push, NOW).unwrap_err().0, Refusal::BadSignature);
        }
    }
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.push(&policy(1, &[section(8080)]), NOW), Ok("pending".into()));
}

#[test]
fn missing_and_impossible_fields_are_malformed() {
    let with = |change: fn(&mut v1::Policy)| {
        let mut policy = policy(1, &[section(8080)]);
        change(&mut policy);
        policy
    };
    let last = |policy: &mut v1::Policy| policy.ports.pop().unwrap();
    let mut host = Host::start();
    for (name, bad) in [
        ("hosts", with(|policy| policy.hosts.clear())),
        ("version", with(|policy| policy.version = 0)),
        ("issued_at", with(|policy| policy.issued_at_ms = 0)),
        ("not_after", with(|policy| policy.not_after_ms = -1)),
        ("author", with(|policy| policy.author.clear())),
        ("justification", with(|policy| policy.justification = "x".repeat(2049))),
        ("range", with(|policy| policy.ports[2].range = None)),
        ("inverted", with(|policy| policy.ports[2].range.as_mut().unwrap().first = 9000)),
        ("mode", with(|policy| policy.ports[2].mode = 0)),
        ("mode 3", with(|policy| policy.ports[2].mode = 3)),
        ("sources", with(|policy| policy.ports[2].sources.clear())),
        ("host bits", with(|policy| policy.ports[2].sources[0].prefix_length = 5)),
        ("widest_v4", with(|policy| policy.ports[2].widest_v4 = Some(33))),
        ("widest_v6", with(|policy| policy.ports[2].widest_v6 = Some(129))),
        ("no time", with(|policy| policy.ports[2].max_duration_ms = 0)),
        ("half a second", with(|policy| policy.ports[2].max_duration_ms = 1500)),
        ("approvals", with(|policy| policy.ports[2].approvals = 0)),
        ("sessions", with(|policy| policy.ports[2].sessions = 0)),
        ("terminates", with(|policy| policy.ports[2].terminates = 9)),
        ("no source", with(|policy| policy.ports[2].exemptions = vec![v1::Exemption::default()])),
        (
            "no owner",
            with(|policy| {
                let nobody = v1::Exemption { owner: String::new(), ..exemption("10.0.0.1", 0) };
                policy.ports[2].exemptions = vec![nobody];
            }),
        ),
        ("twice", with(|policy| policy.ports.push(policy.ports[2].clone()))),
    ] {
        assert_eq!(host.push(&bad, NOW), Err(Refusal::Malformed), "{name}");
    }
    // A field of a newer version: it might make the policy stricter.
    let mut payload = with(|policy| drop(policy.ports.pop())).encode_to_vec();
    payload.extend([0x98, 0x06, 0x01]);
    let envelope = sign(POLICY_TYPE, &payload, &[3]);
    let push = PolicyPush { envelope, ..PolicyPush::default() };
    assert_eq!(host.push_with(push, NOW).unwrap_err().0, Refusal::Malformed);
    let mut many = policy(1, &[]);
    let template = last(&mut many);
    many.ports.extend(vec![template; 1030]);
    assert_eq!(host.push(&many, NOW), Err(Refusal::TooLarge));
}

#[test]
fn each_bad_time_has_its_word() {
    let mut host = Host::start();
    let times =
        |issued_at_ms, not_after_ms| v1::Policy { issued_at_ms, not_after_ms, ..policy(1, &[]) };
    let now = NOW.wall.0;
    for (policy, expected) in [
        (times(now + MINUTE + 1, 0), Refusal::NotYetValid),
        (times(now - MINUTE, now), Refusal::Expired),
        (times(now, now - 1), Refusal::Lifetime),
    ] {
        assert_eq!(host.push(&policy, NOW), Err(expected));
    }
    let behind = Now { wall: WallTime(now - 2 * MINUTE), ..NOW };
    assert_eq!(host.push(&policy(1, &[]), behind), Err(Refusal::ClockUntrusted));
    assert_eq!(host.push(&times(now + MINUTE, now + MINUTE + 1), NOW), Ok("ok".into()));
}

#[test]
fn a_threshold_for_policies_counts_distinct_keys_in_their_window() {
    let second = "[[signer]]\nid = \"r2\"\npublic_key = \"4.pem\"\nsigns = [\"policy\"]\n\
                  not_after = \"2026-06-01T00:01:00Z\"\n";
    let ceiling = CEILING.replace("[ceiling]", "[ceiling]\npolicy_approvals = 2");
    let mut host = Host::with(&[RELEASE, second, &ceiling].concat());
    let body = policy(1, &[]).encode_to_vec();
    let mut push = |seeds: &[u8], now| {
        let envelope = sign(POLICY_TYPE, &body, seeds);
        let push = PolicyPush { envelope, ..PolicyPush::default() };
        host.push_with(push, now).map(|answer| answer.reason).map_err(|(refusal, _)| refusal)
    };
    for seeds in [&[3][..], &[3, 3], &[3, 1], &[4]] {
        assert_eq!(push(seeds, NOW), Err(Refusal::ApprovalsMissing), "{seeds:?}");
    }
    assert_eq!(push(&[3, 4], seconds(60)), Err(Refusal::ApprovalsMissing), "its window has ended");
    assert_eq!(push(&[4], seconds(60)), Err(Refusal::UnknownKey));
    assert_eq!(push(&[3, 4], seconds(59)), Ok("ok".into()));
    for bad in ["policy_approvals = 0", "policy_approvals = 3", "approvals = 0", "arm = [\"x\"]"] {
        let ceiling = CEILING.replace("[ceiling]", &format!("[ceiling]\n{bad}"));
        let ceiling = ceiling.replacen("arm = [\"8000-8100\", \"53/udp\"]\n", "", 1);
        assert!(try_config(&[RELEASE, second, &ceiling].concat()).is_err(), "{bad}");
    }
}

#[test]
fn a_policy_as_a_message_and_as_a_section_are_the_same() {
    use jit_proto::{PolicyFile, PortSection};
    let text = r#"
        version = 7
        hosts = ["web-1"]
        [[port]]
        port = "5985-5986"
        protocol = "udp"
        mode = "observe"
        sources = ["10.0.0.0/8", "::/0"]
        widest_v4 = 0
        widest_v6 = 64
        max_duration = "90m"
        approvals = 3
        sessions = "cut"
        terminates = "forwarded"
        exempt = [{ source = "10.0.0.5", reason = "probe", owner = "netops", until = "2030-01-01T00:00:00Z" }]
    "#;
    let file: PolicyFile = text.parse().unwrap();
    assert_eq!((file.version, file.hosts), (Some(7), vec!["web-1".to_owned()]));
    for section in &file.sections {
        let message = v1::PolicyPort::from(section);
        assert_eq!(&PortSection::try_from(&message).unwrap(), section);
    }
    assert!("verson = 1".parse::<PolicyFile>().unwrap_err().contains("verson"));
}
