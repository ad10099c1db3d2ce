//! Grants that were refused lately, as the audit has them.

use std::{io, path::Path};

use jit_common::Address;
use jit_proto::{SourcePrefix, WallTime, prefix::bits};
use memchr::memmem;
use serde_json::{Map, Value};

use crate::disk::audit::{EventCode, directory, read::Reader};

/// Most refusals that are shown.
const MOST: usize = 5;

/// A refused grant. The words are the audit's and are not trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RefusedPush {
    pub(super) time: String,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) by: String,
    pub(super) grant: String,
    pub(super) requester: String,
}

/// The last refusals since a moment that name the source or the requester, the newest last. Only
/// the audit's current file is read.
pub(super) fn lately(
    state: &Path,
    source: Address,
    requester: Option<&str>,
    since: WallTime,
) -> io::Result<Vec<RefusedPush>> {
    let mut reader = Reader::from_the_newest(&directory(state))?;
    let code = EventCode::GrantRefused.code();
    let mut found = Vec::new();
    while let Some(line) = reader.next_line()? {
        // Most lines are others: they are not parsed.
        if memmem::find(&line, code.as_bytes()).is_none() {
            continue;
        }
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(&line) else { continue };
        let time = record.get("time_ms").and_then(Value::as_i64);
        let is_it = record.get("code").and_then(Value::as_str) == Some(code);
        if is_it && time.is_some_and(|time| time >= since.0) && names(&record, source, requester) {
            found.push(read(&record));
        }
    }
    let older = found.len().saturating_sub(MOST);
    found.drain(..older);
    Ok(found)
}

fn read(record: &Map<String, Value>) -> RefusedPush {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().into();
    RefusedPush {
        time: text("time"),
        reason: text("reason"),
        detail: text("detail"),
        by: text("by"),
        grant: text("grant"),
        requester: text("requester"),
    }
}

/// Whether a record is about the source or the requester.
fn names(record: &Map<String, Value>, source: Address, requester: Option<&str>) -> bool {
    let theirs = record.get("requester").and_then(Value::as_str);
    if requester.is_some() && theirs == requester {
        return true;
    }
    let Ok(host) = SourcePrefix::new(source, bits(source.family)) else { return false };
    let sources = record.get("sources").and_then(Value::as_array).map_or(&[][..], |all| all);
    let mut prefixes = sources.iter().filter_map(|one| one.as_str()?.parse::<SourcePrefix>().ok());
    prefixes.any(|prefix| prefix.contains(&host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::audit::{Record, Tip};

    fn record(record: &Record) -> Map<String, Value> {
        serde_json::from_str(&record.line(Tip::START, WallTime(1_780_272_000_000))).unwrap()
    }

    #[test]
    fn a_refusal_is_about_its_requester_and_its_sources() {
        let source = Address::v4([192, 0, 2, 7]);
        let refused = || Record::new(EventCode::GrantRefused).by("hub").reason("lifetime");
        let by_name = record(&refused().text("requester", "ana"));
        assert!(names(&by_name, source, Some("ana")));
        assert!(!names(&by_name, source, Some("li")) && !names(&by_name, source, None));
        let by_source = record(&refused().with("sources", vec!["192.0.2.0/24"]));
        assert!(names(&by_source, source, None));
        assert!(!names(&by_source, Address::v4([192, 0, 3, 7]), None));
        assert!(!names(&record(&refused()), source, Some("ana")));
        assert_eq!(read(&by_name).reason, "lifetime");
    }
}
