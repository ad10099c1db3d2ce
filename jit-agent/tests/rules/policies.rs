//! Pushed policies at a gate with a real database: what they may ask for, what they change, and what
//! returns.

use std::{sync::Arc, time::Duration};

use jit_agent::{
    app::audit_settings,
    disk::{audit::Audit, store::Store},
    gate::{Gate, PolicyDraft, PolicyPush, journal::Journal},
    kernel::datapath::memory::MemoryDatapath,
    rules::clock::{BootNanos, Now},
};
use jit_common::{PortKey, Protocol, Tables as _};
use jit_proto::{
    Refusal, WallTime,
    payload_type::{GRANT_TYPE, POLICY_TYPE},
    v1,
};
use prost::Message as _;
use tempfile::TempDir;

use crate::support::{HOST, MINUTE, NOW, SSH, envelope, grant, later, port, sign, try_config, v4};

pub(crate) const HTTP: PortKey = PortKey { protocol: Protocol::Tcp, port: 8080 };
pub(crate) const RDP: PortKey = PortKey { protocol: Protocol::Tcp, port: 3389 };
/// Of the signers, 3 signs policies and nothing else.
pub(crate) const RELEASE: &str =
    "[[signer]]\nid = \"release\"\npublic_key = \"3.pem\"\nsigns = [\"policy\"]\n";
pub(crate) const CEILING: &str = "[ceiling]\narm = [\"8000-8100\", \"53/udp\"]\ndisarm = [\"3389\"]\n\
                       sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndrain = true\nexemptions = true\n";

pub(crate) struct Host {
    directory: TempDir,
    kernel: MemoryDatapath,
    gate: Option<Gate<MemoryDatapath>>,
    pub(crate) extra: String,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with(&[RELEASE, CEILING].concat())
    }

    pub(crate) fn with(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = MemoryDatapath::default();
        let mut host = Self { directory, kernel, gate: None, extra: extra.to_owned() };
        host.restart("boot-1", NOW);
        host
    }

    /// As after kill -9: the kernel's tables and the disk stay, all else is new.
    pub(crate) fn restart(&mut self, boot: &str, now: Now) {
        self.gate = None;
        let (_keys, config) = try_config(&self.extra).unwrap();
        let state = self.directory.path().join("state");
        let store = Store::open(&state, now.wall).unwrap();
        let audit = Audit::open(&state, audit_settings(&config), now).unwrap();
        let journal = Arc::new(Journal::new("test".into()));
        let gate =
            Gate::start(config, self.kernel.clone(), store, audit, journal, boot.into(), now);
        self.gate = Some(gate.unwrap());
    }

    pub(crate) fn reload(&mut self, extra: &str, now: Now) -> Result<(), String> {
        let (_keys, config) = try_config(extra)?;
        self.extra = extra.to_owned();
        self.gate().reconfigure(config, now)
    }

    pub(crate) fn gate(&mut self) -> &mut Gate<MemoryDatapath> {
        self.gate.as_mut().unwrap()
    }

    pub(crate) fn push_with(
        &mut self,
        push: PolicyPush,
        now: Now,
    ) -> Result<v1::PushPolicyResponse, (Refusal, String)> {
        let pushed = self.gate().push_policy(push, "test", now);
        if pushed.is_ok() {
            self.gate().policy_applied(now);
        }
        pushed.map_err(|refused| (refused.refusal, refused.detail))
    }

    pub(crate) fn push(&mut self, policy: &v1::Policy, now: Now) -> Result<String, Refusal> {
        let push = PolicyPush { envelope: signed(policy), ..PolicyPush::default() };
        self.push_with(push, now).map(|answer| answer.reason).map_err(|(refusal, _)| refusal)
    }

    pub(crate) fn confirm(
        &mut self,
        version: u64,
        connected: Now,
        now: Now,
    ) -> Result<String, Refusal> {
        let answer = self.gate().confirm_policy(version, connected.boot, "test", now);
        answer.map(|answer| answer.reason).map_err(|refused| refused.refusal)
    }

    pub(crate) fn diff(&mut self, policy: &v1::Policy) -> v1::DiffPolicyResponse {
        self.gate().diff_policy(&PolicyDraft::Message(Box::new(policy.clone())), NOW)
    }

    pub(crate) fn is_armed(&self, port: PortKey) -> bool {
        let tables = self.kernel.tables();
        tables.protected(port) && tables.rule(port).observe == 0
    }

    pub(crate) fn version(&mut self, now: Now) -> u64 {
        self.gate().show_policy(now).state.unwrap().version
    }

    pub(crate) fn opens(&self, port: PortKey, source: &str, now: Now) -> bool {
        self.kernel.opens(port, v4(source), now.boot)
    }
}

