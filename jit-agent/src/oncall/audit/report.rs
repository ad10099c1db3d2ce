//! The report of `audit verify`, as text and as JSON.

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::disk::audit::{
    Head,
    verify::{Finding, Report},
};
use jit_client::status::Style;
use jit_proto::{printable::clean, words::counted};

/// The report for people.
pub(super) fn text(report: &Report, directory: &Path, style: Style) -> String {
    let mut out = String::new();
    let Report { files, records, tip, head, findings, notes } = report;
    let names = match (files.first(), files.last()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (Some(only), _) => only.clone(),
        (None, _) => "none".to_owned(),
    };
    // Writing to a string does not fail.
    let _never = writeln!(out, "audit    {}", clean(&directory.display().to_string(), 400));
    let _never =
        writeln!(out, "files    {}, {names}; {}", files.len(), counted(*records, "record"));
    if let Some(tip) = tip {
        let _never = writeln!(out, "ends     {tip}");
    }
    if let Some(Head { tip, time, host, .. }) = head {
        let host = clean(host, 100);
        let _never = writeln!(out, "signed   {} at {time} by {host}", tip.seq);
    }
    for (name, list) in [("note", notes), ("WRONG", findings)] {
        for Finding { file, line, what } in list {
            let place = line.map_or_else(|| file.clone(), |line| format!("{file} line {line}"));
            let name = style.paint(if name == "WRONG" { "1;31" } else { "1;33" }, name);
            let _never = writeln!(out, "{name}    {}: {}", clean(&place, 100), clean(what, 400));
        }
    }
    let verdict = if report.is_good() {
        style.paint("1;32", "GOOD")
    } else {
        style.paint("1;31", "NOT GOOD")
    };
    let _never = match findings.len() {
        0 => writeln!(out, "{verdict}     nothing is missing, changed or out of place"),
        1 => writeln!(out, "{verdict} one thing is wrong"),
        count => writeln!(out, "{verdict} {count} things are wrong"),
    };
    out
}

/// The report for programs; documented in docs/json.md.
pub(super) fn json(report: &Report) -> Value {
    let Report { files, records, tip, head, findings, notes } = report;
    let list = |list: &[Finding]| {
        let items = list.iter().map(
            |Finding { file, line, what }| json!({ "file": file, "line": line, "what": what }),
        );
        items.collect::<Value>()
    };
    json!({
        "good": report.is_good(),
        "files": files,
        "records": records,
        "tip": tip.map(|tip| tip.to_string()),
        "signed": head.as_ref().map(|Head { host, file, tip, time }| json!({
            "host": host, "file": file, "tip": tip.to_string(), "time": time.to_string(),
        })),
        "findings": list(findings),
        "notes": list(notes),
    })
}
