//! The screen for people and the JSON for scripts: one answer with every field, word for word.

use jit_agent::rules::refusal::Refused;
use jit_client::{
    exit::Exit,
    status::{self, GrantsJson, Page, StatusJson, Style},
};
use jit_proto::{Refusal, v1, words::id_text};
use prost::Message as _;
use serde_json::{Value, json, to_value};

use crate::support::{MINUTE, NOW, grant, port};

const PLAIN: Page = Page::endless(Style::Plain);
const HOUR: i64 = 60 * MINUTE;
/// A time that no clock reaches while these tests are used.
const FAR: i64 = 4_102_444_800_000;

fn udp(first: u32, last: u32) -> v1::PortRange {
    v1::PortRange { protocol: v1::Protocol::Udp.into(), first, last }
}

fn source(text: &str) -> v1::Source {
    let prefix: jit_proto::SourcePrefix = text.parse().unwrap();
    v1::Source::from(&prefix)
}

fn counter(reason: &str, packets: u64) -> v1::Counter {
    v1::Counter { reason: reason.into(), packets }
}

fn exemption(text: &str, until_ms: i64) -> v1::Exemption {
    v1::Exemption {
        source: Some(source(text)),
        reason: "scanner".into(),
        owner: "sec".into(),
        until_ms,
    }
}

fn of(grant: v1::Grant, state: v1::State, left_ms: i64, hits: u64) -> v1::GrantState {
    let signers = vec!["prod".into()];
    let outside = String::new();
    let grant = grant.encode_to_vec().into();
    v1::GrantState { grant, state: state.into(), signers, left_ms, hits, outside }
}

