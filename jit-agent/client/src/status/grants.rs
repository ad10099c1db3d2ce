//! The table of grants.

use std::fmt::Write as _;

use jit_proto::{
    printable::clean,
    v1,
    words::{duration, id_text, range_text, source_text},
};

use super::{
    BOLD, Style, YELLOW,
    words::{WIDTH, line, now_ms},
};

/// Characters of a grant's id in the table: all 26 of a ULID.
const SHORT_ID: usize = 26;

/// The table of grants.
pub fn grants_text(grants: &[v1::GrantState], style: Style) -> String {
    let mut out = String::new();
    let count = |state| grants.iter().filter(|grant| grant.state() == state).count();
    let mut counts = vec![format!("{} live", count(v1::State::Active))];
    for (state, word) in [
        (v1::State::Exhausted, "exhausted"),
        (v1::State::Scheduled, "scheduled"),
        (v1::State::Expired, "expired"),
        (v1::State::Replaced, "replaced"),
        (v1::State::Revoked, "revoked"),
    ] {
        match count(state) {
            0 => {}
            count => counts.push(format!("{count} {word}")),
        }
    }
    line(&mut out, format_args!("grants   {}", counts.join(", ")));
    if grants.is_empty() {
        return out;
    }
    let rows: Vec<[String; 7]> = grants.iter().map(grant_row).collect();
    let header = ["ID", "SOURCE", "PORT", "LEFT", "HITS", "REQUESTER", "WHY"].map(String::from);
    let mut widths = [0; 7];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(&mut out, format_args!("{}", style.paint(BOLD, &render(&header, &widths))));
    for (row, state) in rows.iter().zip(grants) {
        line(&mut out, format_args!("{}", render(row, &widths)));
        if !state.outside.is_empty() {
            let outside = clean(&state.outside, 200);
            let text = format!("outside the present configuration: {outside}");
            line(&mut out, format_args!("    {}", style.paint(YELLOW, &text)));
        }
    }
    out
}

/// The cells of a row, each as wide as its column.
fn render(row: &[String; 7], widths: &[usize; 7]) -> String {
    let mut text = String::with_capacity(widths.iter().map(|width| width + 2).sum());
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        text.push_str("  ");
        // Writing to a string does not fail.
        let _never = match column {
            3 | 4 => write!(text, "{cell:>width$}"),
            6 => text.write_str(cell),
            _ => write!(text, "{cell:<width$}"),
        };
    }
    text.truncate(text.trim_end().len());
    text
}

fn grant_row(state: &v1::GrantState) -> [String; 7] {
    let none = v1::Grant::default();
    let grant = state.grant.as_ref().unwrap_or(&none);
    let left = match state.state() {
        v1::State::Active | v1::State::Exhausted => duration(state.left_ms),
        v1::State::Replaced => "replaced".into(),
        v1::State::Scheduled => format!("in {}", duration(grant.not_before_ms - now_ms())),
        v1::State::Expired => "expired".into(),
        v1::State::Revoked => "revoked".into(),
        v1::State::Unspecified => "?".into(),
    };
    let why = [grant.ticket.as_str(), grant.justification.as_str()].join(" ");
    let id = id_text(&grant.id);
    [
        id.get(..SHORT_ID).unwrap_or(&id).to_owned(),
        listed(&grant.sources, source_text),
        listed(&grant.ports, |range| range_text(Some(range))),
        left,
        match grant.max_connections {
            0 => state.hits.to_string(),
            most => format!("{}/{most}", state.hits),
        },
        clean(&grant.requester, WIDTH),
        clean(why.trim(), WIDTH),
    ]
}

fn listed<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    match items {
        [] => "none".into(),
        [one] => text(one),
        [one, rest @ ..] => format!("{} +{}", text(one), rest.len()),
    }
}
