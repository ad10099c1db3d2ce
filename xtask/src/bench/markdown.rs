//! The report as Markdown.

use std::fmt::Write as _;

use super::{
    goals::{self, Judged},
    report::{Report, Row, Table},
};

/// The whole report. What a column means stands above the tables.
pub(super) fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "# Figures\n\n{}, {} cores, Linux {}, {}, commit {}.\n\n\
         Each cell: median (spread: first to third quartile). After `→`: jit-agent divided by this \
         peer.\n",
        machine.processor, machine.cores, machine.kernel, machine.date, machine.commit
    );
    if report.quick {
        text += "\nShort rounds of programs that are not optimised: the figures say nothing.\n";
    }
    if !report.failed.is_empty() {
        let _ = writeln!(text, "\nFailed, so not here: {}.", report.failed.join(", "));
    }
    for table in &report.tables {
        render_table(&mut text, table);
    }
    let missing = goals::without_rows(&report.tables);
    if !missing.is_empty() {
        text += "\nGoals that no row was measured for:\n\n";
        for goal in missing {
            let _ = writeln!(text, "- {goal}");
        }
    }
    text
}

fn render_table(text: &mut String, table: &Table) {
    let mut subjects: Vec<&str> = Vec::new();
    for measured in table.rows.iter().flat_map(|row| &row.subjects) {
        if !subjects.contains(&&*measured.name) {
            subjects.push(&measured.name);
        }
    }
    let judged = table.rows.iter().any(|row| !goals::judge(&table.name, row).is_empty());
    let mut columns = vec!["row", "unit"];
    columns.extend(&subjects);
    columns.extend(judged.then_some("goal"));
    let _ = writeln!(text, "\n## {}\n", table.name);
    line(text, columns.iter().map(|column| (*column).to_owned()));
    line(text, columns.iter().map(|_| "---".to_owned()));
    for row in &table.rows {
        let cells = subjects.iter().map(|subject| cell(row, subject));
        let goal = judged.then(|| {
            let judged: Vec<_> = goals::judge(&table.name, row).iter().map(verdict).collect();
            judged.join("; ")
        });
        line(text, [row.name.clone(), row.unit.clone()].into_iter().chain(cells).chain(goal));
    }
}

fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        let _ = write!(text, "| {} ", cell.replace('|', "\\|"));
    }
    text.push_str("|\n");
}

fn cell(row: &Row, subject: &str) -> String {
    let Some(measured) = row.of(subject) else { return String::new() };
    let mut cell = figure(measured.median);
    if measured.values.len() > 1 {
        let _ = write!(cell, " ({})", figure(measured.spread));
    }
    if let Some(ratio) = row.ratios.get(subject) {
        let _ = write!(cell, " → {}", figure(*ratio));
    }
    cell
}

fn verdict(judged: &Judged) -> String {
    let Judged { goal, reached } = judged;
    format!("{} {goal}", if *reached { "✓" } else { "✗" })
}

/// A number with three digits that matter, and thousands apart.
pub(super) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-');
    if whole.len() <= 3 {
        return text;
    }
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{
            GATE,
            tests::{line, report},
        },
        *,
    };

    #[test]
    fn a_table_has_a_line_for_each_row_with_ratio_and_goal() {
        let mut report = report(&[
            line("packets", "SYN denied, IPv4", GATE, &[40.0, 42.0, 60.0]),
            line("packets", "SYN denied, IPv4", "xdp-filter", &[84.0]),
            line("packets", "a|b", GATE, &[1234.5]),
        ]);
        report.failed = vec!["frames".to_owned()];
        let text = render(&report);
        for expected in [
            "| row | unit | jit-agent | xdp-filter | goal |\n| --- | --- | --- | --- | --- |\n",
            "| SYN denied, IPv4 | ns | 42.0 (10.0) | 84.0 → 0.500 | ✓ at most 0.90 of xdp-filter |",
            "| a\\|b | ns | 1,234 |  |  |",
            "Failed, so not here: frames.",
            "Goals that no row was measured for:",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn figures_have_three_digits_that_matter() {
        let shown = [0.0, 0.1234, 9.876, 98.76, 987.6, 1234.5, 1_234_567.0, -1234.0].map(figure);
        let expected = ["0.000", "0.123", "9.88", "98.8", "988", "1,234", "1,234,567", "-1,234"];
        assert_eq!(shown, expected);
    }
}
