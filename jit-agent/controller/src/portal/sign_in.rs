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
    guard::Fields,
    page::{Shell, page},
    way_back::way_back,
};
use crate::{
    api::{ApiState, Call, Failure},
    clock,
    people::{
        Refused,
        session::{self, SignedIn},
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
}

/// The page.
pub(super) async fn show(fields: Fields) -> Result<Response, Failure> {
    let next = way_back(fields.text("next"));
    page(StatusCode::OK, &SignIn { shell: Shell::nobodys("sign-in"), refused: "", name: "", next })
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
    let (status, refused, wait) = match signed_in {
        Ok(secret) => {
            let cookie = [(SET_COOKIE, secret.cookie())];
            return Ok((cookie, Redirect::to(next)).into_response());
        }
        Err(Refused::Wrong) => (StatusCode::UNAUTHORIZED, Refused::Wrong, None),
        Err(Refused::TooMany(wait)) => {
            let seconds = wait.as_secs().saturating_add(1);
            (StatusCode::TOO_MANY_REQUESTS, Refused::TooMany(wait), Some(seconds))
        }
        Err(other) => return Err(other.into()),
    };
    let refused = refused.to_string();
    let shell = Shell::nobodys("sign-in");
    let mut response = page(status, &SignIn { shell, refused: &refused, name, next })?;
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
