//! The documentation has a heading for every word, and names only files, steps and sections that
//! exist. `CONTRIBUTING.md` says how code and pages refer to a page.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use jit_agent::{
    config::Config,
    disk::audit::EventCode,
    oncall::doctor::CHECKS,
    rules::{grant, ledger::Admission, problem::ProblemKind},
};
use jit_common::Reason;
use jit_proto::Refusal;

use crate::{
    support::{self, HOST, NOW},
    threat_model::test_names,
};

const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const AUDIT: &str = include_str!("../../docs/audit.md");
const README: &str = include_str!("../../../README.md");
const CONTRIBUTING: &str = include_str!("../../../CONTRIBUTING.md");
const EXAMPLE: &str = include_str!("../../packaging/example.toml");
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
    let shared =
        |word: &str| shared(word) || Reason::ALL.iter().any(|reason| reason.word() == word);
    for kind in ProblemKind::ALL {
        let word = kind.word();
        let heading = if shared(word) { format!("{word} (problem)") } else { word.to_owned() };
        assert!(has(&heading), "{heading}");
    }
}

/// Two headings with one text have one anchor.
#[test]
fn no_heading_of_the_runbook_stands_there_twice() {
    let mut seen = BTreeSet::new();
    for heading in headings(RUNBOOK) {
        assert!(seen.insert(anchor(heading)), "{heading}");
    }
    assert!(seen.len() > 100, "{}", seen.len());
}

#[test]
fn every_check_of_the_doctor_has_its_heading_in_the_runbook() {
    let (_, rest) = RUNBOOK.split_once("\n## What `doctor` finds\n").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let mut headings: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.is_sorted(), "{headings:?}");
    let checks = CHECKS.iter().flat_map(|(_, checks)| *checks);
    // A problem may have the same word.
    let mut checks: Vec<_> = checks.map(|check| format!("{check} (doctor)")).collect();
    checks.sort_unstable();
    headings.sort_unstable();
    assert_eq!(headings, checks, "a heading for each check, and none without one");
}

#[test]
fn every_event_code_has_its_heading_in_the_audits_page() {
    let headings: Vec<_> = AUDIT.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    for code in EventCode::ALL {
        let heading = format!("{} {}", code.code(), code.name());
        assert!(headings.contains(&heading.as_str()), "{heading}");
    }
    assert_eq!(headings.len(), EventCode::ALL.len(), "no heading without an event code");
}

