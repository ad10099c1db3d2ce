//! Pages for people, on the listener of the API. They work without a script; with one they are quicker.
//!
//! Nothing is decided here: what an account may see says `api::sight`, what it may do the desk. A page
//! changes something only by a form of the session that it was shown to.

mod act;
mod dress;
mod files;
mod form;
mod guard;
mod live;
mod me;
mod oidc;
mod open;
mod page;
mod passkeys;
mod requests;
mod search;
mod sign_in;
mod tail;
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

/// Largest form, bytes: a request for some hundred hosts fits.
const MAX_FORM: usize = 128 * 1024;

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
