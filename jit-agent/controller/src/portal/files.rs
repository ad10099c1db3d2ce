//! The files of pages. They are in the program; their address changes with their content, so that a
//! browser asks for each once.

use std::{fmt::Write as _, sync::LazyLock};

use axum::{
    extract::Path,
    http::{
        HeaderMap, HeaderValue,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

use crate::api::Failure;

/// A file of pages.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// The same, compressed as gzip.
    small: Option<&'static [u8]>,
}

const STYLE: &str = "portal.css";
const HTMX: &str = "htmx.min.js";
const LIVE: &str = "live.js";
const PASSKEY: &str = "passkey.js";
const FILES: [File; 5] = [
    File {
        name: STYLE,
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../../static/portal.css"),
        small: None,
    },
    File {
        name: "icon.svg",
        kind: "image/svg+xml",
        bytes: include_bytes!("../../static/icon.svg"),
        small: None,
    },
    File {
        name: HTMX,
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../static/htmx.min.js"),
        small: Some(include_bytes!("../../static/htmx.min.js.gz")),
    },
    File {
        name: LIVE,
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../static/live.js"),
        small: None,
    },
    File {
        name: PASSKEY,
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../static/passkey.js"),
        small: None,
    },
];

/// Where the style is.
pub(super) fn style() -> &'static str {
    static ADDRESS: LazyLock<String> = LazyLock::new(|| address(STYLE));
    &ADDRESS
}

/// Where htmx is.
pub(super) fn htmx() -> &'static str {
    static ADDRESS: LazyLock<String> = LazyLock::new(|| address(HTMX));
    &ADDRESS
}

/// Where the script is that keeps pages up to date.
pub(super) fn live() -> &'static str {
    static ADDRESS: LazyLock<String> = LazyLock::new(|| address(LIVE));
    &ADDRESS
}

/// Where the script is that lets passkeys sign.
pub(super) fn passkey() -> &'static str {
    static ADDRESS: LazyLock<String> = LazyLock::new(|| address(PASSKEY));
    &ADDRESS
}

/// The address of a file with its content.
fn address(name: &str) -> String {
    let mut text = format!("/static/{name}?v=");
    let bytes = FILES.iter().find(|file| file.name == name).map_or(&[][..], |file| file.bytes);
    for byte in Sha256::digest(bytes).iter().take(6) {
        // A text takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A file.
pub(super) async fn read(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return Failure::not_found("file", &name).into_response();
    };
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let small = file.small.filter(|_| accepted.is_some_and(takes_gzip));
    let mut response = small.unwrap_or(file.bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if small.is_some() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// RFC 9110 section 12.5.3.
fn takes_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|one| {
        let (coding, quality) = one.split_once(';').unwrap_or((one, ""));
        coding.trim().eq_ignore_ascii_case("gzip") && quality.replace(' ', "") != "q=0"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_file_goes_only_to_who_takes_it() {
        for accepted in ["gzip", "deflate, gzip;q=1.0, br", "GZIP"] {
            assert!(takes_gzip(accepted), "{accepted}");
        }
        for accepted in ["", "br", "gzip;q=0", "x-gzipped"] {
            assert!(!takes_gzip(accepted), "{accepted}");
        }
    }
}
