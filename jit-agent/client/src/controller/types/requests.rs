//! Requests for access: what is asked, what people and rules say of it, and what hosts answered.

use serde::{Deserialize, Serialize};

/// What somebody asks for: `POST /api/v1/requests`. The header `Idempotency-Key` makes a second try
/// of the same call answer with the same request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRequest {
    /// Exact ids of hosts.
    pub hosts: Vec<String>,
    /// Addresses and prefixes that are let in: `203.0.113.7`, `2001:db8::/64`. `me` is the address from
    /// which this call comes, as the controller sees it (`/api/v1/me/address`).
    pub sources: Vec<String>,
    /// Ports: `22`, `443/tcp`, `8000-8010`, `53/udp`.
    pub ports: Vec<String>,
    /// How long: `30m`, `1h 30m`. Either this or `duration_ms`.
    #[serde(default)]
    pub duration: Option<String>,
    /// How long, milliseconds.
    #[serde(default)]
    pub duration_ms: Option<i64>,
    /// When it begins, RFC 3339; without it when it is approved. Either this or `start_ms`.
    #[serde(default)]
    pub start: Option<String>,
    /// When it begins, milliseconds since the Unix epoch.
    #[serde(default)]
    pub start_ms: Option<i64>,
    /// Why, in words.
    pub reason: String,
    /// Number of the ticket.
    #[serde(default)]
    pub ticket: String,
    /// What happens to sessions at the end: `cut` or `drain`; without it the port's own rule decides.
    #[serde(default)]
    pub sessions: Option<String>,
    /// The most connections; 0: any number.
    #[serde(default)]
    pub max_connections: u32,
    /// Id of the request that ends when this one begins.
    #[serde(default)]
    pub replaces: Option<String>,
}

/// A number of people of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Need {
    /// The group.
    pub group: String,
    /// How many of its members.
    pub count: u32,
}

/// A rule that matched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleTrace {
    /// Its name: the annotation `@id`, or its place in the text.
    pub id: String,
    /// `forbid` or `permit`
    pub effect: String,
    /// `initiate` or `auto_approve`
    pub action: String,
    /// What it says of itself.
    pub reason: String,
    /// What it asks for: `1 of sre`, `at most 1h`.
    pub asks: Vec<String>,
    /// Hosts where it matched; at most 20 of them.
    pub hosts: Vec<String>,
    /// Number of hosts where it matched.
    pub hosts_total: u64,
}

/// What the rules say of a request, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VerdictView {
    /// `automatic`, `manual` or `denied`
    pub outcome: String,
    /// Version of the rules that decided.
    pub rules_version: i64,
    /// Who must agree.
    pub needs: Vec<Need>,
    /// The same in words: `1 of sre and 2 of dba`; empty: nobody.
    pub needs_text: String,
    /// The longest time that the matching rules allow, milliseconds; `null`: they name none.
    pub max_duration_ms: Option<i64>,
    /// The same as text.
    pub max_duration: Option<String>,
    /// The group that is asked too if nobody has agreed in time.
    pub escalates_to: Option<String>,
    /// After this time, milliseconds from the submission on.
    pub escalates_after_ms: Option<i64>,
    /// The rules that matched.
    pub rules: Vec<RuleTrace>,
    /// Why it is denied, a sentence each.
    pub denied: Vec<String>,
}

/// Somebody who may approve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EligibleView {
    /// The person.
    pub subject: String,
    /// The person's accounts.
    pub accounts: Vec<String>,
    /// Groups for which the person's approval counts.
    pub groups: Vec<String>,
}

/// What somebody said of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DecisionView {
    /// The person.
    pub subject: String,
    /// The account that was used.
    pub account: String,
    /// `approve` or `deny`
    pub ruling: String,
    /// Groups of the person that counted.
    pub groups: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// Hash of what was agreed to.
    pub hash: String,
    /// When.
    pub at: String,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// What one host has answered to one grant. Open is what the host has accepted, never what is hoped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AnswerView {
    /// The host.
    pub host: String,
    /// Id of the grant.
    pub grant: String,
    /// What the host must hear: `grant` or `revoke`.
    pub wanted: String,
    /// It has not answered to that yet.
    pub pending: bool,
    /// Its last answer: `waiting`, `open`, `scheduled`, `refused` or `closed`.
    pub answer: String,
    /// The reason word of that answer.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// Why the host does not answer, in words; empty: it does.
    pub trouble: String,
    /// Since when it does not answer.
    pub since: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is tried next; `null`: it is not.
    pub next: Option<String>,
    /// When it is tried next, milliseconds since the Unix epoch.
    pub next_ms: Option<i64>,
    /// When the host answered.
    pub answered: Option<String>,
    /// When the host answered, milliseconds since the Unix epoch.
    pub answered_ms: Option<i64>,
}

