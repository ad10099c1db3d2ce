//! Whether the controller lives, and whether it can work. Without a token: nothing is said but that.

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::{
    problem::{Failure, Word},
    state::ApiState,
};

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> Response {
    text("ok\n")
}

/// The database answers, and there are rules.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "text/plain"),
    (status = 503, description = "What does not work yet.")))]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<Response, Failure> {
    state
        .desk()
        .rules()
        .await
        .map_err(|error| Failure::hidden(Word::Unavailable, error).retry_after(1))?;
    Ok(text("ready\n"))
}

fn text(text: &'static str) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
