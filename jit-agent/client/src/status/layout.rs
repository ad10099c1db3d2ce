//! How the sections of a screen share its lines: the head and the problems first, the grants last.
//! Pure: sections in, lines out.

use super::{
    Style,
    columns::{CUT, cut, fold, width},
    words::thousands,
};

/// Columns of the word before a section's lines.
const LABEL: usize = 9;
/// Rank of the problems: their sentences are whole before others get more than two lines.
pub(super) const PROBLEMS: u8 = 0;
/// Spaces between two things on one line.
const GAP: usize = 4;

/// A piece of text, and its colour (an SGR code).
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    text: String,
    colour: Option<&'static str>,
}

impl Piece {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: None }
    }

    pub(super) fn coloured(text: impl Into<String>, colour: &'static str) -> Self {
        Self { text: text.into(), colour: Some(colour) }
    }

    /// In its colour, cut to this width.
    pub(super) fn painted(&self, wide: Option<usize>, style: Style) -> String {
        let text = wide.map_or_else(|| self.text.clone(), |wide| cut(&self.text, wide));
        self.colour.map_or_else(|| text.clone(), |code| style.paint(code, &text))
    }
}

/// One line of the screen, or a sentence that may take several.
#[derive(Clone, Debug)]
struct Row {
    text: String,
    /// Parts of the text that have a colour.
    coloured: Vec<Piece>,
    /// Number of things that it shows.
    things: usize,
}

/// Lines that belong together.
#[derive(Clone, Debug)]
pub(super) struct Section {
    label: &'static str,
    label_colour: Option<&'static str>,
    rows: Vec<Row>,
    /// Lines before the rows that always stay: the titles of a table.
    titles: Vec<Piece>,
    /// The rows are written as they are, without the label's column.
    table: bool,
    /// Number of things that are in no row: they were cut before.
    beyond: usize,
    /// The command that shows what is cut off.
    more: &'static str,
    /// Sections with a lower number get lines before others.
    rank: u8,
}

impl Section {
    /// Sentences, each with the label before it.
    pub(super) fn sentences(label: &'static str, rank: u8, texts: Vec<String>) -> Self {
        let row = |text| Row { text, coloured: Vec::new(), things: 1 };
        Self {
            label,
            label_colour: None,
            rows: texts.into_iter().map(row).collect(),
            titles: Vec::new(),
            table: false,
            beyond: 0,
            more: "jit-agent status --json",
            rank,
        }
    }

    /// Short things, as many on a line as fit.
    pub(super) fn flow(
        label: &'static str,
        rank: u8,
        pieces: &[Piece],
        wide: Option<usize>,
    ) -> Self {
        let room = wide.map_or(usize::MAX, |wide| wide.saturating_sub(LABEL));
        let mut rows: Vec<Row> = Vec::new();
        for piece in pieces {
            let coloured = piece.colour.is_some().then(|| piece.clone());
            match rows.last_mut() {
                Some(row) if width(&row.text).saturating_add(GAP + width(&piece.text)) <= room => {
                    row.text.extend(std::iter::repeat_n(' ', GAP));
                    row.text.push_str(&piece.text);
                    row.coloured.extend(coloured);
                    row.things += 1;
                }
                _ => rows.push(Row {
                    text: piece.text.clone(),
                    coloured: coloured.into_iter().collect(),
                    things: 1,
                }),
            }
        }
        Self { rows, ..Self::sentences(label, rank, Vec::new()) }
    }

    /// A table: its titles, which stay, and its rows.
    pub(super) fn table(rank: u8, titles: Vec<Piece>, rows: Vec<Piece>) -> Self {
        let row = |Piece { text, colour }| Row {
            // Lines without a colour of their own belong to the one before: none is a thing.
            things: usize::from(colour.is_none()),
            coloured: colour.map(|code| Piece::coloured(text.clone(), code)).into_iter().collect(),
            text,
        };
        let rows = rows.into_iter().map(row).collect();
        Self { rows, titles, table: true, ..Self::sentences("", rank, Vec::new()) }
    }

    /// The label in a colour.
    pub(super) fn labelled(mut self, colour: &'static str) -> Self {
        self.label_colour = Some(colour);
        self
    }

    /// What was cut before, and the command that shows it.
    pub(super) fn with_more(mut self, beyond: usize, more: &'static str) -> Self {
        (self.beyond, self.more) = (beyond, more);
        self
    }

