//! What the on-call engineer sees: `status` and `grants` as one screen of text, or as JSON.
//!
//! Pure: from messages to text. Whatever comes from a grant is shown with control characters
//! escaped, so that no name can rewrite the screen.

use std::{fmt::Write as _, time::Duration};

use jit_proto::v1;
use serde_json::{Value, json};

pub use crate::printable::clean;
use crate::{clock::WallTime, datapath::Hook, grant::GrantId, prefix::SourcePrefix};

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ANSI colours.
    Colour,
    /// Text alone.
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

    pub(crate) fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

const BOLD: &str = "1";
const GREEN: &str = "1;32";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";
/// Longest free text in a table, characters.
const WIDTH: usize = 40;
/// Letters of a grant's id in a table; enough to tell those of one screen apart.
const SHORT_ID: usize = 26;

/// Exit code of `status`: 0 enforcing, 1 degraded, 2 not enforcing.
pub fn exit_code(status: &v1::StatusResponse) -> u8 {
    match status.state.as_str() {
        "enforcing" => 0,
        "degraded" => 1,
        _ => 2,
    }
}

/// The screen.
pub fn text(status: &v1::StatusResponse, style: Style) -> String {
    let mut out = String::new();
    let colour = match exit_code(status) {
        0 => GREEN,
        1 => YELLOW,
        _ => RED,
    };
    let state = clean(&status.state, 40).replace('_', " ").to_uppercase();
    let mode = if status.mode == "observe" { " (observe mode: nothing is dropped)" } else { "" };
    line(
        &mut out,
        format_args!(
            "{}  {}  {}{mode}",
            style.paint(BOLD, &format!("jit-agent {}", clean(&status.version, 40))),
            clean(&status.host, 100),
            style.paint(colour, &state)
        ),
    );
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
        let signers = clean(&policy.signers.join(", "), 100);
        let signed =
            if signers.is_empty() { String::new() } else { format!(" signed by {signers}") };
        let author = clean(&policy.author, WIDTH);
        line(&mut out, format_args!("policy   version {} of {author}{signed}", policy.version));
    }
    for (range, exemption) in exemptions(&status.ports) {
        line(&mut out, format_args!("exempt   {range} {}", exemption_text(exemption)));
    }
    out.push_str(&grants_text(&status.grants, style));
    line(&mut out, format_args!("dropped  {}", drops_text(status.drops.as_ref())));
    if let Some(control) = &status.control {
        let push = if control.last_push_ms == 0 {
            "no push since the start".to_owned()
        } else {
            let ago = now_ms() - control.last_push_ms;
            format!("last push {} ago by {}", duration(ago), clean(&control.last_controller, 100))
        };
        line(
            &mut out,
            format_args!("control  listening on {}, {push}", clean(&control.listen, 100)),
        );
    }
    for soon in &status.soon {
        line(&mut out, format_args!("{}     {}", style.paint(YELLOW, "soon"), clean(soon, 200)));
    }
    out
}

