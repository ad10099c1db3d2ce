//! Formats what the on-call engineer sees: `status`, `grants` and events, as text or as JSON.
//!
//! Opens nothing. Control characters in the agent's texts are escaped, so that no name can rewrite
//! the screen. The first line is the verdict. On a terminal no line is wider than it is, and
//! `status` is never longer.

use jit_proto::v1;

pub use self::{
    columns::{cut, fold, width},
    denials::{denials_json, denials_text},
    event::{event_json, event_text},
    filter::{Filter, Order},
    grants::grants_text,
    json::{GrantsJson, StatusJson, exemption_json, policy_json},
    page::{Page, Style},
    ports::exemption_text,
    short_id::{IdBegin, ShortIds},
};

mod columns;
mod denials;
mod drops;
mod event;
mod filter;
mod grants;
mod interfaces;
mod json;
mod layout;
pub(crate) mod live;
mod page;
mod ports;
mod sections;
mod short_id;
mod words;

const BOLD: &str = "1";
const GREEN: &str = "1;32";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";

/// `status` as text.
pub fn text(status: &v1::StatusResponse, page: Page) -> String {
    let Page { style, width, height, grants: _ } = page;
    let mut lines = vec![sections::head(status, style, width)];
    let rest = height.map(|height| height.saturating_sub(1));
    lines.extend(layout::lay_out(&sections::sections(status, page), rest, width, style));
    lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Page = Page::endless(Style::Plain);

    #[test]
    fn hostile_names_cannot_rewrite_the_screen() {
        let grant = v1::Grant {
            requester: "eve\x1b[2J\n\u{202e}gnp".into(),
            justification: "x".repeat(500),
            ..v1::Grant::default()
        };
        let grant = prost::Message::encode_to_vec(&grant).into();
        let state = v1::GrantState { grant, ..v1::GrantState::default() };
        let text = grants_text(&[state], &ShortIds::default(), PLAIN);
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text:?}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() < 200));
    }

    #[test]
    fn a_grant_that_cannot_be_read_is_listed_and_says_so() {
        let state = v1::GrantState { grant: vec![0xff].into(), ..v1::GrantState::default() };
        let text = grants_text(std::slice::from_ref(&state), &ShortIds::default(), PLAIN);
        assert!(text.contains("this grant cannot be read"), "{text}");
        let json = serde_json::to_string(&GrantsJson(&[state])).unwrap();
        assert!(json.contains("this grant cannot be read"), "{json}");
    }

    /// A false agent is trusted as little as a grant.
    #[test]
    fn no_field_of_an_answer_or_an_event_can_rewrite_the_screen() {
        use v1::event::What;
        let bad = || "x\x1b[2J\n\u{9b}\u{202e}\u{2028}y".to_owned();
        let counter = v1::Counter { reason: bad(), packets: 1 };
        let answer = v1::StatusResponse {
            state: bad(),
            problems: vec![bad()],
            version: bad(),
            host: bad(),
            mode: bad(),
            interfaces: vec![v1::Interface {
                name: bad(),
                hook: bad(),
                note: bad(),
                ..Default::default()
            }],
            ports: vec![v1::Port { mode: bad(), terminates: bad(), ..Default::default() }],
            drops: Some(v1::Drops { by_reason: vec![counter], ..Default::default() }),
            control: Some(v1::Control {
                listen: bad(),
                last_controller: bad(),
                last_push_ms: 1,
                problem: bad(),
                ..Default::default()
            }),
            configuration: Some(v1::ConfigurationState {
                path: bad(),
                refused: bad(),
                ..Default::default()
            }),
            soon: vec![bad()],
            policy: Some(v1::PolicyState {
                version: 1,
                author: bad(),
                justification: bad(),
                signers: vec![bad()],
                ..Default::default()
            }),
            log: Some(v1::LogState { dropped_lines: 1, problem: bad() }),
            ..Default::default()
        };
        let shown = text(&answer, PLAIN);
        let hostile =
            |text: &str| text.lines().any(|line| line.contains(jit_proto::printable::is_hostile));
        assert!(!hostile(&shown), "{shown:?}");
        assert!(!hostile(&jit_proto::printable::json_pretty(&StatusJson(&answer))));
        for what in [
            What::Grant(v1::GrantEvent {
                kind: bad(),
                reason: bad(),
                by: bad(),
                detail: bad(),
                ..Default::default()
            }),
            What::Packet(v1::PacketEvent { reason: bad(), ..Default::default() }),
            What::Gate(v1::GateEvent { kind: bad(), interface: bad(), detail: bad() }),
            What::AuditHead(v1::AuditHead { signed: bad(), ..Default::default() }),
            What::Policy(v1::PolicyEvent {
                kind: bad(),
                reason: bad(),
                by: bad(),
                detail: bad(),
                ..Default::default()
            }),
        ] {
            let event = v1::Event { what: Some(what), cursor: bad(), ..Default::default() };
            let line = event_text(&event);
            assert!(!line.contains(jit_proto::printable::is_hostile), "{line:?}");
            let json = jit_proto::printable::json_line(&event_json(&event));
            assert!(!json.contains(jit_proto::printable::is_hostile), "{json:?}");
        }
    }

    #[test]
    fn floors_are_shown_the_latest_first_and_not_too_many() {
        let by_requester = (1..=5).map(|n| (format!("user{n}"), 1_780_272_000_000 + n)).collect();
        let floors = v1::RevocationFloor { all_ms: 1_780_272_000_000, by_requester };
        let status =
            v1::StatusResponse { revoked_before: Some(floors.clone()), ..Default::default() };
        let shown = text(&status, PLAIN);
        let lines: Vec<_> = shown.lines().filter(|line| line.starts_with("revoked")).collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[0].contains("what was signed until 2026-06-01T00:00:00"), "{lines:?}");
        assert!(lines[1].contains("signed for user5 until"), "{lines:?}");
        assert!(lines[4].contains("2 more requesters"), "{lines:?}");
        let value = serde_json::to_value(StatusJson(&status)).unwrap();
        assert_eq!(value["revoked_before"]["by_requester"].as_object().unwrap().len(), 5);
        assert!(value["revoked_before"]["all"].as_str().unwrap().starts_with("2026-06-01"));
    }

    #[test]
    fn plain_style_has_no_escapes_and_colour_has() {
        let status = v1::StatusResponse { state: "enforcing".into(), ..Default::default() };
        assert!(!text(&status, PLAIN).contains('\x1b'));
        assert!(text(&status, Page::endless(Style::Colour)).contains("\x1b[1;32mENFORCING"));
    }
}
