//! Who is signed in.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use jit_proto::WallTime;

use super::page::{Shell, page};
use crate::{api::Failure, model::Account, people::session::SignedIn};

#[derive(Template)]
#[template(path = "me.html")]
struct Me<'f> {
    shell: Shell,
    account: &'f Account,
    ends: String,
}

/// The page.
pub(super) async fn show(signed_in: SignedIn) -> Result<Response, Failure> {
    let ends = WallTime(signed_in.ends_ms()).to_string();
    let shell = Shell::of(&signed_in, "me");
    page(StatusCode::OK, &Me { shell, account: signed_in.account(), ends })
}
