//! *Open a port*: which host, which ports, from where, why, how long. The form shows who must
//! agree; one click submits it. Before that a second page can show what would be signed.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use jit_client::controller::types::Preview;

use super::{
    files,
    form::{self, Wrong},
    guard::Fields,
    page::{Shell, page},
    search::{self, FoundHosts},
    wish::Wish,
};
use crate::{
    api::{self, ApiState, Call, Failure, Word},
    clock,
    people::session::SignedIn,
};

#[derive(Template)]
#[template(path = "open.html")]
struct Open {
    shell: Shell,
    found: FoundHosts,
    text: String,
    script: &'static str,
}

#[derive(Template)]
#[template(path = "preview.html")]
struct PreviewPage<'f> {
    shell: Shell,
    wish: &'f Wish,
    key: String,
    preview: Preview,
}

impl PreviewPage<'_> {
    fn moment(&self, ms: &i64) -> String {
        clock::moment(*ms)
    }
}

/// The first page: a search for hosts; with hosts the form for them.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let wish = Wish::of(&fields);
    if !wish.hosts.is_empty() {
        let asks_host = !fields.text("seen").is_empty();
        return form::form(&state, &signed_in, &call, wish, asks_host, Wrong::default()).await;
    }
    let text = fields.text("q").to_owned();
    let found = search::search(&state, signed_in.account(), &text).await?;
    let shell = Shell::of(&signed_in, "open");
    page(StatusCode::OK, &Open { shell, found, text, script: files::htmx() })
}

/// The second page: what would become of it.
pub(super) async fn preview(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let wish = Wish::of(&fields);
    wish.known_hosts(&state, &signed_in).await?;
    let previewed = match wish.ask(&call) {
        Ok(ask) => api::previewed(&state, signed_in.account(), ask, clock::now_ms()).await,
        Err(failure) => Err(failure),
    };
    match previewed {
        Ok(preview) => {
            let (shell, key) = (Shell::of(&signed_in, "open"), ulid::Ulid::generate().to_string());
            page(StatusCode::OK, &PreviewPage { shell, wish: &wish, key, preview })
        }
        Err(failure) => again(&state, &signed_in, &call, wish, failure).await,
    }
}

/// The form again, as it was filled in.
pub(super) async fn change(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    form::form(&state, &signed_in, &call, Wish::of(&fields), false, Wrong::default()).await
}

/// Submits it. The same form twice is one request.
pub(super) async fn submit(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let wish = Wish::of(&fields);
    let key = fields.text("key");
    if key.parse::<ulid::Ulid>().is_err() {
        return Err(Failure::new(Word::Invalid, "the form has no key of its own")
            .next("open the page again, and fill the form in anew"));
    }
    wish.known_hosts(&state, &signed_in).await?;
    let submitted = match wish.ask(&call) {
        Ok(ask) => {
            let done = state.desk().submit(signed_in.account(), ask, key, clock::now_ms()).await;
            done.map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    match submitted {
        Ok(request) => {
            Ok(Redirect::to(&format!("/requests/{}", request.proposal.id)).into_response())
        }
        Err(failure) => again(&state, &signed_in, &call, wish, failure).await,
    }
}

/// The form again, with what is wrong in it.
async fn again(
    state: &ApiState,
    signed_in: &SignedIn,
    call: &Call,
    wish: Wish,
    failure: Failure,
) -> Result<Response, Failure> {
    let parts = failure.parts();
    if parts.field.is_empty() || parts.field == "hosts" || wish.hosts.is_empty() {
        return Err(failure);
    }
    let wrong = Wrong { field: parts.field.clone(), why: parts.detail.clone() };
    form::form(state, signed_in, call, wish, false, wrong).await
}
