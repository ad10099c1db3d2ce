//! The table of grants.

use jit_proto::{
    printable::clean,
    v1,
    words::{duration, range_text, source_text},
};

use super::{
    BOLD, Page, Style, YELLOW,
    columns::{cut, pad, width},
    layout::{Piece, Section, lay_out},
    short_id::{ShortIds, id_of},
    words::{WIDTH, listed, now_ms, thousands},
};

/// Columns of a grant.
const TITLES: [&str; COLUMNS] = ["ID", "SOURCE", "PORT", "LEFT", "HITS", "REQUESTER", "WHY"];
const COLUMNS: usize = 7;
const SOURCE: usize = 1;
const LEFT: usize = 3;
const HITS: usize = 4;
const REQUESTER: usize = 5;
const WHY: usize = 6;

/// Longest ticket and justification, characters: on a wide terminal there is room.
const WHY_WIDTH: usize = 100;
/// Spaces before each cell.
const GAP: usize = 2;

/// Where a table that is too wide gives up columns, and down to how many.
const SHRINK: [(usize, usize); 6] =
    [(WHY, 8), (REQUESTER, 14), (WHY, 3), (SOURCE, 24), (REQUESTER, 8), (SOURCE, 12)];

/// Rank of the grants among the sections of the screen.
const RANK: u8 = 6;

/// The table of these grants, each with a row.
pub fn grants_text(grants: &[v1::GrantState], ids: &ShortIds, page: Page) -> String {
    let all = Page { height: None, grants: None, ..page };
    let lines = lay_out(&[table(grants, ids, all)], None, all.width, all.style);
    lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// How many there are, and as many rows as can be shown. Only those are decoded.
pub(super) fn section(grants: &[v1::GrantState], page: Page) -> Section {
    table(grants, &ShortIds::of(grants), page)
}

fn table(grants: &[v1::GrantState], ids: &ShortIds, page: Page) -> Section {
    let most = page.grants.unwrap_or(usize::MAX).min(page.height.unwrap_or(usize::MAX));
    let shown = grants.get(..grants.len().min(most)).unwrap_or_default();
    let mut titles = vec![Piece::plain(format!("grants   {}", counts(grants)))];
    if shown.is_empty() {
        return Section::table(RANK, titles, Vec::new())
            .with_more(grants.len(), "jit-agent grants");
    }
    let (heads, rows) = rows(shown, ids, page.width);
    titles.push(heads);
    let beyond = grants.len() - shown.len();
    Section::table(RANK, titles, rows).with_more(beyond, "jit-agent grants")
}

/// The titles of the columns, and the lines of these grants.
fn rows(shown: &[v1::GrantState], ids: &ShortIds, wide: Option<usize>) -> (Piece, Vec<Piece>) {
    let cells: Vec<_> = shown.iter().map(|state| cells(state, ids)).collect();
    let widths = widths(&cells, wide);
    let mut rows = Vec::with_capacity(shown.len());
    for (cells, state) in cells.iter().zip(shown) {
        rows.push(Piece::plain(row(cells, &widths)));
        if !state.outside.is_empty() {
            let text =
                format!("    outside the present configuration: {}", clean(&state.outside, 200));
            let text = wide.map_or_else(|| text.clone(), |wide| cut(&text, wide));
            rows.push(Piece::coloured(text, YELLOW));
        }
    }
    (Piece::coloured(row(&TITLES.map(String::from), &widths), BOLD), rows)
}

/// The titles and the lines of a part of the grants, at most this number of lines.
pub(super) fn window(
    shown: &[v1::GrantState],
    ids: &ShortIds,
    wide: Option<usize>,
    lines: usize,
    style: Style,
) -> Vec<String> {
    let (heads, rows) = rows(shown.get(..shown.len().min(lines)).unwrap_or_default(), ids, wide);
    let all = std::iter::once(heads).chain(rows);
    all.take(lines).map(|piece| piece.painted(wide, style)).collect()
}

/// `2 live, 1 scheduled`.
pub(super) fn counts(grants: &[v1::GrantState]) -> String {
    let count = |state| grants.iter().filter(|grant| grant.state() == state).count();
    let text = |count: usize, word: &str| {
        format!("{} {word}", thousands(u64::try_from(count).unwrap_or(u64::MAX)))
    };
    let mut counts = vec![text(count(v1::State::Active), "live")];
    for (state, word) in [
        (v1::State::Exhausted, "exhausted"),
        (v1::State::Scheduled, "scheduled"),
        (v1::State::Expired, "expired"),
        (v1::State::Replaced, "replaced"),
        (v1::State::Revoked, "revoked"),
    ] {
        match count(state) {
            0 => {}
            count => counts.push(text(count, word)),
        }
    }
    counts.join(", ")
}

/// How wide each column is: as its widest cell, or less where the terminal has not the room.
fn widths(rows: &[[String; COLUMNS]], wide: Option<usize>) -> [usize; COLUMNS] {
    let mut widths = TITLES.map(str::len);
    for row in rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = (*most).max(width(cell));
        }
    }
    let Some(wide) = wide else { return widths };
    for (column, least) in SHRINK {
        let total: usize = widths.iter().map(|width| width + GAP).sum();
        if let Some(width) = widths.get_mut(column) {
            let less = total.saturating_sub(wide).min(width.saturating_sub(least));
            *width -= less;
        }
    }
    widths
}

/// The cells side by side, each cut to its column.
fn row(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut out = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        out.extend(std::iter::repeat_n(' ', GAP));
        pad(&mut out, &cut(cell, *width), *width, matches!(column, LEFT | HITS));
    }
    out.truncate(out.trim_end().len());
    out
}

/// The grant as signed. One that this version cannot read is listed all the same, and says so.
pub(super) fn readable(state: &v1::GrantState) -> v1::Grant {
    let unreadable =
        || v1::Grant { justification: "this grant cannot be read".into(), ..v1::Grant::default() };
    state.signed().unwrap_or_else(unreadable)
}

fn cells(state: &v1::GrantState, ids: &ShortIds) -> [String; COLUMNS] {
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
    let id = id_of(state);
    [
        ids.short(&id).to_owned(),
        listed(&grant.sources, source_text),
        listed(&grant.ports, |range| range_text(Some(range))),
        left,
        match grant.max_connections {
            0 => state.hits.to_string(),
            most => format!("{}/{most}", state.hits),
        },
        clean(&grant.requester, WIDTH),
        clean(why.trim(), WHY_WIDTH),
    ]
}
