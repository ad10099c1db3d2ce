//! A sign-in on its way. All that belongs to it follows from a secret in a cookie of the browser
//! that began it: `state`, `nonce` and the verifier of PKCE (RFC 7636). Nothing is stored, so that
//! nobody can fill a table by beginning; what comes back counts once.

use axum::http::{HeaderMap, HeaderValue};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::cookie;
use crate::secret;

/// Name of the cookie.
const NAME: &str = "__Host-jit-oidc";
/// Longest time between the two calls of a sign-in, milliseconds.
pub(super) const LONGEST_MS: i64 = 10 * 60 * 1000;
/// How much another process's clock may be ahead of this one's, milliseconds.
const LEEWAY_MS: i64 = 60_000;
/// Longest address to go on to; a longer one is left out.
const LONGEST_NEXT: usize = 1000;

/// A sign-in on its way.
#[derive(Clone)]
pub struct Begun {
    secret: Zeroizing<String>,
    began_ms: i64,
    next: String,
}

impl Begun {
    /// A new one, which goes on to `next`.
    ///
    /// # Panics
    /// The kernel has no random bytes (getrandom(2) fails only before the machine has any).
    pub(super) fn new(next: &str, now_ms: i64) -> Self {
        let next = if next.len() > LONGEST_NEXT { "/" } else { next };
        Self { secret: secret::fresh(), began_ms: now_ms, next: next.to_owned() }
    }

    /// The one in the cookies of a call, unless it took too long. Two of the name are none.
    pub fn of_headers(headers: &HeaderMap, now_ms: i64) -> Option<Self> {
        let begun = Self::of_text(cookie::only(headers, NAME)?)?;
        let age_ms = now_ms.checked_sub(begun.began_ms)?;
        (-LEEWAY_MS..LONGEST_MS).contains(&age_ms).then_some(begun)
    }

    fn of_text(text: &str) -> Option<Self> {
        let (secret, rest) = text.split_once('.')?;
        let (began, next) = rest.split_once('.')?;
        if !secret::is_text(secret) {
            return None;
        }
        let next = String::from_utf8(URL_SAFE_NO_PAD.decode(next).ok()?).ok()?;
        Some(Self {
            secret: Zeroizing::new(secret.to_owned()),
            began_ms: began.parse().ok()?,
            next,
        })
    }

    /// The header `Set-Cookie` that gives it to the browser. `Lax`: the provider sends the browser
    /// back from another site.
    pub(super) fn cookie(&self) -> HeaderValue {
        let Self { secret, began_ms, next } = self;
        let text = format!("{}.{began_ms}.{}", **secret, URL_SAFE_NO_PAD.encode(next));
        cookie::set(NAME, &text, LONGEST_MS / 1000)
    }

    /// Where to go on to.
    pub fn next(&self) -> &str {
        &self.next
    }

    /// What the provider gives back. It follows from everything in the cookie.
    pub(super) fn state(&self) -> String {
        self.derived("state")
    }

    /// What the ID token names.
    pub(super) fn nonce(&self) -> String {
        self.derived("nonce")
    }

    /// What only who began it can show with the code.
    pub(super) fn verifier(&self) -> Zeroizing<String> {
        Zeroizing::new(self.derived("verifier"))
    }

    /// What the provider compares the verifier with (RFC 7636 section 4.2, `S256`).
    pub(super) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier().as_bytes()))
    }

    /// Whether an answer is to this one.
    pub(super) fn owns(&self, state: &str) -> bool {
        // Digests of both: how long it takes says nothing of the state itself.
        Sha256::digest(state.as_bytes()) == Sha256::digest(self.state().as_bytes())
    }

    /// What the store keeps, so that it counts once.
    pub(super) fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.state().as_bytes()))
    }

    /// After this time it does not count any more, milliseconds since the Unix epoch.
    pub(super) const fn ends_ms(&self) -> i64 {
        self.began_ms.saturating_add(LONGEST_MS)
    }

    fn derived(&self, purpose: &str) -> String {
        let Self { secret, began_ms, next } = self;
        let mut digest = Sha256::new();
        digest.update(format!("jit-controller oidc {purpose}\0{}\0{began_ms}\0{next}", **secret));
        URL_SAFE_NO_PAD.encode(digest.finalize())
    }
}

/// The header `Set-Cookie` that takes it away from the browser.
pub fn no_cookie() -> HeaderValue {
    cookie::set(NAME, "", 0)
}

#[cfg(test)]
mod tests {
    use axum::http::header::COOKIE;

    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn back(cookie: &str, now_ms: i64) -> Option<Begun> {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
        Begun::of_headers(&headers, now_ms)
    }

    fn pair(begun: &Begun) -> String {
        begun.cookie().to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn it_comes_back_from_its_cookie_for_ten_minutes() {
        let begun = Begun::new("/open?host=a", NOW_MS);
        let cookie = pair(&begun);
        let same = back(&format!("a=b; {cookie}"), NOW_MS + LONGEST_MS - 1).unwrap();
        assert_eq!(same.next(), "/open?host=a");
        assert!(begun.owns(&same.state()) && begun.nonce() == same.nonce());
        assert_eq!(begun.challenge(), same.challenge());
        assert!(back(&cookie, NOW_MS + LONGEST_MS).is_none());
        assert!(back(&cookie, NOW_MS - LEEWAY_MS - 1).is_none(), "it begins in the future");
        assert!(back(&format!("{cookie}; {cookie}"), NOW_MS).is_none(), "two of the name");
        for bad in ["", "x", "x.1.x", &format!("{}.1", "A".repeat(43))] {
            assert!(back(&format!("{NAME}={bad}"), NOW_MS).is_none(), "{bad}");
        }
        assert_eq!(Begun::new(&"/x".repeat(600), NOW_MS).next(), "/");
    }

    #[test]
    fn its_parts_differ_and_none_shows_another() {
        let begun = Begun::new("/", NOW_MS);
        let parts = [begun.state(), begun.nonce(), begun.verifier().to_string(), begun.challenge()];
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(part.len(), secret::LETTERS);
            assert!(!begun.cookie().to_str().unwrap().contains(part.as_str()));
            assert_eq!(parts.iter().filter(|other| *other == part).count(), 1, "{number}");
        }
    }

    #[test]
    fn a_cookie_that_was_changed_does_not_fit_the_state() {
        let begun = Begun::new("/a", NOW_MS);
        for changed in
            [Begun { next: "/b".into(), ..begun.clone() }, Begun { began_ms: 1, ..begun.clone() }]
        {
            assert!(!changed.owns(&begun.state()));
        }
    }
}
