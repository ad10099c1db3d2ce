//! Accounts and tokens.

use jit_client::controller::types::{AccountKeyView, AccountView, TokenView};

use super::{moment, time};
use crate::{
    model::Account,
    store::{AccountKey, Token},
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
