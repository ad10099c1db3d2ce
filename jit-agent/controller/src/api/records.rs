//! The audit, and the question who could get in where.

use axum::{extract::State, response::Response};
use jit_client::controller::types::{self, AuditView};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Call, Params},
    problem::Failure,
    sight::Sight,
    state::ApiState,
    view,
};
use crate::clock;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// Only records after this number.
    after: Option<i64>,
    /// Only of this request: who sees the request sees them.
    request: Option<String>,
    /// Items of a page, 1 to 500; 50.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Records of the audit, the oldest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(List),
    responses((status = 200, body = types::Page<AuditView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    if let Some(id) = &list.request {
        let account = caller.with(Scope::Read)?;
        Sight::new(&state, account, clock::now_ms()).await?.find(id).await?;
        let lines = state.store().audit_of(id).await?;
        return Ok(answer::page(&call, lines.into_iter().map(view::audit).collect(), None));
    }
    caller.auditor()?;
    let most = answer::page_size(list.limit)?;
    let cursor = answer::cursor(list.cursor.as_deref())?;
    let after = match cursor.as_str() {
        "" => list.after.unwrap_or(0),
        cursor => cursor.parse().map_err(|_| {
            Failure::field("cursor", "it is not the `next` of a page; begin again without it")
        })?,
    };
    let lines = state.store().audit_after(after, most).await?;
    let is_full = lines.len() == usize::try_from(most).unwrap_or(usize::MAX);
    let next = lines.last().filter(|_| is_full).map(|line| line.seq.to_string());
    Ok(answer::page(&call, lines.into_iter().map(view::audit).collect(), next))
}
