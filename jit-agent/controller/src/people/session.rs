//! A session: what a browser holds after its sign-in.
//!
//! The cookie's text is 256 random bits, new at each sign-in; the store keeps its SHA-256. A
//! session ends 12 hours after it began, after an hour without use, at the sign-out, with another
//! password, and with the account. The name `__Host-` makes browsers refuse the cookie from other
//! hosts and without HTTPS (RFC 6265bis section 4.1.3).

use axum::http::{HeaderMap, HeaderValue};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::cookie;
use crate::{
    model::Account,
    secret,
    store::{Session, Store, StoreError, Tx, people},
};

/// Name of the cookie.
const NAME: &str = "__Host-jit";
/// Longest time of a session, milliseconds.
pub const LONGEST_MS: i64 = 12 * 3600 * 1000;
/// Longest time without use, milliseconds.
pub const IDLE_MS: i64 = 3600 * 1000;
/// The use is written down at most this often, milliseconds.
const USED_EVERY_MS: i64 = 60_000;

/// The secret of a session. It is printed nowhere by accident.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one.
    fn generate() -> Self {
        Self(secret::fresh())
    }

    /// The one in the cookies of a call. Two of the name are none: one of them is somebody else's.
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let text = cookie::only(headers, NAME)?;
        secret::is_text(text).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the store keeps. The secret has 256 random bits, so that nothing slower is needed.
    pub(super) fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    /// What each form of this session carries. It follows from the secret, and the secret not from
    /// it.
    pub(super) fn form_key(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"jit-controller form\0");
        digest.update(self.0.as_bytes());
        URL_SAFE_NO_PAD.encode(digest.finalize())
    }

    /// The header `Set-Cookie` that gives it to the browser.
    pub fn cookie(&self) -> HeaderValue {
        cookie::set(NAME, &self.0, LONGEST_MS / 1000)
    }
}

/// The header `Set-Cookie` that takes the secret away from the browser.
pub fn no_cookie() -> HeaderValue {
    cookie::set(NAME, "", 0)
}

/// A browser that has signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    account: Account,
    hash: String,
    form_key: String,
    ends_ms: i64,
}

impl SignedIn {
    /// Its account, as it is now.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// The hash of its session.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// What each of its forms carries.
    pub fn form_key(&self) -> &str {
        &self.form_key
    }

    /// When it ends at the latest, milliseconds since the Unix epoch.
    pub const fn ends_ms(&self) -> i64 {
        self.ends_ms
    }

    /// When it began, milliseconds since the Unix epoch.
    pub const fn began_ms(&self) -> i64 {
        self.ends_ms.saturating_sub(LONGEST_MS)
    }

    /// Whether a form is one of this session.
    pub fn owns(&self, form_key: &str) -> bool {
        // Digests of both: how long it takes says nothing of the key itself.
        Sha256::digest(form_key.as_bytes()) == Sha256::digest(self.form_key.as_bytes())
    }
}

/// Removes sessions that have ended: before a change and not in it, for it locks rows of everybody.
///
/// # Errors
/// Those of the database.
pub(super) async fn forget(store: &Store, now_ms: i64) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    match people::forget_sessions(&mut tx, now_ms, now_ms.saturating_sub(IDLE_MS)).await {
        Ok(()) => tx.commit().await,
        // Others remove the same ones, and the next sign-in removes what is left.
        Err(error) if error.is_victim() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Begins a session.
///
/// # Errors
/// Those of the database.
pub(super) async fn begin(tx: &mut Tx, account: &str, now_ms: i64) -> Result<Secret, StoreError> {
    let secret = Secret::generate();
    let session = Session {
        hash: secret.hash(),
        account: account.to_owned(),
        created_ms: now_ms,
        ends_ms: now_ms.saturating_add(LONGEST_MS),
        used_ms: now_ms,
    };
    people::add_session(tx, &session).await?;
    Ok(secret)
}

/// Who has this secret; `None`: nobody any more. `is_use`: it counts as use.
///
/// # Errors
/// Those of the database.
pub async fn find(
    store: &Store,
    secret: &Secret,
    is_use: bool,
    now_ms: i64,
) -> Result<Option<SignedIn>, StoreError> {
    let Some(session) = store.session(&secret.hash()).await? else { return Ok(None) };
    let idle_ms = now_ms.saturating_sub(session.used_ms);
    if session.ends_ms <= now_ms || idle_ms >= IDLE_MS {
        return Ok(None);
    }
    let account = store.acting(&session.account, now_ms).await?;
    let Some(account) = account.filter(|account| !account.disabled) else { return Ok(None) };
    if is_use && idle_ms >= USED_EVERY_MS {
        store.session_used(&session.hash, now_ms).await?;
    }
    let form_key = secret.form_key();
    Ok(Some(SignedIn { account, hash: session.hash, form_key, ends_ms: session.ends_ms }))
}

#[cfg(test)]
mod tests {
    use axum::http::header::COOKIE;

    use super::*;

    fn of(cookies: &[&str]) -> Option<Secret> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        Secret::of_headers(&headers)
    }

    #[test]
    fn a_secret_comes_back_from_its_cookie_only() {
        let secret = Secret::generate();
        let text = secret.0.as_str();
        let good = format!("a=b; {NAME}={text}; c=d");
        assert_eq!(of(&[&good]).unwrap().hash(), secret.hash());
        let cookie = secret.cookie();
        let cookie = cookie.to_str().unwrap();
        for part in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=43200"] {
            assert!(cookie.contains(part), "{part}");
        }
        assert!(!cookie.contains("Domain"));
        for bad in [format!("jit={text}"), format!("{NAME}={text}x"), format!("{NAME}=")] {
            assert!(of(&[&bad]).is_none(), "{bad}");
        }
        assert!(of(&[&good, &good]).is_none(), "two of the name");
        assert_ne!(Secret::generate().hash(), secret.hash());
    }

    #[test]
    fn the_key_of_forms_is_of_one_session() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert_ne!(one.form_key(), other.form_key());
        assert!(!one.form_key().contains(one.0.as_str()));
    }
}
