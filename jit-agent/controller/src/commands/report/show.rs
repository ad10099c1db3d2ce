//! A report as text, as a page of HTML, as files of CSV and as JSON.

use std::path::Path;

use askama::Template;
use jit_client::text::printable;
use serde_json::{Map, Value, json};

use super::gather::{Report, Table};
use crate::commands::{
    Failure,
    files::{PRIVATE, make_directory, write_new},
    output::moment,
};

/// A page that needs nothing else.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'r> {
    from: String,
    to: String,
    made: String,
    tables: &'r [Table],
}

/// As a page of HTML.
pub(super) fn html(report: &Report) -> Result<String, Failure> {
    let page = Page {
        from: moment(report.period.from_ms),
        to: moment(report.period.to_ms),
        made: moment(report.made_ms),
        tables: &report.tables,
    };
    page.render().map_err(|error| Failure::files(format!("cannot make the page: {error}")))
}

/// Each table as a new file for its owner only: people and their reasons are in it.
pub(super) fn csv(report: &Report, directory: &Path) -> Result<(), Failure> {
    if !directory.is_dir() {
        make_directory(directory)?;
    }
    for table in &report.tables {
        let file = directory.join(format!("{}.csv", table.name));
        write_new(&file, &rows(table)?, PRIVATE)?;
    }
    Ok(())
}

fn rows(table: &Table) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::files(format!("cannot make {}.csv: {error}", table.name))
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&table.heads).map_err(|error| failed(&error))?;
    for row in &table.rows {
        let cells = row.iter().map(|cell| harmless(cell));
        writer.write_record(cells).map_err(|error| failed(&error))?;
    }
    writer.into_inner().map_err(|error| failed(&error))
}

/// A cell that no spreadsheet takes for a formula: people type what is in it.
fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

/// As JSON: a list of objects for each table.
pub(super) fn json(report: &Report) -> Value {
    let rows = |table: &Table| -> Value {
        let row = |cells: &Vec<String>| {
            let key = |head: &&str| head.to_lowercase().replace(' ', "_");
            let cells = table.heads.iter().map(key).zip(cells.iter().cloned().map(Value::String));
            Value::Object(cells.collect())
        };
        table.rows.iter().map(row).collect()
    };
    let tables = report.tables.iter().map(|table| {
        let all = json!({ "title": table.title, "note": table.note, "rows": rows(table) });
        (table.name.to_owned(), all)
    });
    json!({
        "schema_version": 1,
        "from": moment(report.period.from_ms),
        "to": moment(report.period.to_ms),
        "made": moment(report.made_ms),
        "tables": tables.collect::<Map<_, _>>(),
    })
}

/// As text for a terminal.
pub(super) fn text(report: &Report) -> String {
    let (from, to) = (moment(report.period.from_ms), moment(report.period.to_ms));
    let mut text = format!("from {from} until {to}\n");
    for table in &report.tables {
        text.push_str(&format!("\n{}\n{}\n", table.title.to_uppercase(), table.note));
        if !table.rows.is_empty() {
            text.push('\n');
            text.push_str(&aligned(table));
        }
    }
    text
}

fn aligned(table: &Table) -> String {
    let heads: Vec<String> = table.heads.iter().map(|head| head.to_uppercase()).collect();
    let cells = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let all: Vec<Vec<String>> =
        std::iter::once(heads).chain(table.rows.iter().map(cells)).collect();
    let mut widths = vec![0; table.heads.len()];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::period::Period, *};

    fn report() -> Report {
        let table = Table {
            name: "denied",
            title: "Denied",
            note: "1 request".into(),
            heads: vec!["Request", "Who"],
            rows: vec![vec![
                "=cmd|' /C calc'!A0".into(),
                "<script>alert(1)</script>\u{1b}[2J".into(),
            ]],
        };
        let period = Period { from_ms: 0, to_ms: 1 };
        Report { period, made_ms: 2, tables: vec![table] }
    }

    #[test]
    fn what_people_typed_is_text_in_every_form() {
        let page = html(&report()).unwrap();
        assert!(!page.contains("<script") && page.contains("alert(1)"), "{page}");
        // Nothing is fetched from anywhere.
        for word in ["http:", "https:", "src=", "url(", "@import"] {
            assert!(!page.contains(word), "{word}: {page}");
        }
        let rows = String::from_utf8(rows(&report().tables[0]).unwrap()).unwrap();
        assert!(rows.lines().nth(1).unwrap().starts_with("'=cmd"), "{rows}");
        assert!(text(&report()).contains("alert(1)</script>\\u{1b}[2J"));
        assert_eq!(json(&report())["tables"]["denied"]["rows"][0]["request"], "=cmd|' /C calc'!A0");
    }
}
