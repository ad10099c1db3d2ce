//! What the rules say of a proposal, and why.

use serde::{Deserialize, Serialize};

use super::Needs;

/// What becomes of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Approved without a person.
    Automatic,
    /// A rule forbids it, or none permits it.
    Denied,
    /// People must agree: [`Verdict::needs`].
    Manual,
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name: the annotation `@id`, or its place in the text.
    pub id: String,
    /// `forbid` or `permit`
    pub effect: String,
    /// The action that it decides: `initiate`, `auto_approve`.
    pub action: String,
    /// What it says of itself: the annotation `@reason`.
    pub reason: String,
    /// What it asks for: `1 of sre`, `at most 1h`.
    pub asks: Vec<String>,
    /// Hosts where it matched; at most 20 of them.
    pub hosts: Vec<String>,
    /// Number of hosts where it matched.
    pub hosts_total: usize,
}

/// Who is asked too, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation {
    /// So long after the request was submitted, milliseconds.
    pub after_ms: i64,
    /// Members of this group may then approve in place of any other.
    pub group: String,
}

/// What the rules say of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Version of the rules.
    pub rules_version: i64,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Who must agree, if people must.
    pub needs: Needs,
    /// The longest time that the matching rules allow, milliseconds; `None`: they name none.
    pub max_duration_ms: Option<i64>,
    /// Who is asked too if nobody has agreed; `None`: nobody.
    pub escalate: Option<Escalation>,
    /// The rules that matched.
    pub rules: Vec<Rule>,
    /// Why it is denied, a sentence each; empty: it is not.
    pub denied: Vec<String>,
}
