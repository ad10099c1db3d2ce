//! What every call has in common: its id, the address that it comes from, the log, and the writing of
//! problems.

use std::{
    any::Any,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING,
            WWW_AUTHENTICATE,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::Problem;
use jit_proto::SourcePrefix;

use super::{
    auth::CalledBy,
    input::{self, Origin},
    problem::{Failure, MEDIA_TYPE, Word},
    state::ApiState,
};

/// The header with the id of a call.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most letters of an id that a client chooses.
const MAX_ID: usize = 64;

/// In an answer's extensions: its body is written already, whatever its status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written;

/// The outermost layer.
pub(super) async fn frame(
    State(state): State<ApiState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = id_of(request.headers());
    let origin = origin(peer.ip(), request.headers(), &state.settings().trusted_proxies);
    // Never the parameters: a client may have put anything there.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(origin);
    let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let response = match state.limits().address(origin.address) {
        Ok(()) if is_chunked => chunked(),
        // A percent sign itself is `%25`: these three letters are always a NUL.
        Ok(()) if request.uri().to_string().contains("%00") => {
            input::nul("address").into_response()
        }
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    let account = response.extensions().get::<CalledBy>().map(|by| by.0.clone());
    let mut response = with_problem(response, &path, &id);
    let log = response.extensions().get::<Failure>().map(|failure| failure.parts().log.clone());
    let log = log.filter(|log| !log.is_empty());
    let status = response.status();
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (account, path) = (account.unwrap_or_default(), jit_proto::printable::clean(&path, 200));
    if let Some(why) = log {
        tracing::error!(%method, path, %status, took_ms, account, %origin.address, id, why, "call");
    } else {
        tracing::debug!(%method, path, %status, took_ms, account, %origin.address, id, "call");
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    // Shared caches keep nothing; a client asks with the tag that it has.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("strict-transport-security", HeaderValue::from_static("max-age=31536000"));
    response
}

/// Refuses a body without a length, and what follows on its connection: where a proxy and this
/// program do not agree on the end of a body, one call is hidden in another (RFC 9112 section
/// 11.2).
fn chunked() -> Response {
    let detail = "the call has Transfer-Encoding: where its body ends is not said in advance";
    let mut response = Failure::new(Word::Length, detail).into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A handler that panicked: a defect. The panic itself is on standard error.
pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Failure::hidden(Word::Internal, "a handler panicked").into_response()
}

/// Writes the body of a problem.
fn with_problem(response: Response, path: &str, id: &str) -> Response {
    let status = response.status();
    let is_refusal = status.is_client_error() || status.is_server_error();
    if !is_refusal || response.extensions().get::<Written>().is_some() {
        return response;
    }
    let failure = response.extensions().get::<Failure>().cloned();
    let failure = failure.unwrap_or_else(|| {
        let detail = match status {
            StatusCode::NOT_FOUND => format!("there is nothing at {path}"),
            StatusCode::METHOD_NOT_ALLOWED => format!("{path} has not this method"),
            _ => status.canonical_reason().unwrap_or("it was refused").to_owned(),
        };
        Failure::of_status(status, detail)
    });
    let parts = failure.parts();
    let problem = Problem {
        kind: format!("urn:jit-agent:problem:{}", parts.word),
        title: parts.title.to_owned(),
        status: parts.status.as_u16(),
        word: parts.word.clone(),
        detail: parts.detail.clone(),
        next: parts.next.clone(),
        instance: path.to_owned(),
        request_id: id.to_owned(),
        field: parts.field.clone(),
        mistakes: parts.mistakes.clone(),
        retry_after_s: parts.retry_after_s,
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let (mut head, _) = response.into_parts();
    head.status = parts.status;
    head.headers.remove("content-length");
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Some(seconds) = parts.retry_after_s {
        head.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if parts.status == StatusCode::UNAUTHORIZED {
        head.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    head.extensions.insert(failure);
    Response::from_parts(head, body.into())
}

/// The client's own id of the call if it is a plain word; otherwise a new one.
fn id_of(headers: &HeaderMap) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let sent = sent.filter(|id| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain));
    sent.map_or_else(|| ulid::Ulid::generate().to_string(), str::to_owned)
}

/// Where a call comes from. `X-Forwarded-For` counts only as far as trusted proxies wrote it: from the
/// right, up to the first address that is none of them.
fn origin(peer: IpAddr, headers: &HeaderMap, trusted: &[SourcePrefix]) -> Origin {
    let trusts = |address: IpAddr| {
        trusted.iter().any(|prefix| prefix.contains(&SourcePrefix::from(address)))
    };
    let mut origin = Origin { address: peer.to_canonical(), forwarded: false };
    let lists = headers.get_all("x-forwarded-for").iter().rev();
    let lists = lists.map(|value| value.to_str().unwrap_or_default());
    for text in lists.flat_map(|list| list.rsplit(',')) {
        if !trusts(origin.address) {
            break;
        }
        let Ok(address) = text.trim().parse::<IpAddr>() else { break };
        origin = Origin { address: address.to_canonical(), forwarded: true };
    }
    origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &str) -> (String, bool) {
        let trusted = ["192.0.2.1".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_str(forwarded).unwrap());
        let origin = origin(peer.parse().unwrap(), &headers, &trusted);
        (origin.address.to_string(), origin.forwarded)
    }

    #[test]
    fn only_trusted_proxies_name_another_address() {
        let of = |address: &str, forwarded| (address.to_owned(), forwarded);
        assert_eq!(from("192.0.2.9", "203.0.113.7"), of("192.0.2.9", false));
        assert_eq!(from("192.0.2.1", "203.0.113.7"), of("203.0.113.7", true));
        // What the client itself wrote stands further left.
        assert_eq!(from("192.0.2.1", "198.51.100.1, 203.0.113.7"), of("203.0.113.7", true));
        assert_eq!(from("192.0.2.1", "203.0.113.7, 2001:db8::5"), of("203.0.113.7", true));
        assert_eq!(from("192.0.2.1", "203.0.113.7, nonsense"), of("192.0.2.1", false));
        assert_eq!(from("::ffff:192.0.2.1", "203.0.113.7"), of("203.0.113.7", true));
    }

    #[test]
    fn an_id_of_the_client_is_kept_if_it_is_a_plain_word() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).unwrap());
            id_of(&headers)
        };
        assert_eq!(id("build-4711.2"), "build-4711.2");
        assert_eq!(id("a b").len(), 26);
        assert_eq!(id(&"a".repeat(65)).len(), 26);
    }
}
