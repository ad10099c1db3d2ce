//! Accounts and tokens.

use jit_client::controller::types::{AccountKeyView, AccountView, PasskeyView, TokenView};
use jit_proto::webauthn::RelyingParty;

use super::{moment, time};
use crate::{
    model::Account,
    store::{AccountKey, Passkey, Token},
};

/// An account.
pub(in crate::api) fn account(of: Account) -> AccountView {
    let Account { name, subject, groups, disabled, created_ms } = of;
    AccountView { name, subject, groups, disabled, created: time(created_ms), created_ms }
}

/// A public key.
pub(in crate::api) fn account_key(of: AccountKey) -> AccountKeyView {
    let AccountKey { key_id, account, algorithm, public_key, added_by, added_ms, revoked_ms } = of;
    let (revoked, revoked_ms) = moment(revoked_ms);
    AccountKeyView {
        key_id,
        account,
        algorithm,
        public_key,
        state: if revoked_ms.is_some() { "revoked" } else { "valid" }.to_owned(),
        added_by,
        added: time(added_ms),
        added_ms,
        revoked,
        revoked_ms,
    }
}

/// A passkey. `party`: for whom passkeys are now.
pub(in crate::api) fn passkey(of: Passkey, party: Option<&RelyingParty>) -> PasskeyView {
    let approver = party.and_then(|party| approver(&of, party)).unwrap_or_default();
    let (used, used_ms) = moment(of.used_ms);
    PasskeyView {
        key_id: of.key_id,
        account: of.account,
        name: of.name,
        algorithm: of.algorithm,
        rp_id: of.rp_id,
        public_key: of.public_key,
        approver,
        created: time(of.created_ms),
        created_ms: of.created_ms,
        used,
        used_ms,
    }
}

/// The section of a host's configuration for a passkey; `None`: it was made for pages at another
/// address.
fn approver(of: &Passkey, party: &RelyingParty) -> Option<String> {
    let text = |text: &str| toml::Value::from(text).to_string();
    let origins: Vec<_> = party.origins().iter().map(|origin| text(origin)).collect();
    (of.rp_id == party.id()).then(|| {
        format!(
            "[[approver]]\nid = {}\npublic_key = {}\nrp_id = {}\norigins = [{}]\n",
            text(&format!("{}-{}", of.account, of.key_id)),
            text(&format!("{}.pem", of.key_id)),
            text(party.id()),
            origins.join(", "),
        )
    })
}

/// A token.
pub(in crate::api) fn token(of: Token, now_ms: i64) -> TokenView {
    let Token { id, hash: _, account, scopes, label, created_ms, ends_ms, used_ms, revoked_ms } =
        of;
    let state = match (revoked_ms, ends_ms <= now_ms) {
        (0, false) => "valid",
        (0, true) => "ended",
        _ => "revoked",
    };
    let (used, used_ms) = moment(used_ms);
    let (revoked, revoked_ms) = moment(revoked_ms);
    TokenView {
        id,
        account,
        scopes,
        label,
        state: state.to_owned(),
        created: time(created_ms),
        created_ms,
        ends: time(ends_ms),
        ends_ms,
        used,
        used_ms,
        revoked,
        revoked_ms,
    }
}