/// The page says which fields explain an opening. A reader must find all of them.
#[test]
fn every_field_of_a_record_stands_in_the_audits_page() {
    let mut found = 0;
    let mut ahead = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            ahead.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
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
fn every_link_of_the_readme_exists() {
    let root = root();
    let links = links(README);
    assert!(links.len() > 8);
    assert_eq!(missing_links(&root.join("README.md")), [""; 0]);
    let files = README.split_whitespace().filter(|word| word.starts_with("jit-agent/packaging/"));
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}

#[test]
fn every_link_of_the_pages_exists() {
    let pages = files(&["md"]);
    assert!(pages.len() > 12, "{pages:?}");
    for page in pages {
        assert_eq!(missing_links(&page), [""; 0], "{}", page.display());
    }
}

/// Whoever is woken by an alert finds what to do.
#[test]
fn every_alert_leads_to_a_heading_of_the_runbook_of_its_own_name() {
    let alerts = include_str!("../../docs/alerts.yml");
    let of = |key: &str| -> Vec<String> {
        let values = alerts.lines().filter_map(|line| line.trim().strip_prefix(key));
        values.map(|value| value.trim().trim_matches('"').to_owned()).collect()
    };
    let (names, runbooks) = (of("- alert:"), of("runbook:"));
    assert!(names.len() > 15 && names.len() == runbooks.len(), "{names:?} {runbooks:?}");
    for (name, runbook) in names.iter().zip(&runbooks) {
        assert_eq!(runbook.split_once(".md#"), Some(("runbook", anchor(name).as_str())));
        assert!(headings(RUNBOOK).any(|heading| heading == name), "{name}");
    }
}

/// Grafana shows a panel twice or none of its lines if one of these is wrong.
#[test]
fn the_dashboard_has_one_data_source_and_panels_of_their_own() {
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/dashboard.json")).unwrap();
    let list = |at: &serde_json::Value| at.as_array().cloned().unwrap_or_default();
    let variables = list(dashboard.pointer("/templating/list").unwrap());
    let names: Vec<_> = variables.iter().filter_map(|one| one.get("name")?.as_str()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let panels = list(dashboard.get("panels").unwrap());
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in &panels {
        let text = |at: &str| panel.pointer(at).and_then(|value| value.as_str());
        let number = |at: &str| panel.pointer(at).and_then(serde_json::Value::as_u64);
        assert!(ids.insert(number("/id").unwrap()), "{panel}");
        assert!(titles.insert(text("/title").unwrap()), "{panel}");
        assert!(number("/gridPos/x").unwrap() + number("/gridPos/w").unwrap() <= 24, "{panel}");
        if text("/type") == Some("row") {
            continue;
        }
        assert_eq!(text("/datasource/uid"), Some("${datasource}"));
        let targets = list(panel.get("targets").unwrap());
        assert!(!targets.is_empty(), "{panel}");
        let of = |target: &serde_json::Value, at: &str| {
            target.pointer(at).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        let references: BTreeSet<_> = targets.iter().map(|target| of(target, "/refId")).collect();
        assert_eq!(references.len(), targets.len(), "{panel}");
        for target in &targets {
            assert_eq!(of(target, "/datasource/uid"), "${datasource}");
            assert!(of(target, "/expr").contains("$instance"), "{target}");
        }
    }
    assert!(panels.len() > 20);
}

/// A reader of the code must find the rule that a comment names.
#[test]
fn every_reference_names_a_page_and_a_step_or_section_that_exist() {
    let mut found = 0;
    for path in files(&["md", "proto", "py", "rs", "toml"]) {
        let text = fs::read_to_string(&path).unwrap();
        let code = path.extension().is_some_and(|extension| extension != "md");
        found += text.matches("docs/grants.md,").count();
        assert_eq!(wrong_references(&text, code), [""; 0], "{}", path.display());
    }
    assert!(found > 15, "{found}");
}

/// Shows that the test above can fail: it finds each wrong reference and accepts each good one.
#[test]
fn a_reference_to_something_missing_is_found() {
    let page = |page: &str, rest: &str| format!("// (docs/{page}.md{rest})");
    for (text, wrong) in [
        (page("grants", ", step `host`"), false),
        (page("grants", ", steps `size`\n/// to `host`"), false),
        (page("grants", ", section \"Time\""), false),
        (page("audit", " has a heading"), false),
        (page("no-such-page", ""), true),
        (page("grants", ", step `no_such_step`"), true),
        (page("grants", ", steps `host` to `size`"), true),
        (page("grants", ", steps `size`"), true),
        (page("grants", ", section \"No such section\""), true),
        (page("grants", ", section 4"), true),
        (page("grants", " section 4"), true),
        (format!("// {}.md says so", "grants"), true),
        (format!("// {} 7 of that page", "step"), true),
        (format!("// {} 1 to 5", "Steps"), true),
    ] {
        let found = wrong_references(&text, true);
        assert_eq!(!found.is_empty(), wrong, "{text}: {found:?}");
    }
}

/// Only the ends of paths are written, so that a file may move between layers.
#[test]
fn everything_that_contributing_names_exists() {
    let sources = files(&["rs"]);
    let tests = test_names();
    let (mut paths, mut names) = (0, 0);
    for word in CONTRIBUTING.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            paths += 1;
            assert!(sources.iter().any(|path| path.ends_with(word)), "no file: {word}");
        } else if word.matches('_').count() > 3 && !word.contains('=') {
            names += 1;
            assert!(tests.contains(word), "no test: {word}");
        }
    }
    assert!(paths > 8 && names > 8, "{paths} paths, {names} tests");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files of the workspace with these extensions.
pub(crate) fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut ahead = vec![root()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "corpus" {
                ahead.push(path);
            } else if path.extension().is_some_and(|end| extensions.iter().any(|one| end == *one)) {
                files.push(path);
            }
        }
    }
    files
}

/// Links of a page to files and headings.
fn links(page: &str) -> Vec<&str> {
    let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.starts_with("http")).collect()
}

fn missing_links(path: &Path) -> Vec<String> {
    let page = fs::read_to_string(path).unwrap();
    let is_missing = |link: &&str| {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { path.into() } else { path.parent().unwrap().join(file) };
        let text = fs::read_to_string(&target).unwrap_or_default();
        !target.exists()
            || !heading.is_empty() && !headings(&text).any(|own| anchor(own) == heading)
    };
    links(&page).into_iter().filter(is_missing).map(str::to_owned).collect()
}

fn headings(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// References in a text to something that does not exist. Code names a page with its directory.
/// Pages link to each other.
fn wrong_references(text: &str, code: bool) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches(['/', '!', '#']).trim());
    // A reference may go over several lines, not over paragraphs.
    let lines = lines.map(|line| if line.is_empty() { "|" } else { line });
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut wrong = numbered_steps(&text);
    let parts: Vec<_> = text.split(".md").collect();
    for (before, rest) in parts.iter().zip(parts.iter().skip(1)) {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
        let name = before.rsplit(|c| !is_name(c)).next().unwrap_or_default();
        let in_docs = before.strip_suffix(name).is_some_and(|head| head.ends_with("docs/"));
        // DSSE's own page is the only foreign page.
        if name.is_empty() || (!in_docs && (!code || name == "protocol")) {
            continue;
        }
        let page = fs::read_to_string(root().join(format!("jit-agent/docs/{name}.md")));
        let there = page.is_ok_and(|page| in_docs && names_what_is_there(rest, &page));
        if !there {
            wrong.push(format!("{name}.md{}", rest.chars().take(40).collect::<String>()));
        }
    }
    wrong
}

