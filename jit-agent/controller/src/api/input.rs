//! What comes with a call: bodies, parameters, times, and where it comes from.

use std::net::IpAddr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, OriginalUri, Query, Request},
    http::{HeaderMap, StatusCode, Uri, header::CONTENT_TYPE, request::Parts},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::de::DeserializeOwned;

use super::problem::{Failure, Word};

/// A body of JSON. An empty body is `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            let empty = serde_json::from_str("{}").map_err(|_| {
                Failure::new(Word::InvalidBody, "the body is empty, and this call needs one")
            });
            return Ok(Self(empty?));
        }
        if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
            return Err(Failure::new(Word::MediaType, "the body must be application/json"));
        }
        Ok(Self(json(&bytes)?))
    }
}

/// The bytes of a body.
///
/// # Errors
/// It is too large, or breaks off.
pub(crate) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Failure> {
    let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
        let detail = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than this call allows".to_owned(),
            _ => rejection.body_text(),
        };
        Failure::of_status(rejection.status(), detail)
    })?;
    if bytes.contains(&0) { Err(nul("body")) } else { Ok(bytes) }
}

/// Reads the JSON of a body: the only reader of JSON that callers send.
///
/// # Errors
/// It is none, or has a NUL in a text.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if escapes_nul(bytes) {
        return Err(nul("body"));
    }
    let read = serde_json::from_slice(bytes);
    read.map_err(|error| {
        Failure::new(Word::InvalidBody, format!("the body cannot be read: {error}"))
    })
}

/// The text in a word that an answer before had, and that callers give back: `base64url`; `None`:
/// no answer had it.
pub(crate) fn given_back(word: &str) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(word).ok()?).ok()?;
    // A NUL can come out of letters that have none.
    (!text.contains('\0')).then_some(text)
}

/// A NUL in a text: nobody types it, and PostgreSQL does not keep it. `what`: where it is.
pub(crate) fn nul(what: &str) -> Failure {
    Failure::new(Word::InvalidBody, format!("the {what} has a NUL (U+0000) in a text"))
        .next("leave it out")
}

/// Whether a text of this JSON has a NUL: `\u0000`, and not after another backslash.
fn escapes_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = rest.get(at + 1..).unwrap_or_default();
        if escape.starts_with(b"u0000") {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

/// The parameters after `?`.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Failure::new(Word::InvalidQuery, rejection.body_text())),
        }
    }
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The address.
    pub(crate) address: IpAddr,
    /// It was named by a trusted proxy.
    pub(crate) forwarded: bool,
}

/// Headers and path of a call.
pub(crate) struct Call {
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Path and parameters, as they were sent.
    pub(crate) uri: Uri,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

impl Call {
    /// A header's text; empty: it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Ok(OriginalUri(uri)) = OriginalUri::from_request_parts(parts, state).await;
        let origin = parts.extensions.get::<Origin>().copied();
        let origin = origin.ok_or_else(|| {
            Failure::hidden(Word::Internal, "the call came without the address of its connection")
        })?;
        Ok(Self { headers: parts.headers.clone(), uri, origin })
    }
}

/// A duration that was given as text, or as milliseconds; `None`: neither.
///
/// # Errors
/// Both were given, or the text is none.
pub(crate) fn duration_ms(
    field: &str,
    text: Option<&str>,
    millis: Option<i64>,
) -> Result<Option<i64>, Failure> {
    let text = match (text, millis) {
        (Some(_), Some(_)) => return Err(both(field)),
        (None, millis) => return Ok(millis),
        (Some(text), None) => text,
    };
    let bad = || {
        let why = format!("{text:?} is not a duration such as 45s, 30m, 1h 30m or 90d");
        Failure::field(field, why)
    };
    let span: Span = text.trim().parse().map_err(|_| bad())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    let millis = i64::try_from(duration.as_millis()).map_err(|_| bad())?;
    if millis > 0 { Ok(Some(millis)) } else { Err(bad()) }
}

/// A moment that was given as text, or as milliseconds; `None`: neither.
///
/// # Errors
/// Both were given, or the text is none.
pub(super) fn moment_ms(
    field: &str,
    text: Option<&str>,
    millis: Option<i64>,
) -> Result<Option<i64>, Failure> {
    match (text, millis) {
        (Some(_), Some(_)) => Err(both(field)),
        (None, millis) => Ok(millis),
        (Some(text), None) => match text.trim().parse::<Timestamp>() {
            Ok(time) => Ok(Some(time.as_millisecond())),
            Err(_) => {
                let why = format!("{text:?} is not a time such as 2027-03-01T10:00:00Z (RFC 3339)");
                Err(Failure::field(field, why))
            }
        },
    }
}

/// Checks words that may be missing.
///
/// # Errors
/// They are too long, or would change how a terminal shows what stands beside them.
pub(super) fn words(field: &str, text: &str, most: usize) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    jit_proto::text::check(field, text, most).map_err(|why| Failure::field(field, why))
}

fn both(field: &str) -> Failure {
    Failure::field(field, format!("give either `{field}` or `{field}_ms`, not both"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_in_json_is_found_and_a_backslash_before_u0000_is_none() {
        for bad in [r#""\u0000""#, r#"{"a":"\\\u0000"}"#, r#""\n\u0000""#] {
            assert!(escapes_nul(bad.as_bytes()), "{bad}");
        }
        for good in ["", r#""u0000""#, r#""\\u0000""#, r#""\u0001""#, r#""\"#] {
            assert!(!escapes_nul(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn durations_and_moments_are_read_as_people_write_them() {
        let duration = |text| duration_ms("duration", Some(text), None).map(Option::unwrap);
        assert_eq!(duration("1h 30m").unwrap(), 5_400_000);
        assert_eq!(duration("90d").unwrap(), 90 * 86_400_000);
        for bad in ["", "1", "-1h", "0s", "soon"] {
            assert_eq!(duration(bad).unwrap_err().parts().field, "duration", "{bad}");
        }
        let moment = |text| moment_ms("start", Some(text), None);
        assert_eq!(moment("1970-01-01T00:00:01+00:00").unwrap(), Some(1000));
        assert!(moment("tomorrow").is_err());
        assert!(moment_ms("start", Some("1970-01-01T00:00:01Z"), Some(1)).is_err());
    }
}
