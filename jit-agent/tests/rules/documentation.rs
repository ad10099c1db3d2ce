//! What the documentation promises: a heading for every word, and files that exist.

use std::path::Path;

use jit_agent::{audit::EventCode, ledger::Admission, refusal::Refusal};
use jit_common::Reason;

const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const AUDIT: &str = include_str!("../../docs/audit.md");
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
fn every_event_code_has_its_heading_in_the_audits_page() {
    let headings: Vec<_> = AUDIT.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    for code in EventCode::ALL {
        let heading = format!("{} {}", code.code(), code.name());
        assert!(headings.contains(&heading.as_str()), "{heading}");
    }
    assert_eq!(headings.len(), EventCode::ALL.len(), "no heading for what cannot happen");
}

/// The page says which fields explain an opening; a reader of it must find them.
#[test]
fn every_field_of_a_record_stands_in_the_audits_page() {
    let mut found = 0;
    let mut ahead = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let source = text.split("#[cfg(test)]").next().unwrap();
        if !source.contains("EventCode::") {
            continue;
        }
        for call in [".with(\"", ".text(\""] {
            for name in source.split(call).skip(1).filter_map(|rest| rest.split('"').next()) {
                found += 1;
                assert!(AUDIT.contains(&format!("`{name}`")), "{}: {name}", path.display());
            }
        }
    }
    assert!(found > 30, "{found}");
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
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let text = std::fs::read(root.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).to_lowercase().replace(' ', "-");
        assert!(root.join(file).exists(), "{link}");
        assert!(heading.is_empty() || text.contains(&format!("#-{heading}\n")), "{link}");
    }
    let files = README.split_whitespace().filter(|word| word.starts_with("jit-agent/packaging/"));
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}
