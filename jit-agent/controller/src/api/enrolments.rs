//! Machines that have asked for certificates, and what administrators decide of those that wait.

use axum::{
    extract::{Path, State},
    response::Response,
};
use jit_client::controller::types::{self, EnrolmentDecisionInput, EnrolmentView};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params},
    problem::{Failure, Word},
    state::ApiState,
    view,
};
use crate::{
    clock,
    enrol::admit,
    store::{EnrolmentState, StoreError, again},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// `waiting`, `issued` or `refused`; without it all.
    state: Option<String>,
    /// The most items, 1 to 500; without it 50.
    limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
}

/// Machines that have asked for certificates, the newest first. Only administrators see them.
#[utoipa::path(get, path = "/api/v1/enrolments", tag = "enrolments", params(List),
    responses((status = 200, body = types::Page<EnrolmentView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Read)?;
    let of_word = |word: &str| {
        let why = "one of waiting, issued, refused";
        EnrolmentState::of_word(word).ok_or_else(|| Failure::field("state", why))
    };
    let only = list.state.as_deref().map(of_word).transpose()?;
    let most = answer::page_size(list.limit)?;
    let before = answer::cursor(list.cursor.as_deref())?;
    let mut found = state.store().enrolments(only, &before, most.saturating_add(1)).await?;
    let next = answer::cut(&mut found, most, |one| one.id.clone());
    Ok(answer::page(&call, found.into_iter().map(view::enrolment).collect(), next))
}

/// One of them.
#[utoipa::path(get, path = "/api/v1/enrolments/{id}", tag = "enrolments",
    params(("id" = String, Path, description = "Id of the enrolment.")),
    responses((status = 200, body = EnrolmentView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Read)?;
    let found = state.store().enrolment(&id).await?;
    let found = found.ok_or_else(|| Failure::not_found("enrolment", &id))?;
    Ok(answer::one(&call, &view::enrolment(found)))
}

/// Decides on a machine that waits. Whom an administrator accepts takes the place of the machine
/// before: its certificates are not renewed any more.
#[utoipa::path(post, path = "/api/v1/enrolments/{id}/decision", tag = "enrolments",
    params(("id" = String, Path, description = "Id of the enrolment.")),
    request_body = EnrolmentDecisionInput, responses((status = 200, body = EnrolmentView)))]
pub(super) async fn decide(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Body(decision): Body<EnrolmentDecisionInput>,
) -> Result<Response, Failure> {
    let accepts = accepts(&decision.ruling)?;
    let by = caller.admin_with(Scope::Hosts)?.subject.clone();
    settle(&state, &id, accepts, &by).await?;
    let found = state.store().enrolment(&id).await?;
    let found = found.ok_or_else(|| Failure::not_found("enrolment", &id))?;
    Ok(answer::one(&call, &view::enrolment(found)))
}

/// Whether a ruling accepts.
///
/// # Errors
/// It is another word.
pub(crate) fn accepts(ruling: &str) -> Result<bool, Failure> {
    match ruling {
        "accept" => Ok(true),
        "refuse" => Ok(false),
        other => Err(Failure::field("ruling", format!("{other:?} is not accept or refuse"))),
    }
}

/// Accepts or refuses one that waits.
///
/// # Errors
/// There is no such one, or it does not wait.
pub(crate) async fn settle(
    state: &ApiState,
    id: &str,
    accepts: bool,
    by: &str,
) -> Result<(), Failure> {
    let known = state.store().enrolment(id).await?;
    let known = known.ok_or_else(|| Failure::not_found("enrolment", id))?;
    let now_ms = clock::now_ms();
    let done = again(|| async {
        let mut tx = state.store().begin().await?;
        let done = match accepts {
            true => admit::approve(&mut tx, id, by, now_ms).await?.is_some(),
            false => admit::refuse(&mut tx, id, by, now_ms).await?,
        };
        if done {
            state.commit(tx).await?;
        }
        Ok::<_, StoreError>(done)
    });
    if done.await? {
        return Ok(());
    }
    let detail = format!("{} does not wait for a decision: it is {}", id, known.state.word());
    Err(Failure::new(Word::Conflict, detail))
}
