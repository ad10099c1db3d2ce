//! Sign-in with a password, and sign-out.

use std::net::IpAddr;

use askama::Template;
use axum::{
    extract::State,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, SET_COOKIE},
    },
    response::{IntoResponse as _, Redirect, Response},
};
use zeroize::Zeroizing;

use super::{
    files,
    guard::Fields,
    page::{Shell, page},
    way_back::way_back,
};
use crate::{
    api::{ApiState, Call, Failure},
    clock,
    people::{
        Refused,
        session::{self, Secret, SignedIn},
    },
};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'f> {
    shell: Shell,
    /// Why it was refused; empty: it was not tried.
    refused: &'f str,
    name: &'f str,
    next: &'f str,
    /// The script for passkeys; `None`: there are none at this address.
    passkey_script: Option<&'static str>,
}

impl<'f> SignIn<'f> {
    fn new(state: &ApiState, next: &'f str) -> Self {
        let passkey_script = state.settings().relying_party().ok().map(|_| files::passkey());
        let shell = Shell::nobodys("sign-in");
        Self { shell, refused: "", name: "", next, passkey_script }
    }
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Response, Failure> {
    page(StatusCode::OK, &SignIn::new(&state, way_back(fields.text("next"))))
}

/// Signs in.
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    call: Call,
    fields: Fields,
) -> Result<Response, Failure> {
    let (name, next) = (fields.text("name"), way_back(fields.text("next")));
    let password = Zeroizing::new(fields.raw("password").to_owned());
    let from: IpAddr = call.origin.address;
    let now_ms = clock::now_ms();
    let signed_in = state.people().sign_in(state.desk(), name, password, from, now_ms).await;
    answer(&state, signed_in, name, next)
}

/// The page after an attempt to sign in.
pub(super) fn answer(
    state: &ApiState,
    signed_in: Result<Secret, Refused>,
    name: &str,
    next: &str,
) -> Result<Response, Failure> {
    let (status, refused, wait) = match signed_in {
        Ok(secret) => {
            let cookie = [(SET_COOKIE, secret.cookie())];
            return Ok((cookie, Redirect::to(next)).into_response());
        }
        Err(refused @ (Refused::Wrong | Refused::Passkey(_))) => {
            (StatusCode::UNAUTHORIZED, refused, None)
        }
        Err(Refused::TooMany(wait)) => {
            let seconds = wait.as_secs().saturating_add(1);
            (StatusCode::TOO_MANY_REQUESTS, Refused::TooMany(wait), Some(seconds))
        }
        Err(other) => return Err(other.into()),
    };
    let refused = refused.to_string();
    let form = SignIn { refused: &refused, name, ..SignIn::new(state, next) };
    let mut response = page(status, &form)?;
    if let Some(seconds) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}

/// Signs out.
pub(super) async fn sign_out(
    State(state): State<ApiState>,
    signed_in: SignedIn,
) -> Result<Response, Failure> {
    state.people().sign_out(state.desk(), &signed_in, clock::now_ms()).await?;
    Ok(([(SET_COOKIE, session::no_cookie())], Redirect::to("/sign-in")).into_response())
}
