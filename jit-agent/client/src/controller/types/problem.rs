//! What every answer has in common: errors, and pages of lists.

use serde::{Deserialize, Serialize};

/// Why something was not done: problem details (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:jit-agent:problem:WORD`
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words; the same for each `word`.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// A stable word for programs: `self_approval`, `scope_missing`, `not_found`.
    pub word: String,
    /// What was tried, on what, and why it was not done.
    pub detail: String,
    /// What to do next; empty: nothing helps.
    pub next: String,
    /// The path that was called.
    pub instance: String,
    /// The id of this call, as in the header `x-request-id` and in the controller's log.
    pub request_id: String,
    /// The field that is wrong; empty: none alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Mistakes in a text that was sent: rules, cases, an inventory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<TextMistake>,
    /// When it can be tried again, in seconds; as the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// A mistake in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TextMistake {
    /// Line, from 1; 0: unknown.
    pub line: u32,
    /// Column, from 1; 0: unknown.
    pub column: u32,
    /// What is wrong there, and what would be right.
    pub text: String,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The things, in the list's order.
    pub items: Vec<T>,
    /// The parameter `cursor` of the next part; `null`: this is the last. Also the header
    /// `Link: <...>; rel="next"`.
    pub next: Option<String>,
}
