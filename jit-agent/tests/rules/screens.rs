//! `status` on screens of two sizes with none to very many grants, as it is shown: the files in
//! `screens/`. After a wanted change: `UPDATE_SCREENS=1 cargo test -p jit-agent --test rules screens`.

use std::{fs, path::Path};

use jit_client::status::{self, Page, StatusJson, Style};
use jit_proto::{
    GrantId, SourcePrefix,
    v1::{self, State},
};
use prost::Message as _;
use unicode_width::UnicodeWidthStr as _;

use crate::support::{MINUTE, port};

/// Grants whose ids, sources and names differ as real ones do.
fn grants(number: u32) -> Vec<v1::GrantState> {
    let names =
        ["ana@example.org", "山田太郎@example.org", "דנה@example.org", "Jose\u{301}@example.org"];
    let sources = ["203.0.113.7", "2001:db8:7::/64", "2001:db8:1111:2222:3333:4444:5555:6666"];
    let of = |index: u32| {
        let nth = usize::try_from(index).unwrap();
        let source: SourcePrefix = sources.get(nth % 3).unwrap().parse().unwrap();
        let mut id = [0; 16];
        id[..4].copy_from_slice(&(0x0192_0000_u32 + index / 1_000).to_be_bytes());
        id[4..8].copy_from_slice(&index.wrapping_mul(2_654_435_761).to_be_bytes());
        let grant = v1::Grant {
            id: id.to_vec().into(),
            sources: vec![v1::Source::from(&source); 1 + nth % 2],
            ports: vec![port(22)],
            requester: names.get(nth % 4).copied().unwrap().into(),
            ticket: format!("INC-{index}"),
            justification: "disk full: 磁盘已满, made room on the log volume".into(),
            ..v1::Grant::default()
        };
        v1::GrantState {
            grant: grant.encode_to_vec().into(),
            state: State::Active.into(),
            left_ms: 41 * MINUTE,
            hits: 3,
            ..v1::GrantState::default()
        }
    };
    (0..number).map(of).collect()
}

fn answer(number: u32) -> v1::StatusResponse {
    let interface = |name: String, hook: &str| v1::Interface {
        name,
        hook: hook.into(),
        ..v1::Interface::default()
    };
    let mut interfaces: Vec<_> =
        (0..8).map(|index| interface(format!("eth{index}"), "xdp_native")).collect();
    interfaces.extend(["tun0", "tun1"].map(|name| interface(name.into(), "tcx")));
    interfaces.push(interface("eth9".into(), "none"));
    let exemption = v1::Exemption {
        source: Some(v1::Source::from(&"198.51.100.0/24".parse::<SourcePrefix>().unwrap())),
        reason: "scanner".into(),
        owner: "sec".into(),
        until_ms: 0,
    };
    let ssh = v1::Port {
        range: Some(port(22)),
        mode: "enforce".into(),
        sessions: v1::Sessions::Drain.into(),
        terminates: "host".into(),
        max_duration_ms: 180 * MINUTE,
        exemptions: vec![exemption; 3],
        sources_allowed: 4,
        approvals: 2,
        ..v1::Port::default()
    };
    v1::StatusResponse {
        state: "degraded".into(),
        problems: vec![
            "eth9 has no gate: the program was refused by its driver (MTU 9001 is more than 3498), \
             see `jit-agent check`"
                .into(),
            "the clock is 3 minutes earlier than the last one seen: nothing new is opened".into(),
        ],
        version: "0.1.0".into(),
        host: "arn:aws:ec2:eu-west-1:111122223333:instance/i-0abcdef1234567890".into(),
        mode: "enforce".into(),
        interfaces,
        guard: Some(v1::SocketGuard { wanted: true, attached: true, ..Default::default() }),
        ports: vec![ssh.clone(), v1::Port { range: Some(port(3_389)), ..ssh }],
        grants: grants(number),
        soon: vec!["the certificate ends in 6 days".into()],
        recent: Some(v1::RecentDrops {
            packets: 1_204,
            top: vec![v1::TopSource { source: vec![198, 51, 100, 9].into(), packets: 612 }],
            ..v1::RecentDrops::default()
        }),
        ..v1::StatusResponse::default()
    }
}

