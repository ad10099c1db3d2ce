//! Rules in Cedar: versions, differences, and cases that test them.

use serde::{Deserialize, Serialize};

use super::{TextMistake, VerdictView};

/// A version of the rules: `GET /api/v1/rules`. The header `ETag` names the version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RulesView {
    /// Its number; the highest is in force.
    pub version: i64,
    /// Cedar.
    pub text: String,
    /// Who saved it.
    pub author: String,
    /// Why, in words.
    pub note: String,
    /// When.
    pub saved: String,
    /// When, milliseconds since the Unix epoch.
    pub saved_ms: i64,
}

/// `PUT /api/v1/rules`, with `If-Match: "VERSION"` of the version that was changed. A rollback saves
/// an old text again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RulesInput {
    /// Cedar.
    pub text: String,
    /// Why, in words.
    #[serde(default)]
    pub note: String,
}

/// What differs between two versions: `GET /api/v1/rules/diff?from=3&to=4`, or between the rules in
/// force and a text: `POST /api/v1/rules/diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RulesDiff {
    /// The older version.
    pub from: i64,
    /// The newer version; `null`: the text that was sent.
    pub to: Option<i64>,
    /// Rules that are new, by name.
    pub added: Vec<String>,
    /// Rules that are no more.
    pub removed: Vec<String>,
    /// Rules that say something else.
    pub changed: Vec<String>,
    /// Lines that differ, as `diff -u` shows them; empty: none.
    pub text: String,
}

/// `POST /api/v1/rules/test`: cases against a text, or against the rules in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RulesTestInput {
    /// Cedar; without it the rules in force.
    #[serde(default)]
    pub text: Option<String>,
    /// The cases, TOML: as the file of `jitctl rules test`.
    pub cases: String,
}

/// What came of the cases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RulesTestResult {
    /// Every case came out as expected.
    pub passed: bool,
    /// Case by case.
    pub cases: Vec<RulesCaseView>,
    /// Mistakes in the rules; with them no case was tried.
    pub mistakes: Vec<TextMistake>,
}

/// One case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RulesCaseView {
    /// Its name, or who asks for what.
    pub name: String,
    /// Line of the text, from 1.
    pub line: u64,
    /// It came out as expected.
    pub passed: bool,
    /// What is not as expected, a sentence each.
    pub wrong: Vec<String>,
    /// What the rules say.
    pub verdict: VerdictView,
}
