//! Passkeys of accounts, as administrators and hosts need them. People register them at the pages,
//! where their authenticators are.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{self, PasskeyView};
use jit_proto::webauthn::RelyingParty;

use super::{
    answer,
    auth::{Caller, Scope},
    input::Call,
    problem::{Failure, Word},
    state::ApiState,
    view,
};
use crate::{
    clock,
    people::passkey::{self, PasskeyError},
    store::Passkey,
};

/// Passkeys of an account, the oldest first, each with the section for a host's configuration: an
/// administrator sees all, everybody his own.
#[utoipa::path(get, path = "/api/v1/accounts/{name}/passkeys", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    responses((status = 200, body = types::Page<PasskeyView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let is_own = caller.with(Scope::Read).is_ok_and(|account| account.name == name);
    if !is_own {
        caller.admin_with(Scope::Admin)?;
        let account = state.store().account(&name).await?;
        account.ok_or_else(|| Failure::not_found("account", &name))?;
    }
    let party = state.settings().relying_party().ok();
    let found = state.store().passkeys(&name).await?.into_iter();
    let views = found.map(|one| shown(one, party.as_ref())).collect();
    Ok(answer::page(&call, views, None))
}

/// Removes a passkey of an account that its owner has lost, and ends the account's sessions.
#[utoipa::path(delete, path = "/api/v1/accounts/{name}/passkeys/{key_id}", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account."),
    ("key_id" = String, Path, description = "Id of the passkey's key: 16 hex digits.")),
    responses((status = 204)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, key_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    match passkey::remove(state.desk(), &name, &key_id, by, "", clock::now_ms()).await {
        Err(PasskeyError::Unknown) => {
            Err(Failure::not_found("passkey", &format!("{key_id} of {name}")))
        }
        other => {
            other?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

/// For whom passkeys are.
///
/// # Errors
/// There can be none at the address of the pages.
pub(crate) fn party(state: &ApiState) -> Result<RelyingParty, Failure> {
    state.settings().relying_party().map_err(|why| {
        Failure::new(Word::Conflict, format!("there are no passkeys here: {why}"))
            .next("an administrator sets `[api] public_url` to the name that people type")
    })
}

/// A passkey as pages show it. `party`: for whom passkeys are now.
pub(crate) fn shown(of: Passkey, party: Option<&RelyingParty>) -> PasskeyView {
    view::passkey(of, party)
}

impl From<PasskeyError> for Failure {
    fn from(error: PasskeyError) -> Self {
        let words = error.to_string();
        match error {
            PasskeyError::Store(error) => error.into(),
            PasskeyError::Name(_) => Self::field("name", words),
            PasskeyError::Taken | PasskeyError::TooMany => Self::new(Word::Conflict, words),
            PasskeyError::Challenge => {
                Self::refused("challenge_used", words).next("load the page again, and try it anew")
            }
            PasskeyError::CountsBack => Self::refused("passkey_copied", words)
                .next("if it was you: remove this passkey and register another one"),
            PasskeyError::NotYours => Self::refused("not_your_key", words)
                .next("take a passkey that this account lists at /me"),
            PasskeyError::Unknown => Self::refused("unknown_passkey", words)
                .next("sign in another way, and register it at /me"),
            PasskeyError::Assertion(_) | PasskeyError::Forged | PasskeyError::Sent(_) => {
                Self::refused("wrong_passkey", words)
                    .next("load the page again at the address that people use, and try it anew")
            }
        }
    }
}
