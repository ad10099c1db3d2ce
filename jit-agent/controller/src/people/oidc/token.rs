//! What the provider has signed: ID tokens (OpenID Connect Core 1.0, section 3.1.3.7), and calls to
//! end sessions (OpenID Connect Back-Channel Logout 1.0, section 2.6).
//!
//! Only signatures with a public key count: with a shared secret, or with the public key as if it
//! were one, everybody who knows it could sign.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::{
    ClaimsVerificationError, ClientId, IssuerUrl, JsonWebKey as _, Nonce,
    SignatureVerificationError,
    core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The algorithms that count.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
];
/// How much the provider's clock may differ, seconds.
pub(super) const LEEWAY_S: i64 = 60;
/// The oldest call to end sessions that counts, seconds.
pub(in crate::people) const OLDEST_CALL_S: i64 = 600;
/// The event of a call to end sessions.
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Longest text that is looked at, bytes.
const LONGEST: usize = 64 * 1024;

/// The claims of one token.
pub(super) type Claims = Map<String, Value>;

/// By whom, and for whom it must be.
#[derive(Clone, Copy)]
pub(super) struct Parties<'p> {
    pub(super) issuer: &'p str,
    pub(super) client_id: &'p str,
}

/// Why a token does not count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Its key is not among those of the provider; newer ones may have it.
    #[error("it is signed with a key that the provider does not have")]
    UnknownKey,
    /// Anything else, in words.
    #[error("{0}")]
    Bad(String),
}

/// The claims of an ID token that counts.
pub(super) fn identity(
    text: &str,
    keys: &CoreJsonWebKeySet,
    parties: Parties<'_>,
    nonce: &str,
    now: DateTime<Utc>,
) -> Result<Claims, TokenError> {
    let bad = |why: &dyn ToString| TokenError::Bad(why.to_string());
    if text.len() > LONGEST {
        return Err(TokenError::Bad(format!("it has over {LONGEST} bytes")));
    }
    let token: CoreIdToken = text.parse().map_err(|why: serde_json::Error| bad(&why))?;
    let issuer = IssuerUrl::new(parties.issuer.to_owned()).map_err(|why| bad(&why))?;
    let client_id = ClientId::new(parties.client_id.to_owned());
    let leeway = TimeDelta::seconds(LEEWAY_S);
    // One without a secret: no signature with a secret counts.
    let verifier = CoreIdTokenVerifier::new_public_client(client_id, issuer, keys.clone())
        .set_allowed_algs(ALGORITHMS)
        .set_time_fn(move || now - leeway)
        .set_issue_time_verifier_fn(move |issued| match issued <= now + leeway {
            true => Ok(()),
            false => Err(format!("it is of the future ({issued})")),
        });
    let claims =
        token.claims(&verifier, &Nonce::new(nonce.to_owned())).map_err(|why| match why {
            ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            ) => TokenError::UnknownKey,
            ClaimsVerificationError::SignatureVerification(why) => bad(&why),
            why => bad(&why),
        })?;
    if let Some(other) = claims.authorized_party().filter(|one| one.as_str() != parties.client_id) {
        return Err(TokenError::Bad(format!("it was given to {:?}", other.as_str())));
    }
    let all: Claims = part(text, 1)?;
    if all.get("nbf").and_then(Value::as_i64).is_some_and(|from| from > later(now)) {
        return Err(TokenError::Bad("it is not in force yet (nbf)".into()));
    }
    Ok(all)
}

/// Whose sessions the provider wants to end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::people) struct Farewell {
    iss: String,
    aud: Value,
    iat: i64,
    exp: i64,
    /// Its id: it counts once.
    pub(in crate::people) jti: String,
    /// Who; empty: whoever has `sid`.
    #[serde(default)]
    pub(in crate::people) sub: String,
    /// One session; empty: all of `sub`.
    #[serde(default)]
    pub(in crate::people) sid: String,
    events: Map<String, Value>,
    nonce: Option<Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: CoreJwsSigningAlgorithm,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// What a call to end sessions says, if it counts. The crate for ID tokens refuses the type of
