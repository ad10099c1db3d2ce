//! Tokens in which a cloud names a machine (RFC 7519): signed with RS256 by a key that the token
//! names, for this controller alone, now.
//!
//! The audience is the protection: a machine's token for somebody else's API would be a key to it,
//! in the hands of whoever it is sent to. So the audience of a cloud's own API cannot even be
//! configured.

use openidconnect::core::CoreJsonWebKeySet;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::people::oidc::token::{self, TokenError};

/// How much the cloud's clock may differ, seconds.
const LEEWAY_S: i64 = 60;
/// The oldest that counts, seconds: Entra's for machines last 24 hours.
const OLDEST_S: i64 = 24 * 3600;
/// Longest token, bytes.
const LONGEST: usize = 16 * 1024;
/// Longest audience, bytes.
const LONGEST_AUDIENCE: usize = 256;
/// Domains of clouds' own services.
const OF_CLOUDS: [&str; 12] = [
    "amazonaws.com",
    "azure.cn",
    "azure.com",
    "azure.net",
    "azure.us",
    "chinacloudapi.cn",
    "google.com",
    "googleapis.com",
    "microsoft.com",
    "microsoftonline.com",
    "usgovcloudapi.net",
    "windows.net",
];
/// Ids of Microsoft's own APIs: management of Azure, Graph, Key Vault.
const IDS_OF_CLOUDS: [&str; 3] = [
    "00000003-0000-0000-c000-000000000000",
    "797f4846-ba00-4fd7-ba43-dac1f8f63013",
    "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
];

/// What a token says.
pub type Claims = Map<String, Value>;

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Another way of signing, or no named key.
    #[error("it is not signed with RS256 by a key that it names (alg, kid)")]
    Algorithm,
    /// For somebody else, or for others too.
    #[error("it is not for the audience {0} alone (aud)")]
    Audience(String),
    /// Too old, or of the future.
    #[error("it does not count now (exp, nbf, iat): {0}")]
    Ended(&'static str),
    /// By somebody else.
    #[error("it is not by an issuer that counts here (iss)")]
    Issuer,
    /// Its key is not among the issuer's; newer ones may have it.
    #[error("it is signed with a key that its issuer does not have")]
    Key,
    /// Anything else.
    #[error("{0}")]
    Malformed(String),
    /// It is of another machine, or of none.
    #[error("{0}")]
    Machine(String),
    /// Too long.
    #[error("it has over {LONGEST} bytes")]
    TooLarge,
}

impl From<TokenError> for JwtError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::UnknownKey => Self::Key,
            TokenError::Bad(why) => Self::Malformed(why),
        }
    }
}

/// Whom tokens for this controller name: an application of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience(String);

impl Audience {
    /// Refuses the audience of a cloud's own API.
    ///
    /// # Errors
    /// Why, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let plain = (1..=LONGEST_AUDIENCE).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain {
            return Err(format!(
                "{text:?} is no audience: 1 to {LONGEST_AUDIENCE} letters, no blank"
            ));
        }
        let folded = text.to_ascii_lowercase();
        // Entra takes one without a scheme too.
        let whole =
            if folded.contains("://") { folded.clone() } else { format!("https://{folded}") };
        let host = Url::parse(&whole).ok().and_then(|url| url.host_str().map(str::to_owned));
        let host = host.unwrap_or_default();
        let host = host.trim_end_matches('.');
        let below = |of: &str| {
            host.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let id = folded.trim_start_matches("api://").trim_end_matches('/');
        let id = id.trim_start_matches("spn:");
        if OF_CLOUDS.iter().any(|of| below(of)) || IDS_OF_CLOUDS.contains(&id) {
            return Err(format!(
                "{text:?} is the API of a cloud: tokens for it are keys to it, and no machine may send \
                 them here; register an application of your own and write its id (api://...)"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Registered {
    iss: String,
    aud: Value,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
}

/// The issuer that a token names. Nothing of it is checked.
pub(super) fn issuer(text: &str) -> Result<String, JwtError> {
    #[derive(Deserialize)]
    struct Named {
        iss: String,
    }
    if text.len() > LONGEST {
        return Err(JwtError::TooLarge);
    }
    Ok(token::part::<Named>(text, 1)?.iss)
}

/// What a token says, if it counts.
pub(super) fn claims(
    text: &str,
    keys: &CoreJsonWebKeySet,
    issuer: &str,
    audience: &Audience,
    now_ms: i64,
) -> Result<Claims, JwtError> {
    if text.len() > LONGEST {
        return Err(JwtError::TooLarge);
    }
    let Header { alg, kid } = token::part(text, 0)?;
    if alg != "RS256" || kid.is_none_or(|kid| kid.is_empty()) {
        return Err(JwtError::Algorithm);
    }
    let claims: Claims = token::signed(text, keys, &["jwt"])?;
    let said: Registered = serde_json::from_value(Value::Object(claims.clone()))
        .map_err(|why| JwtError::Malformed(format!("its claims cannot be read: {why}")))?;
    if said.iss != issuer {
        return Err(JwtError::Issuer);
    }
    let is_ours = match &said.aud {
        Value::Array(all) => matches!(all.as_slice(), [one] if *one == audience.0),
        one => *one == audience.0,
    };
    if !is_ours {
        return Err(JwtError::Audience(audience.0.clone()));
    }
    let now_s = now_ms.div_euclid(1000);
    if said.exp <= now_s.saturating_sub(LEEWAY_S) {
        return Err(JwtError::Ended("it has ended"));
    }
    if said.iat.max(said.nbf.unwrap_or(said.iat)) > now_s.saturating_add(LEEWAY_S) {
        return Err(JwtError::Ended("it is of the future"));
    }
    if said.iat <= now_s.saturating_sub(OLDEST_S + LEEWAY_S) {
        return Err(JwtError::Ended("it is over a day old"));
    }
    Ok(claims)
}

#[cfg(test)]
pub(super) mod tests;
