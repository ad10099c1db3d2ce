//! What the documentation promises: a heading for every word, and files that exist.

use std::path::Path;

use jit_agent::{
    config::Config,
    disk::audit::EventCode,
    rules::{grant, ledger::Admission},
};
use jit_common::Reason;
use jit_proto::Refusal;

use crate::support::{self, HOST, NOW};

const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const AUDIT: &str = include_str!("../../docs/audit.md");
const README: &str = include_str!("../../../README.md");
const SHIPPED: &str = include_str!("../../packaging/config.toml");

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

/// A configuration as it is written somewhere, with a signer's key where it says.
fn configured(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let here = format!("{}/", directory.path().display());
    let key = directory.path().join("signers");
    std::fs::create_dir(&key).unwrap();
    std::fs::write(key.join("prod-2026.pem"), support::pem(&support::key(1))).unwrap();
    let path = directory.path().join("config.toml");
    Config::parse(&text.replace("/etc/jit-agent/", &here), &path).map_err(|error| error.to_string())
}

/// Whoever follows the README has one of its two configurations when the first grant comes.
#[test]
fn the_first_grant_is_one_that_both_configurations_let_in() {
    let of_readme = README.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let command = README.split("jitctl grant ").nth(1).unwrap().split("$ jitctl").next().unwrap();
    let words: Vec<_> = command.split_whitespace().filter(|word| *word != "\\").collect();
    let after = |flag: &str| {
        let at = words.iter().position(|word| *word == flag).unwrap();
        *words.get(at + 1).unwrap()
    };
    assert_eq!((after("--host"), after("--port"), after("--for")), (HOST, "22/tcp", "45m"));
    let mut first = support::grant(1, &[after("--source")]);
    first.not_after_ms = first.not_before_ms + 45 * support::MINUTE;
    for text in [SHIPPED, of_readme.unwrap()] {
        let config = configured(text).unwrap();
        let verified = grant::verify(&support::envelope(&first), &config.keyring, HOST).unwrap();
        assert_eq!(config.policy.check(&verified, &config.keyring, NOW).map(|_| ()), Ok(()));
        assert!(config.control.is_some() && config.controllers.len() == 1);
    }
}

/// What is commented out is there to be taken in.
#[test]
fn every_key_that_the_shipped_configuration_shows_is_one() {
    let keys: Vec<_> = SHIPPED
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            let key = line.split(" = ").next().unwrap_or_default();
            line.starts_with('[')
                || (line.contains(" = ")
                    && key
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
        })
        .collect();
    assert!(keys.len() > 25, "{keys:?}");
    let whole: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(shown) if keys.contains(&shown) => format!("{shown}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // The signer that is there signs grants; policies need one that says so.
    let whole = whole.replace("signs = [\"grant\"]", "signs = [\"grant\", \"policy\"]");
    let config = configured(&whole).unwrap();
    assert!(config.ceiling.is_some() && config.policy.sections().len() == 2);
    // Where it shows what holds anyway, it says the truth.
    let plain = configured(SHIPPED).unwrap();
    assert_eq!(
        (config.limits, config.audit, config.paths),
        (plain.limits, plain.audit, plain.paths)
    );
}

#[test]
fn the_shipped_configuration_shows_every_key() {
    let fields = include_str!("../../src/config/raw.rs").split("struct PolicyFile").next().unwrap();
    let names = fields.lines().filter_map(|line| line.trim().strip_prefix("pub(super) "));
    let names: Vec<_> =
        names.filter_map(|rest| rest.split_once(':')).map(|(name, _)| name).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let shown = [format!("{name} = "), format!("[{name}]")];
        assert!(shown.iter().any(|shown| SHIPPED.contains(shown)), "{name}");
    }
    for name in
        ["[audit]", "[limits]", "[paths]", "hosts = ", "prefixes = ", "max_size = ", "keep = "]
    {
        assert!(SHIPPED.contains(name), "{name}");
    }
}
