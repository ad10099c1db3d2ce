//! Grants that have ended, as the audit has them: for a host on which no agent answers.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    path::Path,
};

use jit_proto::{GrantId, PortRange, SourcePrefix, v1};
use memchr::memmem;
use prost::Message as _;
use serde::Deserialize;

use crate::disk::audit::{EventCode, directory, read::Reader};

/// What the audit says about a grant; all lines have these fields or some of them.
#[derive(Debug, Deserialize)]
struct Line {
    code: String,
    grant: String,
    #[serde(default)]
    requester: String,
    #[serde(default)]
    sources: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    not_after: Option<jiff::Timestamp>,
    #[serde(default)]
    approvers: Vec<String>,
    #[serde(default)]
    signers: Vec<String>,
}

/// Most grants that have ended that are looked at, the latest to end.
const MOST: usize = 1_000;

/// The grants that have ended and that `wants` asks for. Only the audit's current file is read, and
/// of it only the lines of grants that have ended are parsed.
pub(super) fn ended(
    state: &Path,
    wants: impl Fn(&v1::Grant) -> bool,
) -> io::Result<Vec<v1::GrantState>> {
    let directory = directory(state);
    let mut ids = VecDeque::new();
    each_line(&directory, |line| {
        if ENDS.into_iter().any(|code| has_code(line, code)) {
            ids.extend(id_in(line));
            if ids.len() > MOST {
                ids.pop_front();
            }
        }
    })?;
    let ids: HashSet<GrantId> = ids.into_iter().collect();
    let mut all = BTreeMap::new();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    each_line(&directory, |line| {
        if id_in(line).is_some_and(|id| ids.contains(&id))
            && let Ok(line) = serde_json::from_slice(line)
        {
            follow(&mut all, line);
        }
    })?;
    let ended = all
        .into_values()
        .filter(|(grant, state)| !matches!(state.state(), v1::State::Active) && wants(grant));
    Ok(ended.map(|(_, state)| state).collect())
}

const ENDS: [EventCode; 4] = [
    EventCode::BreakGlassEnded,
    EventCode::GrantExpired,
    EventCode::GrantReplaced,
    EventCode::GrantRevoked,
];

fn each_line(directory: &Path, mut act: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = Reader::from_the_newest(directory)?;
    while let Some(line) = reader.next_line()? {
        act(&line);
    }
    Ok(())
}

fn has_code(line: &[u8], code: EventCode) -> bool {
    // Near the begin of each line.
    let head = line.get(..line.len().min(256)).unwrap_or_default();
    memmem::find(head, code.code().as_bytes()).is_some()
}

/// The id of the grant that a line is about.
fn id_in(line: &[u8]) -> Option<GrantId> {
    const NAME: &[u8] = b"\"grant\":\"";
    let at = memmem::find(line, NAME)? + NAME.len();
    std::str::from_utf8(line.get(at..at + 26)?).ok()?.parse().ok()
}

/// What a line changes. A grant whose first line is in an older file is not known.
fn follow(all: &mut BTreeMap<GrantId, (v1::Grant, v1::GrantState)>, line: Line) {
    let Ok(id) = line.grant.parse::<GrantId>() else { return };
    let is = |code: EventCode| line.code == code.code();
    let state = if is(EventCode::GrantExpired) {
        v1::State::Expired
    } else if is(EventCode::GrantRevoked) || is(EventCode::BreakGlassEnded) {
        v1::State::Revoked
    } else if is(EventCode::GrantReplaced) {
        v1::State::Replaced
    } else if is(EventCode::GrantAdmitted)
        || is(EventCode::GrantScheduled)
        || is(EventCode::BreakGlass)
    {
        let signers = line.signers.clone();
        let grant = line.grant(id);
        let encoded = grant.encode_to_vec().into();
        let state = v1::GrantState { grant: encoded, signers, ..v1::GrantState::default() };
        all.insert(id, (grant, state));
        v1::State::Active
    } else {
        return;
    };
    if let Some((_, held)) = all.get_mut(&id) {
        held.set_state(state);
    }
}

impl Line {
    fn grant(self, id: GrantId) -> v1::Grant {
        let Self { requester, sources, ports, not_after, approvers, .. } = self;
        let prefixes = sources.iter().filter_map(|text| text.parse::<SourcePrefix>().ok());
        let ranges = ports.iter().filter_map(|text| text.parse::<PortRange>().ok());
        v1::Grant {
            id: id.0.to_vec().into(),
            requester,
            sources: prefixes.map(|prefix| v1::Source::from(&prefix)).collect(),
            ports: ranges.map(v1::PortRange::from).collect(),
            not_after_ms: not_after.map_or(0, jiff::Timestamp::as_millisecond),
            approvers,
            ..v1::Grant::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::WallTime;

    use super::*;
    use crate::disk::audit::{Record, Tip};

    #[test]
    fn a_grant_has_ended_if_its_last_line_says_so() {
        let id = GrantId([1; 16]);
        let line = |record: Record| {
            let line = record.line(Tip::START, WallTime(1_780_272_000_000));
            serde_json::from_str::<Line>(&line).unwrap()
        };
        let admitted = || {
            let record = Record::new(EventCode::GrantAdmitted).grant(id).text("requester", "ana");
            let record = record.with("sources", vec!["192.0.2.0/24"]).with("ports", vec!["22/tcp"]);
            line(record.with("not_after", "2026-06-01T00:00:00Z"))
        };
        let raw = Record::new(EventCode::GrantExpired).grant(id);
        let raw = raw.line(Tip::START, WallTime(1_780_272_000_000));
        assert_eq!(id_in(raw.as_bytes()), Some(id));
        let is = |code| has_code(raw.as_bytes(), code);
        assert!(is(EventCode::GrantExpired) && !is(EventCode::GrantRevoked));
        let mut all = BTreeMap::new();
        // Its first line is not known.
        follow(&mut all, line(Record::new(EventCode::GrantExpired).grant(id)));
        assert!(all.is_empty());
        follow(&mut all, admitted());
        let state = |all: &BTreeMap<_, (v1::Grant, v1::GrantState)>| all[&id].1.state();
        assert_eq!(state(&all), v1::State::Active);
        for (code, ended) in [
            (EventCode::GrantExpired, v1::State::Expired),
            (EventCode::GrantRevoked, v1::State::Revoked),
            (EventCode::GrantReplaced, v1::State::Replaced),
        ] {
            follow(&mut all, line(Record::new(code).grant(id)));
            assert_eq!(state(&all), ended);
        }
        let (grant, held) = &all[&id];
        assert_eq!(held.signed().as_ref(), Some(grant));
        assert_eq!((&*grant.requester, grant.not_after_ms), ("ana", 1_780_272_000_000));
        assert_eq!((grant.sources.len(), grant.ports.len()), (1, 1));
    }
}
