//! Hosts: what administrators say of them, and what their agents have answered.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A host with an agent, as administrators describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Exact id, as its agent's `status` shows it and grants name it.
    pub id: String,
    /// Where the agent listens: `HOST:PORT`; empty: it does not, and dials a hub.
    pub address: String,
    /// The name that the agent's certificate must bear; empty: the host of `address`.
    pub server_name: String,
    /// Labels that only the controller sets: `env = prod`.
    pub labels: BTreeMap<String, String>,
    /// Groups of hosts that rules speak of.
    pub groups: BTreeSet<String>,
}

/// What is known of a host's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The gate is in force, and something is wrong.
    Degraded,
    /// The gate is in force.
    Enforcing,
    /// The gate is not in force.
    NotEnforcing,
    /// It has not answered yet.
    #[default]
    Unknown,
    /// It does not answer.
    Unreachable,
}

impl Condition {
    /// Its word in the store, the API and tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Enforcing => "enforcing",
            Self::NotEnforcing => "not_enforcing",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
        }
    }

    /// The condition of this word; a word of a later version is `Unknown`.
    pub fn of_word(word: &str) -> Self {
        match word {
            "degraded" => Self::Degraded,
            "enforcing" => Self::Enforcing,
            "not_enforcing" => Self::NotEnforcing,
            "unreachable" => Self::Unreachable,
            _ => Self::Unknown,
        }
    }
}

/// What a host's agent has answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observed {
    /// What is known of it now.
    pub condition: Condition,
    /// When it last answered, milliseconds since the Unix epoch; 0: never.
    pub seen_ms: i64,
    /// Since when `condition` is as it is.
    pub since_ms: i64,
    /// Why it does not answer, in words; empty: it does.
    pub trouble: String,
    /// The agent's version.
    pub version: String,
    /// Problems that its status names.
    pub problems: Vec<String>,
    /// What it protects.
    pub ports: Vec<ObservedPort>,
    /// Head of its audit, `SEQ:HASH`; empty: none was seen.
    pub audit_head: String,
    /// Id of the key that signs its audit.
    pub audit_key: String,
    /// Alarms that stay until an administrator has looked: a clone, another id, an audit that was cut.
    pub alarms: Vec<Alarm>,
    /// Where its stream of events goes on.
    pub cursor: String,
    /// From where it has connected to a hub; empty: it was dialled, or does not answer.
    pub uplink: String,
    /// Since when the connection to it is there, milliseconds since the Unix epoch; 0: there is none.
    pub connected_ms: i64,
}

/// A protected port of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPort {
    /// `22/tcp`
    pub port: String,
    /// `enforce` or `observe`
    pub mode: String,
    /// Longest duration of a grant, milliseconds.
    pub max_duration_ms: i64,
    /// Good signatures by distinct keys that a grant needs; 0: unknown.
    pub approvals: u32,
    /// Who comes in without a grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemptions: Vec<ObservedExemption>,
}

/// An address that a host lets in without a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedExemption {
    /// `192.0.2.0/24`
    pub source: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is there.
    pub reason: String,
    /// When it ends, milliseconds since the Unix epoch; 0: never.
    pub until_ms: i64,
}

/// Something that a person must look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// `clone`, `wrong_id`, `audit_cut`
    pub word: String,
    /// What was seen, in words.
    pub text: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Nothing is opened on the host while it stands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
}
