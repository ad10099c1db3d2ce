//! Who is calling, and from where.

use axum::{extract::State, response::Response};
use jit_client::controller::types::{AddressCandidate, AddressView, MeView};
use jit_proto::PortRange;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    auth::{Caller, Scope},
    hosts,
    input::{Call, Params},
    problem::Failure,
    state::ApiState,
    view,
};

/// How far back a host is asked for what it dropped, milliseconds.
const WITHIN_MS: i64 = 10 * 60 * 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Where {
    /// The host that was tried without success: it is asked which addresses it dropped.
    host: Option<String>,
    /// The port that was tried: `22`. It goes with `host`.
    port: Option<String>,
}

/// Who is calling. It needs no scope: who has a token may know what it is.
#[utoipa::path(get, path = "/api/v1/me", tag = "me", responses((status = 200, body = MeView)))]
pub(super) async fn me(caller: Caller, call: Call) -> Result<Response, Failure> {
    let token = caller.token();
    let me = MeView {
        account: caller.name().to_owned(),
        subject: caller.subject().to_owned(),
        groups: caller.groups().clone(),
        admin: caller.is_admin(),
        token: token.id.clone(),
        scopes: token.scopes.clone(),
        token_ends: view::time(token.ends_ms),
        token_ends_ms: token.ends_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(answer::one(&call, &me))
}

/// From where the caller would be let in: the address as the controller sees it, and addresses that a host
/// has dropped lately, as the host saw them.
#[utoipa::path(get, path = "/api/v1/me/address", tag = "me", params(Where),
    responses((status = 200, body = AddressView)))]
pub(super) async fn address(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Params(asked): Params<Where>,
) -> Result<Response, Failure> {
    let account = caller.with(Scope::Request).or_else(|_| caller.with(Scope::Read))?;
    let origin = call.origin;
    let mut seen = AddressView {
        address: origin.address.to_string(),
        forwarded: origin.forwarded,
        candidates: Vec::new(),
        trouble: String::new(),
    };
    let Some(host) = &asked.host else { return Ok(answer::one(&call, &seen)) };
    let port = asked.port.as_deref().unwrap_or("22");
    let port: PortRange =
        port.parse().map_err(|why| Failure::field("port", format!("{port:?}: {why}")))?;
    // What a host drops is shown to those who may ask for access there, and to those who may read it.
    hosts::find_to_ask(&state, account, host).await?;
    let Some(fleet) = state.fleet() else {
        seen.trouble = "this part of the controller does not talk to hosts".into();
        return Ok(answer::one(&call, &seen));
    };
    match fleet.recent_denials(host, port, WITHIN_MS).await {
        Ok(found) => {
            let candidate = |(address, seen_ms): (std::net::IpAddr, i64)| AddressCandidate {
                address: address.to_string(),
                seen: view::time(seen_ms),
                seen_ms,
                same: address.to_canonical() == origin.address,
            };
            seen.candidates = found.into_iter().map(candidate).collect();
        }
        Err(error) => seen.trouble = format!("{host} was asked in vain: {error}"),
    }
    Ok(answer::one(&call, &seen))
}
