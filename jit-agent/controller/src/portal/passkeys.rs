//! Passkeys at the pages. The browser makes and uses them, so that these pages need a script: it
//! asks for what is needed (a list of steps), lets the passkey sign, and sends the form that is on
//! the page.

mod approve;
pub(super) mod own;
mod sign_in;
mod step;

use axum::{
    Router,
    routing::{get, post},
};

use crate::api::ApiState;

/// Pages of who has signed in.
pub(super) fn with_session() -> Router<ApiState> {
    Router::new()
        .route("/me/passkeys", post(own::add))
        .route("/me/passkeys/options", post(own::options))
        .route("/me/passkeys/confirm", post(own::confirm_options))
        .route("/me/passkeys/{key_id}", get(own::show))
        .route("/me/passkeys/{key_id}/name", post(own::rename))
        .route("/me/passkeys/{key_id}/remove", post(own::remove))
        .route("/requests/{id}/sign", get(approve::show).post(approve::sign))
        .route("/requests/{id}/sign/options", post(approve::options))
}

/// Pages of anybody.
pub(super) fn without_session() -> Router<ApiState> {
    Router::new()
        .route("/sign-in/passkey", post(sign_in::sign_in))
        .route("/sign-in/passkey/options", post(sign_in::options))
}