pub(crate) fn section(number: u32) -> v1::PolicyPort {
    let source = |text: &str| {
        let prefix: jit_proto::SourcePrefix = text.parse().unwrap();
        v1::Source::from(&prefix)
    };
    v1::PolicyPort {
        range: Some(port(number)),
        mode: v1::Mode::Enforce.into(),
        sources: vec![source("10.0.0.0/8")],
        widest_v4: None,
        widest_v6: None,
        max_duration_ms: 60 * MINUTE,
        approvals: 1,
        sessions: v1::Sessions::Drain.into(),
        terminates: v1::Terminates::Host.into(),
        exemptions: Vec::new(),
    }
}

/// The file's ports, near enough, and these.
pub(crate) fn policy(version: u64, more: &[v1::PolicyPort]) -> v1::Policy {
    let ssh = v1::PolicyPort { sources: section(22).sources, ..section(22) };
    let rdp = v1::PolicyPort { approvals: 2, ..section(3389) };
    v1::Policy {
        hosts: vec![HOST.into()],
        version,
        issued_at_ms: NOW.wall.0,
        not_after_ms: 0,
        ports: [&[ssh, rdp], more].concat(),
        author: "ana@example.org".into(),
        justification: "CHG-1".into(),
    }
}

pub(crate) fn signed(policy: &v1::Policy) -> v1::Envelope {
    sign(POLICY_TYPE, &policy.encode_to_vec(), &[3])
}

pub(crate) fn exemption(source: &str, until_ms: i64) -> v1::Exemption {
    let prefix: jit_proto::SourcePrefix = source.parse().unwrap();
    v1::Exemption {
        source: Some((&prefix).into()),
        reason: "probe".into(),
        owner: "netops".into(),
        until_ms,
    }
}

pub(crate) fn seconds(seconds: i64) -> Now {
    later(seconds * 1000)
}

/// What a policy shuts out goes on if it returns: nothing is cut before somebody says that it stays.
#[test]
fn a_policy_that_waits_cuts_no_session_and_one_that_stays_does() {
    for confirmed in [false, true] {
        let mut host = Host::start();
        let peer = v4("203.0.113.9");
        host.kernel.open_socket(peer, 40_000, 8080);
        let cutting = v1::PolicyPort { sessions: v1::Sessions::Cut.into(), ..section(8080) };
        assert_eq!(host.push(&policy(1, &[cutting]), NOW), Ok("pending".into()));
        host.gate().advance(seconds(10));
        assert_eq!(host.kernel.sockets().len(), 1, "it waits");
        if confirmed {
            host.confirm(1, seconds(11), seconds(11)).unwrap();
        }
        host.gate().advance(seconds(121));
        assert_eq!(host.is_armed(HTTP), confirmed);
        assert_eq!(host.kernel.sockets().is_empty(), confirmed);
    }
}

#[test]
fn an_armed_port_is_open_again_unless_it_is_confirmed_in_time() {
    let mut host = Host::start();
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.push(&policy(1, &[section(8080)]), NOW), Ok("pending".into()));
    assert!(host.is_armed(HTTP) && host.is_armed(SSH));
    let soon = host.gate().status(seconds(1)).soon;
    assert!(soon.iter().any(|line| line.contains("is not confirmed")), "{soon:?}");
    host.gate().advance(seconds(119));
    assert!(host.is_armed(HTTP));
    assert!(host.gate().advance(seconds(119)) <= Duration::from_secs(1), "it wakes in time");
    host.gate().advance(seconds(120));
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH), "and what was closed before is so still");
    assert_eq!(host.version(seconds(120)), 0);
    assert_eq!(host.confirm(1, seconds(121), seconds(121)), Err(Refusal::NothingPending));
    host.restart("boot-1", seconds(122));
    assert!(!host.is_armed(HTTP));
    // Its version is used up.
    assert_eq!(host.push(&policy(1, &[section(8080)]), seconds(123)), Err(Refusal::StaleVersion));
}

