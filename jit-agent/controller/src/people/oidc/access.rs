//! Access tokens of the provider that programs send (RFC 9068, and RFC 7519 where a provider writes
//! no more than that). Pure.
//!
//! An ID token or a call to end sessions never counts as one: whoever signs in somewhere has such a
//! token, and the other client too.

use chrono::{DateTime, Utc};
use openidconnect::core::CoreJsonWebKeySet;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::token::{self, Claims, LEEWAY_S, TokenError};

/// The types that count. `jwt` is that of providers older than RFC 9068.
const TYPES: [&str; 2] = ["at+jwt", "jwt"];
/// The oldest that counts, seconds, whatever its end is.
const OLDEST_S: i64 = 24 * 3600;
/// Claims that only other tokens have: ID tokens, calls to end sessions.
const OF_OTHERS: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "events"];
/// Longest id that is written down as it is.
const LONGEST_ID: usize = 128;

/// An access token that counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Access {
    /// All that it says.
    pub(super) claims: Claims,
    /// Its id in the audit.
    pub(super) id: String,
    /// When it was made, seconds since the Unix epoch.
    pub(super) made_s: i64,
    /// From when on it does not count.
    pub(super) ends_s: i64,
}

/// What an access token says, if it is of this issuer, for this audience, and of this time.
pub(super) fn access(
    text: &str,
    keys: &CoreJsonWebKeySet,
    issuer: &str,
    audience: &str,
    now: DateTime<Utc>,
) -> Result<Access, TokenError> {
    let bad = |why: &str| TokenError::Bad(why.to_owned());
    let claims: Claims = token::signed(text, keys, &TYPES)?;
    if claims.get("iss").is_none_or(|one| one != issuer) {
        return Err(bad("it is of another issuer (iss)"));
    }
    if !claims.get("aud").is_some_and(|all| token::names(all, audience)) {
        return Err(TokenError::Bad(format!("it is not for the audience {audience} (aud)")));
    }
    if let Some(name) = OF_OTHERS.iter().find(|name| claims.contains_key(**name)) {
        return Err(TokenError::Bad(format!("it is no access token (it has the claim {name})")));
    }
    // Keycloak names the kind here, not in the header.
    if claims.get("typ").is_some_and(|kind| kind != "Bearer") {
        return Err(bad("it is no access token (the claim typ is not Bearer)"));
    }
    // RFC 7800: who sends it would have to prove that he has a key.
    if claims.contains_key("cnf") {
        return Err(bad("it is bound to a key (cnf), which is not looked at here"));
    }
    let now_s = now.timestamp();
    let made_s = seconds(&claims, "iat")?.ok_or_else(|| bad("it does not say its age (iat)"))?;
    let end_s = seconds(&claims, "exp")?.ok_or_else(|| bad("it does not say its end (exp)"))?;
    let from_s = seconds(&claims, "nbf")?.unwrap_or(made_s);
    if made_s.max(from_s) > now_s.saturating_add(LEEWAY_S) {
        return Err(bad("it is of the future (iat, nbf)"));
    }
    if end_s.saturating_add(LEEWAY_S) <= now_s {
        return Err(bad("it has ended (exp)"));
    }
    if made_s.saturating_add(OLDEST_S) <= now_s {
        return Err(bad("it is over 24 hours old (iat)"));
    }
    let ends_s = end_s.saturating_add(LEEWAY_S).min(made_s.saturating_add(OLDEST_S));
    Ok(Access { id: id(&claims, text), claims, made_s, ends_s })
}

/// A time (RFC 7519 section 2, NumericDate), to the second.
fn seconds(claims: &Claims, name: &str) -> Result<Option<i64>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = || value.as_f64().filter(|one| one.abs() < 1e12);
    #[expect(clippy::cast_possible_truncation, reason = "it is far below 2^53")]
    let time = value.as_i64().or_else(|| whole().map(|one| one.floor() as i64));
    time.map(Some).ok_or_else(|| TokenError::Bad(format!("its time {name} is no number")))
}

/// `jti`, or the beginning of its hash: some providers give none.
fn id(claims: &Claims, text: &str) -> String {
    let plain = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let jti = claims.get("jti").and_then(Value::as_str).filter(plain);
    let hash = || hex::encode(Sha256::digest(text)).chars().take(32).collect();
    format!("oidc:{}", jti.map_or_else(hash, str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_time_is_a_number_of_seconds() {
        let said = claims(json!({
            "whole": 1_800_000_000, "part": 1_800_000_000.9, "text": "1800000000", "far": 1e300,
            "huge": u64::MAX, "none": null,
        }));
        assert_eq!(seconds(&said, "whole").unwrap(), Some(1_800_000_000));
        assert_eq!(seconds(&said, "part").unwrap(), Some(1_800_000_000));
        assert_eq!(seconds(&said, "missing").unwrap(), None);
        for name in ["text", "far", "huge", "none"] {
            assert!(seconds(&said, name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_id_that_is_missing_or_cannot_be_shown_is_a_hash() {
        assert_eq!(id(&claims(json!({ "jti": "a-1" })), "text"), "oidc:a-1");
        let long = "x".repeat(LONGEST_ID + 1);
        for jti in [json!(""), json!(7), json!("a b"), json!("\u{202e}"), json!(long), Value::Null]
        {
            let id = id(&claims(json!({ "jti": jti })), "text");
            assert_eq!(id.len(), "oidc:".len() + 32, "{id}");
            assert!(id["oidc:".len()..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
