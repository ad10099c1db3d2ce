//! The history of denials: two tables, or JSON.

use jit_proto::{
    WallTime,
    printable::clean,
    v1,
    words::{address_text, id_text, protocol_word, ranges_text, source_text},
};
use serde_json::{Value, json};

use super::{
    BOLD, Style, YELLOW,
    words::{WIDTH, line, many, thousands, time},
};

/// The history of denials.
pub fn denials_text(answer: &v1::DenialsResponse, style: Style) -> String {
    let mut out = String::new();
    let v1::DenialsResponse { denials, refused, since_ms, recorded, unrecorded, .. } = answer;
    let since = match since_ms {
        0 => "nothing was counted yet".to_owned(),
        since => {
            let all = many(recorded.saturating_add(*unrecorded), "packet");
            let missing = match unrecorded {
                0 => String::new(),
                unrecorded => {
                    format!(", {} of them not recorded one by one", thousands(*unrecorded))
                }
            };
            format!("since {}: {all}{missing}", moment(*since))
        }
    };
    line(&mut out, format_args!("denials  {since}"));
    if !answer.note.is_empty() {
        line(&mut out, format_args!("  {}", style.paint(YELLOW, &clean(&answer.note, 400))));
    }
    let title = ["SOURCE", "PORT", "REASON", "FIRST", "LAST", "PACKETS"];
    table(&mut out, title, denials.iter().map(denial_row), style);
    more(&mut out, denials.len(), answer.matching);
    line(&mut out, format_args!("refused  {} pushes", answer.matching_refused));
    let title = ["LAST", "COUNT", "REQUESTER", "SOURCE", "PORT", "REASON"];
    let rows: Vec<_> = refused.iter().map(refused_row).collect();
    let mut tables = String::new();
    table(&mut tables, title, rows.into_iter(), style);
    // Under each row, what does not fit into it.
    for (index, row) in tables.lines().enumerate() {
        line(&mut out, format_args!("{row}"));
        if let Some(push) = index.checked_sub(1).and_then(|index| refused.get(index)) {
            let v1::RefusedPush { grant_id, by, detail, .. } = push;
            let id = if grant_id.is_empty() {
                String::new()
            } else {
                format!(", {}", id_text(grant_id))
            };
            let by = clean(by, 100);
            line(&mut out, format_args!("    by {by}{id}: {}", clean(detail, 400)));
        }
    }
    more(&mut out, refused.len(), answer.matching_refused);
    out
}

/// The history of denials as JSON.
pub fn denials_json(answer: &v1::DenialsResponse) -> Value {
    let v1::DenialsResponse {
        denials,
        refused,
        since_ms,
        recorded,
        unrecorded,
        matching,
        matching_refused,
        note,
    } = answer;
    json!({
        "since": time(*since_ms),
        "recorded": recorded,
        "unrecorded": unrecorded,
        "matching": matching,
        "denials": denials.iter().map(denial_json).collect::<Vec<_>>(),
        "matching_refused": matching_refused,
        "refused": refused.iter().map(refused_json).collect::<Vec<_>>(),
        "note": note,
    })
}

fn denial_json(denial: &v1::Denial) -> Value {
    let v1::Denial { source, protocol: _, port: _, reason, first_ms, last_ms, .. } = denial;
    let v1::Denial { seen, error, packets, observed, .. } = denial;
    json!({
        "source": address_text(source),
        "port": port_text(denial),
        "reason": reason,
        "first": time(*first_ms),
        "last": time(*last_ms),
        "packets": packets,
        "seen": seen,
        "error": error,
        "observed": observed,
    })
}

/// A refused push as JSON.
fn refused_json(push: &v1::RefusedPush) -> Value {
    let v1::RefusedPush { time_ms, grant_id, requester, sources, ports, .. } = push;
    let v1::RefusedPush { by, reason, detail, count, .. } = push;
    json!({
        "time": time(*time_ms),
        "count": count,
        "grant_id": (!grant_id.is_empty()).then(|| id_text(grant_id)),
        "requester": requester,
        "sources": sources.iter().map(source_text).collect::<Vec<_>>(),
        "ports": ports.iter().map(|port| ranges_text(std::slice::from_ref(port))).collect::<Vec<_>>(),
        "by": by,
        "reason": reason,
        "detail": detail,
    })
}

