//! Policies, and how they reach hosts: in waves.

use serde::{Deserialize, Serialize};

/// A policy: what hosts protect, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyView {
    /// Its id: a ULID.
    pub id: String,
    /// What it says: the `[[port]]` sections, TOML.
    pub text: String,
    /// Who saved it.
    pub author: String,
    /// Why, in words.
    pub justification: String,
    /// When.
    pub saved: String,
    /// When, milliseconds since the Unix epoch.
    pub saved_ms: i64,
}

/// `POST /api/v1/policies`: keeps a policy. Hosts get it by a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    /// The `[[port]]` sections, TOML: as a file of `jitctl policy push`, without `hosts` and `version`.
    pub text: String,
    /// Why, in words.
    pub justification: String,
}

/// What a policy would change on one host, as its agent says: `GET /api/v1/policies/ID/preview?host=H`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyPreview {
    /// The host.
    pub host: String,
    /// `ok`, `known` (it is in force already), or the reason word of the refusal.
    pub reason: String,
    /// The host's sentence about it.
    pub detail: String,
    /// What would change, a line each; empty: nothing, or it is refused.
    pub changes: Vec<String>,
}

/// `POST /api/v1/rollouts`: begins to bring a policy to hosts. With `?preview=true` it only says which
/// hosts each wave would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RolloutInput {
    /// Id of the policy.
    pub policy: String,
    /// The waves, in order: `env=canary` (hosts with a label), `group:web`, `1%`, `10%`, `all`. Hosts that
    /// none selects keep what they have.
    pub waves: Vec<String>,
    /// How long each host waits for the confirmation before it returns to the policy before: `2m`, 10s to
    /// 1h. Either this or `confirm_ms`; without both 2 minutes.
    #[serde(default)]
    pub confirm: Option<String>,
    /// The same, milliseconds.
    #[serde(default)]
    pub confirm_ms: Option<i64>,
    /// How long the hosts of a wave must stay well before the next begins: `10m`. Either this or
    /// `pause_ms`; without both 5 minutes.
    #[serde(default)]
    pub pause: Option<String>,
    /// The same, milliseconds.
    #[serde(default)]
    pub pause_ms: Option<i64>,
}

/// Which hosts each wave of a rollout would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutPlan {
    /// The waves, in order.
    pub waves: Vec<WavePlan>,
}

/// The hosts of a wave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WavePlan {
    /// `env=canary`, `10%`
    pub name: String,
    /// Its hosts.
    pub hosts: Vec<String>,
}

/// A rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutView {
    /// Its id: a ULID.
    pub id: String,
    /// Id of the policy.
    pub policy: String,
    /// `running`, `halted`, `done` or `aborted`
    pub state: String,
    /// Why it is in this state, in words.
    pub why: String,
    /// Who began it.
    pub author: String,
    /// The waves, in order.
    pub waves: Vec<String>,
    /// Number of the wave that is under way, from 0.
    pub wave: u64,
    /// Since when it is.
    pub wave_since: String,
    /// Since when it is, milliseconds since the Unix epoch.
    pub wave_since_ms: i64,
    /// How long each host waits for the confirmation, milliseconds.
    pub confirm_ms: i64,
    /// The same as text.
    pub confirm: String,
    /// How long the hosts of a wave must stay well before the next begins, milliseconds.
    pub pause_ms: i64,
    /// The same as text.
    pub pause: String,
    /// How many hosts of which wave are how far. Only in the answer for one rollout.
    #[serde(default)]
    pub counts: Vec<RolloutCount>,
    /// When it began.
    pub created: String,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// How many hosts of a wave are in a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutCount {
    /// Number of the wave, from 0.
    pub wave: u64,
    /// As of [`RolloutHostView`].
    pub state: String,
    /// Number of hosts.
    pub hosts: u64,
}

/// A host of a rollout: `GET /api/v1/rollouts/ID/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutHostView {
    /// The host.
    pub host: String,
    /// Number of its wave, from 0.
    pub wave: u64,
    /// `waiting`, `signing`, `pushed`, `applied`, `refused`, `degraded`, `silent` or `skipped`
    pub state: String,
    /// The reason word of the host's answer.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// The version that the policy has on this host; 0: none yet.
    pub version: i64,
    /// What the policy changed there, in words.
    pub changes: String,
    /// Since when it is in this state; `null`: from the beginning on.
    pub since: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
}
