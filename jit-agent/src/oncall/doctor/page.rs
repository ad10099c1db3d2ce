//! The doctor's findings as text: the verdict first, then the groups, the worst one first. Pure.

use std::cmp::Reverse;

use jit_client::status::{Page, Style, cut, fold, width};
use jit_proto::{printable::clean, words::counted};

use super::{
    CHECKS,
    finding::{Finding, Level},
};

/// Columns before a check's name: two spaces, the longest level, two spaces.
const LEVEL: usize = 12;
/// Before a line that belongs to the one above.
const INDENT: &str = "            ";
const DO: &str = "do: ";
/// The most good findings of one check that are shown one by one.
const MOST_GOOD: usize = 8;
/// The longest text of a finding, characters.
const LONGEST: usize = 2000;
const BOLD: &str = "1";
const GREEN: &str = "1;32";
const YELLOW: &str = "1;33";
const RED: &str = "1;31";

impl Level {
    /// As people read it.
    const fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unseen => "not seen",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }

    const fn colour(self) -> &'static str {
        match self {
            Self::Ok => GREEN,
            Self::Unseen => BOLD,
            Self::Warning => YELLOW,
            Self::Failure => RED,
        }
    }
}

/// All findings, for a person.
pub(super) fn text(findings: &[Finding], page: Page) -> String {
    let Page { style, width: wide, .. } = page;
    let mut lines = vec![head(findings, style)];
    let name = findings.iter().map(|one| width(one.check)).max().unwrap_or(0);
    for (title, group) in groups(findings) {
        lines.push(String::new());
        lines.push(style.paint(BOLD, title));
        lines.extend(group_lines(&group, name, style, wide));
    }
    lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// `2 failures, 1 warning, 3 not seen, 20 ok`
pub(super) fn verdict(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let plural = |number: usize, word: &str| (number > 0).then(|| counted(number, word));
    let plain = |number: usize, word: &str| (number > 0).then(|| format!("{number} {word}"));
    let failures = plural(count(Level::Failure), "failure");
    let warnings = plural(count(Level::Warning), "warning");
    let nothing = failures.is_none() && warnings.is_none();
    let nothing = nothing.then(|| "nothing wrong".to_owned());
    let parts = [
        nothing,
        failures,
        warnings,
        plain(count(Level::Unseen), "not seen"),
        plain(count(Level::Ok), "ok"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn head(findings: &[Finding], style: Style) -> String {
    let worst = findings.iter().map(|one| one.level).max().unwrap_or(Level::Ok);
    let colour = if worst < Level::Warning { GREEN } else { worst.colour() };
    format!("doctor   {}", style.paint(colour, &verdict(findings)))
}

/// The findings by group, with the worst group and the worst finding of each first.
fn groups(findings: &[Finding]) -> Vec<(&'static str, Vec<&Finding>)> {
    let is_known = |one: &Finding| CHECKS.iter().any(|(_, checks)| checks.contains(&one.check));
    let known = CHECKS.iter().map(|(title, checks)| {
        let of_it = findings.iter().filter(|one| checks.contains(&one.check));
        (*title, of_it.collect::<Vec<_>>())
    });
    // Nothing that was found is left out.
    let others = ("Other", findings.iter().filter(|one| !is_known(one)).collect());
    let mut groups: Vec<_> = known
        .chain([others])
        .map(|(title, mut of_it)| {
            // The sort keeps the order of those that are equally bad.
            of_it.sort_by_key(|one| Reverse(one.level));
            (title, of_it)
        })
        .filter(|(_, of_it)| !of_it.is_empty())
        .collect();
    let worst = |of_it: &[&Finding]| of_it.first().map(|one| one.level.max(Level::Unseen));
    groups.sort_by_key(|(_, of_it)| Reverse(worst(of_it)));
    groups
}

/// `name`: columns of the checks' names.
fn group_lines(group: &[&Finding], name: usize, style: Style, wide: Option<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, finding) in group.iter().enumerate() {
        let good = finding.level == Level::Ok;
        let same = |one: &&&Finding| one.level == Level::Ok && one.check == finding.check;
        if good && group.iter().take(index).filter(same).count() == MOST_GOOD {
            let more = group.iter().skip(index).filter(same).count();
            let check = finding.check;
            lines.push(format!("  {:<10}{check:<name$}  … {more} more: --json", "ok"));
        } else if !good || group.iter().take(index).filter(same).count() < MOST_GOOD {
            lines.extend(finding_lines(finding, name, style, wide));
        }
    }
    lines
}

/// A finding: a line if it is good, else as many as it takes, and what to do.
fn finding_lines(finding: &Finding, name: usize, style: Style, wide: Option<usize>) -> Vec<String> {
    let Finding { check, level, about, seen, fix, at: _ } = finding;
    let about = if about.is_empty() { String::new() } else { format!("{about}: ") };
    let text = clean(&format!("{about}{seen}"), LONGEST);
    let before = LEVEL + name + 2;
    let room = wide.map(|wide| wide.saturating_sub(before).max(20));
    let texts = match room {
        None => vec![text],
        Some(room) if *level == Level::Ok => vec![cut(&text, room)],
        Some(room) => fold(&text, room),
    };
    let shown = level.shown();
    let pad = " ".repeat(LEVEL.saturating_sub(2 + shown.len()));
    let start = format!("  {}{pad}{check:<name$}  ", style.paint(level.colour(), shown));
    let mut lines = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        let start = if index == 0 { start.clone() } else { " ".repeat(before) };
        lines.push(format!("{start}{text}"));
    }
    let room = wide.map_or(usize::MAX, |wide| wide.saturating_sub(INDENT.len() + DO.len()));
    for one in fix {
        for (index, text) in fold(&clean(one, LONGEST), room).into_iter().enumerate() {
            let start = if index == 0 { DO } else { "    " };
            lines.push(format!("{INDENT}{start}{text}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> Vec<Finding> {
        let long = "word ".repeat(40);
        let mut all = vec![
            Finding::ok("kernel", long.clone()),
            Finding::warning("ntp", long).fix("timedatectl set-ntp true"),
            Finding::failure("bpffs", "it is not there").fix("mount -t bpf bpf /sys/fs/bpf"),
            Finding::unseen("capabilities", "only root"),
        ];
        all.extend((0..20).map(|n| Finding::ok("interface", "native XDP").about(format!("e{n}"))));
        all
    }

    #[test]
    fn the_first_line_is_the_verdict_and_the_worst_comes_first() {
        let text = text(&many(), Page::endless(Style::Plain));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "doctor   1 failure, 1 warning, 1 not seen, 21 ok");
        assert_eq!(lines[2], "Kernel");
        assert_eq!(lines[3], "  FAILURE   bpffs         it is not there");
        assert_eq!(lines[4], "            do: mount -t bpf bpf /sys/fs/bpf");
        let at = |word: &str| lines.iter().position(|line| line.starts_with(word)).unwrap();
        assert!(at("Kernel") < at("Clock") && at("Clock") < at("Agent"), "{text}");
    }

    #[test]
    fn on_a_terminal_no_line_is_wider_and_good_findings_take_one_line() {
        for (wide, high) in [(80, 24), (200, 50)] {
            let text = text(&many(), Page::screen(Style::Plain, wide, high));
            for line in text.lines() {
                assert!(width(line) <= wide.into(), "{line}");
            }
            assert_eq!(text.matches("kernel").count(), 1, "{text}");
            assert!(
                text.contains("interface     … 12 more: --json") && !text.contains("e8:"),
                "{text}"
            );
        }
    }

    #[test]
    fn colours_are_put_on_afterwards_and_hostile_text_is_escaped() {
        let finding = Finding::warning("ntp", "x\x1b[2Jy").fix("\x1b[2J");
        let plain = text(std::slice::from_ref(&finding), Page::endless(Style::Plain));
        assert!(!plain.contains('\x1b'), "{plain:?}");
        let coloured = text(&[finding], Page::endless(Style::Colour));
        assert!(coloured.contains("\x1b[1;33m1 warning\x1b[0m"), "{coloured:?}");
        assert!(coloured.contains("\x1b[1;33mwarning\x1b[0m   ntp"), "{coloured:?}");
    }

    #[test]
    fn a_check_without_a_group_is_shown_too() {
        let text = text(&[Finding::failure("odd", "it is")], Page::endless(Style::Plain));
        assert!(text.contains("\nOther\n  FAILURE   odd  it is\n"), "{text}");
    }

    #[test]
    fn a_good_host_has_nothing_wrong() {
        assert_eq!(verdict(&[Finding::ok("ntp", "")]), "nothing wrong, 1 ok");
        assert_eq!(verdict(&[]), "nothing wrong");
    }
}
