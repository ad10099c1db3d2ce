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
    let mut rows = Rows::default();
    rows.push(&["ID", "SOURCE", "PORT", "LEFT", "HITS", "REQUESTER", "WHY"].map(String::from));
    for state in grants {
        rows.push(&grant_row(state));
    }
    let (mut rows, widths) = (rows.cells(), rows.widths);
    let header = rows.next().unwrap_or_default();
    let mut title = String::new();
    render(&mut title, &header, &widths);
    line(&mut out, format_args!("{}", style.paint(BOLD, &title)));
    for (row, state) in rows.zip(grants) {
        render(&mut out, &row, &widths);
        out.push('\n');
        if !state.outside.is_empty() {
            let outside = clean(&state.outside, 200);
            let text = format!("outside the present configuration: {outside}");
            line(&mut out, format_args!("    {}", style.paint(YELLOW, &text)));
        }
    }
    out
}

/// Rows whose cells follow each other in one text: there may be very many.
#[derive(Default)]
struct Rows {
    text: String,
    /// Where each cell of a row ends.
    ends: Vec<[usize; 7]>,
    /// The most characters in each column.
    widths: [usize; 7],
}

impl Rows {
    fn push(&mut self, cells: &[String; 7]) {
        let mut ends = [0; 7];
        for ((end, width), cell) in ends.iter_mut().zip(&mut self.widths).zip(cells) {
            *width = (*width).max(cell.chars().count());
            self.text.push_str(cell);
            *end = self.text.len();
        }
        self.ends.push(ends);
    }

    fn cells(&self) -> impl Iterator<Item = [&str; 7]> {
        let mut start = 0;
        self.ends.iter().map(move |ends| {
            ends.map(|end| self.text.get(std::mem::replace(&mut start, end)..end).unwrap_or(""))
        })
    }
}

/// Adds the cells of a row, each as wide as its column.
fn render(out: &mut String, row: &[&str; 7], widths: &[usize; 7]) {
    let start = out.len();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        let pad = std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()));
        out.push_str("  ");
        match column {
            3 | 4 => {
                out.extend(pad);
                out.push_str(cell);
            }
            6 => out.push_str(cell),
            _ => {
                out.push_str(cell);
                out.extend(pad);
            }
        }
    }
    let written = out.get(start..).unwrap_or_default().trim_end().len();
    out.truncate(start + written);
}

/// The grant as signed. One that this version cannot read is listed all the same, and says so.
pub(super) fn readable(state: &v1::GrantState) -> v1::Grant {
    let unreadable =
        || v1::Grant { justification: "this grant cannot be read".into(), ..v1::Grant::default() };
    state.signed().unwrap_or_else(unreadable)
}

fn grant_row(state: &v1::GrantState) -> [String; 7] {
    let grant = readable(state);
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
