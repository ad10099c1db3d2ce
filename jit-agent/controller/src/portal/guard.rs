//! Who may see a page, and which forms count.
//!
//! A form counts if the browser says that it comes from a page of this address (`Sec-Fetch-Site`,
//! `Origin`; both are written by the browser, not by a page), and if it carries the key of the
//! session.

use axum::{
    RequestExt as _,
    body::Bytes,
    extract::{FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{HOST, ORIGIN},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};

use super::way_back;
use crate::{
    api::{ApiState, CalledBy, Failure, Word, input},
    clock,
    people::session::{self, Secret, SignedIn},
};

/// The field of each form with the key of its session.
const KEY: &str = "form_key";

/// Where the stream of a page is.
pub(super) const LIVE: &str = "/live";
/// The header of a page that reads itself again.
const REFRESH: &str = "x-page-refresh";

/// The fields of a form that counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// The fields in the address of a page.
    pub(super) fn of_query(query: Option<&str>) -> Self {
        Self::of(query.unwrap_or_default().as_bytes())
    }

    /// A field's text without blanks around it; empty: it is missing.
    pub(super) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The texts of all fields of this name, without blanks around them and without empty ones.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.trim()).filter(|text| !text.is_empty())
    }

    /// A field's text as it was typed; empty: it is missing.
    pub(super) fn raw(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Fields {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        if let Some(fields) = parts.extensions.get::<Self>() {
            return Ok(fields.clone());
        }
        Ok(Self::of_query(parts.uri.query()))
    }
}

/// Who has signed in.
impl<S: Send + Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| Failure::hidden(Word::Internal, "a page without its guard"))
    }
}

/// The layer before all pages: what changes something comes from a page of this address.
pub(super) async fn same_site(request: Request, next: Next) -> Response {
    let method = request.method();
    if *method == Method::GET || *method == Method::HEAD {
        return next.run(request).await;
    }
    if let Err(failure) = from_here(&request) {
        return failure.into_response();
    }
    let (parts, bytes) = match read(request).await {
        Ok(read) => read,
        Err(failure) => return failure.into_response(),
    };
    let fields = Fields::of(&bytes);
    if fields.0.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return input::nul("form").into_response();
    }
    let mut request = Request::from_parts(parts, axum::body::Body::empty());
    request.extensions_mut().insert(fields);
    next.run(request).await
}

/// The layer before pages that need a session.
pub(super) async fn with_session(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    // What an open page does by itself is no use: who went away is signed out.
    let is_use = !request.headers().contains_key(REFRESH) && request.uri().path() != LIVE;
    let found = match Secret::of_headers(request.headers()) {
        Some(secret) => session::find(state.store(), &secret, is_use, clock::now_ms()).await,
        None => Ok(None),
    };
    let signed_in = match found {
        Ok(Some(signed_in)) => signed_in,
        Ok(None) => return to_sign_in(&request),
        Err(error) => return Failure::from(error).into_response(),
    };
    if let Some(fields) = request.extensions().get::<Fields>()
        && !signed_in.owns(fields.raw(KEY))
    {
        let detail = "the form is not one of this session: it was open when you signed in anew";
        let next = "open the page again, and fill the form in anew";
        return Failure::new(Word::Forbidden, detail).next(next).into_response();
    }
    if let Err(failure) = state.admit(&signed_in.account().name) {
        return failure.into_response();
    }
    let by = CalledBy(signed_in.account().name.clone());
    request.extensions_mut().insert(signed_in);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(by);
    response
}

/// Where to sign in, and to come back from.
fn to_sign_in(request: &Request) -> Response {
    let here = request.uri().path_and_query().map_or("/", |here| here.as_str());
    let next = if request.method() == Method::GET { here } else { "/" };
    let target = way_back::sign_in(next);
    if request.headers().contains_key("hx-request") {
        // A part of a page: the whole page goes there.
        let header = HeaderValue::from_str(&target);
        let header = header.unwrap_or(HeaderValue::from_static("/sign-in"));
        return (StatusCode::NO_CONTENT, [("hx-redirect", header)]).into_response();
    }
    Redirect::to(&target).into_response()
}

/// The bytes of a form.
async fn read(request: Request) -> Result<(Parts, Bytes), Failure> {
    let (parts, body) = request.into_parts();
    let limited = Request::from_parts(parts.clone(), body);
    let bytes = limited.extract::<Bytes, _>().await.map_err(|rejection| {
        let word = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Word::TooLarge,
            _ => Word::InvalidBody,
        };
        Failure::new(word, "the form cannot be read")
    })?;
    Ok((parts, bytes))
}

/// Whether the browser says that a page of this address sent it.
fn from_here(request: &Request) -> Result<(), Failure> {
    let headers = request.headers();
    let text = |name| {
        let value = headers.get(name)?;
        Some(value.to_str().unwrap_or("?"))
    };
    let (site, origin) = (text(HeaderName::from_static("sec-fetch-site")), text(ORIGIN));
    let here = authority(request.uri().authority().map(|one| one.as_str()), headers);
    let fits = match (site, origin) {
        (None, None) => false,
        (site, origin) => {
            site.is_none_or(|site| site == "same-origin")
                && origin.is_none_or(|origin| {
                    origin
                        .strip_prefix("https://")
                        .is_some_and(|from| !here.is_empty() && from == here)
                })
        }
    };
    if fits {
        return Ok(());
    }
    let detail = "the browser does not say that this form comes from a page of this address";
    let next = "open the controller's page in a tab of its own, and fill the form in there; a proxy \
                must leave the headers Host, Origin and Sec-Fetch-Site as they are";
    Err(Failure::new(Word::Forbidden, detail).next(next))
}

/// The address that the browser called: of HTTP/2 in the request's line, of HTTP/1 in a header.
fn authority<'a>(line: Option<&'a str>, headers: &'a HeaderMap) -> &'a str {
    line.or_else(|| headers.get(HOST)?.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method("POST").uri("/sign-out");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        from_here(&request.body(axum::body::Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn only_a_page_of_this_address_sends_forms() {
        let host = ("host", "jit.example.org:8443");
        let own = ("origin", "https://jit.example.org:8443");
        let same = ("sec-fetch-site", "same-origin");
        for good in [&[host, own][..], &[host, same], &[host, own, same]] {
            assert!(passes(good), "{good:?}");
        }
        for bad in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "https://evil.example.org")],
            &[host, ("origin", "https://jit.example.org")],
            &[host, ("origin", "http://jit.example.org:8443")],
            &[host, ("origin", "https://jit.example.org:8443.evil.example.org")],
            &[host, own, ("sec-fetch-site", "same-site")],
            &[host, own, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none")],
            &[("origin", "https://")],
        ] {
            assert!(!passes(bad), "{bad:?}");
        }
    }
}
