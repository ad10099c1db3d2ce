//! What the `[ceiling]` of the host's own file lets a pushed policy do, whoever signed it.

use jit_agent::gate::PolicyPush;
use jit_common::PortKey;
use jit_proto::{Refusal, v1};

use crate::{
    policy_host::{CEILING, HTTP, Host, RDP, RELEASE, exemption, policy, seconds, section, signed},
    support::{MINUTE, NOW, SSH, try_config},
};

#[test]
fn a_policy_within_the_ceiling_is_accepted_and_each_excess_is_named() {
    let change = |change: fn(&mut v1::PolicyPort)| {
        let mut changed = section(8080);
        change(&mut changed);
        policy(1, &[changed])
    };
    let without = |index: usize| {
        let mut policy = policy(1, &[]);
        policy.ports.remove(index);
        policy
    };
    let mut long_ssh = policy(1, &[]);
    long_ssh.ports[0].max_duration_ms = 180 * MINUTE;
    let mut wide_ssh = policy(1, &[]);
    wide_ssh.ports[0].sources = change(|_| ()).ports[0].sources.clone();
    let any: jit_proto::SourcePrefix = "0.0.0.0/0".parse().unwrap();
    wide_ssh.ports[0].sources.push((&any).into());
    let mut longer_ssh = long_ssh.clone();
    longer_ssh.ports[0].max_duration_ms += 1000;
    let mut lax_rdp = policy(1, &[]);
    lax_rdp.ports[1].approvals = 1;
    for (policy, excess) in [
        (change(|_| ()), ""),
        (without(1), ""),
        (long_ssh, ""),
        (wide_ssh, ""),
        (without(0), "22/tcp is protected"),
        (policy(1, &[section(7999)]), "7999/tcp is not protected"),
        (policy(1, &[section(53)]), "53/tcp is not protected"),
        (longer_ssh, "22/tcp: max_duration"),
        (change(|port| port.max_duration_ms = 180 * MINUTE), ""),
        (change(|port| port.max_duration_ms = 181 * MINUTE), "8080/tcp: max_duration"),
        (change(|port| port.mode = v1::Mode::Observe.into()), "8080/tcp: mode"),
        (change(|port| port.terminates = v1::Terminates::Forwarded.into()), "8080/tcp: terminates"),
        (change(|port| port.widest_v4 = Some(23)), "8080/tcp: widest_v4"),
        (change(|port| port.widest_v6 = Some(47)), "8080/tcp: widest_v6"),
        (change(|port| port.sources[0].prefix_length = 7), "8080/tcp: sources"),
        (change(|port| port.exemptions = vec![exemption("10.1.0.0/24", 0)]), ""),
        (change(|port| port.exemptions = vec![exemption("10.1.0.0/23", 0)]), "exempts 10.1.0.0/23"),
        (change(|port| port.exemptions = vec![exemption("192.0.2.1", 0)]), "exempts 192.0.2.1"),
        (change(|port| port.approvals = 3), "trusts only 2 keys"),
    ] {
        let mut host = Host::start();
        let expected = host.diff(&policy);
        let push = PolicyPush { envelope: signed(&policy), ..PolicyPush::default() };
        match host.push_with(push, NOW) {
            Ok(_) => assert_eq!((excess, expected.reason.as_str()), ("", "ok"), "{policy:?}"),
            Err((refusal, detail)) => {
                assert_eq!(refusal, Refusal::Ceiling, "{detail}");
                assert!(!excess.is_empty() && detail.contains(excess), "{excess}: {detail}");
                assert_eq!((expected.reason, expected.detail), ("ceiling".into(), detail));
                assert_eq!(host.version(NOW), 0);
                assert!(!host.is_armed(HTTP) && host.is_armed(SSH) && host.is_armed(RDP));
            }
        }
    }
    // The file wants two approvals on 3389. One is enough if the ceiling says so.
    for (approvals, expected) in [("", Err(Refusal::Ceiling)), ("approvals = 1\n", Ok("ok".into()))]
    {
        let mut host = Host::with(&[RELEASE, CEILING, approvals].concat());
        assert_eq!(host.push(&lax_rdp, NOW), expected);
    }
    // Without a ceiling the policy is refused.
    let mut host = Host::with(RELEASE);
    assert_eq!(host.push(&policy(1, &[]), NOW), Err(Refusal::Ceiling));
}

