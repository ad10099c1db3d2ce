//! Records of the audit as text, one line each, and the filter that selects them.
//!
//! The content of a file is not trusted: a line may not be a record, and a record may hold
//! anything.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::disk::audit::EventCode;
use jit_client::status::{IdBegin, Style};
use jit_proto::{
    WallTime,
    printable::{clean, escape_json},
};

/// The fields that are shown first, in this order; the others follow.
const ORDER: [&str; 18] = [
    "grant",
    "requester",
    "alarm",
    "source",
    "source_port",
    "destination",
    "port",
    "sources",
    "ports",
    "interface",
    "hook",
    "reason",
    "not_before",
    "not_after",
    "why",
    "ticket",
    "approvers",
    "signers",
];
/// Fields that the head of the line shows, or that are of no use to a person.
const HIDDEN: [&str; 8] = ["seq", "time_ms", "time", "prev", "code", "event", "digest", "head"];
/// Longest value that is shown, characters.
const WIDTH: usize = 200;

/// Selects records; an empty field selects all.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Records from this moment on.
    pub(super) since: Option<WallTime>,
    /// Records of one of these kinds.
    pub(super) codes: Vec<EventCode>,
    /// Records about this grant.
    pub(super) grant: Option<IdBegin>,
    /// Records that name this person, or are about a grant of this person.
    pub(super) requester: Option<String>,
    /// Ids of that person's grants, from the lines before: later records name only the id.
    pub(super) theirs: HashSet<String>,
}

/// A line of the audit.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shown {
    /// A record.
    Record(Map<String, Value>),
    /// A line that is not a record.
    Garbage,
}

impl Shown {
    /// Reads a line.
    pub(super) fn parse(line: &[u8]) -> Self {
        serde_json::from_slice(line).map_or(Self::Garbage, Self::Record)
    }
}

impl Filter {
    /// Whether a line is selected. Lines must come in order. A line that is not a record always is.
    pub(super) fn wants(&mut self, line: &Shown) -> bool {
        let Shown::Record(record) = line else { return true };
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let Self { since, codes, grant, requester, theirs } = self;
        let id = text("grant");
        if let Some(requester) = requester {
            let named = text("requester") == Some(requester);
            if let Some(id) = id.filter(|_| named) {
                theirs.insert(id.to_owned());
            }
            if !named && !id.is_some_and(|id| theirs.contains(id)) {
                return false;
            }
        }
        let time = record.get("time_ms").and_then(Value::as_i64);
        since.is_none_or(|since| time.is_none_or(|time| time >= since.0))
            && grant.as_ref().is_none_or(|begin| id.is_some_and(|id| begin.begins(id)))
            && (codes.is_empty() || codes.iter().any(|code| text("code") == Some(code.code())))
    }
}

/// A line for people.
pub(super) fn text(line: &Shown, raw: &[u8], style: Style) -> String {
    let Shown::Record(record) = line else {
        let raw = clean(&String::from_utf8_lossy(raw), WIDTH);
        return format!("{} {raw}", style.paint("1;31", "NO RECORD (see `audit verify`):"));
    };
    let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or("?");
    let (code, event) = (clean(field("code"), 20), clean(field("event"), 40));
    let head = format!("{code} {event}");
    let mut out = format!("{}  {}", clean(field("time"), 40), style.paint(colour(&code), &head));
    let others = record.keys().map(String::as_str).filter(|name| !ORDER.contains(name));
    let shown = ORDER.into_iter().chain(others.filter(|name| *name != "by")).chain(["by"]);
    for name in shown.filter(|name| !HIDDEN.contains(name)) {
        let Some(value) = record.get(name) else { continue };
        let value = clean(&value_text(value), WIDTH);
        let name = clean(name, 40);
        let quoted = value.is_empty() || value.contains([' ', '"', '=']);
        let value = if quoted { format!("\"{}\"", value.replace('"', "'")) } else { value };
        out.push_str(&format!("  {name}={value}"));
    }
    out
}

