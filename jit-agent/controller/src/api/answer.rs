//! Answers of one thing or a part of a list, with the headers that let a client ask again cheaply.

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK},
    },
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_client::controller::types::Page;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    input::{Call, given_back},
    problem::{Failure, Word},
};

/// Items of a page without a word about it.
const PAGE: u32 = 50;
/// The most items of a page.
pub(super) const MAX_PAGE: u32 = 500;

/// The number of items that a call asks for.
///
/// # Errors
/// 0, or more than [`MAX_PAGE`].
pub(super) fn page_size(limit: Option<u32>) -> Result<u32, Failure> {
    match limit {
        None => Ok(PAGE),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(limit) => {
            Err(Failure::field("limit", format!("{limit} is not between 1 and {MAX_PAGE}")))
        }
    }
}

/// Where a list goes on, from the text that the page before gave; empty: at its beginning.
///
/// # Errors
/// The text is not one that a page gave.
pub(super) fn cursor(text: Option<&str>) -> Result<String, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(String::new()) };
    given_back(text).ok_or_else(|| {
        let why = "it is not the `next` of a page; begin again without it";
        Failure::field("cursor", why)
    })
}

/// Cuts what was read with one item more than the page has. Returns the key of the last, if there
/// was one.
pub(super) fn cut<T>(items: &mut Vec<T>, most: u32, key: impl Fn(&T) -> String) -> Option<String> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if items.len() <= most {
        return None;
    }
    items.truncate(most);
    items.last().map(key)
}

/// A part of a list. `next`: the key of the last item, if there is more.
pub(super) fn page<T: Serialize>(call: &Call, items: Vec<T>, next: Option<String>) -> Response {
    let next = next.map(|key| URL_SAFE_NO_PAD.encode(key));
    let link = next.as_deref().and_then(|next| link(&call.uri, next));
    let mut response = one(call, &Page { items, next });
    if let Some(link) = link {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// One thing.
pub(super) fn one<T: Serialize>(call: &Call, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let digest = Sha256::digest(&body);
            let tag =
                format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest.get(..18).unwrap_or(&digest)));
            tagged(&call.headers, &tag, body)
        }
        Err(error) => Failure::hidden(Word::Internal, error).into_response(),
    }
}

/// One thing with a tag that names its version.
pub(super) fn versioned<T: Serialize>(call: &Call, version: i64, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => tagged(&call.headers, &format!("\"{version}\""), body),
        Err(error) => Failure::hidden(Word::Internal, error).into_response(),
    }
}

/// Something that was made, and where it is.
pub(super) fn made<T: Serialize>(status: StatusCode, path: &str, value: &T) -> Response {
    let body = match serde_json::to_vec(value) {
        Ok(body) => body,
        Err(error) => return Failure::hidden(Word::Internal, error).into_response(),
    };
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(axum::http::header::LOCATION, path);
    }
    response
}

fn tagged(headers: &HeaderMap, tag: &str, body: Vec<u8>) -> Response {
    let mut response = if matches(headers, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (kind, body).into_response()
    };
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// RFC 9110 section 13.1.2: weakly compared.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(','));
    tags.any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

/// `Link` to the next page: the same path and parameters with another cursor (RFC 8288).
fn link(uri: &Uri, next: &str) -> Option<HeaderValue> {
    let kept = uri.query().unwrap_or_default().split('&');
    let kept = kept.filter(|part| !part.is_empty() && !part.starts_with("cursor="));
    let cursor = format!("cursor={next}");
    let query = kept.chain([cursor.as_str()]).collect::<Vec<_>>().join("&");
    HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", uri.path())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_keeps_the_other_parameters() {
        let uri: Uri = "/api/v1/hosts?limit=2&cursor=old&condition=degraded".parse().unwrap();
        assert_eq!(
            link(&uri, "new").unwrap(),
            "</api/v1/hosts?limit=2&condition=degraded&cursor=new>; rel=\"next\""
        );
    }

    #[test]
    fn a_cursor_comes_back_and_a_wrong_one_is_refused() {
        let text = URL_SAFE_NO_PAD.encode("web-1");
        assert_eq!(cursor(Some(&text)).unwrap(), "web-1");
        assert_eq!(cursor(None).unwrap(), "");
        // The last two have a NUL in them: PostgreSQL keeps none, and no key has one.
        for wrong in ["not base64!", "_w", "AA", "YQBi"] {
            assert!(cursor(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(page_size(Some(0)).is_err() && page_size(Some(501)).is_err());
    }

    #[test]
    fn one_of_several_tags_is_enough() {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("\"a\", W/\"b\""));
        assert!(matches(&headers, "\"b\"") && !matches(&headers, "\"c\""));
    }
}
