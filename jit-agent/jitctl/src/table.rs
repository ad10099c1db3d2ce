//! A table that fits its terminal, and lines of a label and a text.

use std::iter::repeat_n;

use jit_client::{
    status::{Page, Style, cut, fold, width},
    text::printable,
};

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
/// Spaces between two columns.
const GAP: usize = 2;
/// Columns that must give room keep the first of these widths; if that is not enough, the next.
const LEAST: [usize; 3] = [8, 4, 1];
/// Columns that give room last: a part of an id is of no use.
const WHOLE: [&str; 3] = ["AGENT", "ID", "REQUEST"];
/// The longest text of a cell, letters.
const MAX_CELL: usize = 400;
/// Columns of a label.
const LABEL: usize = 11;

/// A cell: a text made safe, and its colour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    colour: Option<&'static str>,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        let mut text = printable(text.as_ref());
        if let Some((at, _)) = text.char_indices().nth(MAX_CELL) {
            text.truncate(at);
        }
        Self { text, colour: None }
    }
}

impl Cell {
    /// A word in the colour of its meaning.
    pub(crate) fn word(word: &str) -> Self {
        let colour = match word {
            "applied" | "approve" | "done" | "enforcing" | "ok" | "open" | "passed"
            | "scheduled" | "valid" => Some(GREEN),
            "approved"
            | "awaiting_signatures"
            | "degraded"
            | "delivering"
            | "partly"
            | "pending"
            | "pushed"
            | "running"
            | "signing"
            | "unreachable"
            | "waiting" => Some(YELLOW),
            "aborted" | "denied" | "deny" | "disabled" | "failed" | "halted" | "not_enforcing"
            | "refused" | "silent" => Some(RED),
            _ => None,
        };
        Self { colour, ..Self::from(word) }
    }
}

/// Titles and rows.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: a cell for each title.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// The same, for any number of titles.
    pub(crate) fn push(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Its lines; no line is wider than the page.
    pub(crate) fn text(&self, page: Page) -> String {
        let widths = self.widths(page.width);
        let titles =
            self.titles.iter().map(|title| Cell { text: (*title).to_owned(), colour: Some(BOLD) });
        let titles: Vec<Cell> = titles.collect();
        let mut out = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            let mut used = 0;
            for (cell, wide) in row.iter().zip(&widths) {
                let text = cut(&cell.text, *wide);
                if text.is_empty() {
                    used += wide + GAP;
                    continue;
                }
                line.extend(repeat_n(' ', used));
                used = wide.saturating_sub(width(&text)) + GAP;
                match cell.colour {
                    Some(colour) => line += &page.style.paint(colour, &text),
                    None => line += &text,
                }
            }
            out += &line;
            out.push('\n');
        }
        out
    }

    /// As wide as the widest cell of each column, or less where the page has not the room: the widest
    /// give first.
    fn widths(&self, wide: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.titles.iter().map(|title| width(title)).collect();
        for row in &self.rows {
            for (most, cell) in widths.iter_mut().zip(row) {
                *most = (*most).max(width(&cell.text));
            }
        }
        let Some(wide) = wide else { return widths };
        let gaps = widths.len().saturating_sub(1) * GAP;
        for (least, all) in LEAST.map(|least| (least, false)).into_iter().chain([(1, true)]) {
            while widths.iter().sum::<usize>() + gaps > wide {
                let gives = widths.iter_mut().zip(&self.titles);
                let gives = gives.filter(|(_, title)| all || !WHOLE.contains(title));
                match gives.map(|(width, _)| width).max() {
                    Some(widest) if *widest > least => *widest -= 1,
                    _ => break,
                }
            }
        }
        widths
    }
}

/// `label      text`, folded to the page; an empty text is left out.
pub(crate) fn line(page: Page, label: &str, text: &str) -> String {
    let text = printable(text);
    if text.is_empty() {
        return String::new();
    }
    let lines = match page.width {
        Some(wide) => fold(&text, wide.saturating_sub(LABEL).max(20)),
        None => vec![text],
    };
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let label = if number == 0 { label } else { "" };
        out += &format!("{label:LABEL$}{line}\n");
    }
    out
}

/// The same for a word, in the colour of its meaning.
pub(crate) fn word_line(style: Style, label: &str, word: &str, more: &str) -> String {
    let Cell { text, colour } = Cell::word(word);
    let text = colour.map_or_else(|| text.clone(), |colour| style.paint(colour, &text));
    let more = if more.is_empty() { String::new() } else { format!(": {}", printable(more)) };
    format!("{label:LABEL$}{text}{more}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["HOST", "STATE", "WHY"]);
        table.row(["web-1".into(), Cell::word("open"), "".into()]);
        let why = "for db-1\u{1b}[2J, this is 山田山田山田山田山田山田 with a long name";
        table.row(["db-1.example.org".into(), Cell::word("refused"), why.into()]);
        table
    }

    #[test]
    fn no_line_is_wider_than_the_page_and_short_columns_stay() {
        for wide in 3..120 {
            let text = table().text(Page { width: Some(wide), ..Page::endless(Style::Plain) });
            for line in text.lines() {
                assert!(width(line) <= wide.max(7), "{wide}: {line:?}");
                assert_eq!(line, line.trim_end());
            }
            if wide >= 40 {
                assert!(text.contains("refused"), "{text}");
            }
        }
    }

    #[test]
    fn an_id_is_whole_where_anything_else_can_give_room() {
        let id = "01KPEXAMP1E000000000000001";
        let mut table = Table::new(&["ID", "STATE", "WHY"]);
        table.row([id.into(), Cell::word("pending"), "a long reason in many words".into()]);
        let text = table.text(Page { width: Some(40), ..Page::endless(Style::Plain) });
        assert!(text.lines().all(|line| width(line) <= 40), "{text}");
        assert!(text.contains(id), "{text}");
    }

    #[test]
    fn in_a_pipe_nothing_is_cut_and_nothing_is_hostile() {
        let text = table().text(Page::endless(Style::Plain));
        assert!(text.contains("\\u{1b}[2J") && text.contains("long name"), "{text}");
        assert!(text.starts_with("HOST              STATE    WHY\nweb-1             open\n"));
    }

    #[test]
    fn words_have_colours_only_where_colours_are_wanted() {
        let text = table().text(Page::endless(Style::Colour));
        assert!(text.contains("\x1b[32mopen\x1b[0m") && text.contains("\x1b[31mrefused\x1b[0m"));
        assert!(!table().text(Page::endless(Style::Plain)).contains('\x1b'));
    }

    #[test]
    fn a_labelled_text_is_folded_under_itself() {
        let page = Page { width: Some(31), ..Page::endless(Style::Plain) };
        let text = line(page, "why", "one two three four five six");
        assert_eq!(text, "why        one two three four\n           five six\n");
        assert_eq!(line(page, "why", ""), "");
    }
}
