//! Webhooks: where the controller says what happened.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// `POST /api/v1/webhooks` and `PUT /api/v1/webhooks/ID`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WebhookInput {
    /// `https://...`
    pub url: String,
    /// `generic` (each record, as JSON with a signature), `slack` (messages for an incoming
    /// webhook) or `teams` (messages for a workflow). Without it `generic`, or as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Names of events (`request_submitted`), or codes (`R001`); empty: all.
    #[serde(default)]
    pub events: BTreeSet<String>,
    /// It is called.
    pub enabled: bool,
}

/// A webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookView {
    /// Its id: a ULID.
    pub id: String,
    /// Where the controller posts to.
    pub url: String,
    /// `generic`, `slack` or `teams`
    pub form: String,
    /// Names of events, or codes; empty: all.
    pub events: BTreeSet<String>,
    /// It is called.
    pub enabled: bool,
    /// Why it is not, in words; empty: nobody has disabled it.
    pub why: String,
    /// Number of the last audit record that it has got.
    pub cursor: i64,
    /// What went wrong last; empty: nothing.
    pub trouble: String,
    /// Since when it fails.
    pub since: Option<String>,
    /// Since when it fails, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// When it is tried next; `null`: as soon as something happens.
    pub next: Option<String>,
    /// When it is tried next, milliseconds since the Unix epoch.
    pub next_ms: Option<i64>,
    /// When it was made.
    pub created: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// A webhook that was made. The secret is shown this once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WebhookMade {
    /// The key of the signatures: `Jit-Signature: t=SECONDS,v1=HEX` with
    /// `HEX = HMAC-SHA256(secret, "SECONDS." + body)`.
    pub secret: String,
    /// The webhook.
    pub view: WebhookView,
}