/// How many hosts gave which answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AnswerCounts {
    /// They let the sources in.
    pub open: u64,
    /// They have accepted it, and its time has not begun.
    pub scheduled: u64,
    /// They refuse it.
    pub refused: u64,
    /// They have not answered yet.
    pub waiting: u64,
    /// Those of `waiting` that do not answer at all.
    pub unreachable: u64,
    /// It has ended there.
    pub closed: u64,
}

/// A signature on a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignatureView {
    /// Id of the key, as the signer gave it.
    pub key_id: String,
    /// The signature, base64.
    pub signature: String,
    /// What the authenticator said, base64, if it is an approval by passkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticator_data: Option<String>,
    /// What the browser said, base64, if it is an approval by passkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_data_json: Option<String>,
}

/// A grant: what is signed, and by whom so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantView {
    /// Its id: a ULID.
    pub id: String,
    /// The request.
    pub request: String,
    /// Its number among the request's grants, from 0.
    pub number: u64,
    /// `unsigned`, `awaiting_signatures` or `signed`
    pub state: String,
    /// Hosts that it is for.
    pub hosts: Vec<String>,
    /// When it begins.
    pub not_before: String,
    /// When it begins, milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    /// At this very moment it lets nobody in any more.
    pub not_after: String,
    /// The same, milliseconds since the Unix epoch.
    pub not_after_ms: i64,
    /// SHA-256 of the payload, 64 hex digits.
    pub payload_hash: String,
    /// Number of signatures that its hosts ask for.
    pub signatures_needed: u32,
    /// Ids of the keys that have signed.
    pub signed_by: Vec<String>,
    /// When all signatures were there.
    pub signed: Option<String>,
    /// When all signatures were there, milliseconds since the Unix epoch.
    pub signed_ms: Option<i64>,
    /// Type of the payload. Only in the answer for one grant.
    #[serde(default)]
    pub payload_type: Option<String>,
    /// The encoded `jit.v1.Grant`, base64. Only in the answer for one grant.
    #[serde(default)]
    pub payload: Option<String>,
    /// What a passkey signs to approve it: `challenge` of `navigator.credentials.get`, base64url.
    /// Only in the answer for one grant.
    #[serde(default)]
    pub challenge: Option<String>,
    /// The signatures so far. Only in the answer for one grant.
    #[serde(default)]
    pub signatures: Option<Vec<SignatureView>>,
}

/// A request as lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RequestSummary {
    /// Its id: a ULID.
    pub id: String,
    /// `pending`, `approved`, `awaiting_signatures`, `delivering`, `open`, `partly`, `scheduled`,
    /// `refused`, `denied`, `withdrawn`, `expired_unapproved`, `revoked` or `ended`
    pub state: String,
    /// Why it is in this state, in words; empty: there is no more to say.
    pub why: String,
    /// Who asks: a person, not an account.
    pub requester: String,
    /// The first 20 hosts.
    pub hosts: Vec<String>,
    /// Number of hosts.
    pub hosts_total: u64,
    /// Addresses and prefixes that are let in.
    pub sources: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// How long.
    pub duration: String,
    /// How long, milliseconds.
    pub duration_ms: i64,
    /// When it begins; `null`: when it is approved.
    pub start: Option<String>,
    /// When it begins, milliseconds since the Unix epoch.
    pub start_ms: Option<i64>,
    /// Why, in words.
    pub reason: String,
    /// Number of the ticket.
    pub ticket: String,
    /// Who must agree in words: `1 of sre and 2 of dba`; empty: nobody.
    pub needs_text: String,
    /// When it was submitted.
    pub created: String,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Until when people can agree.
    pub approve_until: String,
    /// Until when people can agree, milliseconds since the Unix epoch.
    pub approve_until_ms: i64,
    /// When it ends; `null`: it is not approved.
    pub ends: Option<String>,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: Option<i64>,
}

