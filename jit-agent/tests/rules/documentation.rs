//! What the documentation promises: a heading for every word, and files that exist.

use std::path::Path;

use jit_agent::{ledger::Admission, refusal::Refusal};
use jit_common::Reason;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const README: &str = include_str!("../../../README.md");

#[test]
fn every_word_has_its_heading_in_the_runbook() {
    let has = |heading: &str| RUNBOOK.lines().any(|line| line == format!("### {heading}"));
    for refusal in Refusal::ALL {
        assert!(has(refusal.word()), "{}", refusal.word());
    }
    for admission in [Admission::Active, Admission::Known, Admission::Scheduled] {
        assert!(has(admission.word()), "{}", admission.word());
    }
    let shared = |word: &str| Refusal::ALL.iter().any(|refusal| refusal.word() == word);
    for reason in Reason::ALL {
        let word = reason.word();
        let heading = if shared(word) { format!("{word} (packet)") } else { word.to_owned() };
        assert!(has(&heading), "{heading}");
    }
}

#[test]
fn what_the_readme_points_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let links: Vec<_> = README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.starts_with("http") && !link.starts_with('#'))
        .collect();
    assert!(links.len() > 8);
    for link in links {
        assert!(root.join(link).exists(), "{link}");
    }
    let files = README.split_whitespace().filter(|word| word.starts_with("jit-agent/packaging/"));
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}