#[test]
fn the_agents_own_port_is_never_armed() {
    let control = "[control]\nlisten = \"127.0.0.1:8080\"\ncertificate = \"a\"\nkey = \"b\"\n\
                   client_ca = \"c\"\n";
    let mut host = Host::with(&[RELEASE, CEILING, control].concat());
    assert_eq!(host.push(&policy(1, &[section(8080)]), NOW), Err(Refusal::Ceiling));
    assert_eq!(host.push(&policy(1, &[section(8081)]), NOW), Ok("pending".into()));
    // Also not when the agent listens on another port after a restart.
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    host.extra = host.extra.replace("8080", "8081");
    host.restart("boot-1", seconds(2));
    assert!(!host.is_armed(PortKey { port: 8081, ..HTTP }) && host.is_armed(SSH));
}

#[test]
fn without_a_ceiling_the_hosts_own_file_decides() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    host.reload(RELEASE, seconds(2)).unwrap();
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH) && host.is_armed(RDP));
    assert_eq!(host.version(seconds(2)), 0);
    // The policy does not come back with a ceiling, and its version stays used.
    host.restart("boot-1", seconds(3));
    let whole = [RELEASE, CEILING].concat();
    host.reload(&whole, seconds(4)).unwrap();
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.push(&policy(1, &[section(8080)]), seconds(5)), Err(Refusal::StaleVersion));
}

/// A port whose file is stricter than every default.
const STRICT: &str = "[[port]]\nport = 5900\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n\
    max_duration = \"30m\"\napprovals = 2\nwidest_v4 = 32\nwidest_v6 = 128\nsessions = \"cut\"\n";

/// STRICT as the section of a policy.
fn as_strict() -> v1::PolicyPort {
    v1::PolicyPort {
        max_duration_ms: 30 * MINUTE,
        approvals: 2,
        widest_v4: Some(32),
        widest_v6: Some(128),
        sessions: v1::Sessions::Cut.into(),
        ..section(5900)
    }
}

/// A policy with the file's other ports unchanged, and with these.
fn as_the_file(more: &[v1::PolicyPort]) -> v1::Policy {
    let mut policy = policy(1, more);
    let of_rdp: jit_proto::SourcePrefix = "203.0.113.0/24".parse().unwrap();
    policy.ports.get_mut(1).unwrap().sources = vec![(&of_rdp).into()];
    policy
}

/// Pushes a policy with this section for the strict port, and with the other ports as in the file.
fn push_strict(ceiling: &str, change: Change) -> Result<String, String> {
    let mut host = Host::with(&[STRICT, RELEASE, "[ceiling]\n", ceiling].concat());
    let mut strict = as_strict();
    change(&mut strict);
    let push = PolicyPush { envelope: signed(&as_the_file(&[strict])), ..PolicyPush::default() };
    host.push_with(push, NOW).map(|answer| answer.reason).map_err(|(refusal, detail)| {
        assert_eq!(refusal, Refusal::Ceiling, "{detail}");
        detail
    })
}

/// A change to a policy's section.
type Change = fn(&mut v1::PolicyPort);

/// A change that loosens the strict port, the key that allows it, and the refusal's text without
/// the key.
type Loosening = (Change, &'static str, &'static str);

const LOOSENINGS: [Loosening; 8] = [
    (|port| port.approvals = 1, "approvals = 1", "approvals is 1; at least 2"),
    (|port| port.max_duration_ms = 31 * MINUTE, "max_duration = \"31m\"", "max_duration is"),
    (|port| port.widest_v4 = Some(31), "widest_v4 = 31", "widest_v4 is 31; at least 32"),
    (|port| port.widest_v6 = Some(127), "widest_v6 = 127", "widest_v6 is 127; at least 128"),
    (|port| port.sessions = v1::Sessions::Drain.into(), "drain = true", "sessions is drain"),
    (|port| port.mode = v1::Mode::Observe.into(), "observe = true", "mode is observe"),
    (
        |port| port.terminates = v1::Terminates::Forwarded.into(),
        "forwarded = true",
        "terminates is forwarded",
    ),
    (
        |port| port.sources.iter_mut().for_each(|source| source.prefix_length = 7),
        "sources = [\"10.0.0.0/7\"]",
        "sources has 10.0.0.0/7",
    ),
];