#[test]
fn each_screen_fits_and_begins_with_the_verdict() {
    for (wide, high) in [(80, 24), (200, 50)] {
        for number in [0, 1, 40, 10_000] {
            let name = format!("{wide}x{high}-{number}.txt");
            let shown = status::text(&answer(number), Page::screen(Style::Plain, wide, high));
            assert!(shown.lines().count() < high.into(), "{name}: {shown}");
            let widest = shown.lines().map(|line| line.width()).max().unwrap();
            assert!(widest <= wide.into(), "{name}: {widest} columns\n{shown}");
            let verdict = shown.lines().next().unwrap();
            assert!(
                verdict.starts_with("jit-agent 0.1.0") && verdict.ends_with("DEGRADED"),
                "{verdict}"
            );
            assert!(shown.contains("eth9 has no gate") && shown.contains("1 WITHOUT A GATE: eth9"));
            assert!(shown.contains("nothing new is opened") || wide == 80, "{shown}");
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/screens").join(&name);
            if std::env::var_os("UPDATE_SCREENS").is_some() {
                fs::write(&path, &shown).unwrap();
            }
            assert_eq!(shown, fs::read_to_string(&path).unwrap_or_default(), "{name}");
            // Colours take no column.
            let painted = status::text(&answer(number), Page::screen(Style::Colour, wide, high));
            assert_eq!(without_colours(&painted), shown, "{name}");
        }
    }
}

