//! Grants that have ended, as the audit has them: for a host on which no agent answers.

use std::{collections::BTreeMap, io, path::Path};

use jit_proto::{GrantId, PortRange, SourcePrefix, v1};
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

/// The grants that have ended and that `wants` asks for. Only the audit's current file is read.
pub(super) fn ended(
    state: &Path,
    wants: impl Fn(&v1::Grant) -> bool,
) -> io::Result<Vec<v1::GrantState>> {
    let mut reader = Reader::from_the_newest(&directory(state))?;
    let mut all = BTreeMap::new();
    while let Some(line) = reader.next_line()? {
        // Most lines are others: they are not parsed.
        if line.windows(9).any(|bytes| bytes == b"\"grant\":\"")
            && let Ok(line) = serde_json::from_slice(&line)
        {
            follow(&mut all, line);
        }
    }
    let ended = all
        .into_values()
        .filter(|(grant, state)| !matches!(state.state(), v1::State::Active) && wants(grant));
    Ok(ended.map(|(_, state)| state).collect())
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