/// A line for programs: the record as the file has it, or JSON with the text of the bad line.
pub(super) fn json(line: &Shown, raw: &[u8]) -> String {
    match line {
        Shown::Record(_) => escape_json(String::from_utf8_lossy(raw).into_owned()),
        Shown::Garbage => escape_json(
            serde_json::json!({ "no_record": String::from_utf8_lossy(raw) }).to_string(),
        ),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(value_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Red: less is protected, or nobody can know. Green: something opened. Yellow: refused or wrong.
fn colour(code: &str) -> &'static str {
    match EventCode::parse(code) {
        Some(
            EventCode::AuditDamaged
            | EventCode::AuditGap
            | EventCode::BreakGlass
            | EventCode::DatabaseDamaged
            | EventCode::GateDetached
            | EventCode::GateLost
            | EventCode::OpeningRefused,
        ) => "1;31",
        Some(
            EventCode::Connection
            | EventCode::ConnectionsSummed
            | EventCode::GrantActivated
            | EventCode::GrantAdmitted,
        ) => "1;32",
        Some(
            EventCode::AlarmRaised
            | EventCode::ClockUntrusted
            | EventCode::ConfigurationRefused
            | EventCode::GateSteppedDown
            | EventCode::GrantRefused
            | EventCode::NotPermitted
            | EventCode::PolicyRefused
            | EventCode::PolicyReturned,
        ) => "1;33",
        _ => "1",
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::GrantId;

    use super::*;
    use crate::disk::audit::{Record, Tip};

    fn line(record: &Record) -> String {
        record.line(Tip::START, WallTime(1_780_272_000_000))
    }

    #[test]
    fn a_person_reads_who_what_and_why_on_one_line() {
        let record = Record::new(EventCode::GrantAdmitted)
            .by("spiffe://example.org/controller")
            .grant(GrantId([1; 16]))
            .text("requester", "ana@example.org")
            .with("ports", vec!["22/tcp", "443/tcp"])
            .text("why", "disk full");
        let raw = line(&record);
        let text = text(&Shown::parse(raw.as_bytes()), raw.as_bytes(), Style::Plain);
        assert_eq!(
            text,
            "2026-06-01T00:00:00.000Z  G001 grant_admitted  grant=01040G2081040G2081040G2081  \
             requester=ana@example.org  ports=22/tcp,443/tcp  why=\"disk full\"  \
             by=spiffe://example.org/controller"
        );
        assert_eq!(json(&Shown::parse(raw.as_bytes()), raw.as_bytes()), raw);
    }

    #[test]
    fn neither_a_record_nor_a_line_that_is_none_can_rewrite_the_screen() {
        let record = Record::new(EventCode::GrantRefused).by("eve\x1b[2J\n\u{202e}").detail("a\nb");
        let forged = "{\"code\":\"\x1b[2J\",\"x\x1b\":\"\u{9b}\"}";
        for raw in [line(&record), forged.into(), "\x1b[2J\u{202e} no record".into()] {
            let parsed = Shown::parse(raw.as_bytes());
            for text in [text(&parsed, raw.as_bytes(), Style::Plain), json(&parsed, raw.as_bytes())]
            {
                assert!(!text.contains(jit_proto::printable::is_hostile), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_asked_for_comes_and_nothing_else() {
        let of = |code, id: u8| Record::new(code).grant(GrantId([id; 16]));
        let records = [
            of(EventCode::GrantAdmitted, 1).text("requester", "ana"),
            of(EventCode::GrantAdmitted, 2).text("requester", "li"),
            of(EventCode::GrantExpired, 1),
            Record::new(EventCode::AgentStarted),
        ];
        let wanted = |mut filter: Filter| -> Vec<usize> {
            let line = |record: &Record| Shown::parse(line(record).as_bytes());
            (0..records.len()).filter(|index| filter.wants(&line(&records[*index]))).collect()
        };
        assert_eq!(wanted(Filter::default()), [0, 1, 2, 3]);
        let requester = Some("ana".to_owned());
        assert_eq!(wanted(Filter { requester, ..Filter::default() }), [0, 2]);
        for begin in [GrantId([2; 16]).to_string().parse(), "02081040".parse()] {
            let grant = Some(begin.unwrap());
            assert_eq!(wanted(Filter { grant, ..Filter::default() }), [1]);
        }
        let codes = vec![EventCode::GrantAdmitted, EventCode::AgentStarted];
        assert_eq!(wanted(Filter { codes, ..Filter::default() }), [0, 1, 3]);
        let since = Some(WallTime(1_780_272_000_001));
        assert_eq!(wanted(Filter { since, ..Filter::default() }), Vec::<usize>::new());
    }
}