#[test]
fn a_restart_inside_the_window_neither_keeps_it_nor_gives_it_longer() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    host.restart("boot-1", seconds(60));
    assert!(host.is_armed(HTTP));
    host.gate().advance(seconds(119));
    assert!(host.is_armed(HTTP));
    host.gate().advance(seconds(120));
    assert!(!host.is_armed(HTTP));

    // The agent is dead when the time is over: the kernel keeps it closed, the start opens it.
    host.push(&policy(2, &[section(8080)]), seconds(200)).unwrap();
    host.restart("boot-1", seconds(400));
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.version(seconds(400)), 0);

    // After a reboot the boot clock says nothing about it.
    host.push(&policy(3, &[section(8080)]), seconds(500)).unwrap();
    host.kernel = MemoryDatapath::default();
    let now = Now { boot: BootNanos(5_000_000_000), ..seconds(510) };
    host.restart("boot-2", now);
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH));
}

#[test]
fn a_confirmation_over_a_fresh_connection_keeps_it_for_good() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    for connected in [Now { boot: BootNanos(0), ..NOW }, NOW] {
        assert_eq!(host.confirm(1, connected, seconds(5)), Err(Refusal::NotFresh));
    }
    assert_eq!(host.confirm(2, seconds(1), seconds(5)), Err(Refusal::NothingPending));
    assert_eq!(host.confirm(1, seconds(1), seconds(5)), Ok("ok".into()));
    assert_eq!(host.confirm(1, seconds(1), seconds(6)), Ok("known".into()));
    host.gate().advance(seconds(500));
    assert!(host.is_armed(HTTP));
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", Now { boot: BootNanos(5_000_000_000), ..seconds(600) });
    assert!(host.is_armed(HTTP));
    assert_eq!(host.version(seconds(600)), 1);
}

#[test]
fn a_word_that_comes_too_late_does_not_keep_it() {
    let mut host = Host::start();
    let window = Some(Duration::from_secs(10));
    let push = |version| PolicyPush {
        envelope: signed(&policy(version, &[section(8080)])),
        confirm_within: window,
        strict: false,
    };
    host.push_with(push(1), NOW).unwrap();
    // The gate has not looked at the clock yet.
    assert_eq!(host.confirm(1, seconds(1), seconds(10)), Err(Refusal::NothingPending));
    host.gate().advance(seconds(10));
    assert!(!host.is_armed(HTTP));
    host.push_with(push(2), seconds(20)).unwrap();
    assert_eq!(host.confirm(2, seconds(21), later(29_999)), Ok("ok".into()));
    for window in [Duration::ZERO, Duration::from_secs(3601)] {
        let push = PolicyPush { confirm_within: Some(window), ..push(3) };
        assert_eq!(host.push_with(push, seconds(30)).unwrap_err().0, Refusal::Malformed);
    }
}

#[test]
fn what_shuts_nobody_out_is_in_force_at_once() {
    let mut host = Host::start();
    let shorter = v1::PolicyPort { max_duration_ms: 5 * MINUTE, ..section(22) };
    let mut tighter = policy(1, &[]);
    tighter.ports[0] = shorter;
    assert_eq!(host.push(&tighter, NOW), Ok("ok".into()));
    host.gate().advance(seconds(500));
    assert_eq!(host.version(seconds(500)), 1);
    // To open needs no word either: nobody can lock himself out by it.
    let mut open = policy(2, &[]);
    open.ports.remove(1);
    assert_eq!(host.push(&open, seconds(500)), Ok("ok".into()));
    assert!(!host.is_armed(RDP));
    // A port that is only observed shuts nobody out; to enforce it does.
    let observe = host.extra.replace("drain = true", "drain = true\nobserve = true");
    host.reload(&observe, seconds(500)).unwrap();
    let observed = v1::PolicyPort { mode: v1::Mode::Observe.into(), ..section(8080) };
    assert_eq!(host.push(&policy(3, &[observed]), seconds(501)), Ok("pending".into()), "3389");
    assert_eq!(host.confirm(3, seconds(502), seconds(502)), Ok("ok".into()));
    assert_eq!(host.push(&policy(4, &[section(8080)]), seconds(503)), Ok("pending".into()));
}

