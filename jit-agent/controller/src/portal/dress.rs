//! What each answer to a browser has: headers that keep other pages and foreign content out, and
//! refusals as a page.

use askama::Template;
use axum::{
    extract::Request,
    http::{
        HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::Response,
};

use super::page::Shell;
use crate::api::{Failure, problem::MEDIA_TYPE};

/// Only what the controller itself serves: no foreign content, no inline script or style, no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    // With `no-referrer` browsers would send `Origin: null` with our own forms.
    (REFERRER_POLICY, "same-origin"),
    (X_FRAME_OPTIONS, "DENY"),
];

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused<'f> {
    shell: Shell,
    title: &'f str,
    detail: &'f str,
    next: &'f str,
    request_id: &'f str,
}

/// The outermost layer.
pub(super) async fn dress(request: Request, next: Next) -> Response {
    let is_file = request.uri().path().starts_with("/static/");
    let mut response = in_words(next.run(request).await);
    let is_good = response.status().is_success();
    let headers = response.headers_mut();
    for (name, value) in &HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_file || !is_good {
        // What is on a page is for who is signed in now.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// A refusal that was written for programs, as a page.
fn in_words(mut response: Response) -> Response {
    let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    let failure = response.extensions().get::<Failure>().filter(|_| is_problem).cloned();
    let Some(failure) = failure else { return response };
    let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let parts = failure.parts();
    let page = Refused {
        shell: Shell::nobodys(""),
        title: parts.title,
        detail: &parts.detail,
        next: &parts.next,
        request_id: id.unwrap_or_default(),
    };
    let Ok(text) = page.render() else { return response };
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    *response.body_mut() = text.into();
    response
}