#[test]
fn an_empty_ceiling_lets_a_policy_only_tighten() {
    assert_eq!(push_strict("", |_| ()), Ok("ok".into()));
    let tighter: Change = |port| port.max_duration_ms = 5 * MINUTE;
    assert_eq!(push_strict("", tighter), Ok("ok".into()));
    for (change, key, refused) in LOOSENINGS {
        let detail = push_strict("", change).unwrap_err();
        assert!(detail.contains("5900/tcp") && detail.contains(refused), "{key}: {detail}");
    }
    // A policy that leaves a key out is refused too: the default is looser.
    let unsaid: Change = |port| port.widest_v4 = None;
    assert!(push_strict("", unsaid).unwrap_err().contains("widest_v4 is 24; at least 32"));
    let exempts: Change = |port| port.exemptions = vec![exemption("10.0.0.1", 0)];
    assert!(push_strict("", exempts).unwrap_err().contains("exempts 10.0.0.1"));
    // The file wants two approvals on 3389.
    let mut host = Host::with(&[RELEASE, "[ceiling]\n"].concat());
    let mut lax_rdp = as_the_file(&[]);
    lax_rdp.ports[1].approvals = 1;
    assert_eq!(host.push(&lax_rdp, NOW), Err(Refusal::Ceiling));
    assert_eq!(host.push(&as_the_file(&[section(8080)]), NOW), Err(Refusal::Ceiling));
    assert_eq!(host.push(&as_the_file(&[]), NOW), Ok("ok".into()));
}

#[test]
fn each_key_of_a_ceiling_loosens_its_own_and_nothing_else() {
    for (index, (_, key, _)) in LOOSENINGS.into_iter().enumerate() {
        for (other, (change, _, refused)) in LOOSENINGS.into_iter().enumerate() {
            match push_strict(key, change) {
                Ok(_) => assert_eq!(index, other, "{key} must not allow: {refused}"),
                Err(detail) => {
                    assert!(index != other && detail.contains(refused), "{key}: {detail}");
                }
            }
        }
    }
}

#[test]
fn an_exemption_is_no_wider_than_the_port_or_a_ceiling_lets_a_grant_be() {
    let of_10 = "exemptions = true\nsources = [\"10.0.0.0/8\"]\n";
    let exempt: Change = |port| port.exemptions = vec![exemption("10.1.0.0/24", 0)];
    let one: Change = |port| port.exemptions = vec![exemption("10.1.0.1", 0)];
    assert_eq!(push_strict(of_10, one), Ok("ok".into()));
    assert!(push_strict(of_10, exempt).unwrap_err().contains("exempts 10.1.0.0/24"));
    let wide = [of_10, "widest_v4 = 24\n"].concat();
    assert_eq!(push_strict(&wide, exempt), Ok("ok".into()));
    // 22 lets grants be as wide as /8. An exemption may not be so wide, unless the ceiling says so.
    for (ceiling, taken) in [("", false), ("widest_v4 = 16\n", true)] {
        let mut host = Host::with(&[RELEASE, "[ceiling]\n", of_10, ceiling].concat());
        let mut wide = policy(1, &[]);
        wide.ports[0].exemptions = vec![exemption("10.1.0.0/16", 0)];
        assert_eq!(host.push(&wide, NOW).is_ok(), taken, "{ceiling}");
    }
}

#[test]
fn a_port_that_only_the_ceiling_knows_has_its_defaults() {
    let arm = "[ceiling]\narm = [\"8080\"]\nsources = [\"10.0.0.0/8\"]\ndrain = true\n";
    let changes: [(Change, bool); 6] = [
        (|port| port.max_duration_ms = 180 * MINUTE, true),
        (|port| port.max_duration_ms = 181 * MINUTE, false),
        (|port| port.widest_v4 = Some(24), true),
        (|port| port.widest_v4 = Some(23), false),
        (|port| port.widest_v6 = Some(48), true),
        (|port| port.widest_v6 = Some(47), false),
    ];
    for (change, taken) in changes {
        let mut host = Host::with(&[RELEASE, arm].concat());
        let mut http = section(8080);
        change(&mut http);
        let pushed = host.push(&policy(1, &[http.clone()]), NOW);
        assert_eq!(pushed.is_ok(), taken, "{http:?}");
    }
    assert!(try_config(&[RELEASE, "[ceiling]\napprovals = 0\n"].concat()).is_err());
}
