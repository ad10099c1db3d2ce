//! The report: what each subject needed for each row, and the gate's ratio to each peer. Made from
//! the lines that the benches wrote (`tests/src/figures.rs` has their form).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::machine::Machine;

/// The subject that the others are compared with.
pub(super) const GATE: &str = "jit-agent";

/// All that was measured in one run.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    /// Few short rounds: the figures say nothing.
    pub(super) quick: bool,
    /// Benches that failed.
    pub(super) failed: Vec<String>,
    pub(super) tables: Vec<Table>,
}

/// Rows of one kind.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) rows: Vec<Row>,
}

/// One question, and the answer of each subject.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) more_is_better: bool,
    pub(super) subjects: Vec<Measured>,
    /// Median of the gate divided by the median of each peer.
    pub(super) ratios: BTreeMap<String, f64>,
}

impl Row {
    /// What was measured of this subject.
    pub(super) fn of(&self, subject: &str) -> Option<&Measured> {
        self.subjects.iter().find(|measured| measured.name == subject)
    }
}

/// The values of one subject.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Measured {
    pub(super) name: String,
    /// One for each round.
    pub(super) values: Vec<f64>,
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// From the first to the third quartile: a few rounds that were disturbed do not widen it.
    pub(super) spread: f64,
}

impl Measured {
    fn new(name: String, values: Vec<f64>) -> Self {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let [low, first, median, third, high] =
            [0, 1, 2, 3, 4].map(|quarter| quantile(&sorted, quarter));
        Self { name, values, median, low, high, spread: third - first }
    }
}

/// The value at a number of quarters of the way through sorted values; between two of them, both
/// count by their distance.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let place = sorted.len().saturating_sub(1) * quarters;
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or(f64::NAN);
    let share = [0.0, 0.25, 0.5, 0.75].get(place % 4).copied().unwrap_or_default();
    at(place / 4) * (1.0 - share) + at(place / 4 + 1) * share
}

/// A line that a bench wrote.
#[derive(Deserialize)]
struct Line {
    table: String,
    row: String,
    subject: String,
    unit: String,
    more_is_better: bool,
    values: Vec<f64>,
}

/// Makes tables of the lines, in the order in which rows and subjects come first. A subject that
/// comes again in its row adds its values.
pub(super) fn merge(lines: &str) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for (number, text) in (1..).zip(lines.lines()) {
        let line: Line = serde_json::from_str(text)
            .with_context(|| format!("figure {number} is not in the form of figures: {text}"))?;
        if line.values.is_empty() || line.values.iter().any(|value| !value.is_finite()) {
            bail!("figure {number} has no values, or one that is no number: {text}");
        }
        let table = entry(
            &mut tables,
            |table| table.name == line.table,
            || Table { name: line.table.clone(), rows: Vec::new() },
        );
        let row = entry(
            &mut table.rows,
            |row| row.name == line.row,
            || Row {
                name: line.row.clone(),
                unit: line.unit.clone(),
                more_is_better: line.more_is_better,
                subjects: Vec::new(),
                ratios: BTreeMap::new(),
            },
        );
        if (&row.unit, row.more_is_better) != (&line.unit, line.more_is_better) {
            bail!("figure {number} has another unit than its row before: {text}");
        }
        let before = row.subjects.iter_mut().find(|measured| measured.name == line.subject);
        if let Some(before) = before {
            let values = [&*before.values, &*line.values].concat();
            *before = Measured::new(line.subject, values);
        } else {
            row.subjects.push(Measured::new(line.subject, line.values));
        }
    }
    for row in tables.iter_mut().flat_map(|table| &mut table.rows) {
        row.ratios = ratios(row);
    }
    Ok(tables)
}

/// The entry that fits, made if there is none.
fn entry<T>(list: &mut Vec<T>, fits: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let place = list.iter().position(fits).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    });
    list.get_mut(place).expect("found or just made")
}

fn ratios(row: &Row) -> BTreeMap<String, f64> {
    let Some(gate) = row.of(GATE) else { return BTreeMap::new() };
    let peers = row.subjects.iter().filter(|measured| measured.name != GATE);
    // A peer that needed nothing measurable has no ratio: JSON has no infinity.
    peers
        .map(|peer| (peer.name.clone(), gate.median / peer.median))
        .filter(|(_, ratio)| ratio.is_finite())
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line as the benches write it.
    pub(in super::super) fn line(table: &str, row: &str, subject: &str, values: &[f64]) -> String {
        serde_json::json!({
            "table": table, "row": row, "subject": subject, "unit": "ns",
            "more_is_better": false, "values": values,
        })
        .to_string()
            + "\n"
    }

    /// A report of these lines.
    pub(in super::super) fn report(lines: &[String]) -> Report {
        Report {
            machine: Machine::default(),
            quick: false,
            failed: Vec::new(),
            tables: merge(&lines.concat()).unwrap(),
        }
    }

    #[test]
    fn lines_become_rows_with_medians_and_ratios() {
        let lines = [
            line("packets", "SYN", GATE, &[30.0, 10.0, 20.0]),
            line("packets", "SYN", "xdp-filter", &[40.0]),
            line("packets", "ACK", GATE, &[1.0]),
            line("frames", "SYN", GATE, &[1.0, 2.0]),
            line("packets", "SYN", GATE, &[40.0, 50.0]),
        ];
        let tables = report(&lines).tables;
        let names: Vec<_> = tables.iter().map(|table| (&*table.name, table.rows.len())).collect();
        assert_eq!(names, [("packets", 2), ("frames", 1)]);
        let row = &tables[0].rows[0];
        let gate = row.of(GATE).unwrap();
        assert_eq!(gate.values, [30.0, 10.0, 20.0, 40.0, 50.0]);
        assert_eq!((gate.low, gate.median, gate.high), (10.0, 30.0, 50.0));
        assert_eq!(gate.spread, 20.0);
        assert_eq!(row.ratios, BTreeMap::from([("xdp-filter".to_owned(), 0.75)]));
        assert_eq!(tables[1].rows[0].of(GATE).unwrap().median, 1.5);
    }

    #[test]
    fn a_peer_without_a_measurable_time_has_no_ratio() {
        let lines = [line("t", "r", GATE, &[3.0]), line("t", "r", "empty", &[0.0])];
        assert!(report(&lines).tables[0].rows[0].ratios.is_empty());
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        let other_unit = line("t", "r", "peer", &[1.0]).replace("\"ns\"", "\"ms\"");
        for bad in ["{}\n", "no JSON\n", &line("t", "r", "peer", &[]), &other_unit] {
            assert!(merge(&(line("t", "r", GATE, &[1.0]) + bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_report_survives_json() {
        let report = report(&[line("t", "r", GATE, &[1.0, 2.5]), line("t", "r", "p", &[3.0])]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap().tables, report.tables);
    }
}
