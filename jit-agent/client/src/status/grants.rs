//! The table of grants.

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
    let render = |row: &[String; 7]| {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                3 | 4 => format!("{cell:>width$}"),
                6 => cell.clone(),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    line(&mut out, format_args!("{}", style.paint(BOLD, &render(&header))));
    for (row, state) in rows.iter().zip(grants) {
        line(&mut out, format_args!("{}", render(row)));
        if !state.outside.is_empty() {
            let outside = clean(&state.outside, 200);
            let text = format!("outside the present configuration: {outside}");
            line(&mut out, format_args!("    {}", style.paint(YELLOW, &text)));
        }
    }
    out
}

fn grant_row(state: &v1::GrantState) -> [String; 7] {
    let grant = state.grant.clone().unwrap_or_default();
    let sources: Vec<_> = grant.sources.iter().map(source_text).collect();
    let ports: Vec<_> = grant.ports.iter().map(|range| range_text(Some(range))).collect();
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
        listed(&sources),
        listed(&ports),
        left,
        match grant.max_connections {
            0 => state.hits.to_string(),
            most => format!("{}/{most}", state.hits),
        },
        clean(&grant.requester, WIDTH),
        clean(why.trim(), WIDTH),
    ]
}

fn listed(items: &[String]) -> String {
    match items {
        [] => "none".into(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} +{}", rest.len()),
    }
}
