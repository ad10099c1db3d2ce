//! Tokens. The text of one is in the answer that made it, and nowhere else.

use axum::{
    extract::{Path, State},
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{self, SCOPES, TokenInput, TokenMade, TokenView};
use jit_proto::text::MAX_NAME_BYTES;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params, duration_ms, words},
    problem::{Failure, Word},
    state::ApiState,
    token::Secret,
    view,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    model::Account,
    store::{Token, accounts},
};

/// How long a token is valid without a word about it, milliseconds.
const VALID_MS: i64 = 30 * DAY_MS;
/// The longest time of a token.
const LONGEST_MS: i64 = 366 * DAY_MS;
const DAY_MS: i64 = 24 * 3600 * 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Of this account; `*`: of all. Without it the caller's own.
    account: Option<String>,
}

/// Tokens, the newest first, without their texts.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", params(List),
    responses((status = 200, body = types::Page<TokenView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    let own = caller.name().to_owned();
    let of = list.account.unwrap_or_else(|| own.clone());
    if of == own {
        caller.with(Scope::Read)?;
    } else {
        caller.admin_with(Scope::Admin)?;
    }
    let tokens = state.store().tokens((of != "*").then_some(of.as_str())).await?;
    let now_ms = clock::now_ms();
    let items = tokens.into_iter().map(|token| view::token(token, now_ms)).collect();
    Ok(answer::page(&call, items, None))
}

/// Makes a token. Nobody gives a scope that his own token has not.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenInput,
    responses((status = 201, body = TokenMade)))]
pub(super) async fn make(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Body(new): Body<TokenInput>,
) -> Result<Response, Failure> {
    if !call.header("idempotency-key").is_empty() {
        let why = "a token's text is stored nowhere, so that it cannot be answered twice; make \
                   another one and revoke what is too much";
        return Err(Failure::field("Idempotency-Key", why));
    }
    let (by, account) = whom(&state, &caller, new.account.as_deref()).await?;
    let now_ms = clock::now_ms();
    let valid = duration_ms("duration", new.duration.as_deref(), new.duration_ms)?;
    let valid = valid.unwrap_or(VALID_MS);
    if !(1000..=LONGEST_MS).contains(&valid) {
        return Err(Failure::field("duration", "a token is valid from a second to 366 days"));
    }
    let mut ends_ms = now_ms.saturating_add(valid);
    if !by.is_admin() || caller.is_of_provider() {
        // A stolen token does not live longer by making another one. Who has lost his place at the
        // provider gets no more tokens there, and has none here either.
        ends_ms = ends_ms.min(caller.token().ends_ms);
    }
    words("label", &new.label, MAX_NAME_BYTES)?;
    scopes(&caller, &new)?;
    let secret = Secret::generate();
    let token = Token {
        id: ulid::Ulid::generate().to_string(),
        hash: secret.hash(),
        account,
        scopes: new.scopes,
        label: new.label,
        created_ms: now_ms,
        ends_ms,
        used_ms: 0,
        revoked_ms: 0,
    };
    let mut tx = state.store().begin().await?;
    accounts::add_token(&mut tx, &token).await?;
    let fields = json!({
        "by_account": by.name, "by_token": caller.token().id, "account": token.account,
        "token": token.id, "scopes": token.scopes, "label": token.label, "ends_ms": token.ends_ms,
    });
    audit::append(&mut tx, now_ms, &Record::new(Code::TokenMade, "", &by.subject, fields)).await?;
    state.commit(tx).await?;
    let path = format!("/api/v1/tokens/{}", token.id);
    let made = TokenMade { token: secret.expose().to_owned(), view: view::token(token, now_ms) };
    let mut response = answer::made(StatusCode::CREATED, &path, &made);
    let no_store = axum::http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

/// Revokes a token: one's own, or as an administrator any. Revoking one's own needs no scope.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Id of the token; `this` is the one that calls.")),
    responses((status = 204)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let is_this = id == "this";
    if is_this && caller.is_of_provider() {
        let detail = "this token is the provider's, which alone can end it";
        return Err(Failure::new(Word::Conflict, detail)
            .next("end it at the provider; who disables the account here shuts it out at once"));
    }
    let id = if is_this { caller.token().id.clone() } else { id };
    let own = state.store().tokens(Some(caller.name())).await?;
    if !own.iter().any(|token| token.id == id) {
        caller.admin_with(Scope::Admin)?;
        let all = state.store().tokens(None).await?;
        if !all.iter().any(|token| token.id == id) {
            return Err(Failure::not_found("token", &id));
        }
    }
    let now_ms = clock::now_ms();
    let by = caller.subject();
    let mut tx = state.store().begin().await?;
    if accounts::revoke_token(&mut tx, &id, now_ms).await? {
        let fields = json!({ "by_account": caller.name(), "token": id });
        let record = Record::new(Code::TokenRevoked, "", by, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        state.commit(tx).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Who makes a token, and for which account.
async fn whom<'c>(
    state: &ApiState,
    caller: &'c Caller,
    account: Option<&str>,
) -> Result<(&'c Account, String), Failure> {
    match account {
        Some(other) if other != caller.name() => {
            let by = caller.admin_with(Scope::Admin)?;
            let found = state.store().account(other).await?;
            let found = found.ok_or_else(|| Failure::not_found("account", other))?;
            if found.disabled {
                let detail = format!("the account {other} is disabled");
                return Err(Failure::new(Word::Conflict, detail).next("enable it first"));
            }
            Ok((by, found.name))
        }
        _ => {
            let by = caller.with(Scope::Read)?;
            Ok((by, by.name.clone()))
        }
    }
}

/// Refuses unknown scopes, and scopes that the caller's own token has not.
fn scopes(caller: &Caller, new: &TokenInput) -> Result<(), Failure> {
    if new.scopes.is_empty() {
        return Err(Failure::field("scopes", "a token without a scope can do nothing"));
    }
    if let Some(unknown) = new.scopes.iter().find(|scope| !SCOPES.contains(&scope.as_str())) {
        let why = format!("{unknown:?} is no scope; one of {}", SCOPES.join(", "));
        return Err(Failure::field("scopes", why));
    }
    if let Some(more) = new.scopes.difference(&caller.token().scopes).next() {
        let detail = format!("your token has not the scope `{more}`, and cannot give it");
        return Err(Failure::new(Word::ScopeMissing, detail));
    }
    Ok(())
}
