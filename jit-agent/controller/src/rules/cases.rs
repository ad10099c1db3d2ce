//! Cases: examples with the answer that is expected, as a file for continuous integration.
//!
//! ```toml
//! [[case]]
//! name = "sre on production"
//! who = "ana"                     # account; `subject` if it differs
//! groups = ["sre"]
//! hosts = [{ id = "web-1", labels = { env = "prod" }, groups = ["web"] }]
//! ports = ["22"]
//! source = "203.0.113.7"          # or a list
//! duration = "1h"
//! expected = "manual"             # automatic, manual, denied
//! needs = "1 of sre and 1 of approvers"
//! why = ["sre", "prod"]           # the rules that matched, by @id
//! ```

use std::collections::{BTreeMap, BTreeSet};

use jit_proto::{PortRange, SourcePrefix};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Mistake, Rules, annotation};
use crate::model::{
    Account, Host, Needs, Outcome, Proposal, Verdict, as_text, proposal::SessionsWord,
};

/// The most cases of a file.
const MAX_CASES: usize = 2000;
/// When a case is asked that does not say it: Monday, 2027-03-01 10:00 UTC.
const USUAL_MS: i64 = 1_803_895_200_000;

/// One case and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseResult {
    /// Its `name`, or who asks for what.
    pub name: String,
    /// Line of the file, from 1.
    pub line: usize,
    /// What is not as expected, a sentence each. Empty: it passed.
    pub wrong: Vec<String>,
    /// What the rules say.
    pub verdict: Verdict,
}

impl CaseResult {
    /// Whether everything was as expected.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<Spanned<Case>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    name: String,
    who: String,
    subject: Option<String>,
    #[serde(default)]
    groups: BTreeSet<String>,
    hosts: Vec<CaseHost>,
    #[serde(with = "as_text::list")]
    ports: Vec<PortRange>,
    source: Spanned<OneOrMany>,
    duration: Spanned<String>,
    /// Time until it begins.
    #[serde(rename = "in")]
    after: Option<Spanned<String>>,
    /// When it is asked, RFC 3339.
    at: Option<Spanned<String>>,
    #[serde(default = "usual_reason")]
    reason: String,
    #[serde(default)]
    ticket: String,
    sessions: Option<SessionsWord>,
    #[serde(default)]
    max_connections: u32,
    expected: Outcome,
    needs: Option<Spanned<String>>,
    max: Option<Spanned<String>>,
    why: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseHost {
    id: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    groups: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn usual_reason() -> String {
    "a case".into()
}

/// A case that was read.
struct Checked {
    name: String,
    line: usize,
    account: Account,
    hosts: Vec<Host>,
    proposal: Proposal,
    now_ms: i64,
    expected: Outcome,
    needs: Option<Needs>,
    max_ms: Option<i64>,
    why: Option<BTreeSet<String>>,
}

/// Asks the rules for each case.
///
/// # Errors
/// Mistakes of the file.
pub fn run(rules: &Rules, file: &str) -> Result<Vec<CaseResult>, Vec<Mistake>> {
    Ok(read(file)?.iter().map(|case| case.result(rules)).collect())
}

fn read(text: &str) -> Result<Vec<Checked>, Vec<Mistake>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        vec![Mistake::at(text, start, error.message())]
    })?;
    if file.case.is_empty() || file.case.len() > MAX_CASES {
        let why = format!("{} sections [[case]]; 1 to {MAX_CASES} are possible", file.case.len());
        return Err(vec![Mistake::at(text, 0, why)]);
    }
    let mut mistakes = Vec::new();
    let mut cases = Vec::new();
    for case in file.case {
        let start = case.span().start;
        match checked(text, start, case.into_inner()) {
            Ok(case) => cases.push(case),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(cases) } else { Err(mistakes) }
}

