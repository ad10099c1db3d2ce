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

/// A group whose members may agree in the place of all needed groups, after a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation {
    /// How long after the proposal was submitted ([`super::Proposal::created_ms`]), milliseconds.
    pub after_ms: i64,
    /// The group.
    pub group: String,
}

impl Escalation {
    /// Whether the time has passed for what was submitted then.
    pub const fn is_due(&self, created_ms: i64, now_ms: i64) -> bool {
        now_ms >= created_ms.saturating_add(self.after_ms)
    }
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
    /// The rules that matched.
    pub rules: Vec<Rule>,
    /// Why it is denied, a sentence each; empty: it is not.
    pub denied: Vec<String>,
    /// Who else may agree, after a time; `None`: nobody.
    #[serde(default)]
    pub escalate: Option<Escalation>,
}
