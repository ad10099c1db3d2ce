//! Signed revocations, and how they reach hosts.

use serde::{Deserialize, Serialize};

/// `POST /api/v1/revocations`: ends what was granted until now, on many hosts at once. With
/// `?preview=true` it only says what that would end. To send it twice is to make two, which end the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RevocationInput {
    /// Ids of hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Groups of hosts: those that are in them now.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every host, also one that is added later. Then `hosts` and `groups` are empty.
    #[serde(default)]
    pub every_host: bool,
    /// What ends.
    pub what: RevokedWhat,
    /// Also end sessions that the grants have let in.
    #[serde(default)]
    pub cut: bool,
    /// Why.
    pub reason: String,
}

/// What a revocation ends: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RevokedWhat {
    /// Everything that was granted until now.
    #[serde(default)]
    pub all: bool,
    /// What this person was granted until now: a subject.
    #[serde(default)]
    pub requester: Option<String>,
    /// Grants with these ids, at most 4,096.
    #[serde(default)]
    pub grants: Vec<String>,
}

/// What a revocation would end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevocationPreview {
    /// Number of hosts that must hear it now.
    pub hosts: u64,
    /// Ids of requests of which it ends something, the newest first.
    pub requests: Vec<String>,
}

/// A signed revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevocationView {
    /// Its id: a ULID.
    pub id: String,
    /// `signing`, `delivering`, `delivered` (every host has carried it out), `signer_refused`, or `ended`
    /// (nobody needs to hear it any more)
    pub state: String,
    /// Why the signer refuses it; empty: it does not.
    pub why: String,
    /// It is for every host.
    pub every_host: bool,
    /// The hosts that it names, at most the first 100 of them.
    pub hosts: Vec<String>,
    /// What ends.
    pub what: RevokedWhat,
    /// Sessions end, too.
    pub cut: bool,
    /// Who made it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Number of hosts that have carried it out.
    pub delivered: u64,
    /// Number of hosts that refuse it.
    pub refused: u64,
    /// Number of hosts that have not answered.
    pub waiting: u64,
    /// What was granted until then ends.
    pub made: String,
    /// The same, milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// When the last host had carried it out; `null`: not yet.
    pub completed: Option<String>,
    /// The same, milliseconds since the Unix epoch.
    pub completed_ms: Option<i64>,
    /// Until when hosts that come get it.
    pub keep_until: String,
    /// The same, milliseconds since the Unix epoch.
    pub keep_until_ms: i64,
}

/// What a host has answered: `GET /api/v1/revocations/ID/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevocationHostView {
    /// The host.
    pub host: String,
    /// `delivered`, `refused` or `waiting`
    pub answer: String,
    /// The host's reason word.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// When; `null`: it has not answered.
    pub answered: Option<String>,
    /// When, milliseconds since the Unix epoch.
    pub answered_ms: Option<i64>,
}