/// these.
pub(super) fn farewell(
    text: &str,
    keys: &CoreJsonWebKeySet,
    parties: Parties<'_>,
    now: DateTime<Utc>,
) -> Result<Farewell, TokenError> {
    let bad = |why: &str| TokenError::Bad(why.to_owned());
    let said: Farewell = signed(text, keys, &["jwt", "logout+jwt"])?;
    if said.iss != parties.issuer || !names(&said.aud, parties.client_id) {
        return Err(bad("it is of another issuer, or for another client"));
    }
    let earliest = now.timestamp().saturating_sub(OLDEST_CALL_S);
    if said.iat > later(now) || said.iat < earliest || said.exp <= now.timestamp() - LEEWAY_S {
        return Err(bad("it is too old, or of the future"));
    }
    if !said.events.get(LOGOUT).is_some_and(Value::is_object) || said.nonce.is_some() {
        return Err(bad("it is no call to end sessions"));
    }
    if said.jti.is_empty() || (said.sub.is_empty() && said.sid.is_empty()) {
        return Err(bad("it has no id, or names nobody"));
    }
    Ok(said)
}

/// What a token says that is of one of these types (in small letters; without a type it is `jwt`)
/// and signed with one of these keys (RFC 7515 section 5.2). Nothing that it says is checked.
pub(crate) fn signed<T: DeserializeOwned>(
    text: &str,
    keys: &CoreJsonWebKeySet,
    types: &[&str],
) -> Result<T, TokenError> {
    let bad = |why: &str| TokenError::Bad(why.to_owned());
    if text.len() > LONGEST {
        return Err(TokenError::Bad(format!("it has over {LONGEST} bytes")));
    }
    let header: Header = part(text, 0)?;
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    // RFC 7515 section 4.1.9: "application/" may be left out.
    if !types.contains(&kind.strip_prefix("application/").unwrap_or(&kind)) {
        return Err(bad("it is of another type (typ)"));
    }
    if header.crit.is_some() || !ALGORITHMS.contains(&header.alg) {
        return Err(bad("its algorithm is none of a public key, or it asks for more (crit)"));
    }
    let (message, signature) = text.rsplit_once('.').ok_or_else(|| bad("it has no signature"))?;
    let signature =
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad("its signature is no text"))?;
    let mut named = keys
        .keys()
        .iter()
        .filter(|key| {
            header.kid.is_none() || key.key_id().map(|id| id.as_str()) == header.kid.as_deref()
        })
        .peekable();
    if named.peek().is_none() {
        return Err(TokenError::UnknownKey);
    }
    let signs = |key: &openidconnect::core::CoreJsonWebKey| {
        key.verify_signature(&header.alg, message.as_bytes(), &signature).is_ok()
    };
    if !named.any(signs) {
        return Err(bad("its signature is wrong"));
    }
    part(text, 1)
}

/// Whether an audience (RFC 7519 section 4.1.3), a list or one text, names this one.
pub(super) fn names(audience: &Value, one: &str) -> bool {
    match audience {
        Value::Array(all) => all.iter().any(|each| each == one),
        each => each == one,
    }
}

fn later(now: DateTime<Utc>) -> i64 {
    now.timestamp().saturating_add(LEEWAY_S)
}

/// A part of a token in compact form (RFC 7515 section 7.1), as JSON.
pub(crate) fn part<T: DeserializeOwned>(text: &str, number: usize) -> Result<T, TokenError> {
    let parts: Vec<_> = text.split('.').collect();
    let part = parts.get(number).filter(|_| parts.len() == 3);
    let bytes = part.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let bytes = bytes.ok_or_else(|| TokenError::Bad("it does not have three parts".into()))?;
    serde_json::from_slice(&bytes)
        .map_err(|why| TokenError::Bad(format!("it cannot be read: {why}")))
}
