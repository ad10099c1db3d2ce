//! Text in columns of a terminal: how wide a text is, cut and folded to a width.
//!
//! A wide letter (CJK) takes two columns, a combining one none. Colours are put on afterwards: no
//! text here has an escape sequence.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Stands for what was cut off.
pub(super) const CUT: char = '…';

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// The text in at most this number of columns, with `…` at its end if some of it is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let mut out = head(text, room).trim_end().to_owned();
    out.push(CUT);
    out
}

/// The longest beginning of a text that takes at most this number of columns.
fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find_map(|(at, letter)| {
        used += letter.width().unwrap_or(0);
        (used > columns).then_some(at)
    });
    // A sequence of letters may be wider or narrower than its letters, as emoji are.
    let mut end = end.unwrap_or(text.len());
    while let Some((before, _)) = text.get(..end).and_then(|kept| kept.char_indices().last())
        && text.get(..end).is_some_and(|kept| width(kept) > columns)
    {
        end = before;
    }
    text.get(..end).unwrap_or_default()
}

/// The text in lines of at most this number of columns, broken at spaces where there are any.
pub fn fold(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    while width(rest) > columns {
        let head = head(rest, columns);
        let next = rest.get(head.len()..).unwrap_or_default();
        let at_space = match head.rfind(' ') {
            _ if next.starts_with(' ') => head.len(),
            Some(space) if space * 2 > head.len() => space,
            _ => head.len(),
        };
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let (line, after) = rest.split_at(at_space.max(first));
        lines.push(line.trim_end().to_owned());
        rest = after.trim_start();
    }
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// Adds a cell that takes at least `columns`; `right`: at its right end.
pub(super) fn pad(out: &mut String, cell: &str, columns: usize, right: bool) {
    let spaces = std::iter::repeat_n(' ', columns.saturating_sub(width(cell)));
    if right {
        out.extend(spaces);
        out.push_str(cell);
    } else {
        out.push_str(cell);
        out.extend(spaces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_wide_as_a_terminal_shows_it() {
        for (text, columns) in
            [("ana", 3), ("山田", 4), ("e\u{301}", 1), ("שלום", 4), ("", 0), ("…", 1)]
        {
            assert_eq!(width(text), columns, "{text}");
        }
    }

    #[test]
    fn a_cut_text_is_never_wider_than_asked_and_ends_with_a_mark() {
        for text in
            ["plain text of some length", "山田太郎山田太郎", "e\u{301}e\u{301}e\u{301}", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦"]
        {
            for columns in 0..30 {
                let cut = cut(text, columns);
                assert!(width(&cut) <= columns, "{cut:?} in {columns}");
                assert!(cut == text || cut.is_empty() || cut.ends_with(CUT), "{cut:?}");
            }
        }
        assert_eq!(cut("山田太郎", 4), "山…");
    }

    #[test]
    fn a_folded_text_keeps_every_word_and_no_line_is_too_wide() {
        let text =
            "eth1 has no gate: run `jit-agent check`, which says why 山田太郎山田太郎山田太郎";
        for columns in 2..90 {
            let lines = fold(text, columns);
            assert!(lines.iter().all(|line| width(line) <= columns), "{columns}: {lines:?}");
            let letters = |text: &str| text.replace(' ', "");
            assert_eq!(letters(&lines.concat()), letters(text), "{columns}");
        }
        assert_eq!(fold("", 10), [""]);
        assert_eq!(fold("one two", 4), ["one", "two"]);
    }
}
