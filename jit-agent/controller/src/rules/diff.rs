//! What changes from one version of the rules to another.

use std::collections::BTreeMap;

use serde::Serialize;
use similar::TextDiff;

use super::{
    Mistake, Rules,
    cases::{self, CaseResult, outcome_word},
};
use crate::model::Verdict;

/// What changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Rules that are new: `@id`, or the first line of one without.
    pub added: Vec<String>,
    /// Rules that are no more.
    pub removed: Vec<String>,
    /// Rules of the same `@id` that say something else.
    pub changed: Vec<String>,
    /// The texts, line by line, in the unified form of `diff -u`. Empty: they are equal.
    pub unified: String,
}

/// A case that becomes something else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseChange {
    /// Its name.
    pub name: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// What becomes of it by the old rules, in words.
    pub before: String,
    /// And by the new ones.
    pub after: String,
    /// Whether the new answer is the expected one.
    pub passes: bool,
}

/// Compares two versions.
pub fn diff(old: &Rules, new: &Rules) -> Diff {
    let (before, after) = (by_name(old), by_name(new));
    let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect::<Vec<_>>()
    };
    let differs = |(name, text): (&String, &String)| {
        let other = after.get(name)?;
        (other != text).then(|| name.clone())
    };
    let title = |rules: &Rules| format!("version {}", rules.version());
    let text = TextDiff::from_lines(old.text(), new.text());
    let unified =
        text.unified_diff().context_radius(3).header(&title(old), &title(new)).to_string();
    Diff {
        added: only(&after, &before),
        removed: only(&before, &after),
        changed: before.iter().filter_map(differs).collect(),
        unified: if old.text() == new.text() { String::new() } else { unified },
    }
}

/// The cases of a file of which something else becomes.
///
/// # Errors
/// Mistakes of the file.
pub fn cases(old: &Rules, new: &Rules, file: &str) -> Result<Vec<CaseChange>, Vec<Mistake>> {
    let (before, after) = (cases::run(old, file)?, cases::run(new, file)?);
    let change = |(before, after): (CaseResult, CaseResult)| {
        let passes = after.passed();
        let same = Verdict { rules_version: 0, ..before.verdict.clone() }
            == Verdict { rules_version: 0, ..after.verdict.clone() };
        (!same).then(|| CaseChange {
            name: after.name,
            line: after.line,
            before: in_words(&before.verdict),
            after: in_words(&after.verdict),
            passes,
        })
    };
    Ok(before.into_iter().zip(after).filter_map(change).collect())
}

/// `manual: 1 of sre, at most 3h (sre, prod)`
pub(super) fn in_words(verdict: &Verdict) -> String {
    let mut asks = Vec::new();
    if !verdict.needs.is_empty() {
        asks.push(verdict.needs.text());
    }
    if let Some(max) = verdict.max_duration_ms {
        asks.push(format!("at most {}", super::annotation::duration_text(max)));
    }
    let mut words = outcome_word(verdict.outcome).to_owned();
    if !asks.is_empty() {
        words = format!("{words}: {}", asks.join(", "));
    }
    let ids: Vec<_> = verdict.rules.iter().map(|rule| rule.id.as_str()).collect();
    if ids.is_empty() { words } else { format!("{words} ({})", ids.join(", ")) }
}

/// The text of each rule. One without an `@id` is known by its text: its line says nothing.
fn by_name(rules: &Rules) -> BTreeMap<String, String> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let entry = |rule: &super::written::Written| {
        let text = plain(&rule.text);
        (if rule.named { rule.id.clone() } else { text.clone() }, text)
    };
    rules.0.written.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::rules, *};
    use crate::rules::{DEFAULT, DEFAULT_CASES};

    #[test]
    fn rules_are_compared_by_their_id() {
        let text = DEFAULT
            .replace("@max(\"3h\")", "@max(\"30m\")")
            .replace("@id(\"dev\")", "@id(\"development\")")
            .replace("// Adds to", "// It adds to");
        let (old, new) = (rules(DEFAULT), rules(&text));
        let found = diff(&old, &new);
        assert_eq!(found.added, ["development"]);
        assert_eq!(found.removed, ["dev"]);
        assert_eq!(found.changed, ["sre"]);
        assert!(found.unified.contains("\n-@max(\"3h\")\n+@max(\"30m\")\n"), "{}", found.unified);
        assert_eq!(diff(&old, &old), Diff::default());
        let changes = cases(&old, &new, DEFAULT_CASES).unwrap();
        let names: Vec<_> = changes.iter().map(|change| change.name.as_str()).collect();
        assert!(names.contains(&"sre needs another one of sre"), "{names:?}");
        assert!(!names.contains(&"half the internet"), "{names:?}");
        let first = &changes[0];
        assert_eq!(first.before, "manual: 1 of sre, at most 3h (sre)");
        assert_eq!((first.after.as_str(), first.passes), ("denied: at most 30m (sre)", false));
        assert_eq!(cases(&old, &old, DEFAULT_CASES).unwrap(), []);
    }

    #[test]
    fn a_rule_without_an_id_may_move() {
        let one = "permit (principal, action == Action::\"read\", resource);";
        let moved = diff(&rules(one), &rules(&format!("\n\n{one}")));
        assert_eq!((moved.added.len(), moved.removed.len()), (0, 0));
        assert_ne!(moved.unified, "");
        let other = one.replace("read", "revoke");
        let changed = diff(&rules(one), &rules(&other));
        assert_eq!((changed.added, changed.removed), (vec![other], vec![one.to_owned()]));
    }
}