/// Reads a value that has a place.
fn value<T>(
    text: &str,
    name: &str,
    value: &Spanned<String>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Mistake> {
    let wrong = |why| Mistake::at(text, value.span().start, format!("{name}: {why}"));
    read(value.get_ref()).map_err(wrong)
}

fn checked(text: &str, start: usize, case: Case) -> Result<Checked, Mistake> {
    let optional = |name, given: &Option<Spanned<String>>| {
        let read = |given| value(text, name, given, annotation::duration_ms);
        given.as_ref().map(read).transpose()
    };
    let now_ms = match &case.at {
        None => USUAL_MS,
        Some(at) => value(text, "at", at, |at| {
            let moment: Result<jiff::Timestamp, _> = at.parse();
            let bad = |_| format!("{at:?} is not a time such as \"2027-03-01T10:00:00Z\"");
            moment.map(jiff::Timestamp::as_millisecond).map_err(bad)
        })?,
    };
    let after_ms = optional("in", &case.after)?;
    let duration_ms = value(text, "duration", &case.duration, annotation::duration_ms)?;
    let max_ms = optional("max", &case.max)?;
    let needs = case.needs.as_ref().map(|needs| value(text, "needs", needs, annotation::needs));
    let sources: Result<Vec<SourcePrefix>, _> =
        case.source.get_ref().all().iter().map(|source| source.parse()).collect();
    let sources = sources.map_err(|error: jit_proto::prefix::PrefixError| {
        Mistake::at(text, case.source.span().start, format!("source: {error}"))
    })?;
    let subject = case.subject.unwrap_or_else(|| case.who.clone());
    let host = |host: CaseHost| {
        let CaseHost { id, labels, groups } = host;
        Host { id, labels, groups, ..Host::default() }
    };
    let hosts: Vec<Host> = case.hosts.into_iter().map(host).collect();
    let ids = hosts.iter().map(|host| host.id.clone());
    let asks = format!(
        "{} to {} on {}",
        case.who,
        case.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ids.clone().collect::<Vec<_>>().join(" ")
    );
    let proposal = Proposal {
        id: jit_proto::GrantId([1; 16]).to_string(),
        requester: subject.clone(),
        hosts: ids.collect(),
        sources,
        ports: case.ports,
        duration_ms,
        start_ms: after_ms.map(|after| now_ms.saturating_add(after)),
        reason: case.reason,
        ticket: case.ticket,
        sessions: case.sessions,
        max_connections: case.max_connections,
        replaces: None,
        created_ms: now_ms,
        approve_until_ms: now_ms.saturating_add(duration_ms),
    };
    let (line, _) = super::mistake::place(text, start);
    Ok(Checked {
        name: if case.name.is_empty() { asks } else { case.name },
        line,
        account: Account {
            name: case.who,
            subject,
            groups: case.groups,
            disabled: false,
            created_ms: 0,
        },
        hosts,
        proposal: proposal
            .checked()
            .map_err(|error| Mistake::at(text, start, error.to_string()))?,
        now_ms,
        expected: case.expected,
        needs: needs.transpose()?,
        max_ms,
        why: case.why.map(|why| why.all().iter().map(|id| id.trim().to_owned()).collect()),
    })
}

impl OneOrMany {
    fn all(&self) -> Vec<&str> {
        match self {
            Self::One(one) => one.split(',').collect(),
            Self::Many(many) => many.iter().map(String::as_str).collect(),
        }
    }
}

impl Checked {
    fn result(&self, rules: &Rules) -> CaseResult {
        let verdict = rules.judge(&self.account, &self.hosts, &self.proposal, self.now_ms);
        let mut wrong = Vec::new();
        if verdict.outcome != self.expected {
            let denied = match &verdict.denied[..] {
                [] => String::new(),
                sentences => format!(": {}", sentences.join("; ")),
            };
            let (is, wanted) = (outcome_word(verdict.outcome), outcome_word(self.expected));
            wrong.push(format!("it is {is}, not {wanted}{denied}"));
        }
        if let Some(needs) = self.needs.as_ref().filter(|needs| **needs != verdict.needs) {
            let is = if verdict.needs.is_empty() { "nobody".into() } else { verdict.needs.text() };
            wrong.push(format!("it needs {is}, not {}", needs.text()));
        }
        if self.max_ms.is_some() && self.max_ms != verdict.max_duration_ms {
            let shown = |max: Option<i64>| max.map_or("without a limit".into(), max_text);
            let (is, wanted) = (shown(verdict.max_duration_ms), shown(self.max_ms));
            wrong.push(format!("it is {is}, not {wanted}"));
        }
        let matched: BTreeSet<String> = verdict.rules.iter().map(|rule| rule.id.clone()).collect();
        if let Some(why) = self.why.as_ref().filter(|why| **why != matched) {
            let listed = |ids: &BTreeSet<String>| match ids.len() {
                0 => "none".into(),
                _ => ids.iter().cloned().collect::<Vec<_>>().join(", "),
            };
            wrong.push(format!(
                "the rules that matched: {}, not {}",
                listed(&matched),
                listed(why)
            ));
        }
        CaseResult { name: self.name.clone(), line: self.line, wrong, verdict }
    }
}

fn max_text(max_ms: i64) -> String {
    format!("at most {}", annotation::duration_text(max_ms))
}

/// Its word in cases and tables.
pub(super) const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Automatic => "automatic",
        Outcome::Denied => "denied",
        Outcome::Manual => "manual",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::rules, *};
    use crate::rules::{
        Action::{AutoApprove, Initiate},
        DEFAULT, DEFAULT_CASES,
    };

    const CASE: &str = r#"
