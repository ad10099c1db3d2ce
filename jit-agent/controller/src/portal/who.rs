//! Who must agree to what is filled in: shown in the form, before anything is submitted.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jit_client::controller::types::Preview;

use super::{guard::Fields, page::page, wish::Wish};
use crate::{
    api::{self, ApiState, Call, Failure},
    clock,
    people::session::SignedIn,
};

/// Stands for the reason until there is one: no rule asks for its words.
const NO_REASON: &str = "-";

/// Who must agree, and what will probably go wrong.
#[derive(Template)]
#[template(path = "who.html")]
pub(super) struct Who {
    /// `None`: something is missing.
    preview: Option<Preview>,
    missing: String,
}

/// The part of the form.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let wish = Wish::of(&fields);
    wish.known_hosts(&state, &signed_in).await?;
    page(StatusCode::OK, &of(&state, &signed_in, &call, &wish).await?)
}

/// Who must agree to this wish of somebody who sees its hosts.
///
/// # Errors
/// The database does not answer.
pub(super) async fn of(
    state: &ApiState,
    signed_in: &SignedIn,
    call: &Call,
    wish: &Wish,
) -> Result<Who, Failure> {
    let mut wish = wish.clone();
    if wish.reason.is_empty() {
        NO_REASON.clone_into(&mut wish.reason);
    }
    let previewed = match wish.ask(call) {
        Ok(ask) => api::previewed(state, signed_in.account(), ask, clock::now_ms()).await,
        Err(failure) => Err(failure),
    };
    match previewed {
        Ok(preview) => Ok(Who { preview: Some(preview), missing: String::new() }),
        Err(failure) if !failure.parts().field.is_empty() => {
            let parts = failure.parts();
            Ok(Who { preview: None, missing: format!("{}: {}", parts.field, parts.detail) })
        }
        Err(failure) => Err(failure),
    }
}
