//! Signed policies, and how they reach hosts: in waves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A signed policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyView {
    /// Its version: hosts accept only a higher one.
    pub version: u64,
    /// What it says: the `[[port]]` sections, TOML.
    pub text: String,
    /// Who asked for it.
    pub author: String,
    /// Why, in words.
    pub note: String,
    /// SHA-256 of the payload, 64 hex digits.
    pub payload_hash: String,
    /// Ids of the keys that have signed.
    pub signed_by: Vec<String>,
    /// When it was made.
    pub created: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// `POST /api/v1/policies`: makes and signs a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    /// The `[[port]]` sections, TOML: as a policy file of `jitctl policy`.
    pub text: String,
    /// Why, in words.
    #[serde(default)]
    pub note: String,
}

/// `POST /api/v1/rollouts`: begins to bring a policy to hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RolloutInput {
    /// Version of the policy.
    pub policy: u64,
    /// Only hosts with these labels; empty: all hosts.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The waves, in order: `env=canary` (hosts with a label), `1%`, `10%`, `100%`.
    pub waves: Vec<String>,
    /// How long each host waits for the controller's confirmation before it goes back: `2m`. Either this
    /// or `confirm_ms`.
    #[serde(default)]
    pub confirm: Option<String>,
    /// The same, milliseconds.
    #[serde(default)]
    pub confirm_ms: Option<i64>,
    /// How long a wave is watched before the next begins: `10m`. Either this or `soak_ms`.
    #[serde(default)]
    pub soak: Option<String>,
    /// The same, milliseconds.
    #[serde(default)]
    pub soak_ms: Option<i64>,
    /// Why, in words.
    #[serde(default)]
    pub note: String,
}

/// A rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutView {
    /// Its id: a ULID.
    pub id: String,
    /// Version of the policy.
    pub policy: u64,
    /// `running`, `halted`, `done` or `cancelled`
    pub state: String,
    /// Why it is halted, in words.
    pub why: String,
    /// Who began it.
    pub author: String,
    /// Why, in words.
    pub note: String,
    /// Number of the wave that is under way, from 0.
    pub wave: u32,
    /// The waves.
    pub waves: Vec<WaveView>,
    /// When it began.
    pub created: String,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// What each host has answered; only in the answer for one rollout.
    #[serde(default)]
    pub hosts: Vec<RolloutHostView>,
}

/// A wave of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaveView {
    /// `env=canary`, `10%`
    pub name: String,
    /// Number of hosts.
    pub hosts: u64,
    /// Hosts that hold the policy, confirmed.
    pub done: u64,
    /// Hosts that refused, degraded or are silent.
    pub failed: u64,
}

/// A host of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutHostView {
    /// The host.
    pub host: String,
    /// Number of its wave, from 0.
    pub wave: u32,
    /// `waiting`, `trying`, `confirmed`, `refused`, `degraded`, `silent`
    pub state: String,
    /// The host's sentence about it.
    pub detail: String,
    /// When that was.
    pub at: Option<String>,
    /// When that was, milliseconds since the Unix epoch.
    pub at_ms: Option<i64>,
}
