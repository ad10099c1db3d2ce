//! Rollouts: how policies come to hosts.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use jit_client::controller::types::{
    self, RolloutCount, RolloutHostView, RolloutInput, RolloutPlan, RolloutView, WavePlan,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    input::{Body, Call, Params, duration_ms},
    listed::listed,
    policies::{List, fleet},
    problem::Failure,
    sight::Sight,
    state::ApiState,
    view,
};
use crate::{clock, fleet::rollouts::Course, model::rollout::Wave, store::Rollout};

/// How long a host waits for the confirmation without a word about it, milliseconds.
const CONFIRM_MS: i64 = 120_000;
/// The pause between waves without a word about it, milliseconds.
const PAUSE_MS: i64 = 300_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only say which hosts each wave would have.
    preview: Option<bool>,
}

/// Rollouts that the caller sees, the newest first.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "policies", params(List),
    responses((status = 200, body = types::Page<RolloutView>), (status = 304)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let before = answer::cursor(list.cursor.as_deref())?;
    let (found, next) = listed::<Rollout>(&state, account, before, most).await?;
    Ok(answer::page(&call, found.into_iter().map(view::rollout).collect(), next))
}

/// Begins a rollout, or says which hosts each wave would have.
#[utoipa::path(post, path = "/api/v1/rollouts", tag = "policies", params(How),
    request_body = RolloutInput,
    responses((status = 201, body = RolloutView), (status = 200, body = RolloutPlan)))]
pub(super) async fn begin(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(how): Params<How>,
    Body(new): Body<RolloutInput>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Policy)?;
    let fleet = fleet(&state)?;
    let waves = waves(&new.waves)?;
    if how.preview == Some(true) {
        let hosts = fleet.plan_rollout(&waves).await?;
        let named = new.waves.into_iter().zip(hosts);
        let waves = named.map(|(name, hosts)| WavePlan { name, hosts }).collect();
        return Ok(answer::one(&call, &RolloutPlan { waves }));
    }
    let confirm_ms = duration_ms("confirm", new.confirm.as_deref(), new.confirm_ms)?;
    let pause_ms = duration_ms("pause", new.pause.as_deref(), new.pause_ms)?;
    let course = course(new.policy, waves, confirm_ms, pause_ms)?;
    let begun = fleet.begin_rollout(&by.subject, course, clock::now_ms()).await?;
    let path = format!("/api/v1/rollouts/{}", begun.id);
    Ok(answer::made(StatusCode::CREATED, &path, &counted(&state, begun).await?))
}

/// Waves as somebody wrote them.
pub(crate) fn waves(texts: &[String]) -> Result<Vec<Wave>, Failure> {
    let wave = |text: &String| text.parse::<Wave>().map_err(|why| Failure::field("waves", why));
    texts.iter().map(wave).collect()
}

/// How a policy comes to hosts; without times the usual ones.
pub(crate) fn course(
    policy: String,
    waves: Vec<Wave>,
    confirm_ms: Option<i64>,
    pause_ms: Option<i64>,
) -> Result<Course, Failure> {
    Ok(Course {
        policy,
        waves,
        confirm_within: duration("confirm", confirm_ms.unwrap_or(CONFIRM_MS))?,
        pause: duration("pause", pause_ms.unwrap_or(PAUSE_MS))?,
    })
}

fn duration(field: &str, millis: i64) -> Result<Duration, Failure> {
    let millis = u64::try_from(millis).map_err(|_| Failure::field(field, "it is negative"))?;
    Ok(Duration::from_millis(millis))
}

/// One rollout, with how many hosts are how far.
#[utoipa::path(get, path = "/api/v1/rollouts/{id}", tag = "policies",
    params(("id" = String, Path, description = "Id of the rollout.")),
    responses((status = 200, body = RolloutView), (status = 304)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Read)?;
    let found = Sight::new(&state, account, clock::now_ms()).await?.find_rollout(&id).await?;
    Ok(answer::one(&call, &counted(&state, found).await?))
}

/// Hosts of a rollout, by id.
#[utoipa::path(get, path = "/api/v1/rollouts/{id}/hosts", tag = "policies", params(List,
    ("id" = String, Path, description = "Id of the rollout.")),
    responses((status = 200, body = types::Page<RolloutHostView>), (status = 304)))]
pub(super) async fn hosts(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
    Params(list): Params<List>,
) -> Result<Response, Failure> {
    caller.admin_with(Scope::Read)?;
    let most = answer::page_size(list.limit)?;
    let after = answer::cursor(list.cursor.as_deref())?;
    find(&state, &id).await?;
    let mut found = state.store().rollout_hosts(&id, &after, most.saturating_add(1)).await?;
    let next = answer::cut(&mut found, most, |host| host.host.clone());
    Ok(answer::page(&call, found.into_iter().map(view::rollout_host).collect(), next))
}

/// Stops a rollout for now. Hosts that have the policy already still get their confirmation.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/halt", tag = "policies",
    params(("id" = String, Path, description = "Id of the rollout.")),
    responses((status = 200, body = RolloutView)))]
pub(super) async fn halt(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Policy)?;
    let changed = fleet(&state)?.halt_rollout(&by.subject, &id, clock::now_ms()).await?;
    Ok(answer::one(&call, &counted(&state, changed).await?))
}

/// Goes on with a rollout that has halted: hosts that refused, degraded or stayed silent are tried again.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/resume", tag = "policies",
    params(("id" = String, Path, description = "Id of the rollout.")),
    responses((status = 200, body = RolloutView)))]
pub(super) async fn resume(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Policy)?;
    let changed = fleet(&state)?.resume_rollout(&by.subject, &id, clock::now_ms()).await?;
    Ok(answer::one(&call, &counted(&state, changed).await?))
}

/// Ends a rollout. Hosts that have the policy keep it; others keep what they have.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/abort", tag = "policies",
    params(("id" = String, Path, description = "Id of the rollout.")),
    responses((status = 200, body = RolloutView)))]
pub(super) async fn abort(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let by = caller.admin_with(Scope::Policy)?;
    let changed = fleet(&state)?.abort_rollout(&by.subject, &id, clock::now_ms()).await?;
    Ok(answer::one(&call, &counted(&state, changed).await?))
}

async fn find(state: &ApiState, id: &str) -> Result<Rollout, Failure> {
    let found = state.store().rollout(id).await?;
    found.ok_or_else(|| Failure::not_found("rollout", id))
}

async fn counted(state: &ApiState, rollout: Rollout) -> Result<RolloutView, Failure> {
    let counts = state.store().rollout_counts(&rollout.id).await?;
    let count =
        |(wave, host_state, hosts): (i64, crate::model::rollout::HostState, i64)| RolloutCount {
            wave: u64::try_from(wave).unwrap_or(0),
            state: host_state.word().to_owned(),
            hosts: u64::try_from(hosts).unwrap_or(0),
        };
    let counts = counts.into_iter().map(count).collect();
    Ok(RolloutView { counts, ..view::rollout(rollout) })
}
