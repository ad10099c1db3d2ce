//! What differs between two texts, a line each.

use similar::TextDiff;

/// A line of a difference.
pub(super) struct DiffLine {
    /// `add`, `cut`, `place` (which lines come now), or empty: it is in both.
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// The lines of a text in the unified form of `diff -u`.
pub(super) fn lines(unified: &str) -> Vec<DiffLine> {
    // The first two name the texts.
    let lines =
        unified.lines().skip_while(|line| line.starts_with("---") || line.starts_with("+++"));
    let line = |line: &str| {
        let kind = match line.as_bytes().first() {
            Some(b'+') => "add",
            Some(b'-') => "cut",
            Some(b'@') => "place",
            _ => "",
        };
        DiffLine { kind, text: line.to_owned() }
    };
    lines.map(line).collect()
}

/// What differs between two texts; empty: nothing.
pub(super) fn of_texts(old: &str, new: &str) -> Vec<DiffLine> {
    let diff = TextDiff::from_lines(old, new);
    lines(&diff.unified_diff().context_radius(3).header("old", "new").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_whether_it_came_or_went() {
        assert!(of_texts("a\n", "a\n").is_empty());
        let diff = of_texts("a\n--- b\nc\n", "a\n+++ d\nc\n");
        let shown: Vec<_> = diff.iter().map(|line| (line.kind, line.text.as_str())).collect();
        assert_eq!(
            shown[1..],
            [("", " a"), ("cut", "---- b"), ("add", "++++ d"), ("", " c")],
            "{shown:?}"
        );
        assert_eq!(shown[0].0, "place");
    }
}