[[case]]
who = "ana"
groups = ["sre"]
hosts = [{ id = "web-1", labels = { env = "prod" } }]
ports = ["22"]
source = "203.0.113.7"
duration = "1h"
expected = "manual"
needs = "1 of sre and 1 of approvers"
max = "3h"
why = "sre, prod"
"#;

    #[test]
    fn the_default_rules_answer_their_cases_and_each_rule_has_one() {
        let rules = rules(DEFAULT);
        let results = run(&rules, DEFAULT_CASES).unwrap();
        for result in &results {
            assert!(result.passed(), "line {}: {:?}", result.line, result.wrong);
        }
        let matched: BTreeSet<_> =
            results.iter().flat_map(|result| &result.verdict.rules).map(|rule| &rule.id).collect();
        for rule in &rules.0.written {
            // This one guards against rules that are not there yet: it has a test of its own.
            let is_guard = rule.id == "prod-is-never-automatic";
            let asks = rule.actions.contains(&Initiate) || rule.actions.contains(&AutoApprove);
            if asks && !is_guard {
                assert!(matched.contains(&rule.id), "no case meets {}", rule.id);
            }
        }
    }

    #[test]
    fn what_is_not_as_expected_is_named() {
        let rules = rules(DEFAULT);
        assert!(run(&rules, CASE).unwrap()[0].passed());
        for (from, to, says) in [
            ("\"manual\"", "\"automatic\"", "it is manual, not automatic"),
            ("1 of sre and 1 of app", "2 of sre and 1 of app", "it needs 1 of approvers and 1 of"),
            ("max = \"3h\"", "max = \"2h\"", "it is at most 3h, not at most 2h"),
            ("\"sre, prod\"", "[\"sre\"]", "the rules that matched: prod, sre, not sre"),
            ("[\"sre\"]", "[\"dba\"]", "it is denied, not manual: 22/tcp on web-1: no rule"),
        ] {
            let result = &run(&rules, &CASE.replacen(from, to, 1)).unwrap()[0];
            assert!(result.wrong.concat().contains(says), "{from}: {:?}", result.wrong);
            assert_eq!((result.line, result.name.as_str()), (2, "ana to 22/tcp on web-1"));
        }
    }

    #[test]
    fn a_mistake_of_the_file_has_its_place() {
        let rules = rules(DEFAULT);
        for (from, to, line, says) in [
            ("who = ", "whom = ", 3, "unknown field `whom`"),
            ("\"22\"", "\"ssh\"", 6, "is not a port such as"),
            ("203.0.113.7", "203.0.113", 7, "source: `203.0.113` is not"),
            ("\"1h\"", "\"soon\"", 8, "duration: \"soon\" is not a duration"),
            ("\"1h\"", "\"25h\"", 2, "duration: a request lasts"),
            ("\"manual\"", "\"maybe\"", 9, "unknown variant `maybe`"),
            ("1 of sre", "one of sre", 10, "needs: "),
            ("expected", "at = \"noon\"\nexpected", 9, "at: \"noon\" is not a time"),
            ("[[case]]", "[[cases]]", 2, "unknown field `cases`"),
        ] {
            let mistakes = run(&rules, &CASE.replacen(from, to, 1)).unwrap_err();
            let Mistake { line: at, text, .. } = &mistakes[0];
            assert!(*at == line && text.contains(says), "{from}: {mistakes:?}");
        }
        assert!(run(&rules, "").is_err());
    }
}