/// The sample in the README is what is printed.
#[test]
fn the_readme_shows_what_status_prints() {
    let source: SourcePrefix = "203.0.113.7".parse().unwrap();
    let id: GrantId = "01M82PP7Q0000000000000000A".parse().unwrap();
    let grant = v1::Grant {
        id: id.0.to_vec().into(),
        sources: vec![v1::Source::from(&source)],
        ports: vec![port(22)],
        requester: "ana@example.org".into(),
        ticket: "INC-4211".into(),
        justification: "disk full".into(),
        ..v1::Grant::default()
    };
    let counter = |packets| v1::Counter { reason: "denied".into(), packets };
    let by_port = |packets| {
        let port = v1::PortCounter { protocol: 1, port: 22, by_reason: vec![counter(packets)] };
        vec![port]
    };
    let sample = answer(0);
    let status = v1::StatusResponse {
        state: "enforcing".into(),
        problems: Vec::new(),
        host: "web-1".into(),
        interfaces: sample.interfaces.into_iter().take(4).collect(),
        ports: sample
            .ports
            .into_iter()
            .take(1)
            .map(|port| v1::Port { sources_allowed: 2, exemptions: Vec::new(), ..port })
            .collect(),
        grants: vec![v1::GrantState {
            grant: grant.encode_to_vec().into(),
            state: State::Active.into(),
            left_ms: 41 * MINUTE,
            hits: 3,
            ..v1::GrantState::default()
        }],
        recent: Some(v1::RecentDrops {
            packets: 1_204,
            by_port: by_port(1_204),
            top: vec![v1::TopSource { source: vec![198, 51, 100, 9].into(), packets: 612 }],
        }),
        drops: Some(v1::Drops {
            by_reason: vec![counter(31_407)],
            by_port: by_port(31_407),
            ..v1::Drops::default()
        }),
        control: Some(v1::Control {
            listen: "0.0.0.0:7443".into(),
            listening: true,
            last_push_ms: jiff::Timestamp::now().as_millisecond() - 12 * MINUTE,
            last_controller: "spiffe://example.org/jit-controller".into(),
            ..v1::Control::default()
        }),
        soon: Vec::new(),
        ..sample
    };
    let shown = status::text(&status, Page::screen(Style::Plain, 110, 24));
    let readme = include_str!("../../../README.md");
    let block =
        readme.split("$ jit-agent status\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(block, Some(&*shown));
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').unwrap().1)
}

#[test]
fn on_any_size_no_line_is_too_wide_and_none_too_many() {
    let answer = answer(40);
    for wide in [20, 40, 79, 81, 120] {
        for high in [3, 5, 10, 17, 24, 33, 80] {
            let shown = status::text(&answer, Page::screen(Style::Plain, wide, high));
            assert!(shown.lines().count() < high.into(), "{wide}x{high}: {shown}");
            assert!(
                shown.lines().all(|line| line.width() <= wide.into()),
                "{wide}x{high}: {shown}"
            );
            assert!(shown.lines().next().unwrap().contains("DEGRADED"), "{wide}x{high}: {shown}");
        }
    }
}

#[test]
fn in_a_pipe_the_first_twenty_grants_are_shown_and_with_all_every_one() {
    let pipe = Page { grants: Some(20), ..Page::endless(Style::Plain) };
    let shown = status::text(&answer(10_000), pipe);
    assert!(shown.contains("  … 9,980 more: `jit-agent grants`\n"), "{shown}");
    assert_eq!(shown.matches("INC-").count(), 20);
    let all = status::text(&answer(10_000), Page::endless(Style::Plain));
    assert_eq!((all.matches("INC-").count(), all.contains("more:")), (10_000, false));
}

#[test]
fn very_many_problems_do_not_hide_the_grants_and_their_number_is_shown() {
    let problems = (0..200).map(|index| format!("problem number {index} is this")).collect();
    let answer = v1::StatusResponse { problems, ..answer(40) };
    let shown = status::text(&answer, Page::screen(Style::Plain, 80, 24));
    assert!(shown.lines().nth(1).unwrap().starts_with("problem  problem number 0"), "{shown}");
    assert!(shown.contains("more: `jit-agent status --json`"), "{shown}");
    assert!(shown.contains("grants   40 live\n") && shown.contains("22/tcp"), "{shown}");
}

#[test]
fn hostile_names_stay_in_their_columns() {
    let grant = v1::Grant {
        requester: "eve\x1b[2J\n\u{202e}gnp".repeat(9),
        justification: "\u{200b}\u{fe0f}山\u{301}".repeat(99),
        ..v1::Grant::default()
    };
    let grant = grant.encode_to_vec().into();
    let state = v1::GrantState { grant, ..v1::GrantState::default() };
    let answer = v1::StatusResponse { grants: vec![state; 3], ..answer(0) };
    let shown = status::text(&answer, Page::screen(Style::Plain, 80, 24));
    assert!(shown.lines().all(|line| line.width() <= 80), "{shown}");
    let hostile = jit_proto::printable::is_hostile;
    assert!(shown.lines().all(|line| !line.contains(hostile)), "{shown:?}");
}

#[test]
fn the_json_is_as_its_schema_says() {
    let mut schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
    let shipped = jsonschema::validator_for(&schema).unwrap();
    // Scripts must expect more fields. Here each one must be in the schema.
    close(&mut schema);
    let closed = jsonschema::validator_for(&schema).unwrap();
    for answer in [answer(3), crate::status::everything(), empty()] {
        let mut value = serde_json::to_value(StatusJson(&answer)).unwrap();
        closed
            .validate(&value)
            .unwrap_or_else(|error| panic!("{error} at {}", error.instance_path()));
        value["new_field"] = 1.into();
        assert!(shipped.is_valid(&value) && !closed.is_valid(&value));
        value["ports"] = 1.into();
        assert!(!shipped.is_valid(&value));
    }
}

/// As of a dead agent.
fn empty() -> v1::StatusResponse {
    v1::StatusResponse {
        state: "not_enforcing".into(),
        mode: "enforce".into(),
        ..v1::StatusResponse::default()
    }
}

/// Forbids fields that are not named, in every object that names some.
fn close(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(map) => {
            if map.contains_key("required") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(close);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