    /// It has nothing to say.
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.titles.is_empty() && self.beyond == 0
    }

    /// Lines of the rows when each takes one, titles included.
    fn compact(&self) -> usize {
        self.titles.len() + self.rows.len() + usize::from(self.beyond > 0)
    }

    /// Lines when every sentence is whole.
    fn whole(&self, wide: Option<usize>) -> usize {
        let lines: usize = self.rows.iter().map(|row| self.folded(row, wide).len()).sum();
        self.titles.len() + lines + usize::from(self.beyond > 0)
    }

    fn folded(&self, row: &Row, wide: Option<usize>) -> Vec<String> {
        match wide {
            Some(wide) if !self.table => fold(&row.text, wide.saturating_sub(LABEL)),
            _ => vec![row.text.clone()],
        }
    }

    /// The section in at most this number of lines.
    fn render(&self, lines: usize, wide: Option<usize>, style: Style, out: &mut Vec<String>) {
        let titles = if self.table && lines < self.compact() && lines < self.titles.len() + 2 {
            lines.min(1)
        } else {
            self.titles.len()
        };
        for title in self.titles.iter().take(titles) {
            out.push(title.painted(wide, style));
        }
        let room = lines.saturating_sub(titles);
        let all = self.rows.len() <= room && self.beyond == 0;
        let shown = if all { self.rows.len() } else { self.rows.len().min(room.saturating_sub(1)) };
        let cut_off = self.rows.len() > shown || self.beyond > 0;
        let mut spare = room.saturating_sub(shown + usize::from(cut_off));
        for row in self.rows.iter().take(shown) {
            let mut texts = self.folded(row, wide);
            if let Some(wide) = wide {
                spare -= shorten(&mut texts, 1 + spare, wide.saturating_sub(self.indent()));
            }
            for (index, text) in texts.into_iter().enumerate() {
                out.push(self.line(index > 0, &text, row, style));
            }
        }
        let hidden: usize = self.rows.iter().skip(shown).map(|row| row.things).sum();
        if hidden + self.beyond > 0 && room > 0 {
            let hidden = u64::try_from(hidden + self.beyond).unwrap_or(u64::MAX);
            let text = format!("{CUT} {} more: `{}`", thousands(hidden), self.more);
            let text = wide.map_or_else(
                || text.clone(),
                |wide| cut(&text, wide.saturating_sub(self.indent().max(2))),
            );
            let row = Row { text: String::new(), coloured: Vec::new(), things: 0 };
            let text = if self.table { format!("  {text}") } else { text };
            out.push(self.line(false, &text, &row, style));
        }
    }

    const fn indent(&self) -> usize {
        if self.table { 0 } else { LABEL }
    }

    fn line(&self, continued: bool, text: &str, row: &Row, style: Style) -> String {
        let mut painted = text.to_owned();
        for Piece { text, colour } in &row.coloured {
            if let Some(code) = colour {
                painted = painted.replacen(text.as_str(), &style.paint(code, text), 1);
            }
        }
        if self.table {
            return painted;
        }
        let label = if continued { "" } else { self.label };
        let pad = " ".repeat(LABEL.saturating_sub(label.len()));
        match self.label_colour.filter(|_| !label.is_empty()) {
            Some(code) => format!("{}{pad}{painted}", style.paint(code, label)),
            None => format!("{label}{pad}{painted}").trim_end().to_owned(),
        }
    }
}

/// Keeps at most this number of a sentence's lines, none wider than `columns`. Returns how many it
/// takes beyond the first.
fn shorten(texts: &mut Vec<String>, most: usize, columns: usize) -> usize {
    let missing = texts.len() > most;
    texts.truncate(most);
    if let Some(last) = texts.last_mut() {
        let text = if missing { format!("{last} {CUT}") } else { std::mem::take(last) };
        *last = cut(&text, columns);
    }
    texts.len().saturating_sub(1)
}

/// The sections' lines: at most `height` of them, none wider than `wide`.
pub(super) fn lay_out(
    sections: &[Section],
    height: Option<usize>,
    wide: Option<usize>,
    style: Style,
) -> Vec<String> {
    let mut out = Vec::new();
    let lines = match height {
        None => sections.iter().map(|section| section.whole(wide)).collect(),
        Some(height) => shares(sections, height, wide),
    };
    for (section, lines) in sections.iter().zip(lines) {
        if lines > 0 {
            section.render(lines, wide, style, &mut out);
        }
    }
    out
}

/// Lines for each section: two for each at first, then whole problems in up to half of the screen,
/// then what each needs with one line a thing, then whole sentences; always in the order of the ranks.
fn shares(sections: &[Section], height: usize, wide: Option<usize>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sections.len()).collect();
    order.sort_by_key(|index| sections.get(*index).map(|section| section.rank));
    let mut lines = vec![0_usize; sections.len()];
    let mut left = height;
    let mut raise = |goal: &dyn Fn(&Section) -> usize| {
        for index in &order {
            if let (Some(section), Some(lines)) = (sections.get(*index), lines.get_mut(*index)) {
                let more = goal(section).saturating_sub(*lines).min(left);
                *lines += more;
                left -= more;
            }
        }
    };
    raise(&|section| section.compact().min(1));
    raise(&|section| section.compact().min(2));
    let urgent = |section: &Section| section.rank == PROBLEMS;
    raise(&|section| if urgent(section) { section.whole(wide).min(height / 2) } else { 0 });
    raise(&|section| section.compact().min(if section.table { height / 2 } else { height / 3 }));
    raise(&Section::compact);
    raise(&|section| section.whole(wide));
    lines
}
