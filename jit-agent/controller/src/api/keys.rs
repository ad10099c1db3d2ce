//! Public keys of accounts. Only administrators change them, also their own: whoever could register a key
//! for himself with a stolen token would have the second signature that hosts ask for.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{self, AccountKeyInput, AccountKeyView};

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call},
    problem::Failure,
    state::ApiState,
    view,
};
use crate::clock;

/// Public keys of an account, the oldest first: an administrator sees all, everybody his own.
#[utoipa::path(get, path = "/api/v1/accounts/{name}/keys", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account.")),
    responses((status = 200, body = types::Page<AccountKeyView>), (status = 304)))]
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
    let keys = state.store().account_keys(&name).await?;
    Ok(answer::page(&call, keys.into_iter().map(view::account_key).collect(), None))
}

/// Registers a public key for an account. What it signs counts only for requests of others.
#[utoipa::path(put, path = "/api/v1/accounts/{name}/keys/{key_id}", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account."),
    ("key_id" = String, Path, description = "Id of the key: 16 hex digits, which follow from it.")),
    request_body = AccountKeyInput, responses((status = 200, body = AccountKeyView)))]
pub(super) async fn put(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path((name, key_id)): Path<(String, String)>,
    Body(new): Body<AccountKeyInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    let added = state.desk().add_key(by, &name, &key_id, &new.public_key, clock::now_ms()).await?;
    Ok(answer::one(&call, &view::account_key(added)))
}

/// Revokes a key of an account: nothing counts any more that it signs.
#[utoipa::path(delete, path = "/api/v1/accounts/{name}/keys/{key_id}", tag = "accounts",
    params(("name" = String, Path, description = "Name of the account."),
    ("key_id" = String, Path, description = "Id of the key.")),
    responses((status = 204)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, key_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Admin)?;
    state.desk().revoke_key(by, &name, &key_id, clock::now_ms()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