#[test]
fn what_waits_is_not_the_measure_of_what_is_new() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    // 8080 is armed already, but nobody has confirmed that.
    assert_eq!(host.push(&policy(2, &[section(8080)]), seconds(60)), Ok("pending".into()));
    assert_eq!(host.confirm(1, seconds(61), seconds(61)), Err(Refusal::NothingPending));
    host.gate().advance(seconds(180));
    assert!(!host.is_armed(HTTP));
    // One that takes it back stands at once, and nothing is left to wait for.
    host.push(&policy(3, &[section(8080)]), seconds(200)).unwrap();
    assert_eq!(host.push(&policy(4, &[]), seconds(201)), Ok("ok".into()));
    host.gate().advance(seconds(500));
    assert_eq!(host.version(seconds(500)), 4);
}

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
    assert_eq!(push(&[3, 4], seconds(60)), Err(Refusal::ApprovalsMissing), "its window is over");
    assert_eq!(push(&[4], seconds(60)), Err(Refusal::UnknownKey));
    assert_eq!(push(&[3, 4], seconds(59)), Ok("ok".into()));
    for bad in ["policy_approvals = 0", "policy_approvals = 3", "approvals = 0", "arm = [\"x\"]"] {
        let ceiling = CEILING.replace("[ceiling]", &format!("[ceiling]\n{bad}"));
        let ceiling = ceiling.replacen("arm = [\"8000-8100\", \"53/udp\"]\n", "", 1);
        assert!(try_config(&[RELEASE, second, &ceiling].concat()).is_err(), "{bad}");
    }
}

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
    assert_eq!(lost, [Some(exemption("10.0.0.5", 0))], "the one that is over is not lost");
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
fn a_lost_exemption_waits_for_a_confirmation_and_returns() {
    let mut host = Host::start();
    let exempt =
        |version, exemptions| policy(version, &[v1::PolicyPort { exemptions, ..section(8080) }]);
    let probe = vec![exemption("10.0.0.5", 0)];
    host.push(&exempt(1, probe.clone()), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    assert!(host.opens(HTTP, "10.0.0.5", seconds(1)) && !host.opens(HTTP, "10.0.0.6", seconds(1)));
    assert_eq!(host.push(&exempt(2, Vec::new()), seconds(2)), Ok("pending".into()));
    assert!(!host.opens(HTTP, "10.0.0.5", seconds(2)));
    host.gate().advance(seconds(122));
    assert!(host.opens(HTTP, "10.0.0.5", seconds(122)));
    // Wider, or for longer, takes nothing away.
    assert_eq!(
        host.push(&exempt(3, vec![exemption("10.0.0.0/24", 0)]), seconds(123)),
        Ok("ok".into())
    );
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
    // What the policy in force refuses as well is not this one's doing.
    assert_eq!(host.push_with(push, seconds(2)).unwrap().revoked, 0);
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
    // A lower ceiling: what was accepted stays, and `status` tells.
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
    // The key that signed it goes: it stays in force, also over a restart, and that is told.
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
fn a_port_that_asks_for_more_keys_than_are_left_is_told() {
    let third = "[[signer]]\nid = \"third\"\npublic_key = \"4.pem\"\n";
    let mut host = Host::with(&[third, RELEASE, CEILING].concat());
    let mut strict = policy(1, &[]);
    strict.ports[0].approvals = 3;
    assert_eq!(host.push(&strict, NOW), Ok("ok".into()));
    let told = |host: &mut Host| {
        let problems = host.gate().status(NOW).problems;
        problems.iter().any(|line| line.contains("no grant can open it"))
    };
    assert!(!told(&mut host));
    host.reload(&[RELEASE, CEILING].concat(), seconds(1)).unwrap();
    assert!(told(&mut host) && host.is_armed(SSH));
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
    assert_eq!(left[0].grant.as_ref().unwrap().id.as_ref(), [9; 16]);
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
