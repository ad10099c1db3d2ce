//! The threat model names tests and rows of the frame table: all of them exist. Every reason word
//! of a refusal is met in a test.

use std::{collections::BTreeSet, path::Path};

use jit_proto::Refusal;

use crate::documentation::files;

const THREATS: &str = include_str!("../../docs/threat-model.md");
const TESTING: &str = include_str!("../../docs/testing.md");
const FRAMES: &str = include_str!("../../../jit-common/tests/frames.tsv");

#[test]
fn every_test_and_row_that_the_threat_model_names_exists() {
    let tests = test_names();
    let rows: BTreeSet<_> = FRAMES.lines().filter_map(|line| line.split('\t').next()).collect();
    let mut named = 0;
    for line in THREATS.lines().filter(|line| line.starts_with('|')) {
        let shown_by = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for name in shown_by.split('`').skip(1).step_by(2) {
            named += 1;
            assert!(tests.contains(name) || rows.contains(name), "neither test nor row: {name}");
        }
    }
    assert!(named >= 90, "{named} names");
}

/// A merge may leave two versions of a row, and both would read as rows.
#[test]
fn no_page_holds_marks_of_a_merge() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for file in std::fs::read_dir(docs).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let marks = ["<".repeat(7), "=".repeat(7), ">".repeat(7)];
        let left = text.lines().find(|line| marks.iter().any(|mark| line.starts_with(mark)));
        assert_eq!(left, None, "{}", path.display());
    }
}

/// A test shows the answer to each evasion.
#[test]
fn every_line_of_the_threat_model_names_a_test() {
    let answered = THREATS.split("## Packets").nth(1).unwrap();
    let answered = answered.split("## Not promised").next().unwrap();
    let lines = answered.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    for line in lines.filter(|line| !line.contains("shown by |")) {
        assert!(line.contains('`'), "no test in: {line}");
    }
}

#[test]
fn every_fuzz_target_is_described_and_has_a_corpus() {
    for krate in ["jit-agent", "jit-common"] {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("fuzz");
        for file in std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap() {
            let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
            assert!(TESTING.contains(&format!("| `{name}` |")), "{name} is not described");
            assert!(fuzz.join("corpus").join(&name).is_dir(), "{name} has no corpus");
        }
    }
}

#[test]
fn every_word_that_refuses_is_met_in_a_test() {
    let tests: String = test_sources().into_iter().map(|(_, text)| text).collect();
    for refusal in Refusal::ALL {
        let (variant, word) = (format!("Refusal::{refusal:?}"), format!("\"{}\"", refusal.word()));
        let met = tests.lines().filter(|line| !line.contains("Refusal::ALL")).any(|line| {
            line.split(&variant).skip(1).any(|rest| !rest.starts_with(char::is_alphanumeric))
                || line.contains(&word)
        });
        assert!(met, "no test meets {}", refusal.word());
    }
}

/// Names of all tests of the workspace.
pub(crate) fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in test_sources() {
        // A list of functions, each a test on SQLite and one on Postgres.
        for list in text.split("on_each_database! {").skip(1) {
            let list = list.split('}').next().unwrap_or_default();
            let list = list.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.extend(list.map(str::to_owned));
        }
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some((_, rest)) = line.split_once("fn ")
                && marked
            {
                names.extend(rest.split('(').next().map(str::to_owned));
                marked = false;
            }
        }
    }
    names
}

/// Files of tests, and the tests of files that also hold code.
fn test_sources() -> Vec<(String, String)> {
    let sources = files(&["rs"]).into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        let tests = if name.contains("/src/")
            && !name.contains("/tests/src/")
            && !name.ends_with("/tests.rs")
        {
            text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests).to_owned()
        } else {
            text
        };
        (name, tests)
    });
    sources.collect()
}
