//! One record (who did what, why, with which key, through which controller), and its line.

use jit_proto::{GrantId, WallTime, printable::escape_json};
use serde::Serialize;

use crate::{
    disk::audit::{
        chain::{Tip, hex_of},
        code::EventCode,
    },
    rules::{grant::VerifiedGrant, ledger::Admission},
};

/// Longest free text in a record, characters: what a peer sends must not fill the disk.
const MAX_TEXT: usize = 2048;
/// Room for the fields of most grants, bytes.
const FIELDS: usize = 640;
/// Room for what a line has before its fields, bytes.
const FRONT: usize = 256;

/// A record that is not in the chain yet.
///
/// The line has the fields in the order in which they were added. Names of fields are those of
/// docs/audit.md; a name is used once.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    code: EventCode,
    /// JSON: each field after a comma.
    fields: Vec<u8>,
}

impl Record {
    /// A record without any field.
    pub const fn new(code: EventCode) -> Self {
        Self { code, fields: Vec::new() }
    }

    /// The record of an accepted grant, with everything that explains the opening a year later.
    pub fn accepted(admission: Admission, grant: &VerifiedGrant) -> Self {
        let code = match admission {
            Admission::Scheduled => EventCode::GrantScheduled,
            _ if grant.is_break_glass() => EventCode::BreakGlass,
            Admission::Active | Admission::Known => EventCode::GrantAdmitted,
        };
        Self::of_grant(code, grant)
    }

    /// The record of an event of a grant, with the grant's content.
    pub fn of_grant(code: EventCode, grant: &VerifiedGrant) -> Self {
        let message = grant.message();
        let mut record = Self::new(code);
        record.fields.reserve(FIELDS);
        let record = record
            .grant(grant.id())
            .text("requester", grant.requester())
            .with("sources", texts(grant.sources()))
            .with("ports", texts(grant.ports()))
            .with("not_before", grant.not_before().to_string())
            .with("not_after", grant.not_after().to_string())
            .text("sessions", grant.sessions().map_or("", |sessions| sessions.word()))
            .text("replaces", &grant.replaces().map_or_else(String::new, |id| id.to_string()))
            .text("why", &message.justification)
            .text("ticket", &message.ticket)
            .with("approvers", message.approvers)
            .with("signers", grant.signers())
            .with("digest", hex_of(&grant.digest(), &mut [0; 64]));
        match message.max_connections {
            0 => record,
            most => record.with("max_connections", most),
        }
    }

    /// What happened.
    pub const fn code(&self) -> EventCode {
        self.code
    }

    /// Who did it: a controller's identity, `local uid N`, or `agent`.
    #[must_use]
    pub fn by(self, who: &str) -> Self {
        self.text("by", who)
    }

    /// The id of the grant that the record is about.
    #[must_use]
    pub fn grant(self, id: GrantId) -> Self {
        self.with("grant", id.to_string())
    }

    /// A stable reason word.
    #[must_use]
    pub fn reason(self, word: &'static str) -> Self {
        self.with("reason", word)
    }

    /// A sentence for a person.
    #[must_use]
    pub fn detail(self, text: &str) -> Self {
        self.text("detail", text)
    }

    /// A text field; left out when empty, cut when it is too long.
    #[must_use]
    pub fn text(self, name: &'static str, text: &str) -> Self {
        if text.is_empty() {
            return self;
        }
        match text.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => {
                let kept = text.get(..end).unwrap_or_default();
                self.with(name, format!("{kept}…"))
            }
            None => self.with(name, text),
        }
    }

    /// Any field; an empty list is left out.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let before = self.fields.len();
        for part in [",\"", name, "\":"] {
            self.fields.extend_from_slice(part.as_bytes());
        }
        let begin = self.fields.len();
        // Only a map with odd keys could not be written.
        let written = serde_json::to_writer(&mut self.fields, &value);
        if written.is_err() || self.fields.get(begin..) == Some(b"[]") {
            self.fields.truncate(before);
        }
        self
    }

    /// The record's line after `tip`, without a newline.
    pub fn line(&self, tip: Tip, time: WallTime) -> String {
        use std::io::Write as _;
        let Self { code, fields } = self;
        let mut line = Vec::with_capacity(FRONT + fields.len());
        // Writing to a vector does not fail.
        let _never = write!(
            line,
            "{{\"seq\":{},\"time_ms\":{},\"time\":\"{}\",\"prev\":\"{}\",\"code\":\"{}\",\"event\":\"{}\"",
            tip.seq.saturating_add(1),
            time.0,
            rfc3339(time),
            tip.hash,
            code.code(),
            code.name()
        );
        line.extend_from_slice(fields);
        line.push(b'}');
        escape_json(String::from_utf8(line).expect("JSON is UTF-8"))
    }
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// RFC 3339 with milliseconds, UTC; empty for years outside of its range.
pub(super) fn rfc3339(time: WallTime) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::disk::audit::chain::LineHash;

    #[test]
    fn a_line_is_one_line_of_json_whatever_a_name_holds() {
        let tip = Tip { seq: 6, hash: LineHash::of(b"six") };
        let hostile = "eve\x1b[2J\n\"}\u{202e}";
        let record = Record::new(EventCode::GrantRevoked)
            .by(hostile)
            .grant(GrantId([1; 16]))
            .text("why", "")
            .with("approvers", Vec::<String>::new())
            .detail(&"x".repeat(10_000));
        let line = record.line(tip, WallTime(1_780_272_000_123));
        assert!(!line.contains(['\n', '\x1b', '\u{202e}']), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["seq"], 7);
        assert_eq!(value["time"], "2026-06-01T00:00:00.123Z");
        assert_eq!(value["prev"], LineHash::of(b"six").to_string());
        assert_eq!((&value["code"], &value["event"]), (&"G006".into(), &"grant_revoked".into()));
        assert_eq!(value["by"], hostile);
        assert_eq!(value["detail"].as_str().unwrap().chars().count(), MAX_TEXT + 1);
        assert!(value.get("why").is_none() && value.get("approvers").is_none());
    }
}
