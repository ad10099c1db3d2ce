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
};
use crate::{
    api::{ApiState, Call, Failure},
    clock,
    people::{
        Refused,
        session::{self, SignedIn},
    },
};

/// Longest address that is gone back to.
const LONGEST: usize = 2000;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'f> {
    shell: Shell,
    /// Why it was refused; empty: it was not tried.
    refused: &'f str,
    name: &'f str,
    next: &'f str,
}

/// The address of the page to sign in, and to go on from there.
pub(super) fn address(next: &str) -> String {
    let next = way_back(next);
    if next == "/" {
        return "/sign-in".into();
    }
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    format!("/sign-in?{query}")
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

/// An address of a page of our own to go on to; `/` in place of any other one. Browsers read `//HOST` and
/// `/\HOST` as other hosts, and leave out control characters.
fn way_back(next: &str) -> &str {
    let own = next.len() <= LONGEST
        && next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !next.starts_with("/sign-");
    if own { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_our_own_is_gone_back_to() {
        for good in ["/", "/requests/01J9?x=1&y=%2F", "/open?host=web-1"] {
            assert_eq!(way_back(good), good);
        }
        for bad in [
            "",
            "//evil.example.org",
            "/\\evil.example.org",
            "/\t/evil.example.org",
            "/x\r\nSet-Cookie: a=b",
            "https://evil.example.org",
            "javascript:alert(1)",
            "/sign-out",
            "/sign-in?next=/",
            "/ü",
            &format!("/{}", "x".repeat(LONGEST)),
        ] {
            assert_eq!(way_back(bad), "/", "{bad}");
        }
        assert_eq!(address("/open?host=a b"), "/sign-in");
        assert_eq!(address("/open?host=a&x=1"), "/sign-in?next=%2Fopen%3Fhost%3Da%26x%3D1");
    }
}
