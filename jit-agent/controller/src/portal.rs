//! Pages for people, on the listener of the API. They work without a script; with one they are
//! quicker.
//!
//! Nothing is decided here: what an account may see says `api::sight`, what it may do the desk. A
//! page changes something only by a form of the session that it was shown to.

mod access;
mod act;
mod audit;
mod closings;
mod diff;
mod dress;
mod enrolments;
mod files;
mod form;
mod guard;
mod health;
mod host;
mod host_words;
mod hosts;
mod live;
mod me;
mod oidc;
mod open;
mod page;
mod passkeys;
mod password;
mod policies;
mod policy_mistakes;
mod requests;
mod rollout_words;
mod rollouts;
mod rules;
mod rules_try;
mod search;
mod sign_in;
mod tail;
mod text;
mod way_back;
mod who;
mod wish;
mod words;

use axum::{
    Extension, Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};

use crate::api::{self, ApiState, Failure};

/// Largest form, bytes: the longest rules fit, where each letter of them takes three.
const MAX_FORM: usize = 1024 * 1024;

/// The pages.
pub fn router(state: ApiState) -> Router {
    let with_session = Router::new()
        .route("/", get(open::show))
        .route("/open", get(open::show))
        .route("/open/preview", post(open::preview))
        .route("/open/who", post(who::show))
        .route("/open/change", post(open::change))
        .route("/hosts/found", get(search::show))
        .route("/requests", get(requests::list).post(open::submit))
        .route("/requests/{id}", get(requests::show))
        .route("/requests/{id}/decision", post(act::decide))
        .route("/requests/{id}/withdraw", post(act::withdraw))
        .route("/requests/{id}/extend", post(act::extend))
        .route("/requests/{id}/end", post(act::end))
        .route(guard::LIVE, get(live::live))
        .route("/me", get(me::show))
        .route("/me/password", get(password::show).post(password::set))
        .route("/hosts", get(hosts::show))
        .route("/host/{id}", get(host::show))
        .route("/host/{id}/alarms", post(host::clear))
        .route("/audit", get(audit::show))
        .route("/audit/{seq}", get(audit::one))
        .route("/audit/export", get(audit::export))
        .route("/closings", get(closings::list).post(closings::make))
        .route("/closings/new", get(closings::new))
        .route("/closings/confirm", post(closings::confirm))
        .route("/closings/{id}", get(closings::show))
        .route("/enrolments", get(enrolments::list))
        .route("/enrolments/tokens", post(enrolments::make))
        .route("/enrolments/tokens/{id}/withdraw", post(enrolments::withdraw))
        .route("/enrolments/{id}/decision", post(enrolments::decide))
        .route("/policies", get(policies::show).post(policies::save))
        .route("/policies/new", get(policies::edit))
        .route("/policies/check", post(policies::check))
        .route("/policies/{id}", get(policies::one))
        .route("/policies/{id}/rollout", get(rollouts::plan).post(rollouts::begin))
        .route("/rollouts/{id}", get(rollouts::show))
        .route("/rollouts/{id}/{what}", post(rollouts::act))
        .route("/rules", get(rules::show).post(rules::save))
        .route("/rules/check", post(rules::check))
        .route("/rules/try", post(rules::try_case))
        .route("/rules/history", get(rules::history))
        .route("/rules/{version}", get(rules::one))
        .route("/access", get(access::show))
        .route("/health", get(health::show))
        .route("/sign-out", post(sign_in::sign_out))
        .merge(passkeys::with_session())
        .layer(from_fn_with_state(state.clone(), guard::with_session));
    let without = Router::new()
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-in/oidc", get(oidc::begin))
        .route("/sign-in/oidc/back", get(oidc::back))
        .route("/static/{name}", get(files::read))
        .merge(passkeys::without_session())
        .fallback(async |request: Request| Failure::not_found("page", request.uri().path()));
    let pages = without
        .merge(with_session)
        .layer(Extension(tail::Tail::default()))
        .layer(from_fn(guard::same_site))
        .route("/sign-out/oidc", post(oidc::end));
    api::framed(pages, &state, MAX_FORM).layer(from_fn(dress::dress))
}