/// The table of grants.
pub fn grants_text(grants: &[v1::GrantState], style: Style) -> String {
    let mut out = String::new();
    let count = |state| grants.iter().filter(|grant| grant.state() == state).count();
    let mut counts = vec![format!("{} live", count(v1::State::Active))];
    for (state, word) in [
        (v1::State::Exhausted, "exhausted"),
        (v1::State::Scheduled, "scheduled"),
        (v1::State::Expired, "expired"),
        (v1::State::Replaced, "replaced"),
        (v1::State::Revoked, "revoked"),
    ] {
        match count(state) {
            0 => {}
            count => counts.push(format!("{count} {word}")),
        }
    }
    line(&mut out, format_args!("grants   {}", counts.join(", ")));
    if grants.is_empty() {
        return out;
    }
    let rows: Vec<[String; 7]> = grants.iter().map(grant_row).collect();
    let header = ["ID", "SOURCE", "PORT", "LEFT", "HITS", "REQUESTER", "WHY"].map(String::from);
    let mut widths = [0; 7];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |row: &[String; 7]| {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                3 | 4 => format!("{cell:>width$}"),
                6 => cell.clone(),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    line(&mut out, format_args!("{}", style.paint(BOLD, &render(&header))));
    for row in &rows {
        line(&mut out, format_args!("{}", render(row)));
    }
    out
}

/// `status --json`; documented in docs/json.md.
pub fn json(status: &v1::StatusResponse) -> Value {
    let v1::StatusResponse {
        state,
        problems,
        version,
        host,
        mode,
        interfaces,
        ports,
        grants,
        drops,
        control,
        capacity,
        soon,
        started_at_ms,
        policy,
        guard,
    } = status;
    let drops = drops.clone().unwrap_or_default();
    json!({
        "state": state,
        "problems": problems,
        "version": version,
        "host": host,
        "mode": mode,
        "started_at": time(*started_at_ms),
        "interfaces": interfaces.iter().map(|interface| json!({
            "name": interface.name,
            "index": interface.index,
            "hook": interface.hook,
            "attached": interface.attached,
            "since": time(interface.since_ms),
            "note": interface.note,
        })).collect::<Vec<_>>(),
        "socket_guard": guard.as_ref().map(|guard| json!({
            "wanted": guard.wanted,
            "attached": guard.attached,
            "since": time(guard.since_ms),
            "note": guard.note,
        })),
        "ports": ports.iter().map(|port| json!({
            "port": range_text(port.range.as_ref()),
            "mode": port.mode,
            "sessions": sessions_word(port.sessions()),
            "terminates": port.terminates,
            "max_duration_s": port.max_duration_ms / 1000,
            "exemptions": port.exemptions.iter().map(exemption_json).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "grants": grants_json(grants),
        "dropped": {
            "by_reason": counters_json(&drops.by_reason),
            "by_port": drops.by_port.iter().map(|port| {
                let key = format!("{}/{}", port.port, protocol_word(port.protocol()));
                (key, counters_json(&port.by_reason))
            }).collect::<serde_json::Map<_, _>>(),
            "observed": drops.observed,
            "events_suppressed": drops.events_suppressed,
            "events_lost": drops.events_lost,
            "by_socket_guard": drops.guard,
        },
        "control": control.as_ref().map(|control| json!({
            "listen": control.listen,
            "certificate_not_after": time(control.certificate_not_after_ms),
            "last_push": time(control.last_push_ms),
            "last_controller": control.last_controller,
        })),
        "capacity": capacity.as_ref().map(|capacity| json!({
            "host_entries": capacity.host_entries,
            "host_entries_max": capacity.host_entries_max,
            "prefix_entries": capacity.prefix_entries,
            "prefix_entries_max": capacity.prefix_entries_max,
        })),
        "policy": policy.as_ref().map(policy_json),
        "soon": soon,
    })
}

/// Which policy is in force, as JSON.
pub fn policy_json(policy: &v1::PolicyState) -> Value {
    let v1::PolicyState {
        version,
        highest_version,
        signers,
        author,
        justification,
        issued_at_ms,
        confirm_left_ms,
        previous_version,
        accepts_policies,
    } = policy;
    json!({
        "version": version,
        "highest_version": highest_version,
        "signers": signers,
        "author": author,
        "justification": justification,
        "issued_at": time(*issued_at_ms),
        "confirm_left_ms": (*confirm_left_ms > 0).then_some(confirm_left_ms),
        "previous_version": (*confirm_left_ms > 0).then_some(previous_version),
        "accepts_policies": accepts_policies,
    })
}

/// An exemption as JSON.
pub fn exemption_json(exemption: &v1::Exemption) -> Value {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    json!({
        "source": source.as_ref().map(source_text),
        "reason": reason,
        "owner": owner,
        "until": time(*until_ms),
    })
}

/// An exemption on one line: source, reason, owner, end.
pub fn exemption_text(exemption: &v1::Exemption) -> String {
    let v1::Exemption { source, reason, owner, until_ms } = exemption;
    let source = source.as_ref().map_or_else(|| "?".into(), source_text);
    let until = match until_ms {
        0 => String::new(),
        until if *until <= now_ms() => format!(", over since {}", WallTime(*until)),
        until => format!(", until {}", WallTime(*until)),
    };
    format!("{source}  {} (owner {}{until})", clean(reason, WIDTH), clean(owner, WIDTH))
}

/// `22/tcp, 5985-5986/tcp`.
pub fn ranges_text(ranges: &[v1::PortRange]) -> String {
    ranges.iter().map(|range| range_text(Some(range))).collect::<Vec<_>>().join(", ")
}

fn exemptions(ports: &[v1::Port]) -> impl Iterator<Item = (String, &v1::Exemption)> {
    ports.iter().flat_map(|port| {
        port.exemptions.iter().map(|exemption| (range_text(port.range.as_ref()), exemption))
    })
}

/// `grants --json`.
pub fn grants_json(grants: &[v1::GrantState]) -> Value {
    grants.iter().map(grant_json).collect()
}

/// One event on one line.
pub fn event_text(event: &v1::Event) -> String {
    use v1::event::What;
    let what = match &event.what {
        Some(What::Grant(grant)) => {
            let v1::GrantEvent { kind, grant_id, reason, by, detail } = grant;
            let text = format!("grant {kind} {} by {by} {reason} {detail}", id_text(grant_id));
            clean(text.trim_end(), 400)
        }
        Some(What::Packet(packet)) => format!(
            "packet {} {} -> {}/{} {}{}",
            packet.reason,
            address_text(&packet.source),
            packet.port,
            protocol_word(packet.protocol()),
            if packet.grant_id.is_empty() { String::new() } else { id_text(&packet.grant_id) },
            if packet.observed { " (observed: it passed)" } else { "" },
        ),
        Some(What::AuditHead(head)) => {
            format!("audit head {}:{}", head.seq, hex::encode(&head.hash))
        }
        Some(What::Gap(gap)) if gap.missed == 0 => "gap: an unknown number of events".to_owned(),
        Some(What::Gap(gap)) => format!("gap: {} events are no longer held", gap.missed),
        Some(What::Policy(policy)) => {
            let v1::PolicyEvent { kind, version, reason, by, detail } = policy;
            let text = format!("policy {kind} version {version} by {by} {reason} {detail}");
            clean(text.trim_end(), 400)
        }
        Some(What::Gate(gate)) => {
            clean(&format!("gate {} {} {}", gate.kind, gate.interface, gate.detail), 400)
        }
        None => "unknown event".to_owned(),
    };
    // Some of it is cleaned above, where it is cut to a length.
    format!("{} {}", WallTime(event.time_ms), clean(what.trim_end(), usize::MAX))
}

/// One event as JSON.
pub fn event_json(event: &v1::Event) -> Value {
    use v1::event::What;
    let (kind, detail) = match &event.what {
        Some(What::Grant(grant)) => (
            "grant",
            json!({
                "kind": grant.kind,
                "grant_id": id_text(&grant.grant_id),
                "reason": grant.reason,
                "by": grant.by,
                "detail": grant.detail,
            }),
        ),
        Some(What::Packet(packet)) => (
            "packet",
            json!({
                "reason": packet.reason,
                "source": address_text(&packet.source),
                "destination": address_text(&packet.destination),
                "source_port": packet.source_port,
                "port": format!("{}/{}", packet.port, protocol_word(packet.protocol())),
                "grant_id": (!packet.grant_id.is_empty()).then(|| id_text(&packet.grant_id)),
                "observed": packet.observed,
                "interface_index": packet.interface_index,
            }),
        ),
        Some(What::AuditHead(head)) => (
            "audit_head",
            json!({
                "head": format!("{}:{}", head.seq, hex::encode(&head.hash)),
                "signed": head.signed,
            }),
        ),
        Some(What::Gap(gap)) => ("gap", json!({ "missed": gap.missed })),
        Some(What::Policy(policy)) => (
            "policy",
            json!({
                "kind": policy.kind,
                "version": policy.version,
                "reason": policy.reason,
                "by": policy.by,
                "detail": policy.detail,
            }),
        ),
        Some(What::Gate(gate)) => (
            "gate",
            json!({ "kind": gate.kind, "interface": gate.interface, "detail": gate.detail }),
        ),
        None => ("unknown", Value::Null),
    };
    json!({ "cursor": event.cursor, "time": time(event.time_ms), kind: detail })
}

/// A grant's id as people read it.
pub fn id_text(id: &[u8]) -> String {
    GrantId::from_bytes(id).map_or_else(|| hex::encode(id), |id| id.to_string())
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _never = writeln!(out, "{text}");
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn interface_text(interface: &v1::Interface) -> String {
    let hook = match interface.hook.as_str() {
        "guard_only" => "SOCKET GUARD ONLY",
        word => Hook::from_word(word).map_or("NOT GATED", Hook::name),
    };
    let note = clean(&interface.note, 120);
    let note = if note.is_empty() { note } else { format!(" ({note})") };
    format!("{}  {hook}{note}", clean(&interface.name, 20))
}

fn guard_text(guard: &v1::SocketGuard) -> &'static str {
    match (guard.attached, guard.wanted) {
        (true, _) => "    socket guard",
        (false, true) => "    NO SOCKET GUARD",
        (false, false) => "    socket guard off",
    }
}

fn port_text(port: &v1::Port) -> String {
    let most = match port.max_duration_ms {
        0 => String::new(),
        most => format!(" <={}", duration(most)),
    };
    let forwarded = if port.terminates == "forwarded" { " forwarded" } else { "" };
    format!(
        "{} {} {}{forwarded}{most}",
        range_text(port.range.as_ref()),
        clean(&port.mode, 20),
        sessions_word(port.sessions())
    )
}

fn grant_row(state: &v1::GrantState) -> [String; 7] {
    let grant = state.grant.clone().unwrap_or_default();
    let sources: Vec<_> = grant.sources.iter().map(source_text).collect();
    let ports: Vec<_> = grant.ports.iter().map(|range| range_text(Some(range))).collect();
    let left = match state.state() {
        v1::State::Active | v1::State::Exhausted => duration(state.left_ms),
        v1::State::Replaced => "replaced".into(),
        v1::State::Scheduled => format!("in {}", duration(grant.not_before_ms - now_ms())),
        v1::State::Expired => "expired".into(),
        v1::State::Revoked => "revoked".into(),
        v1::State::Unspecified => "?".into(),
    };
    let why = [grant.ticket.as_str(), grant.justification.as_str()].join(" ");
    let id = id_text(&grant.id);
    [
        id.get(..SHORT_ID).unwrap_or(&id).to_owned(),
        listed(&sources),
        listed(&ports),
        left,
        match grant.max_connections {
            0 => state.hits.to_string(),
            most => format!("{}/{most}", state.hits),
        },
        clean(&grant.requester, WIDTH),
        clean(why.trim(), WIDTH),
    ]
}

fn grant_json(state: &v1::GrantState) -> Value {
    let grant = state.grant.clone().unwrap_or_default();
    json!({
        "id": id_text(&grant.id),
        "state": match state.state() {
            v1::State::Active => "active",
            v1::State::Exhausted => "exhausted",
            v1::State::Expired => "expired",
            v1::State::Replaced => "replaced",
            v1::State::Revoked => "revoked",
            v1::State::Scheduled => "scheduled",
            v1::State::Unspecified => "unknown",
        },
        "sources": grant.sources.iter().map(source_text).collect::<Vec<_>>(),
        "ports": grant.ports.iter().map(|range| range_text(Some(range))).collect::<Vec<_>>(),
        "hosts": grant.hosts,
        "issued_at": time(grant.issued_at_ms),
        "not_before": time(grant.not_before_ms),
        "not_after": time(grant.not_after_ms),
        "left_ms": state.left_ms,
        "hits": state.hits,
        "max_connections": (grant.max_connections > 0).then_some(grant.max_connections),
        "sessions": (grant.sessions() != v1::Sessions::Unspecified)
            .then(|| sessions_word(grant.sessions())),
        "replaces": (!grant.replaces.is_empty()).then(|| id_text(&grant.replaces)),
        "requester": grant.requester,
        "approvers": grant.approvers,
        "justification": grant.justification,
        "ticket": grant.ticket,
        "signers": state.signers,
    })
}

fn counters_json(counters: &[v1::Counter]) -> Value {
    counters
        .iter()
        .map(|counter| (counter.reason.clone(), json!(counter.packets)))
        .collect::<serde_json::Map<_, _>>()
        .into()
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

fn listed(items: &[String]) -> String {
    match items {
        [] => "none".into(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} +{}", rest.len()),
    }
}

/// `203.0.113.7`, `2001:db8::/32`.
pub fn source_text(source: &v1::Source) -> String {
    SourcePrefix::try_from(source)
        .map_or_else(|_| hex::encode(&source.address), |prefix| prefix.to_string())
}

pub(crate) fn address_text(bytes: &[u8]) -> String {
    let length = u32::try_from(bytes.len() * 8).unwrap_or(0);
    source_text(&v1::Source { address: bytes.to_vec().into(), prefix_length: length })
}

fn range_text(range: Option<&v1::PortRange>) -> String {
    let Some(range) = range else { return "?".into() };
    let protocol = protocol_word(range.protocol());
    if range.first == range.last {
        format!("{}/{protocol}", range.first)
    } else {
        format!("{}-{}/{protocol}", range.first, range.last)
    }
}

const fn protocol_word(protocol: v1::Protocol) -> &'static str {
    match protocol {
        v1::Protocol::Tcp => "tcp",
        v1::Protocol::Udp => "udp",
        v1::Protocol::Unspecified => "?",
    }
}

const fn sessions_word(sessions: v1::Sessions) -> &'static str {
    match sessions {
        v1::Sessions::Cut => "cut",
        v1::Sessions::Drain => "drain",
        v1::Sessions::Unspecified => "?",
    }
}

/// RFC 3339, or null for zero.
fn time(millis: i64) -> Value {
    if millis == 0 { Value::Null } else { json!(WallTime(millis).to_string()) }
}

/// A duration for people, in two units at most.
pub fn duration_text(time: Duration) -> String {
    duration(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Two units at most: `41m`, `1h02m`, `3d04h`.
fn duration(millis: i64) -> String {
    let seconds = Duration::from_millis(u64::try_from(millis).unwrap_or(0)).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) if minutes < 10 => format!("{minutes}m{:02}s", seconds % 60),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, 0) => format!("{hours}h"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, 0, _) => format!("{days}d"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn now_ms() -> i64 {
    crate::sys::now().wall.0
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
        let state = v1::GrantState { grant: Some(grant), ..v1::GrantState::default() };
        let text = grants_text(&[state], Style::Plain);
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{text:?}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() < 200));
    }

    /// An agent that is not what it says is as little trusted as a grant.
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
            ..Default::default()
        };
        let shown = text(&answer, Style::Plain);
        let hostile =
            |text: &str| text.lines().any(|line| line.contains(crate::printable::is_hostile));
        assert!(!hostile(&shown), "{shown:?}");
        assert!(!hostile(&crate::printable::json_pretty(&json(&answer))));
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
            assert!(!line.contains(crate::printable::is_hostile), "{line:?}");
            let json = crate::printable::json_line(&event_json(&event));
            assert!(!json.contains(crate::printable::is_hostile), "{json:?}");
        }
    }

    #[test]
    fn plain_style_has_no_escapes_and_colour_has() {
        let status = v1::StatusResponse { state: "enforcing".into(), ..Default::default() };
        assert!(!text(&status, Style::Plain).contains('\x1b'));
        assert!(text(&status, Style::Colour).contains("\x1b[1;32mENFORCING"));
    }
}
