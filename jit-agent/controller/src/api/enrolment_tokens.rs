//! Tokens with which hosts enrol. The text of one is in the answer that made it, and nowhere else.

use axum::{
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{
    self, EnrolmentTokenInput, EnrolmentTokenMade, EnrolmentTokenView,
};

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, duration_ms},
    problem::Failure,
    state::ApiState,
    view,
};
use crate::{
    clock,
    enrol::token::{self, Wish},
};

/// How long a token counts without a word about it, milliseconds.
const VALID_MS: i64 = 3_600_000;

/// Tokens with which hosts enrol, the newest first, without their texts.
#[utoipa::path(get, path = "/api/v1/enrolments/tokens", tag = "enrolments",
    responses((status = 200, body = types::Page<EnrolmentTokenView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Read)?;
    let now_ms = clock::now_ms();
    let all = state.store().enrolment_tokens().await?;
    let items = all.into_iter().map(|one| view::enrolment_token(one, now_ms)).collect();
    Ok(answer::page(&call, items, None))
}

/// Makes a token for a number of hosts, which get its labels.
#[utoipa::path(post, path = "/api/v1/enrolments/tokens", tag = "enrolments",
    request_body = EnrolmentTokenInput, responses((status = 201, body = EnrolmentTokenMade)))]
pub(super) async fn make(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Body(new): Body<EnrolmentTokenInput>,
) -> Result<Response, Failure> {
    if !call.header("idempotency-key").is_empty() {
        let why = "a token's text is stored nowhere, so that it cannot be answered twice; make \
                   another one and withdraw what is too much";
        return Err(Failure::field("Idempotency-Key", why));
    }
    let by = caller.admin_with(Scope::Hosts)?.subject.clone();
    let valid = duration_ms("duration", new.duration.as_deref(), new.duration_ms)?;
    let wish = Wish {
        labels: new.labels,
        uses: new.uses.unwrap_or(1),
        valid_ms: valid.unwrap_or(VALID_MS),
    };
    let made = keep(&state, wish, &by).await?;
    let mut response = answer::made(StatusCode::CREATED, "/api/v1/enrolments/tokens", &made);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Makes a token, and keeps it.
///
/// # Errors
/// Nobody enrols here; a field of the wish, or the database.
pub(crate) async fn keep(
    state: &ApiState,
    wish: Wish,
    by: &str,
) -> Result<EnrolmentTokenMade, Failure> {
    state.enrolling()?;
    let now_ms = clock::now_ms();
    let (token, secret) = wish.make(by, now_ms).map_err(|why| match why.split_once(": ") {
        Some((field, why)) => Failure::field(field, why),
        None => Failure::field("labels", why),
    })?;
    let mut tx = state.store().begin().await?;
    token::keep(&mut tx, &token, now_ms).await?;
    state.commit(tx).await?;
    let token_text = secret.expose().to_owned();
    Ok(EnrolmentTokenMade { token: token_text, view: view::enrolment_token(token, now_ms) })
}

/// Withdraws a token: no host enrols with it any more. Those that have stay.
#[utoipa::path(delete, path = "/api/v1/enrolments/tokens/{id}", tag = "enrolments",
    params(("id" = String, Path, description = "Id of the token.")), responses((status = 204)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Hosts)?.subject.clone();
    withdraw(&state, &id, &by).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Withdraws it.
///
/// # Errors
/// There is no such one, or the database.
pub(crate) async fn withdraw(state: &ApiState, id: &str, by: &str) -> Result<(), Failure> {
    if !state.store().enrolment_tokens().await?.iter().any(|one| one.id == id) {
        return Err(Failure::not_found("token", id));
    }
    let mut tx = state.store().begin().await?;
    if token::revoke(&mut tx, id, by, clock::now_ms()).await? {
        state.commit(tx).await?;
    }
    Ok(())
}
