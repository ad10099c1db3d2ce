//! The page to sign in, sign-in with a password, and sign-out.

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
        oidc::WayOut,
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
    provider: Option<Provider<'f>>,
}

/// Where else somebody can sign in.
struct Provider<'f> {
    name: &'f str,
    /// Of a page of ours that leads there.
    address: String,
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut {
    shell: Shell,
    out: WayOut,
}

/// The page.
pub(super) async fn show(
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Response, Failure> {
    shown(&state, StatusCode::OK, "", "", fields.text("next"))
}

/// The page, with why it was refused before; empty: it was not tried.
pub(super) fn shown(
    state: &ApiState,
    status: StatusCode,
    refused: &str,
    name: &str,
    next: &str,
) -> Result<Response, Failure> {
    let next = way_back(next);
    let provider = state.people().oidc().map(|oidc| {
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
        Provider { name: oidc.name(), address: format!("/sign-in/oidc?{query}") }
    });
    let passkey_script = state.settings().relying_party().ok().map(|_| files::passkey());
    let shell = Shell::nobodys("sign-in");
    page(status, &SignIn { shell, refused, name, next, passkey_script, provider })
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
    let mut response = shown(state, status, &refused.to_string(), name, next)?;
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
    let out = state.people().sign_out(state.desk(), &signed_in, clock::now_ms()).await?;
    let cookie = [(SET_COOKIE, session::no_cookie())];
    let Some(out) = out else { return Ok((cookie, Redirect::to("/sign-in")).into_response()) };
    // A link, as browsers do not follow a form to another site (`form-action` of the policy).
    let shell = Shell::nobodys("sign-in");
    Ok((cookie, page(StatusCode::OK, &SignedOut { shell, out })?).into_response())
}