/// A request: what was asked, what rules and people say of it, and what hosts answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RequestView {
    /// Its id: a ULID.
    pub id: String,
    /// `pending`, `approved`, `awaiting_signatures`, `delivering`, `open`, `partly`, `scheduled`,
    /// `refused`, `denied`, `withdrawn`, `expired_unapproved`, `revoked` or `ended`
    pub state: String,
    /// Nothing can become of it any more.
    pub is_final: bool,
    /// Why it is in this state, in words; empty: there is no more to say.
    pub why: String,
    /// Who asks: a person, not an account.
    pub requester: String,
    /// The account that was used.
    pub account: String,
    /// Exact ids of hosts.
    pub hosts: Vec<String>,
    /// Addresses and prefixes that are let in.
    pub sources: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// How long.
    pub duration: String,
    /// How long, milliseconds.
    pub duration_ms: i64,
    /// When it begins; `null`: when it is approved.
    pub start: Option<String>,
    /// When it begins, milliseconds since the Unix epoch.
    pub start_ms: Option<i64>,
    /// Why, in words.
    pub reason: String,
    /// Number of the ticket.
    pub ticket: String,
    /// `cut` or `drain`; `null`: the port's own rule decides.
    pub sessions: Option<String>,
    /// The most connections; 0: any number.
    pub max_connections: u32,
    /// The request that ends when this one begins.
    pub replaces: Option<String>,
    /// The request that replaces this one.
    pub replaced_by: Option<String>,
    /// What people agree to: a decision must name it.
    pub hash: String,
    /// What the rules said when it was submitted.
    pub verdict: VerdictView,
    /// Who must still agree.
    pub missing: Vec<Need>,
    /// The same in words; empty: it is enough.
    pub missing_text: String,
    /// Who may approve and has not yet. Empty when nobody must.
    pub eligible: Vec<EligibleView>,
    /// What people said, the oldest first.
    pub decisions: Vec<DecisionView>,
    /// What each host has answered.
    pub answers: Vec<AnswerView>,
    /// How many hosts gave which answer.
    pub counts: AnswerCounts,
    /// What is signed, and by whom so far.
    pub grants: Vec<GrantView>,
    /// What the caller may do with it now: `approve`, `deny`, `withdraw`, `revoke`, `extend`,
    /// `shorten`, `sign`.
    pub may: Vec<String>,
    /// When it was submitted.
    pub created: String,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Until when people can agree.
    pub approve_until: String,
    /// Until when people can agree, milliseconds since the Unix epoch.
    pub approve_until_ms: i64,
    /// When others are asked too; `null`: never, or it has happened.
    pub escalate: Option<String>,
    /// When others are asked too, milliseconds since the Unix epoch.
    pub escalate_ms: Option<i64>,
    /// When it ends; `null`: it is not approved.
    pub ends: Option<String>,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: Option<i64>,
    /// Rises with each change; the header `ETag` follows from it.
    pub revision: i64,
}

/// What would become of a request: `POST /api/v1/requests?preview=true`. Nothing is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Preview {
    /// Exact ids of hosts, in order.
    pub hosts: Vec<String>,
    /// The addresses that would be signed; `me` is replaced.
    pub sources: Vec<String>,
    /// Ports.
    pub ports: Vec<String>,
    /// How long.
    pub duration: String,
    /// How long, milliseconds.
    pub duration_ms: i64,
    /// When it would begin, if it were approved now.
    pub begins: String,
    /// The same, milliseconds since the Unix epoch.
    pub begins_ms: i64,
    /// When it would end, if it were approved now.
    pub ends: String,
    /// The same, milliseconds since the Unix epoch.
    pub ends_ms: i64,
    /// Number of grants that would be signed.
    pub grants: u64,
    /// What the rules say.
    pub verdict: VerdictView,
    /// Who may approve.
    pub eligible: Vec<EligibleView>,
    /// What will probably go wrong, a sentence each: a host that does not answer, a port that a host
    /// does not protect, a group with too few members.
    pub warnings: Vec<String>,
}

/// A decision: `POST /api/v1/requests/ID/decision`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DecisionInput {
    /// `approve` or `deny`
    pub ruling: String,
    /// Why, in words; a denial needs one.
    #[serde(default)]
    pub reason: String,
    /// `hash` of the request as the person saw it.
    pub hash: String,
}

/// `POST /api/v1/requests/ID/withdraw` and `/revoke`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReasonInput {
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
}

/// `POST /api/v1/requests/ID/extend`: a new request that replaces this one and lasts longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExtendInput {
    /// How much longer: `30m`. Either this or `duration_ms`.
    #[serde(default)]
    pub duration: Option<String>,
    /// How much longer, milliseconds.
    #[serde(default)]
    pub duration_ms: Option<i64>,
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
}

/// `POST /api/v1/requests/ID/shorten`: it ends earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ShortenInput {
    /// When it ends, RFC 3339. Either this or `ends_ms`.
    #[serde(default)]
    pub ends: Option<String>,
    /// When it ends, milliseconds since the Unix epoch.
    #[serde(default)]
    pub ends_ms: Option<i64>,
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
}

/// A person's signature: `POST /api/v1/requests/ID/signatures`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SignatureInput {
    /// Id of the grant.
    pub grant: String,
    /// Id of the key; a hint for hosts.
    #[serde(default)]
    pub key_id: String,
    /// The signature of the DSSE encoding of the payload, base64; of a passkey that of
    /// `authenticator_data` and the SHA-256 of `client_data_json`.
    pub signature: String,
    /// `authenticatorData` of an approval by passkey, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticator_data: Option<String>,
    /// `clientDataJSON` of an approval by passkey, base64, byte by byte as the browser gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_data_json: Option<String>,
}
