//! The changes that a policy makes, as the agent computed them: as text and as JSON.

use std::fmt::Write as _;

use jit_proto::{
    WallTime, v1,
    words::{id_text, ranges_text},
};
use serde_json::{Value, json};

use crate::{status, text};

/// One line for each change; changes that shut somebody out come first.
pub fn text(changes: &v1::PolicyChanges) -> String {
    let v1::PolicyChanges {
        closed,
        opened,
        changed,
        exemptions_lost,
        exemptions_added,
        grants,
        confirm,
    } = changes;
    let mut out = String::new();
    let mut line = |head: &str, rest: String| {
        // Writing to a string does not fail.
        let _never = writeln!(out, "{head:<8} {rest}");
    };
    if !closed.is_empty() {
        line("closed", format!("{} (was open to all)", ranges_text(closed)));
    }
    for lost in exemptions_lost {
        line("shut out", exemption(lost));
    }
    if !opened.is_empty() {
        line("OPENED", format!("{} (to all, without a grant)", ranges_text(opened)));
    }
    for added in exemptions_added {
        line("exempt", exemption(added));
    }
    for v1::PortChange { range, what } in changed {
        let range = ranges_text(range.as_slice());
        line("changed", format!("{range}: {}", text::printable(&what.join("; "))));
    }
    for grant in grants {
        let v1::RefusedGrant { grant_id, requester, reason, not_after_ms, .. } = grant;
        let state = match grant.state() {
            v1::State::Scheduled => "scheduled",
            _ => "live",
        };
        line(
            "grant",
            format!(
                "{} of {} ({state}, until {}) would be refused: {}",
                id_text(grant_id),
                text::printable(requester),
                moment(*not_after_ms),
                text::printable(reason)
            ),
        );
    }
    if *confirm {
        line("needs", "a confirmation, because somebody is shut out".into());
    }
    if out.is_empty() {
        out.push_str("changes  none\n");
    }
    out
}

/// `changes` of `policy diff --json` and `policy push --json`; documented in docs/json.md.
pub fn json(changes: &v1::PolicyChanges) -> Value {
    let v1::PolicyChanges {
        closed,
        opened,
        changed,
        exemptions_lost,
        exemptions_added,
        grants,
        confirm,
    } = changes;
    let ranges = |ranges: &[v1::PortRange]| -> Value {
        ranges.iter().map(|range| ranges_text(&[*range])).collect()
    };
    let exemptions = |exemptions: &[v1::ExemptionChange]| -> Value {
        exemptions
            .iter()
            .map(|change| {
                let mut value =
                    change.exemption.as_ref().map(status::exemption_json).unwrap_or_default();
                if let Some(map) = value.as_object_mut() {
                    let port = ranges_text(change.range.as_slice());
                    map.insert("port".into(), json!(port));
                }
                value
            })
            .collect()
    };
    json!({
        "closed": ranges(closed),
        "opened": ranges(opened),
        "changed": changed.iter().map(|change| json!({
            "port": ranges_text(change.range.as_slice()),
            "what": change.what,
        })).collect::<Vec<_>>(),
        "exemptions_lost": exemptions(exemptions_lost),
        "exemptions_added": exemptions(exemptions_added),
        "grants": grants.iter().map(|grant| json!({
            "id": id_text(&grant.grant_id),
            "requester": grant.requester,
            "state": match grant.state() {
                v1::State::Scheduled => "scheduled",
                _ => "active",
            },
            "reason": grant.reason,
            "detail": grant.detail,
            "not_after": moment(grant.not_after_ms),
        })).collect::<Vec<_>>(),
        "confirm": confirm,
    })
}

fn moment(milliseconds: i64) -> String {
    WallTime(milliseconds).exact()
}

fn exemption(change: &v1::ExemptionChange) -> String {
    let range = ranges_text(change.range.as_slice());
    let exemption = change.exemption.as_ref().map(status::exemption_text).unwrap_or_default();
    format!("{range}: {exemption}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_shut_out_comes_first_and_nothing_says_so() {
        let range = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 23 };
        let changes = v1::PolicyChanges {
            opened: vec![range],
            closed: vec![range],
            confirm: true,
            grants: vec![v1::RefusedGrant {
                requester: "eve\u{1b}[2J".into(),
                reason: "lifetime".into(),
                ..v1::RefusedGrant::default()
            }],
            ..v1::PolicyChanges::default()
        };
        let shown = text(&changes);
        assert!(shown.starts_with("closed   22-23/tcp (was open to all)\nOPENED   22-23/tcp"));
        assert!(!shown.contains('\u{1b}') && shown.contains("refused: lifetime"), "{shown}");
        assert_eq!(text(&v1::PolicyChanges::default()), "changes  none\n");
        assert_eq!(json(&changes)["closed"][0], "22-23/tcp");
    }
}
