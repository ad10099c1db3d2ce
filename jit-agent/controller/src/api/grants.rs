//! Grants: what is signed, so that a person can look at it and sign too.

use axum::{
    extract::{Path, State},
    response::Response,
};
use jit_client::controller::types::GrantView;

use super::{
    answer,
    auth::{Caller, Scope},
    input::Call,
    problem::Failure,
    sight::Sight,
    state::ApiState,
    view,
};
use crate::clock;

/// One grant, with its payload and signatures.
#[utoipa::path(get, path = "/api/v1/grants/{id}", tag = "requests",
    params(("id" = String, Path, description = "Id of the grant.")),
    responses((status = 200, body = GrantView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let missing = || Failure::not_found("grant", &id);
    let grant = state.store().grant(&id).await?.ok_or_else(missing)?;
    let mut sight = Sight::new(&state, account, clock::now_ms()).await?;
    sight.find(&grant.request).await.map_err(|_| missing())?;
    Ok(answer::one(&call, &view::with_payload(&grant)))
}
