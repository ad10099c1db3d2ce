//! What `check` found: lines for a person, or JSON. Pure.

use std::path::PathBuf;

use jit_proto::{printable::clean, wrong::Place};
use serde::Serialize;

use super::{Placed, summary::Summary};
use crate::oncall::finding::{Finding, Level};

/// Version of the JSON (docs/check.schema.json). Goes up when a field goes or changes its meaning.
const SCHEMA: u32 = 1;
/// The longest text of a finding, characters.
const LONGEST: usize = 4000;

/// What was found.
pub(super) struct Report {
    pub(super) file: PathBuf,
    /// Whose eyes the files were read with, if not this user's.
    pub(super) owner: Option<String>,
    /// The worst first, then in the order of the file.
    pub(super) findings: Vec<Placed>,
    /// `None`: the file is no configuration.
    pub(super) summary: Option<Summary>,
}

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    schema_version: u32,
    version: &'static str,
    file: String,
    verdict: &'static str,
    errors: usize,
    warnings: usize,
    findings: Vec<Row<'a>>,
    summary: Option<&'a Summary>,
}

#[derive(Serialize)]
struct Row<'a> {
    severity: &'static str,
    check: &'static str,
    about: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    text: &'a str,
    fix: &'a [String],
}

const fn severity(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Unseen => "unseen",
        Level::Warning => "warning",
        Level::Failure => "error",
    }
}

impl Report {
    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|one| one.finding.level == level).count()
    }

    /// Whether the service can start with it.
    pub(super) fn is_good(&self) -> bool {
        self.count(Level::Failure) == 0
    }

    pub(super) fn json(&self) -> Json<'_> {
        let (errors, warnings) = (self.count(Level::Failure), self.count(Level::Warning));
        let findings = self.findings.iter().map(|Placed { finding, place }| Row {
            severity: severity(finding.level),
            check: finding.check,
            about: &finding.about,
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            text: &finding.seen,
            fix: &finding.fix,
        });
        Json {
            schema_version: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            file: self.file.display().to_string(),
            verdict: match (errors, warnings) {
                (0, 0) => "ok",
                (0, _) => "warning",
                _ => "error",
            },
            errors,
            warnings,
            findings: findings.collect(),
            summary: self.summary.as_ref(),
        }
    }

    /// What is no error.
    pub(super) fn remarks(&self) -> String {
        self.lines("", |level| level != Level::Failure)
    }

    /// Why the file is refused; `None`: it is not.
    pub(super) fn refusal(&self) -> Option<String> {
        let number = match self.count(Level::Failure) {
            0 => return None,
            1 => "an error".to_owned(),
            more => format!("{more} errors"),
        };
        let owner = self.owner.as_ref();
        let seen = owner.map(|owner| format!(", as the service sees it, as {owner}"));
        let (file, seen) = (self.file.display(), seen.unwrap_or_default());
        let errors = self.lines("  ", |level| level == Level::Failure);
        Some(format!("{file} is refused{seen}: {number}\n{}", errors.trim_end()))
    }

    /// What a good file says.
    pub(super) fn summary_text(&self) -> String {
        let warnings = match self.count(Level::Warning) {
            0 => String::new(),
            1 => ", with a warning".to_owned(),
            more => format!(", with {more} warnings"),
        };
        let summary = self.summary.as_ref().map(Summary::text).unwrap_or_default();
        format!("{} is good{warnings}\n{summary}", self.file.display())
    }

    fn lines(&self, indent: &str, wanted: impl Fn(Level) -> bool) -> String {
        let wanted = self.findings.iter().filter(|one| wanted(one.finding.level));
        wanted.map(|one| self.line(indent, one)).collect()
    }

    /// `FILE:LINE:COLUMN: warning: what`, and what to do.
    fn line(&self, indent: &str, Placed { finding, place }: &Placed) -> String {
        let Finding { level, seen, fix, .. } = finding;
        let at = place.map_or(String::new(), |Place { line, column }| {
            format!("{}:{line}:{column}: ", self.file.display())
        });
        let fixes = fix.iter().map(|one| format!("{indent}    do: {}\n", clean(one, LONGEST)));
        let fixes: String = fixes.collect();
        format!("{indent}{at}{}: {}\n{fixes}", severity(*level), clean(seen, LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Placed>) -> Report {
        let file = "/etc/jit-agent/config.toml".into();
        Report { file, owner: None, findings, summary: None }
    }

    fn placed(finding: Finding) -> Placed {
        Placed { finding, place: Some(Place { line: 7, column: 3 }) }
    }

    #[test]
    fn a_warning_has_its_place_and_what_to_do_and_refuses_nothing() {
        let finding = Finding::warning("exemptions", "it has\x1b[2J ended").fix("remove it");
        let one = report(vec![placed(finding)]);
        assert_eq!(
            one.remarks(),
            "/etc/jit-agent/config.toml:7:3: warning: it has\\u{1b}[2J ended\n    do: remove it\n"
        );
        assert_eq!(one.refusal(), None);
        assert_eq!(one.summary_text(), "/etc/jit-agent/config.toml is good, with a warning\n");
        assert_eq!(one.json().verdict, "warning");
    }

    #[test]
    fn errors_are_counted_and_said_with_whose_eyes_see_them() {
        let error = || placed(Finding::failure("configuration", "wrong"));
        let two = report(vec![error(), error(), Placed::nowhere(Finding::unseen("x", "hidden"))]);
        let two = Report { owner: Some("jit-agent".into()), ..two };
        let line = "  /etc/jit-agent/config.toml:7:3: error: wrong";
        assert_eq!(
            two.refusal().unwrap(),
            format!(
                "/etc/jit-agent/config.toml is refused, as the service sees it, as jit-agent: 2 \
                 errors\n{line}\n{line}"
            )
        );
        assert_eq!(two.remarks(), "unseen: hidden\n");
        assert!(!two.is_good() && report(Vec::new()).is_good());
    }
}