fn denial_row(denial: &v1::Denial) -> [String; 6] {
    let v1::Denial { source, reason, first_ms, last_ms, seen, packets, .. } = denial;
    // An estimate is marked.
    let about = if packets == seen { "" } else { "~" };
    let passed = if denial.observed { " (it passed: observe mode)" } else { "" };
    [
        address_text(source),
        port_text(denial),
        clean(reason, WIDTH),
        moment(*first_ms),
        moment(*last_ms),
        format!("{about}{}{passed}", thousands(*packets)),
    ]
}

fn refused_row(push: &v1::RefusedPush) -> [String; 6] {
    let v1::RefusedPush { time_ms, requester, sources, ports, reason, count, .. } = push;
    let unknown = |text: String| if text.is_empty() { "?".to_owned() } else { text };
    let sources: Vec<_> = sources.iter().map(source_text).collect();
    [
        moment(*time_ms),
        thousands(*count),
        unknown(clean(requester, WIDTH)),
        unknown(clean(&sources.join(", "), WIDTH)),
        unknown(clean(&ranges_text(ports), WIDTH)),
        clean(reason, WIDTH),
    ]
}

fn port_text(denial: &v1::Denial) -> String {
    format!("{}/{}", denial.port, protocol_word(denial.protocol()))
}

/// A time to the second.
fn moment(millis: i64) -> String {
    let second = millis.div_euclid(1_000).saturating_mul(1_000);
    WallTime(second).to_string()
}

/// Adds rows under a title, unless there are none.
fn table(
    out: &mut String,
    title: [&str; 6],
    rows: impl Iterator<Item = [String; 6]>,
    style: Style,
) {
    let rows: Vec<_> = std::iter::once(title.map(str::to_owned)).chain(rows).collect();
    if rows.len() == 1 {
        return;
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        let text = format!("  {}", cells.join("  "));
        let text = text.trim_end();
        let text = if index == 0 { style.paint(BOLD, text) } else { text.to_owned() };
        line(out, format_args!("{text}"));
    }
}

fn more(out: &mut String, shown: usize, matching: u32) {
    let shown = u32::try_from(shown).unwrap_or(u32::MAX);
    if let more @ 1.. = matching.saturating_sub(shown) {
        line(out, format_args!("  … {} more: --top {matching}", thousands(more.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> v1::DenialsResponse {
        let denial = v1::Denial {
            source: vec![192, 0, 2, 7].into(),
            protocol: v1::Protocol::Tcp.into(),
            port: 22,
            reason: "denied".into(),
            first_ms: 1_780_272_000_123,
            last_ms: 1_780_272_060_000,
            seen: 3,
            packets: 3,
            ..v1::Denial::default()
        };
        let estimated = v1::Denial { packets: 4_096, observed: true, ..denial.clone() };
        v1::DenialsResponse {
            denials: vec![estimated, denial],
            refused: vec![v1::RefusedPush {
                time_ms: 1_780_272_000_000,
                grant_id: vec![1; 16].into(),
                requester: "ana\x1b[2J".into(),
                by: "spiffe://hub".into(),
                reason: "lifetime".into(),
                detail: "too long".into(),
                count: 2,
                ..v1::RefusedPush::default()
            }],
            since_ms: 1_780_272_000_000,
            recorded: 6,
            unrecorded: 4_093,
            matching: 30,
            matching_refused: 1,
            note: String::new(),
        }
    }

    #[test]
    fn the_tables_say_who_where_why_and_how_often() {
        let text = denials_text(&answer(), Style::Plain);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("4,099 packets, 4,093 of them not recorded"), "{text}");
        assert!(lines[2].contains("192.0.2.7") && lines[2].contains("~4,096 (it passed"), "{text}");
        assert!(lines[3].ends_with(" 3") && lines[4].contains("28 more: --top 30"), "{text}");
        assert_eq!(lines[5], "refused  1 pushes");
        assert!(lines[7].contains("ana") && !lines[7].contains('\x1b'), "{text}");
        assert!(lines[8].starts_with("    by spiffe://hub, ") && lines[8].ends_with(": too long"));
        let empty = denials_text(&v1::DenialsResponse::default(), Style::Plain);
        assert_eq!(empty, "denials  nothing was counted yet\nrefused  0 pushes\n");
    }

    #[test]
    fn the_json_has_every_field() {
        let json = denials_json(&answer());
        assert_eq!(json["denials"][0]["port"], "22/tcp");
        assert_eq!(json["denials"][1]["packets"], 3);
        assert_eq!(json["refused"][0]["reason"], "lifetime");
        assert_eq!(json["unrecorded"], 4_093);
    }
}
