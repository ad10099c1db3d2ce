//! Accounts, tokens, and who is calling.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// All scopes of tokens. `admin` does not include the others: a token has what it names.
pub const SCOPES: [&str; 9] =
    ["admin", "approve", "audit", "hosts", "policy", "read", "request", "rules", "signatures"];

/// An account: a way in for one person or one program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountView {
    /// Its name, unique.
    pub name: String,
    /// The person or program. Accounts with the same subject count as one.
    pub subject: String,
    /// Groups that rules speak of. `admins` may change accounts, hosts and rules.
    pub groups: BTreeSet<String>,
    /// It may do nothing.
    pub disabled: bool,
    /// When it was made.
    pub created: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// `PUT /api/v1/accounts/NAME`: makes an account, or replaces what was said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AccountInput {
    /// The person or program: `ana@example.org`.
    pub subject: String,
    /// Groups.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// It may do nothing.
    #[serde(default)]
    pub disabled: bool,
}

/// Where an account gets mail: `GET /api/v1/accounts/NAME/mail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MailView {
    /// The account.
    pub account: String,
    /// The address; empty: it gets none.
    pub mail: String,
}

/// `PUT /api/v1/accounts/NAME/mail`: says where an account gets mail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MailInput {
    /// The address; empty: none.
    pub mail: String,
}

/// A public key of an account: what it signs counts beside the controller's own signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountKeyView {
    /// The hint in signatures: 16 hex digits, which follow from the key.
    pub key_id: String,
    /// The account whose key it is.
    pub account: String,
    /// `Ed25519` or `ECDSA P-256`
    pub algorithm: String,
    /// The public key in PEM, as hosts have it in a `[[signer]]`.
    pub public_key: String,
    /// `valid` or `revoked`
    pub state: String,
    /// Who registered it.
    pub added_by: String,
    /// When it was registered.
    pub added: String,
    /// When it was registered, milliseconds since the Unix epoch.
    pub added_ms: i64,
    /// When it was revoked; `null`: it is not.
    pub revoked: Option<String>,
    /// When it was revoked, milliseconds since the Unix epoch.
    pub revoked_ms: Option<i64>,
}

/// `PUT /api/v1/accounts/NAME/keys/KEY_ID`: registers a public key for an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AccountKeyInput {
    /// The public key in PEM: Ed25519 or ECDSA P-256, as `jitctl keygen` writes it.
    pub public_key: String,
}

/// A passkey of an account: for the sign-in at the pages, and for approvals that hosts check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PasskeyView {
    /// The hint in signatures: 16 hex digits, which follow from the key.
    pub key_id: String,
    /// The account whose passkey it is.
    pub account: String,
    /// What its owner calls it.
    pub name: String,
    /// `Ed25519` or `ECDSA P-256`
    pub algorithm: String,
    /// The domain that it was made for.
    pub rp_id: String,
    /// The public key in PEM, for the file that `approver` names.
    pub public_key: String,
    /// The section for a host's configuration, so that the host counts what this passkey approves;
    /// empty: the controller's pages have another address now, and the passkey is good for nothing.
    pub approver: String,
    /// When it was registered.
    pub created: String,
    /// When it was registered, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last used; `null`: never.
    pub used: Option<String>,
    /// When it was last used, milliseconds since the Unix epoch.
    pub used_ms: Option<i64>,
}

/// `PUT /api/v1/accounts/NAME/password`: gives an account a password for the pages.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PasswordInput {
    /// The new password: 12 letters or more.
    pub password: String,
    /// The password that the account has now. Administrators can leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
}

impl std::fmt::Debug for PasswordInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordInput(..)")
    }
}

/// A token, without its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    /// Its id: a ULID.
    pub id: String,
    /// The account that it acts for.
    pub account: String,
    /// What it may do.
    pub scopes: BTreeSet<String>,
    /// What it is for, in words.
    pub label: String,
    /// `valid`, `ended` or `revoked`
    pub state: String,
    /// When it was made.
    pub created: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends.
    pub ends: String,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: i64,
    /// When it was last used, to the minute; `null`: never.
    pub used: Option<String>,
    /// When it was last used, milliseconds since the Unix epoch.
    pub used_ms: Option<i64>,
    /// When it was revoked; `null`: it is not.
    pub revoked: Option<String>,
    /// When it was revoked, milliseconds since the Unix epoch.
    pub revoked_ms: Option<i64>,
}

/// `POST /api/v1/tokens`: a new token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenInput {
    /// The account that it acts for; without it the caller's. For another account only an administrator
    /// makes one.
    #[serde(default)]
    pub account: Option<String>,
    /// What it may do: `request`, `approve`, `read`, `admin`, `hosts`, `rules`, `audit`, `policy`,
    /// `signatures`. Nobody gives a scope that his own token has not.
    pub scopes: BTreeSet<String>,
    /// What it is for, in words.
    #[serde(default)]
    pub label: String,
    /// How long it is valid: `30d`, `12h`. Either this or `duration_ms`.
    #[serde(default)]
    pub duration: Option<String>,
    /// How long it is valid, milliseconds.
    #[serde(default)]
    pub duration_ms: Option<i64>,
}

/// A token that was made. Its text is shown this once and stored nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenMade {
    /// The text: `jit_` and 43 letters.
    pub token: String,
    /// What is stored of it.
    pub view: TokenView,
}

/// Who is calling: `GET /api/v1/me`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeView {
    /// The account.
    pub account: String,
    /// The person or program.
    pub subject: String,
    /// Groups of the account.
    pub groups: BTreeSet<String>,
    /// It may change accounts, hosts and rules, if the token has the scopes.
    pub admin: bool,
    /// Id of the token.
    pub token: String,
    /// Scopes of the token.
    pub scopes: BTreeSet<String>,
    /// When the token ends.
    pub token_ends: String,
    /// When the token ends, milliseconds since the Unix epoch.
    pub token_ends_ms: i64,
    /// Version of the controller.
    pub version: String,
}

/// From where a caller would be let in: `GET /api/v1/me/address?host=ID&port=22`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddressView {
    /// The address from which this call comes, as the controller sees it.
    pub address: String,
    /// It was named by a proxy that the controller trusts (`X-Forwarded-For`).
    pub forwarded: bool,
    /// Addresses that the host has dropped at this port lately: one of them may be the caller, as the
    /// *host* sees him. Only with `host`. The newest first.
    pub candidates: Vec<AddressCandidate>,
    /// Why there are no candidates, in words; empty: they are all there.
    pub trouble: String,
}

/// An address that a host has dropped lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddressCandidate {
    /// The address, as the host saw it.
    pub address: String,
    /// When it was last dropped.
    pub seen: String,
    /// When it was last dropped, milliseconds since the Unix epoch.
    pub seen_ms: i64,
    /// It is the address from which this call comes.
    pub same: bool,
}
