//! Cookies that carry a secret of one browser. The name `__Host-` makes browsers refuse them from
//! other hosts and without HTTPS (RFC 6265bis section 4.1.3).

use axum::http::{HeaderMap, HeaderValue, header::COOKIE};

/// The cookie of this name in a call. Two of the name are none: one of them is somebody else's.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut found = lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (key, text) = pair.trim().split_once('=')?;
        (key == name).then_some(text)
    });
    let text = found.next()?;
    found.next().is_none().then_some(text)
}

/// The header `Set-Cookie` that gives it to the browser for these seconds; 0 takes it away. `Lax`:
/// links from other sites lead to pages of who has signed in.
///
/// # Panics
/// The text is not plain ASCII.
pub(super) fn set(name: &str, text: &str, seconds: i64) -> HeaderValue {
    let text = format!("{name}={text}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let mut value = HeaderValue::from_str(&text).expect("cookies here are plain ASCII");
    value.set_sensitive(true);
    value
}
