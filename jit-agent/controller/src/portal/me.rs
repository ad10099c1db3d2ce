//! Who is signed in.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jit_proto::WallTime;

use super::{
    page::{Shell, page},
    passkeys::own::{self, Passkeys},
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
    passkeys: Passkeys,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    let ends = WallTime(signed_in.ends_ms()).to_string();
    let shell = Shell::of(&signed_in, "me");
    let passkeys = own::of(&state, signed_in.account()).await?;
    page(StatusCode::OK, &Me { shell, account: signed_in.account(), ends, passkeys })
}
