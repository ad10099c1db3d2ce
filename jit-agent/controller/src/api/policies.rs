//! Policies: kept here, brought to hosts by rollouts.

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jit_client::{
    controller::types::{self, PolicyInput, PolicyPreview, PolicyView},
    policy_changes,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    hosts,
    input::{Body, Call, Params},
    listed::listed,
    problem::{Failure, Word},
    sight::Sight,
    state::ApiState,
    view,
};
use crate::{clock, fleet::Fleet, model::Account, store::Policy};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Items of a page, 1 to 500; 50.
    pub(super) limit: Option<u32>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Where {
    /// The host that is asked.
    host: String,
}

/// Policies that the caller sees, the newest first.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policies", params(List),
    responses((status = 200, body = types::Page<PolicyView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let before = answer::cursor(list.cursor.as_deref())?;
    let (found, next) = listed::<Policy>(&state, account, before, most).await?;
    Ok(answer::page(&call, found.into_iter().map(view::policy).collect(), next))
}

/// Keeps a policy.
#[utoipa::path(post, path = "/api/v1/policies", tag = "policies", request_body = PolicyInput,
    responses((status = 201, body = PolicyView)))]
pub(super) async fn make(
    State(state): State<ApiState>,
    caller: Caller,
    Body(new): Body<PolicyInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Policy)?;
    let PolicyInput { text, justification } = new;
    let saved = fleet(&state)?.save_policy(&by.subject, &text, &justification, clock::now_ms());
    let saved = saved.await?;
    let path = format!("/api/v1/policies/{}", saved.id);
    Ok(answer::made(StatusCode::CREATED, &path, &view::policy(saved)))
}

/// One policy.
#[utoipa::path(get, path = "/api/v1/policies/{id}", tag = "policies",
    params(("id" = String, Path, description = "Id of the policy.")),
    responses((status = 200, body = PolicyView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let found = Sight::new(&state, account, clock::now_ms()).await?.find_policy(&id).await?;
    Ok(answer::one(&call, &view::policy(found)))
}

/// What a policy would change on a host, as its agent says. Nothing changes.
#[utoipa::path(get, path = "/api/v1/policies/{id}/preview", tag = "policies", params(Where,
    ("id" = String, Path, description = "Id of the policy.")),
    responses((status = 200, body = PolicyPreview)))]
pub(super) async fn preview(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Params(asked): Params<Where>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    Ok(answer::one(&call, &previewed(&state, account, &id, asked.host).await?))
}

/// What a policy would change on a host; the account sees both.
pub(crate) async fn previewed(
    state: &ApiState,
    account: &Account,
    id: &str,
    host: String,
) -> Result<PolicyPreview, Failure> {
    hosts::find(state, account, &host).await?;
    Sight::new(state, account, clock::now_ms()).await?.find_policy(id).await?;
    let answered = fleet(state)?.preview_policy(id, &host, clock::now_ms()).await?;
    let changes = answered.changes.as_ref().map(policy_changes::text).unwrap_or_default();
    let clean = |text: &str| jit_client::text::printable(text);
    Ok(PolicyPreview {
        host,
        reason: clean(&answered.reason),
        detail: clean(&answered.detail),
        changes: changes.lines().map(clean).collect(),
    })
}

/// What talks to hosts.
pub(crate) fn fleet(state: &ApiState) -> Result<&Fleet, Failure> {
    state.fleet().ok_or_else(|| {
        let why = "this part of the controller does not talk to hosts: give the role api to the process \
                   with the role hub, or, with [bus], with the role signer";
        Failure::new(Word::Unavailable, why)
    })
}