/// `rest` is the text after the page's name: a step, steps, a section, or something else.
fn names_what_is_there(rest: &str, page: &str) -> bool {
    let step = |name: &str| page.lines().position(|line| line == format!("### {name}"));
    let quoted = |mark: char| rest.split(mark).nth(1).unwrap_or_default();
    if rest.starts_with(", step `") {
        return step(quoted('`')).is_some();
    }
    if let Some(range) = rest.strip_prefix(", steps `") {
        let (first, last) = range.split_once("` to `").unwrap_or_default();
        let last = step(last.split('`').next().unwrap_or_default());
        return step(first).is_some_and(|first| last.is_some_and(|last| first < last));
    }
    if rest.starts_with(", section \"") {
        return headings(page).any(|heading| heading == quoted('"'));
    }
    let rest = rest.trim_start_matches(',').trim_start();
    !rest.starts_with("step") && !rest.starts_with("section")
}

/// References by number. Steps have names, because a number means another step when one is added.
fn numbered_steps(text: &str) -> Vec<String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let pairs = words.iter().zip(words.iter().skip(1));
    let numbered = pairs.filter(|(word, next)| {
        let word = word.trim_start_matches(|c: char| !c.is_alphabetic()).to_lowercase();
        (word == "step" || word == "steps") && next.starts_with(|c: char| c.is_ascii_digit())
    });
    numbered.map(|(word, number)| format!("{word} {number}")).collect()
}

/// Parses a configuration from a page, with a signer's key at the path that it names.
fn configured(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let here = format!("{}/", directory.path().display());
    for (place, name, seed) in [
        ("signers", "prod-2026.pem", 1),
        ("signers", "freshness.pem", 3),
        ("approvers", "ana.pem", 2),
    ] {
        let place = directory.path().join(place);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(name), support::pem(&support::key(seed))).unwrap();
    }
    let path = directory.path().join("config.toml");
    Config::parse(&text.replace("/etc/jit-agent/", &here), &path).map_err(|error| error.to_string())
}

/// A reader of the README has one of its two configurations when the first grant arrives.
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
    for text in [EXAMPLE, of_readme.unwrap()] {
        let config = configured(text).unwrap();
        let verified = grant::verify(&support::envelope(&first), &config.keyring, HOST).unwrap();
        assert_eq!(config.policy.check(&verified, &config.keyring, NOW).map(|_| ()), Ok(()));
        assert!(config.control.is_some() && config.controllers.len() == 1);
    }
}

/// The reader may use each line that is commented out.
#[test]
fn every_key_in_the_example_configuration_is_valid() {
    let keys: Vec<_> = EXAMPLE
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
    let whole: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(shown) if keys.contains(&shown) => format!("{shown}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // The shown signer signs grants. Policies need a signer that says so.
    let whole = whole.replace("signs = [\"grant\"]", "signs = [\"grant\", \"policy\"]");
    let config = configured(&whole).unwrap();
    assert!(config.ceiling.is_some() && config.policy.sections().len() == 2);
    // Where it shows a default, it shows the right value.
    let plain = configured(EXAMPLE).unwrap();
    assert_eq!(
        (config.limits, config.audit, config.paths),
        (plain.limits, plain.audit, plain.paths)
    );
}

#[test]
fn the_example_configuration_shows_every_key() {
    let sections = include_str!("../../src/config/raw.rs");
    let port = include_str!("../../../proto/src/port_section/toml.rs");
    let (port, _) = port.split_once("/// A policy's file").unwrap();
    let lines = sections.lines().chain(port.lines()).map(str::trim);
    let fields = lines.filter_map(|line| line.trim_start_matches("pub(super) ").split_once(": "));
    let is_name =
        |name: &str| name.chars().all(|letter| letter.is_lowercase() || "_46".contains(letter));
    let names: Vec<_> = fields.map(|(name, _)| name).filter(|name| is_name(name)).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let shown = [format!("{name} = "), format!("[{name}]")];
        assert!(shown.iter().any(|shown| EXAMPLE.contains(shown)), "{name}");
    }
    for name in
        ["[audit]", "[limits]", "[paths]", "hosts = ", "prefixes = ", "max_size = ", "keep = "]
    {
        assert!(EXAMPLE.contains(name), "{name}");
    }
}

/// Nobody is shut out by an installation, and nothing that is not there yet is needed.
#[test]
fn the_configuration_that_is_installed_starts_and_protects_nothing() {
    let config = Config::parse(SHIPPED, Path::new("/etc/jit-agent/config.toml")).unwrap();
    assert!(config.gate.observe && config.policy.sections().is_empty());
    assert!(config.control.is_none() && config.keyring.signers().is_empty());
    assert!(config.controllers.is_empty() && config.ceiling.is_none());
}
