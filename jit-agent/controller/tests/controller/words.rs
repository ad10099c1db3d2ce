//! The page for people has a row for each stable word: whoever reads one in an answer finds what to do.

use std::{collections::BTreeSet, fs, path::Path};

use jit_controller::model::{
    Answer, State,
    rollout::{HostState, RolloutState},
};

const PAGE: &str = include_str!("../../../docs/controller.md");

/// How code gives a word, without the spaces in it.
const GIVEN: [&str; 7] =
    ["refuse(\"", "refuse(who,id,\"", "refused(\"", "Refused(\"", "Err((\"", "word:\"", "Alarm(\""];

/// Words that are in the tables of the page: those in the first column.
fn rows() -> BTreeSet<String> {
    let (_, words) = PAGE.split_once("\n## Words\n").unwrap();
    let mut all = BTreeSet::new();
    for line in words.lines().filter(|line| line.starts_with("| `")) {
        let first = line.split(" | ").next().unwrap();
        all.extend(first.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    all
}

/// The code of a module without its tests.
fn source(module: &str) -> String {
    let mut text = String::new();
    let mut ahead = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module)];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("tests.rs") {
            let code = fs::read_to_string(&path).unwrap();
            text.push_str(code.split("#[cfg(test)]").next().unwrap());
        }
    }
    text
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Words that the code of these modules gives.
fn given(modules: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for module in modules {
        let text: String = source(module).split_whitespace().collect();
        for begin in GIVEN {
            let words = text.split(begin).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(words.filter(|word| is_word(word)).map(str::to_owned));
        }
    }
    found
}

/// Words of the API's own problems: `TooLarge = "too_large" PAYLOAD_TOO_LARGE ...`.
fn problems() -> BTreeSet<String> {
    let text = source("api/problem.rs");
    let (_, list) = text.split_once("\nwords! {\n").unwrap();
    let list = list.split("\n}\n").next().unwrap();
    let lines = list.lines().filter(|line| line.contains(" = \""));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

#[test]
fn every_word_of_the_controller_has_its_row_with_what_to_do() {
    let rows = rows();
    let mut words = given(&["api", "desk", "fleet", "signer"]);
    assert!(words.len() > 30, "{words:?}");
    let problems = problems();
    assert!(problems.len() > 20, "{problems:?}");
    words.extend(problems);
    words.extend(State::ALL.iter().map(|state| state.word().to_owned()));
    words.extend(Answer::ALL.iter().map(|answer| answer.word().to_owned()));
    words.extend(RolloutState::ALL.iter().map(|state| state.word().to_owned()));
    words.extend(HostState::ALL.iter().map(|state| state.word().to_owned()));
    let missing: Vec<_> = words.difference(&rows).collect();
    assert!(missing.is_empty(), "no row in docs/controller.md: {missing:?}");
}

#[test]
fn the_page_names_no_word_that_the_code_does_not_give() {
    let mut code: String = ["api", "desk", "fleet", "model", "signer"].map(source).concat();
    let jitctl = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jitctl/src/controller/preview.rs");
    code.push_str(&fs::read_to_string(jitctl).unwrap());
    let unknown: Vec<_> = rows()
        .into_iter()
        .filter(|word| !["\"", ": "].iter().any(|end| code.contains(&format!("\"{word}{end}"))))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
