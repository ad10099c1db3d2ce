//! Who is signed in.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    page::{Shell, page},
    passkeys::own::{self, Passkeys},
    words,
};
use crate::{
    api::{ApiState, Failure},
    model::Account,
    people::session::SignedIn,
};

#[derive(Template)]
#[template(path = "me.html")]
struct Me<'f> {
    shell: Shell,
    account: &'f Account,
    ends: String,
    has_password: bool,
    passkeys: Passkeys,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let has_password = state.store().password(&account.name).await?.is_some();
    let passkeys = own::of(&state, account).await?;
    let ends = words::moment(signed_in.ends_ms());
    let shell = Shell::of(&signed_in, "me");
    page(StatusCode::OK, &Me { shell, account, ends, has_password, passkeys })
}
