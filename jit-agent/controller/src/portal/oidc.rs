//! Sign-in at the provider: the way there, the way back, and the provider's own calls to end
//! sessions.

use axum::{
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{RETRY_AFTER, SET_COOKIE},
    },
    response::{IntoResponse as _, Json, Redirect, Response},
};
use serde_json::json;

use super::{guard::Fields, sign_in::shown, way_back::way_back};
use crate::{
    api::{ApiState, Call, Failure, Written},
    clock,
    people::oidc::{Answer, Begun, Oidc, Refusal, no_cookie},
};

/// Sends the browser to the provider.
pub(super) async fn begin(
    State(state): State<ApiState>,
    fields: Fields,
) -> Result<Response, Failure> {
    let next = way_back(fields.text("next"));
    match configured(&state, "/sign-in/oidc")?.begin(next, clock::now_ms()).await {
        Ok((url, cookie)) => Ok(([(SET_COOKIE, cookie)], Redirect::to(&url)).into_response()),
        Err(refusal) => refused(&state, refusal, next),
    }
}

/// The browser comes back from the provider.
pub(super) async fn back(
    State(state): State<ApiState>,
    call: Call,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Failure> {
    let oidc = configured(&state, "/sign-in/oidc/back")?;
    let now_ms = clock::now_ms();
    let text = |name| fields.raw(name).to_owned();
    let answer = Answer {
        code: text("code"),
        state: text("state"),
        issuer: text("iss"),
        error: text("error"),
        description: text("error_description"),
    };
    let begun = Begun::of_headers(&headers, now_ms);
    let next = way_back(begun.as_ref().map_or("/", Begun::next));
    let came = (begun.as_ref(), &answer);
    let (people, from) = (state.people(), call.origin.address);
    let signed_in = people.sign_in_at_provider(state.desk(), oidc, came, from, now_ms).await;
    let mut response = match signed_in {
        Ok(secret) => ([(SET_COOKIE, secret.cookie())], Redirect::to(next)).into_response(),
        Err(refusal) => refused(&state, refusal, next)?,
    };
    response.headers_mut().append(SET_COOKIE, no_cookie());
    Ok(response)
}

/// The provider ends sessions (OpenID Connect Back-Channel Logout 1.0, section 2.7). It is no
/// browser: what it has signed says who it is.
pub(super) async fn end(
    State(state): State<ApiState>,
    call: Call,
    body: Bytes,
) -> Result<Response, Failure> {
    let oidc = configured(&state, "/sign-out/oidc")?;
    let token = form_urlencoded::parse(&body).find(|(name, _)| name == "logout_token");
    let token = token.map_or(String::new(), |(_, token)| token.into_owned());
    let (people, from) = (state.people(), call.origin.address);
    let refusal =
        match people.end_by_provider(state.desk(), oidc, &token, from, clock::now_ms()).await {
            Ok(()) => return Ok(StatusCode::OK.into_response()),
            Err(Refusal::Store(why)) => return Err(why.into()),
            Err(refusal) => refusal,
        };
    let status = match refusal {
        Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Down { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let words = json!({ "error": "invalid_request", "error_description": refusal.to_string() });
    let mut response = (status, Json(words)).into_response();
    response.extensions_mut().insert(Written);
    Ok(response)
}

fn configured<'s>(state: &'s ApiState, path: &str) -> Result<&'s Oidc, Failure> {
    state.people().oidc().ok_or_else(|| Failure::not_found("page", path))
}

/// The page to sign in, with why it was refused, and the other ways in.
fn refused(state: &ApiState, refusal: Refusal, next: &str) -> Result<Response, Failure> {
    let mut wait = None;
    let words = refusal.to_string();
    let status = match refusal {
        Refusal::Store(why) => return Err(why.into()),
        Refusal::Down { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Strayed(_) => StatusCode::BAD_REQUEST,
        Refusal::TooMany(time) => {
            wait = Some(time.as_secs().saturating_add(1));
            StatusCode::TOO_MANY_REQUESTS
        }
        Refusal::Declined(_)
        | Refusal::Disabled { .. }
        | Refusal::NoAccount { .. }
        | Refusal::OtherPerson { .. }
        | Refusal::Token { .. } => StatusCode::FORBIDDEN,
    };
    let mut response = shown(state, status, &words, "", next)?;
    if let Some(seconds) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}
