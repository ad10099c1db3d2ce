//! Hosts: what administrators say of them, and what their agents answered.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What administrators say of a host: `PUT /api/v1/hosts/ID`. It replaces what was said before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HostInput {
    /// Where the agent listens: `HOST:PORT`; empty: it does not, and dials a hub.
    #[serde(default)]
    pub address: String,
    /// The name that the agent's certificate must bear; empty: the host of `address`.
    #[serde(default)]
    pub server_name: String,
    /// Labels: `env = prod`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Groups of hosts that rules speak of.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}

/// A protected port of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostPortView {
    /// `22/tcp`
    pub port: String,
    /// `enforce` or `observe`
    pub mode: String,
    /// Longest time of a grant, milliseconds.
    pub max_duration_ms: i64,
    /// The same as text.
    pub max_duration: String,
    /// Signatures that a grant needs; 0: unknown.
    pub approvals: u32,
}

/// Something that a person must look at. It stays until an administrator has:
/// `DELETE /api/v1/hosts/ID/alarms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AlarmView {
    /// `clone`, `wrong_id` or `audit_cut`
    pub word: String,
    /// What was seen, in words.
    pub text: String,
    /// When.
    pub at: String,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostView {
    /// Exact id, as its agent's `status` shows it and grants name it.
    pub id: String,
    /// Where the agent listens: `HOST:PORT`; empty: it does not, and dials a hub.
    pub address: String,
    /// The name that the agent's certificate must bear; empty: the host of `address`.
    pub server_name: String,
    /// Labels that only the controller sets.
    pub labels: BTreeMap<String, String>,
    /// Groups of hosts that rules speak of.
    pub groups: BTreeSet<String>,
    /// `enforcing`, `degraded`, `not_enforcing`, `unreachable` or `unknown`
    pub condition: String,
    /// Since when; `null`: it has not answered yet.
    pub since: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// When it last answered.
    pub seen: Option<String>,
    /// When it last answered, milliseconds since the Unix epoch.
    pub seen_ms: Option<i64>,
    /// Why it does not answer, in words; empty: it does.
    pub trouble: String,
    /// The agent's version.
    pub version: String,
    /// Problems that its status names.
    pub problems: Vec<String>,
    /// What it protects.
    pub ports: Vec<HostPortView>,
    /// Head of its audit, `SEQ:HASH`; empty: none was seen.
    pub audit_head: String,
    /// Id of the key that signs its audit.
    pub audit_key: String,
    /// Alarms.
    pub alarms: Vec<AlarmView>,
    /// From where its agent has connected to a hub, `ADDRESS:PORT`; empty: it was dialled, or there is no
    /// connection.
    #[serde(default)]
    pub uplink: String,
    /// Since when the connection to it is there; `null`: there is none.
    #[serde(default)]
    pub connected: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    #[serde(default)]
    pub connected_ms: Option<i64>,
}

/// What an import did: `POST /api/v1/hosts/import`. With a mistake nothing is changed, and the problem
/// names all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportResult {
    /// Ids of hosts that were added.
    pub added: Vec<String>,
    /// Ids of hosts that were changed.
    pub changed: Vec<String>,
    /// Ids of hosts that were removed: the text does not name them, and `remove=true` was asked for.
    pub removed: Vec<String>,
    /// Number of hosts that were there already, with the same words.
    pub unchanged: u64,
    /// It was only tried (`dry_run=true`): nothing is changed.
    pub dry_run: bool,
}
