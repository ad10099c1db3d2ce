//! Who must agree to what is filled in: shown in the form, before anything is submitted.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jit_client::controller::types::Preview;

use super::{guard::Fields, page::page, wish::Wish};
use crate::{
    api::{self, ApiState, Call, Failure, problem::Parts},
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
            Ok(Who { preview: None, missing: missing(&wish, failure.parts()) })
        }
        Err(failure) => Err(failure),
    }
}

/// What is still missing or wrong, as one sentence or two.
fn missing(wish: &Wish, parts: &Parts) -> String {
    match parts.field.as_str() {
        "ports" if wish.ports.is_empty() => "Tick a port, or type one.".to_owned(),
        "sources" if wish.sources.is_empty() => {
            "Choose the address that you come from, or type one.".to_owned()
        }
        field => format!("Mend {field}: {}.", parts.detail.trim_end_matches('.')),
    }
}
