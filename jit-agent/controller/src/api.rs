//! The HTTP API, `/api/v1`: JSON over HTTPS, bearer tokens with scopes, problem details (RFC 9457), pages
//! with cursors, tags, limits, server-sent events and webhooks. `docs/openapi.json` describes it.
//!
//! Nothing is decided here but what a token and an account may see: the desk decides about requests, and
//! writes each change with its audit record.

#![expect(unused_qualifications, reason = "in what utoipa's derives make of parameters")]

pub(crate) mod access;
mod accounts;
mod answer;
pub(crate) mod auth;
mod changes;
pub mod deliver;
mod enrol;
mod enrolling;
pub(crate) mod enrolment_tokens;
pub(crate) mod enrolments;
mod events;
mod frame;
mod grants;
mod health;
pub(crate) mod hosts;
pub(crate) mod input;
mod inventory;
mod keys;
mod limits;
mod listed;
mod mail;
mod me;
mod openapi;
pub(crate) mod passkeys;
mod passwords;
mod places;
pub(crate) mod policies;
pub mod problem;
mod records;
mod requests;
pub(crate) mod revocations;
pub(crate) mod rollouts;
pub(crate) mod rules;
pub mod server;
mod settings;
pub(crate) mod sight;
mod state;
mod streams;
pub mod target;
pub mod token;
mod tokens;
mod view;
mod warnings;
mod webhooks;

use std::time::Duration;

use axum::{
    Router, extract::DefaultBodyLimit, http::StatusCode, middleware::from_fn_with_state,
    routing::any,
};
pub use deliver::{Deliverer, WebhookKey};
pub use openapi::description;
pub use server::Server;
pub use settings::{Rate, RawSettings, Settings};
pub use state::ApiState;
use tower_http::{
    catch_panic::CatchPanicLayer,
    timeout::{RequestBodyTimeoutLayer, TimeoutLayer},
};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};
pub(crate) use {
    auth::{CalledBy, admin, auditor},
    frame::Written,
    input::{Call, duration_ms},
    listed::listed,
    problem::{Failure, Word},
    requests::{ask, full, previewed, visible},
    sight::Sight,
    streams::Place,
};

/// Largest body of most calls, bytes: a request for 10,000 hosts fits.
pub(crate) const MAX_BODY: usize = 2 * 1024 * 1024;
/// Longest time of a call; the longest wait for a request's end is shorter.
const MAX_CALL: Duration = Duration::from_secs(75);
/// Longest silence in a body.
const MAX_SILENCE: Duration = Duration::from_secs(15);

/// Everything that needs a token.
fn with_token() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(requests::list, requests::submit))
        .routes(routes!(requests::read))
        .routes(routes!(changes::decide))
        .routes(routes!(changes::withdraw))
        .routes(routes!(changes::revoke))
        .routes(routes!(changes::extend))
        .routes(routes!(changes::shorten))
        .routes(routes!(changes::sign))
        .routes(routes!(grants::read))
        .routes(routes!(hosts::list))
        .routes(routes!(inventory::import).layer(inventory::limit()))
        .routes(routes!(hosts::read, hosts::put, hosts::remove))
        .routes(routes!(hosts::clear_alarms))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::read, accounts::put))
        .routes(routes!(mail::read, mail::put))
        .routes(routes!(passwords::put))
        .routes(routes!(keys::list))
        .routes(routes!(keys::put, keys::revoke))
        .routes(routes!(passkeys::list))
        .routes(routes!(passkeys::remove))
        .routes(routes!(enrolments::list))
        .routes(routes!(enrolments::read))
        .routes(routes!(enrolments::decide))
        .routes(routes!(enrolment_tokens::list, enrolment_tokens::make))
        .routes(routes!(enrolment_tokens::revoke))
        .routes(routes!(tokens::list, tokens::make))
        .routes(routes!(tokens::revoke))
        .routes(routes!(rules::read, rules::put))
        .routes(routes!(rules::history))
        .routes(routes!(rules::diff, rules::diff_text))
        .routes(routes!(rules::test))
        .routes(routes!(policies::list, policies::make))
        .routes(routes!(policies::read))
        .routes(routes!(policies::preview))
        .routes(routes!(rollouts::list, rollouts::begin))
        .routes(routes!(rollouts::read))
        .routes(routes!(rollouts::hosts))
        .routes(routes!(rollouts::halt))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::abort))
        .routes(routes!(revocations::list, revocations::make))
        .routes(routes!(revocations::read))
        .routes(routes!(revocations::hosts))
        .routes(routes!(records::list))
        .routes(routes!(access::read))
        .routes(routes!(events::events))
        .routes(routes!(webhooks::list, webhooks::make))
        .routes(routes!(webhooks::read, webhooks::put, webhooks::remove))
        .routes(routes!(me::me))
        .routes(routes!(me::address))
}

/// What anybody may call.
fn without_token() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::read))
        .routes(routes!(enrol::enrol).layer(enrol::limit()))
        .routes(routes!(enrol::nonce))
}

/// The API.
pub fn router(state: ApiState) -> Router {
    let guarded = guarded(Router::from(with_token()), &state);
    // Pages have the other paths: what the API has not is refused in its own words.
    let nothing = Router::new().route("/api/{*rest}", any(async || StatusCode::NOT_FOUND));
    framed(Router::from(without_token()).merge(guarded).merge(nothing), &state, MAX_BODY)
}

/// Routes that need a token.
pub(crate) fn guarded(router: Router<ApiState>, state: &ApiState) -> Router<ApiState> {
    router.layer(from_fn_with_state(state.clone(), auth::authenticate))
}

/// What every call has around it, of programs and of browsers: time, limits of addresses, the log,
/// and problems in place of panics. `most_bytes`: of a body.
pub(crate) fn framed(router: Router<ApiState>, state: &ApiState, most_bytes: usize) -> Router {
    router
        .layer(DefaultBodyLimit::max(most_bytes))
        .layer(RequestBodyTimeoutLayer::new(MAX_SILENCE))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, MAX_CALL))
        .layer(CatchPanicLayer::custom(frame::panicked))
        .layer(from_fn_with_state(state.clone(), frame::frame))
        .with_state(state.clone())
}
