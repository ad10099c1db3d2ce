//! Formats what the on-call engineer sees: `status`, `grants` and events, as text or as JSON.
//!
//! Opens nothing. Control characters in the agent's texts are escaped, so that no name can rewrite
//! the screen.

use std::fmt::Write as _;

use jit_proto::{
    Hook, WallTime,
    printable::clean,
    v1,
    words::{duration, protocol_word, range_text, sessions_word, source_text},
};

use self::words::{WIDTH, line, now_ms, thousands};
pub use self::{
    denials::{denials_json, denials_text},
    event::{event_json, event_text},
    grants::grants_text,
    json::{GrantsJson, StatusJson, exemption_json, policy_json},
};
use crate::exit::Exit;

mod denials;
mod event;
mod grants;
mod json;
mod words;

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours.
    Colour,
    /// No escape sequences.
    Plain,
}

impl Style {
    /// Colour on a terminal, unless `NO_COLOR` is set (no-color.org).
    pub fn of_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if !plain && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    /// The text in an ANSI colour (SGR code), where colour is wanted.
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Requesters whose floor `status` shows.
const SHOWN_FLOORS: usize = 3;

const BOLD: &str = "1";
const GREEN: &str = "1;32";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";

/// Version, host and state.
fn head_line(out: &mut String, status: &v1::StatusResponse, style: Style, colour: &str) {
    let state = clean(&status.state, 40).replace('_', " ").to_uppercase();
    let mode = if status.mode == "observe" { " (observe mode: nothing is dropped)" } else { "" };
    let version = style.paint(BOLD, &format!("jit-agent {}", clean(&status.version, 40)));
    let (host, state) = (clean(&status.host, 100), style.paint(colour, &state));
    line(out, format_args!("{version}  {host}  {state}{mode}"));
}

/// A pushed policy.
fn policy_text(policy: &v1::PolicyState) -> String {
    let signers = clean(&policy.signers.join(", "), 100);
    let signed = if signers.is_empty() { String::new() } else { format!(" signed by {signers}") };
    format!("version {} of {}{signed}", policy.version, clean(&policy.author, WIDTH))
}

/// `status` as text.
pub fn text(status: &v1::StatusResponse, style: Style) -> String {
    let mut out = String::new();
    let colour = match Exit::of_status(status) {
        Exit::Success => GREEN,
        Exit::Degraded => YELLOW,
        _ => RED,
    };
    head_line(&mut out, status, style, colour);
    for problem in &status.problems {
        line(&mut out, format_args!("{}  {}", style.paint(colour, "problem"), clean(problem, 400)));
    }
    let interfaces: Vec<_> = status.interfaces.iter().map(interface_text).collect();
    let guard = status.guard.as_ref().map_or("", guard_text);
    let gate = format!("{}{guard}", or_none(&interfaces.join("    ")));
    line(&mut out, format_args!("gate     {gate}"));
    let ports: Vec<_> = status.ports.iter().map(port_text).collect();
    line(&mut out, format_args!("ports    {}", or_none(&ports.join("     "))));
    if let Some(policy) = status.policy.as_ref().filter(|policy| policy.version != 0) {
        line(&mut out, format_args!("policy   {}", policy_text(policy)));
    }
    for (range, exemption) in exemptions(&status.ports) {
        line(&mut out, format_args!("exempt   {range} {}", exemption_text(exemption)));
    }
    out.push_str(&grants_text(&status.grants, style));
    if let Some(floors) = &status.revoked_before {
        floor_lines(&mut out, floors);
    }
    line(&mut out, format_args!("dropped  {}", drops_text(status.drops.as_ref())));
    if status.foreign > 0 {
        let number = thousands(status.foreign);
        line(
            &mut out,
            format_args!(
                "tables   {number} times not what the agent wrote: put right (audit K001 to K003)"
            ),
        );
    }
    if let Some(control) = &status.control {
        let push = if control.last_push_ms == 0 {
            "no push since the start".to_owned()
        } else {
            let ago = now_ms() - control.last_push_ms;
            format!("last push {} ago by {}", duration(ago), clean(&control.last_controller, 100))
        };
        line(&mut out, format_args!("control  {}, {push}", listening_text(control)));
    }
    if let Some(log) = status.log.as_ref().filter(|log| log.dropped_lines > 0) {
        let dropped = thousands(log.dropped_lines);
        line(&mut out, format_args!("log      {dropped} lines dropped: nobody took them in time"));
    }
    for soon in &status.soon {
        line(&mut out, format_args!("{}     {}", style.paint(YELLOW, "soon"), clean(soon, 200)));
    }
    out
}

/// Whether controllers can connect, and where.
fn listening_text(control: &v1::Control) -> String {
    let listen = clean(&control.listen, 100);
    match (control.listening, control.problem.as_str()) {
        // An agent of an earlier version says nothing about it.
        (true, _) | (false, "") => format!("listening on {listen}"),
        (false, problem) => clean(problem, 200),
    }
}

/// An exemption on one line: source, reason, owner, end.
pub fn exemption_text(exemption: &v1::Exemption) -> String {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    let source = source.as_ref().map_or_else(|| "?".into(), source_text);
    let until = match until_ms {
        0 => String::new(),
        until if *until <= now_ms() => format!(", ended {}", WallTime(*until)),
        until => format!(", until {}", WallTime(*until)),
    };
    let reason = clean(reason, WIDTH);
    // The kernel's tables do not hold the owner.
    if owner.is_empty() {
        return format!("{source}  {reason}{until}");
    }
    format!("{source}  {reason} (owner {}{until})", clean(owner, WIDTH))
}

/// Floors of revocations, the latest first.
fn floor_lines(out: &mut String, floors: &v1::RevocationFloor) {
    let v1::RevocationFloor { all_ms, by_requester } = floors;
    if *all_ms != 0 {
        let until = WallTime(*all_ms);
        line(out, format_args!("revoked  what was signed until {until} is refused"));
    }
    let mut latest: Vec<_> = by_requester.iter().collect();
    latest.sort_by_key(|(name, at)| (std::cmp::Reverse(**at), name.as_str()));
    for (name, at) in latest.iter().take(SHOWN_FLOORS) {
        let (name, until) = (clean(name, WIDTH), WallTime(**at));
        line(out, format_args!("revoked  what was signed for {name} until {until} is refused"));
    }
    if let Some(more) = latest.len().checked_sub(SHOWN_FLOORS).filter(|more| *more > 0) {
        line(out, format_args!("revoked  ... and for {more} more requesters (status --json)"));
    }
}

fn exemptions(ports: &[v1::Port]) -> impl Iterator<Item = (String, &v1::Exemption)> {
    ports.iter().flat_map(|port| {
        port.exemptions.iter().map(|exemption| (range_text(port.range.as_ref()), exemption))
    })
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn interface_text(interface: &v1::Interface) -> String {
    let hook = match interface.hook.as_str() {
        "guard_only" => "SOCKET GUARD ONLY",
        "excluded" => "EXCLUDED",
        word => Hook::from_word(word).map_or("NOT GATED", Hook::name),
    };
    let v1::Interface { note, excluded, .. } = interface;
    let why = if excluded.is_empty() { note } else { excluded };
    let note = clean(why, 120);
    let note = if note.is_empty() { note } else { format!(" ({note})") };
    format!("{}  {hook}{note}", clean(&interface.name, 20))
}

fn guard_text(guard: &v1::SocketGuard) -> &'static str {
    match (guard.attached, guard.wanted) {
        (true, _) => "    socket guard",
        (false, true) => "    NO SOCKET GUARD",
        (false, false) => "    socket guard off (new interfaces are open for some milliseconds)",
    }
}

fn port_text(port: &v1::Port) -> String {
    let most = match port.max_duration_ms {
        0 => String::new(),
        most => format!(" <={}", duration(most)),
    };
    let forwarded = if port.terminates == "forwarded" { " forwarded" } else { "" };
    let open = if port.open_to_all { " OPEN TO ALL" } else { "" };
    format!(
        "{} {} {}{forwarded}{most}{open}",
        range_text(port.range.as_ref()),
        clean(&port.mode, 20),
        sessions_word(port.sessions())
    )
}

/// Drops since the gate was first put in force, the busiest ports first.
fn drops_text(drops: Option<&v1::Drops>) -> String {
    let drops = drops.cloned().unwrap_or_default();
    let total: u64 = drops.by_reason.iter().map(|counter| counter.packets).sum();
    let drops_of = |port: &v1::PortCounter| -> u64 {
        let dropping = |counter: &&v1::Counter| {
            jit_common::Reason::ALL
                .iter()
                .any(|reason| reason.drops() && reason.word() == counter.reason)
        };
        port.by_reason.iter().filter(dropping).map(|counter| counter.packets).sum()
    };
    let mut ports: Vec<_> =
        drops.by_port.iter().map(|port| (drops_of(port), port)).filter(|(n, _)| *n > 0).collect();
    ports.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
    let ports: Vec<_> = ports
        .into_iter()
        .take(6)
        .map(|(packets, port)| {
            format!("{}/{} {}", port.port, protocol_word(port.protocol()), thousands(packets))
        })
        .collect();
    let mut text = format!("{} packets", thousands(total));
    if !ports.is_empty() {
        let _never = write!(text, " ({})", ports.join("; "));
    }
    let reasons: Vec<_> = drops
        .by_reason
        .iter()
        .map(|counter| format!("{} {}", clean(&counter.reason, 40), thousands(counter.packets)))
        .collect();
    if !reasons.is_empty() {
        let _never = write!(text, ": {}", reasons.join(", "));
    }
    if drops.observed > 0 {
        let _never = write!(text, "; {} of them only observed", thousands(drops.observed));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_numbers_read_well() {
        for (millis, expected) in [
            (0, "0s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (41 * 60_000, "41m"),
            (62 * 60_000, "1h02m"),
            (3 * 3_600_000, "3h"),
            (76 * 3_600_000, "3d04h"),
            (-5, "0s"),
        ] {
            assert_eq!(duration(millis), expected);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
    }

    #[test]
    fn hostile_names_cannot_rewrite_the_screen() {
        let grant = v1::Grant {
            requester: "eve\x1b[2J\n\u{202e}gnp".into(),
            justification: "x".repeat(500),
            ..v1::Grant::default()
        };
        let grant = prost::Message::encode_to_vec(&grant).into();
        let state = v1::GrantState { grant, ..v1::GrantState::default() };
        let text = grants_text(&[state], Style::Plain);
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text:?}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() < 200));
    }

    #[test]
    fn a_grant_that_cannot_be_read_is_listed_and_says_so() {
        let state = v1::GrantState { grant: vec![0xff].into(), ..v1::GrantState::default() };
        let text = grants_text(std::slice::from_ref(&state), Style::Plain);
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
        let shown = text(&answer, Style::Plain);
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
        let shown = text(&status, Style::Plain);
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
        assert!(!text(&status, Style::Plain).contains('\x1b'));
        assert!(text(&status, Style::Colour).contains("\x1b[1;32mENFORCING"));
    }
}
