//! Pages for people, on the listener of the API. They work without a script; with one they are quicker.
//!
//! Nothing is decided here: what an account may see says `api::sight`, what it may do the desk. A page
//! changes something only by a form of the session that it was shown to.

mod dress;
mod files;
mod guard;
mod me;
mod page;
mod sign_in;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{from_fn, from_fn_with_state},
    response::Redirect,
    routing::{get, post},
};

use crate::api::{self, ApiState, Failure};

/// Largest form, bytes: a request for some hundred hosts fits.
const MAX_FORM: usize = 128 * 1024;

/// The pages.
pub fn router(state: ApiState) -> Router {
    let with_session = Router::new()
        .route("/", get(async || Redirect::to("/me")))
        .route("/me", get(me::show))
        .route("/sign-out", post(sign_in::sign_out))
        .layer(from_fn_with_state(state.clone(), guard::with_session));
    let without = Router::new()
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/static/{name}", get(files::read))
        .fallback(async |request: Request| Failure::not_found("page", request.uri().path()));
    let pages = without
        .merge(with_session)
        .layer(from_fn(guard::same_site))
        .layer(DefaultBodyLimit::max(MAX_FORM));
    api::framed(pages, state).layer(from_fn(dress::dress))
}
