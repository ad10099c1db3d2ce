//! What became slower or faster since an earlier report.
//!
//! A figure has changed if its median moved by more than the spread of both runs together, and by
//! more than a twentieth. If the peers of its row changed in the same way, it was the machine.

use std::fmt::Write as _;

use super::{
    markdown::figure,
    report::{GATE, Measured, Report, Row},
};

/// Smaller changes, as a share of the value before, are noise.
const NOISE: f64 = 0.05;

/// A row in which the gate's figure changed.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    table: String,
    row: String,
    unit: String,
    before: f64,
    after: f64,
    /// Worse: slower, larger, or a smaller rate.
    pub(super) slower: bool,
    /// How the peers' medians changed: new divided by old.
    peers: Vec<(String, f64)>,
}

/// The rows of both reports in which the gate's figure changed.
pub(super) fn changes(old: &Report, new: &Report) -> Vec<Change> {
    let mut changes = Vec::new();
    for table in &new.tables {
        let Some(before) = old.tables.iter().find(|before| before.name == table.name) else {
            continue;
        };
        for row in &table.rows {
            let same = |before: &&Row| before.name == row.name && before.unit == row.unit;
            let Some(before) = before.rows.iter().find(same) else { continue };
            changes.extend(change(&table.name, before, row));
        }
    }
    changes
}

fn change(table: &str, old: &Row, new: &Row) -> Option<Change> {
    let (before, after) = (old.of(GATE)?, new.of(GATE)?);
    if !differs(before, after) {
        return None;
    }
    let peers = new.subjects.iter().filter(|peer| peer.name != GATE);
    let peers = peers
        .filter_map(|peer| Some((peer.name.clone(), peer.median / old.of(&peer.name)?.median)))
        .collect();
    Some(Change {
        table: table.to_owned(),
        row: new.name.clone(),
        unit: new.unit.clone(),
        before: before.median,
        after: after.median,
        slower: (after.median < before.median) == new.more_is_better,
        peers,
    })
}

fn differs(before: &Measured, after: &Measured) -> bool {
    let moved = (after.median - before.median).abs();
    moved > before.spread + after.spread && moved > before.median.abs() * NOISE
}

/// The changes for a person.
pub(super) fn shown(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing became slower or faster beyond the spread of both runs".to_owned();
    }
    let mut text = String::new();
    for (slower, heading) in [(true, "slower"), (false, "faster")] {
        for change in changes.iter().filter(|change| change.slower == slower) {
            let Change { table, row, unit, before, after, peers, .. } = change;
            let (before, after) = (figure(*before), figure(*after));
            let _ = write!(text, "{heading}: {table}: {row}: {before} -> {after} {unit}");
            for (peer, share) in peers {
                let _ = write!(text, "; {peer} {:+.0} %", (share - 1.0) * 100.0);
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{line, report},
        *,
    };

    fn pair(before: &[f64], after: &[f64]) -> Vec<Change> {
        let peer = [line("t", "r", "peer", &[10.0]), line("t", "r", "peer", &[20.0])];
        let [old, new] = peer;
        let old = report(&[line("t", "r", GATE, before), old, line("t", "gone", GATE, &[1.0])]);
        let new = report(&[line("t", "r", GATE, after), new, line("t", "new", GATE, &[1.0])]);
        changes(&old, &new)
    }

    #[test]
    fn a_change_beyond_both_spreads_is_reported_with_the_peers() {
        let changes = pair(&[10.0, 11.0, 12.0], &[20.0, 21.0, 22.0]);
        assert!(matches!(&changes[..], [Change { slower: true, .. }]), "{changes:?}");
        assert_eq!(shown(&changes), "slower: t: r: 11.0 -> 21.0 ns; peer +100 %\n");
        let changes = pair(&[20.0, 21.0, 22.0], &[10.0, 11.0, 12.0]);
        assert!(shown(&changes).starts_with("faster: t: r: 21.0 -> 11.0"), "{changes:?}");
    }

    #[test]
    fn a_change_within_the_spreads_or_of_a_few_percent_is_none() {
        assert_eq!(pair(&[10.0, 20.0, 30.0], &[15.0, 28.0, 35.0]), []);
        assert_eq!(pair(&[100.0], &[104.0]), []);
        assert_eq!(shown(&[]), "nothing became slower or faster beyond the spread of both runs");
    }

    #[test]
    fn a_rate_that_falls_is_slower() {
        let rate = |value| {
            let text = line("t", "r", GATE, &[value]);
            report(&[text.replace("\"more_is_better\":false", "\"more_is_better\":true")])
        };
        let changes = changes(&rate(5.0), &rate(4.0));
        assert!(matches!(&changes[..], [Change { slower: true, .. }]), "{changes:?}");
    }
}