/// One grant in each state.
fn grants() -> Vec<v1::GrantState> {
    let wide = v1::Grant {
        ports: vec![port(22), udp(5_985, 5_986)],
        approvers: vec!["bo@example.org".into()],
        ticket: "INC-7".into(),
        sessions: v1::Sessions::Cut.into(),
        ..grant(1, &["203.0.113.7/32", "2001:db8::/64"])
    };
    let few = v1::Grant { max_connections: 3, ..grant(2, &["203.0.113.0/24"]) };
    let next = v1::Grant {
        not_before_ms: now() + 30 * MINUTE + MINUTE / 2,
        replaces: vec![2; 16].into(),
        ..grant(3, &["203.0.113.8/32"])
    };
    let plain = |id| grant(id, &["203.0.113.9/32"]);
    vec![
        of(wide, v1::State::Active, 62 * MINUTE, 12),
        v1::GrantState {
            outside: "port_not_protected: 22/tcp is not protected here".into(),
            ..of(few, v1::State::Exhausted, 5 * MINUTE, 3)
        },
        of(next, v1::State::Scheduled, 0, 0),
        of(plain(4), v1::State::Expired, 0, 1),
        of(plain(5), v1::State::Replaced, 0, 1),
        of(plain(6), v1::State::Revoked, 0, 1),
        of(
            v1::Grant { id: vec![7; 3].into(), ..v1::Grant::default() },
            v1::State::Unspecified,
            0,
            0,
        ),
    ]
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

pub(crate) fn everything() -> v1::StatusResponse {
    let interface = |name: &str, hook: &str, note: &str| v1::Interface {
        name: name.into(),
        index: 2,
        hook: hook.into(),
        since_ms: NOW.wall.0,
        note: note.into(),
        attached: !matches!(hook, "none" | "excluded"),
        excluded: String::new(),
    };
    let excluded =
        v1::Interface { excluded: "own network".into(), ..interface("mgmt0", "excluded", "") };
    v1::StatusResponse {
        state: "degraded".into(),
        problems: vec!["eth1 has no gate: run `jit-agent check`".into()],
        version: "0.1.0".into(),
        host: "web-1".into(),
        host_id_source: "file".into(),
        mode: "observe".into(),
        interfaces: vec![
            interface("eth0", "xdp_native", ""),
            interface("tun0", "tcx", "no Ethernet header"),
            interface("wg0", "guard_only", ""),
            interface("eth1", "none", ""),
            excluded,
        ],
        ports: vec![
            v1::Port {
                range: Some(port(22)),
                mode: "enforce".into(),
                sessions: v1::Sessions::Drain.into(),
                terminates: "host".into(),
                max_duration_ms: 3 * HOUR,
                exemptions: vec![
                    exemption("198.51.100.0/24", 0),
                    exemption("198.51.100.1/32", FAR),
                    exemption("198.51.100.2/32", NOW.wall.0 - HOUR * 24 * 365),
                ],
                open_to_all: false,
                sources_allowed: 2,
                approvals: 2,
            },
            v1::Port {
                range: Some(udp(500, 501)),
                mode: "observe".into(),
                sessions: v1::Sessions::Cut.into(),
                terminates: "forwarded".into(),
                open_to_all: true,
                ..v1::Port::default()
            },
        ],
        grants: grants(),
        drops: Some(v1::Drops {
            by_reason: vec![counter("denied", 1_234_567), counter("malformed", 2)],
            by_port: vec![
                v1::PortCounter {
                    protocol: v1::Protocol::Udp.into(),
                    port: 500,
                    by_reason: vec![counter("denied", 7)],
                },
                v1::PortCounter {
                    protocol: v1::Protocol::Tcp.into(),
                    port: 22,
                    by_reason: vec![counter("denied", 1_234_560), counter("granted", 99)],
                },
                v1::PortCounter {
                    protocol: v1::Protocol::Tcp.into(),
                    port: 3_389,
                    by_reason: vec![counter("granted", 5)],
                },
            ],
            observed: 1_000,
            events_suppressed: 4,
            events_lost: 5,
            guard: 6,
        }),
        control: Some(v1::Control {
            listen: "[::]:8443".into(),
            certificate_not_after_ms: FAR,
            last_push_ms: now() - 2 * HOUR - MINUTE / 2,
            last_controller: "spiffe://example.org/hub".into(),
            listening: true,
            problem: "line 7: [control] key: no private key; the certificate before is used".into(),
            connections: 3,
            connections_max: 512,
        }),
        front: Some(v1::Front {
            pid: 812,
            since_ms: NOW.wall.0,
            ends: 2,
            last_end_ms: now() - HOUR - MINUTE / 2,
            last_end: "ended by signal 9 (it closed its end)".into(),
            keeps: "files (Landlock)".into(),
        }),
        uplink: Some(v1::Uplink {
            connected: true,
            hub: "hub-a.example.org:443".into(),
            since_ms: now() - 3 * HOUR - MINUTE / 2,
            last_error: "hub-b.example.org:443: the hub closed the connection".into(),
            last_error_ms: NOW.wall.0,
            proxy: "proxy.example.org:3128".into(),
            certificate_not_after_ms: FAR,
            next_attempt_in_ms: 0,
            connects: 3,
            failures: 2,
            last_push_ms: NOW.wall.0,
            last_controller: "spiffe://example.org/hub".into(),
            spare: "hub-b.example.org:443".into(),
        }),
        freshness: Some(v1::Freshness {
            epoch: 2,
            number: 1_234,
            issued_at_ms: now() - 2 * HOUR - MINUTE / 2,
            state: "withheld".into(),
            for_ms: 7_000,
            missing: 3,
            contradictions: 1,
            contradiction: "forked".into(),
            contradiction_ms: now() - HOUR - MINUTE / 2,
        }),
        configuration: Some(v1::ConfigurationState {
            path: "/etc/jit-agent/config.toml".into(),
            in_force_since_ms: NOW.wall.0,
            last_good: true,
            refused: "line 26: unknown field `gaet`".into(),
            refused_at_ms: FAR,
        }),
        capacity: Some(v1::Capacity {
            host_entries: 1,
            host_entries_max: 2,
            prefix_entries: 3,
            prefix_entries_max: 4,
        }),
        soon: vec!["the certificate ends in 6 days".into()],
        started_at_ms: NOW.wall.0,
        policy: Some(policy(0)),
        guard: Some(v1::SocketGuard {
            wanted: true,
            attached: true,
            since_ms: NOW.wall.0,
            note: "all namespaces of this host".into(),
        }),
        log: Some(v1::LogState { dropped_lines: 12_345, problem: String::new() }),
        foreign: 3,
        revoked_before: Some(v1::RevocationFloor {
            all_ms: NOW.wall.0 - 24 * HOUR,
            by_requester: [("ana@example.org".into(), NOW.wall.0)].into(),
        }),
        refused: vec![v1::RefusedPush {
            time_ms: FAR,
            grant_id: vec![8; 16].into(),
            requester: "li@example.org".into(),
            sources: vec![source("203.0.113.9/32")],
            ports: vec![port(22)],
            by: "spiffe://example.org/hub".into(),
            reason: "lifetime".into(),
            detail: "longer than 3h".into(),
            count: 2,
        }],
        refused_last_hour: 3,
        boot_id: "3e9f0d5c-1c1b-4a55-9f7e-0a3d1b1c2d3e".into(),
        trial: Some(v1::TrialState {
            left_ms: 103_000,
            begun_ms: NOW.wall.0,
            of_file: false,
            closes: vec!["[gate] mode observe -> enforce".into()],
            ended: String::new(),
            ended_ms: 0,
        }),
        recent: Some(v1::RecentDrops {
            packets: 1_204,
            by_port: vec![v1::PortCounter {
                protocol: v1::Protocol::Tcp.into(),
                port: 22,
                by_reason: vec![counter("denied", 1_180)],
            }],
            top: vec![v1::TopSource { source: vec![198, 51, 100, 9].into(), packets: 612 }],
        }),
    }
}

fn policy(confirm_left_ms: i64) -> v1::PolicyState {
    v1::PolicyState {
        version: 8,
        highest_version: 9,
        signers: vec!["policy-1".into(), "policy-2".into()],
        author: "kim@example.org".into(),
        justification: "audit".into(),
        issued_at_ms: NOW.wall.0,
        confirm_left_ms,
        previous_version: 7,
        accepts_policies: true,
    }
}

#[test]
fn the_screen_word_for_word() {
    let screen = "\
jit-agent 0.1.0  web-1  DEGRADED (observe mode: nothing is dropped)
problem  eth1 has no gate: run `jit-agent check`
gate     1 WITHOUT A GATE: eth1    1 SOCKET GUARD ONLY: wg0    eth0  native XDP    \
tun0  TC (tcx) (no Ethernet header)    mgmt0  EXCLUDED (own network)    socket guard
ports    22/tcp enforce drain <=3h  from 2 sources, 2 approvals, exempt 2    \
500-501/udp observe cut forwarded OPEN TO ALL
policy   version 8 of kim@example.org signed by policy-1, policy-2
exempt   22/tcp 198.51.100.0/24  scanner (owner sec)
exempt   22/tcp 198.51.100.1  scanner (owner sec, until 2100-01-01T00:00:00Z)
exempt   22/tcp 198.51.100.2  scanner (owner sec, ended 2025-06-01T00:00:00Z)
grants   1 live, 1 exhausted, 1 scheduled, 1 expired, 1 replaced, 1 revoked
  ID        SOURCE          PORT           LEFT  HITS  REQUESTER        WHY
  01040G20  203.0.113.7 +1  22/tcp +1     1h02m    12  ana@example.org  INC-7 disk full
  02081040  203.0.113.0/24  22/tcp        5m00s   3/3  ana@example.org  disk full
    outside the present configuration: port_not_protected: 22/tcp is not protected here
  030C1G60  203.0.113.8     22/tcp       in 30m     0  ana@example.org  disk full
  040G2081  203.0.113.9     22/tcp      expired     1  ana@example.org  disk full
  050M2GA1  203.0.113.9     22/tcp     replaced     1  ana@example.org  disk full
  060R30C1  203.0.113.9     22/tcp      revoked     1  ana@example.org  disk full
  070707    none            none              ?     0
revoked  what was signed until 2026-05-31T00:00:00Z is refused
revoked  what was signed for ana@example.org until 2026-06-01T00:00:00Z is refused
refused  0s ago 2 times  li@example.org  203.0.113.9  22/tcp  lifetime: longer than 3h
refused  … 2 more: `jit-agent denials`
dropped  1,204 in 5 min (22/tcp 1,180), most from 198.51.100.9 (612)
dropped  1,234,569 packets (22/tcp 1,234,560; 500/udp 7): denied 1,234,567, malformed 2; \
1,000 of them only observed, since the gate was put in force
tables   3 times not what the agent wrote: put right (audit K001 to K003)
control  listening on [::]:8443, 3 of 512 connections, last push 2h ago by spiffe://example.org/hub
control  uplink hub-a.example.org:443 through proxy.example.org:3128 connected 3h, \
spare hub-b.example.org:443
control  withheld for 7s: 3 missing, checkpoint 1234 of 2h ago, forked 1h ago
control  its process ended by itself 2 times, last 1h ago: ended by signal 9 (it closed its end)
control  its process keeps what it should not have: files (Landlock)
log      12,345 lines dropped: nobody took them in time
soon     the certificate ends in 6 days
";
    assert_eq!(status::text(&everything(), PLAIN), screen);
}

#[test]
fn an_empty_status_still_has_a_screen() {
    let screen = "jit-agent     \ngate     none\nports    none\ngrants   0 live\n\
                  dropped  0 packets\n";
    assert_eq!(status::text(&v1::StatusResponse::default(), PLAIN), screen);
}

#[test]
fn the_state_is_a_colour_and_an_exit_code() {
    for (state, code, colour) in
        [("enforcing", 0, "32"), ("degraded", 1, "33"), ("not_enforcing", 2, "31"), ("", 2, "31")]
    {
        let answer = v1::StatusResponse { state: state.into(), ..Default::default() };
        assert_eq!(Exit::of_status(&answer).code(), code, "{state}");
        let word = state.replace('_', " ").to_uppercase();
        let painted = format!("\x1b[1;{colour}m{word}\x1b[0m");
        assert!(status::text(&answer, Page::endless(Style::Colour)).contains(&painted), "{state}");
    }
}

#[test]
fn the_guard_and_the_controller_each_have_their_words() {
    for (wanted, attached, words) in [
        (true, true, "none    socket guard\n"),
        (false, true, "none    socket guard\n"),
        (true, false, "none    NO SOCKET GUARD\n"),
        (
            false,
            false,
            "none    socket guard off (new interfaces are open for some milliseconds)\n",
        ),
    ] {
        let guard = Some(v1::SocketGuard { wanted, attached, ..Default::default() });
        let answer = v1::StatusResponse { guard, ..Default::default() };
        let screen = status::text(&answer, PLAIN);
        assert!(screen.contains(words), "{screen}");
    }
    let control = Some(v1::Control { listen: "[::]:8443".into(), ..Default::default() });
    let answer = v1::StatusResponse { control, ..Default::default() };
    let words = "control  listening on [::]:8443, no push since the start\n";
    assert!(status::text(&answer, PLAIN).contains(words));
    let problem = "not listening: no interface has 192.0.2.1".to_owned();
    let control = v1::Control { listen: "192.0.2.1:8443".into(), problem, ..Default::default() };
    let answer = v1::StatusResponse { control: Some(control), ..Default::default() };
    let words = "control  not listening: no interface has 192.0.2.1, no push since the start\n";
    assert!(status::text(&answer, PLAIN).contains(words));
}

#[test]
fn the_json_value_for_value() {
    let mut shown = to_value(StatusJson(&everything())).unwrap();
    let grants = shown["grants"].take();
    assert!(shown["control"]["last_push"].take().is_string());
    assert!(shown["front"]["last_end_at"].take().is_string());
    assert!(shown["uplink"]["since"].take().is_string());
    assert!(shown["freshness"]["issued_at"].take().is_string());
    assert!(shown["freshness"]["contradiction_at"].take().is_string());
    let time = "2026-06-01T00:00:00Z";
    let interface = |name: &str, hook: &str, note: &str, attached: bool| {
        json!({
            "name": name, "index": 2, "hook": hook, "note": note, "attached": attached,
            "since": time, "excluded": if hook == "excluded" { json!("own network") } else { json!(null) },
        })
    };
    let exemption = |source: &str, until: Value| json!({ "source": source, "reason": "scanner", "owner": "sec", "until": until });
    let expected = json!({
        "schema_version": 1,
        "state": "degraded",
        "problems": ["eth1 has no gate: run `jit-agent check`"],
        "soon": ["the certificate ends in 6 days"],
        "log": { "dropped_lines": 12_345, "problem": null },
        "version": "0.1.0",
        "host": "web-1",
        "host_id_source": "file",
        "mode": "observe",
        "started_at": time,
        "interfaces": [
            interface("eth0", "xdp_native", "", true),
            interface("tun0", "tcx", "no Ethernet header", true),
            interface("wg0", "guard_only", "", true),
            interface("eth1", "none", "", false),
            interface("mgmt0", "excluded", "", false),
        ],
        "socket_guard": {
            "wanted": true, "attached": true, "since": time,
            "note": "all namespaces of this host",
        },
        "ports": [
            {
                "port": "22/tcp", "mode": "enforce", "sessions": "drain", "terminates": "host",
                "max_duration_s": 10_800,
                "exemptions": [
                    exemption("198.51.100.0/24", Value::Null),
                    exemption("198.51.100.1", json!("2100-01-01T00:00:00Z")),
                    exemption("198.51.100.2", json!("2025-06-01T00:00:00Z")),
                ],
                "open_to_all": false, "sources_allowed": 2, "approvals": 2,
            },
            {
                "port": "500-501/udp", "mode": "observe", "sessions": "cut",
                "terminates": "forwarded", "max_duration_s": 0, "exemptions": [],
                "open_to_all": true, "sources_allowed": null, "approvals": null,
            },
        ],
        "grants": null,
        "dropped": {
            "by_reason": { "denied": 1_234_567, "malformed": 2 },
            "by_port": {
                "22/tcp": { "denied": 1_234_560, "granted": 99 },
                "3389/tcp": { "granted": 5 },
                "500/udp": { "denied": 7 },
            },
            "observed": 1_000,
            "events_suppressed": 4,
            "events_lost": 5,
            "by_socket_guard": 6,
        },
        "dropped_lately": {
            "packets": 1_204,
            "by_port": { "22/tcp": { "denied": 1_180 } },
            "top": [{ "source": "198.51.100.9", "packets": 612 }],
        },
        "refused": [{
            "time": "2100-01-01T00:00:00Z", "grant_id": id_text(&[8; 16]), "requester": "li@example.org",
            "sources": ["203.0.113.9"], "ports": ["22/tcp"], "by": "spiffe://example.org/hub",
            "reason": "lifetime", "detail": "longer than 3h", "count": 2,
        }],
        "refused_last_hour": 3,
        "trial": {
            "left_ms": 103_000,
            "begun": time,
            "of_file": false,
            "closes": ["[gate] mode observe -> enforce"],
            "ended": null,
            "ended_at": null,
        },
        "control": {
            "listen": "[::]:8443", "certificate_not_after": "2100-01-01T00:00:00Z",
            "last_push": null, "last_controller": "spiffe://example.org/hub", "listening": true,
            "problem": "line 7: [control] key: no private key; the certificate before is used",
            "connections": 3, "connections_max": 512,
        },
        "front": {
            "pid": 812, "since": time, "ends": 2, "last_end_at": null,
            "last_end": "ended by signal 9 (it closed its end)", "keeps": "files (Landlock)",
        },
        "uplink": {
            "connected": true, "hub": "hub-a.example.org:443", "since": null,
            "last_error": "hub-b.example.org:443: the hub closed the connection",
            "last_error_at": time, "proxy": "proxy.example.org:3128",
            "certificate_not_after": "2100-01-01T00:00:00Z", "next_attempt_in_ms": 0,
            "connects": 3, "failures": 2, "last_push": time,
            "last_controller": "spiffe://example.org/hub", "spare": "hub-b.example.org:443",
        },
        "freshness": {
            "state": "withheld", "for_ms": 7_000, "missing": 3, "epoch": 2, "number": 1_234,
            "issued_at": null, "contradictions": 1, "contradiction": "forked",
            "contradiction_at": null,
        },
        "configuration": {
            "path": "/etc/jit-agent/config.toml", "in_force_since": time, "last_good": true,
            "refused": "line 26: unknown field `gaet`", "refused_at": "2100-01-01T00:00:00Z",
        },
        "capacity": {
            "host_entries": 1, "host_entries_max": 2, "prefix_entries": 3,
            "prefix_entries_max": 4,
        },
        "policy": status::policy_json(&policy(0)),
        "foreign": 3,
        "revoked_before": {
            "all": "2026-05-31T00:00:00Z",
            "by_requester": { "ana@example.org": time },
        },
    });
    assert_eq!(shown, expected);
    assert_eq!(grants, to_value(GrantsJson(&self::grants())).unwrap());
}

#[test]
fn a_grant_value_for_value() {
    let shown = to_value(GrantsJson(&grants())).unwrap();
    let states: Vec<_> = shown.as_array().unwrap().iter().map(|grant| &grant["state"]).collect();
    assert_eq!(
        states,
        ["active", "exhausted", "scheduled", "expired", "replaced", "revoked", "unknown"]
    );
    let expected = json!({
        "id": id_text(&[1; 16]),
        "state": "active",
        "sources": ["203.0.113.7", "2001:db8::/64"],
        "ports": ["22/tcp", "5985-5986/udp"],
        "hosts": ["web-1"],
        "issued_at": "2026-06-01T00:00:00Z",
        "not_before": "2026-06-01T00:00:00Z",
        "not_after": "2026-06-01T00:10:00Z",
        "left_ms": 3_720_000,
        "hits": 12,
        "max_connections": null,
        "sessions": "cut",
        "replaces": null,
        "requester": "ana@example.org",
        "approvers": ["bo@example.org"],
        "justification": "disk full",
        "ticket": "INC-7",
        "signers": ["prod"],
        "outside": null,
    });
    assert_eq!(shown[0], expected);
    assert_eq!(shown[1]["outside"], "port_not_protected: 22/tcp is not protected here");
    assert_eq!(shown[1]["max_connections"], 3);
    assert_eq!(shown[2]["replaces"], id_text(&[2; 16]));
    assert_eq!(shown[6]["id"], "070707");
}

#[test]
fn a_policy_that_waits_shows_the_time_left() {
    let [settled, waits] = [policy(0), policy(MINUTE)].map(|policy| status::policy_json(&policy));
    let expected = json!({
        "version": 8,
        "highest_version": 9,
        "signers": ["policy-1", "policy-2"],
        "author": "kim@example.org",
        "justification": "audit",
        "issued_at": "2026-06-01T00:00:00Z",
        "confirm_left_ms": null,
        "previous_version": null,
        "accepts_policies": true,
    });
    assert_eq!(settled, expected);
    assert_eq!(waits["confirm_left_ms"], MINUTE);
    assert_eq!(waits["previous_version"], 7);
}

#[test]
fn a_refusal_reads_as_its_word_and_why() {
    let refused = Refused::new(Refusal::Expired, "the window ended at noon");
    assert_eq!(refused.to_string(), "expired: the window ended at noon");
    let endless = Refused::new(Refusal::Malformed, "x\u{1}".repeat(1_000_000));
    assert!(endless.detail.len() < 8_000 && endless.detail.ends_with('…'));
}
