//! The audit, and the question who could get in where.

use serde::{Deserialize, Serialize};

/// A record of the audit: `GET /api/v1/audit`; the data of an event: `GET /api/v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditView {
    /// Its number; the first is 1.
    pub seq: i64,
    /// When.
    pub time: String,
    /// When, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Stable code: `R004`.
    pub code: String,
    /// Name of the event: `request_approved`.
    pub event: String,
    /// Who did it: a person, or `controller`.
    pub by: String,
    /// The request that it is about; empty: none.
    pub request: String,
    /// The whole record.
    pub record: serde_json::Value,
    /// The line as it is chained, for who verifies; `null` in events.
    pub line: Option<String>,
    /// SHA-256 of the line, 64 hex digits.
    pub hash: String,
}

/// Who could get in at a moment: `GET /api/v1/access?at=2027-03-01T10:00:00Z&host=web-1&port=22`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessView {
    /// The moment.
    pub at: String,
    /// The moment, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Only of this host; `null`: of all.
    pub host: Option<String>,
    /// Only at this port; `null`: at all.
    pub port: Option<String>,
    /// What was open.
    pub entries: Vec<AccessEntry>,
    /// There is more than can be shown: ask for one host.
    pub cut: bool,
}

/// Somebody who could get in. It errs on the side of "could": a host whose answer did not arrive may have
/// opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessEntry {
    /// The host.
    pub host: String,
    /// Ports.
    pub ports: Vec<String>,
    /// Addresses and prefixes that were let in.
    pub sources: Vec<String>,
    /// Who asked.
    pub requester: String,
    /// Who agreed.
    pub approvers: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// The request.
    pub request: String,
    /// Id of the grant.
    pub grant: String,
    /// From when.
    pub since: String,
    /// From when, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Until when: its end, or the moment in which the host confirmed an earlier one.
    pub until: String,
    /// The same, milliseconds since the Unix epoch.
    pub until_ms: i64,
    /// What the host answered last; `waiting`: nothing, so it may not have opened.
    pub answer: String,
    /// The host has confirmed that it opened.
    pub certain: bool,
}
