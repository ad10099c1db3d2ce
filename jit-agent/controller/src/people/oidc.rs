//! Sign-in at a provider: OpenID Connect Core 1.0, by code with PKCE (RFC 7636), `state` and
//! `nonce`.
//!
//! The provider says who somebody is, and which groups he has there. It signs in nobody whose
//! account is disabled, and signs nothing that hosts believe. Keys are the provider's public ones,
//! read over TLS.

mod access;
mod arrive;
mod bearer;
mod begun;
mod hint;
mod person;
mod provider;
mod settings;
mod tie;
pub(crate) mod token;

use std::{sync::Arc, time::Duration};

use axum::http::HeaderValue;
use chrono::DateTime;
use form_urlencoded::{Serializer, byte_serialize};
use jit_proto::{printable::clean, words::counted};
use openidconnect::core::CoreJsonWebKeySet;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

pub(super) use self::{arrive::arrive, hint::open as open_hint, token::OLDEST_CALL_S};
pub use self::{
    bearer::{Bearer, BearerError},
    begun::{Begun, no_cookie},
    settings::{Programs, RawSettings, Settings, SubjectClaim},
};
use self::{
    person::Person,
    provider::{Lookup, Provider},
    token::{Claims, Farewell, Parties, TokenError},
};
use crate::{
    calls::{self, CallError},
    desk::Desk,
    here::is_here,
    secret,
    store::{self, OfStore, StoreError},
};

/// Most letters of what the provider says that are shown.
const SHOWN: usize = 200;
/// Longest code that is passed on.
const LONGEST_CODE: usize = 4096;

/// Signs people in at a provider.
pub struct Oidc {
    settings: Settings,
    secret: Option<Zeroizing<String>>,
    client: Client,
    lookup: Lookup,
}

/// What the provider gave the browser to bring back (OpenID Connect Core 1.0, section 3.1.2.5). A
/// text that is empty is missing.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What is exchanged for tokens.
    pub code: String,
    /// What it was given.
    pub state: String,
    /// Its name (RFC 9207).
    pub issuer: String,
    /// The word of its refusal.
    pub error: String,
    /// Its refusal in words.
    pub description: String,
}

/// Where somebody signs out at the provider too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// The provider, as the button names it.
    pub name: String,
    /// An address of the provider.
    pub url: String,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The account may do nothing any more.
    #[error("the account {account} is disabled; an administrator can enable it")]
    Disabled {
        /// The person.
        subject: String,
        /// Its name.
        account: String,
    },
    /// The provider does not answer, or not as it should.
    #[error("{name} does not answer as it should ({why}); a local account still works")]
    Down {
        /// The provider, as the button names it.
        name: String,
        /// In words.
        why: String,
    },
    /// The provider refused, or the person did there.
    #[error("{0}")]
    Declined(String),
    /// The person has no account here.
    #[error("{why}")]
    NoAccount {
        /// The person; empty: the claims name none.
        subject: String,
        /// In words.
        why: String,
    },
    /// The browser brings back something that it did not begin, or again, or too late.
    #[error("{0}; begin again")]
    Strayed(&'static str),
    /// What the provider signed does not count.
    #[error("what {name} sent does not count: {why}")]
    Token {
        /// The provider, as the button names it.
        name: String,
        /// In words.
        why: String,
    },
    /// The account is bound to somebody else at the provider, or the person to another account.
    #[error("{why}")]
    OtherPerson {
        /// The person.
        subject: String,
        /// The account's name.
        account: String,
        /// In words.
        why: String,
    },
    /// It was tried too often.
    #[error("it was tried too often; wait {}", counted(.0.as_secs().saturating_add(1), "second"))]
    TooMany(Duration),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OfStore for Refusal {
    fn of_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl Refusal {
    /// Its word in the audit.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Declined(_) => "declined",
            Self::Disabled { .. } => "disabled",
            Self::Down { .. } => "provider_down",
            Self::NoAccount { .. } => "no_account",
            Self::OtherPerson { .. } => "other_person",
            Self::Store(_) => "database",
            Self::Strayed(_) => "strayed",
            Self::Token { .. } => "token",
            Self::TooMany(_) => "too_many",
        }
    }

    /// The person and the account, as far as they are known.
    pub(super) fn who(&self) -> (&str, &str) {
        match self {
            Self::Disabled { subject, account } | Self::OtherPerson { subject, account, .. } => {
                (subject, account)
            }
            Self::NoAccount { subject, .. } => (subject, ""),
            _ => ("", ""),
        }
    }
}

/// What came for a code.
#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
}

/// A refusal of the provider (RFC 6749 section 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Declined {
    error: String,
    error_description: String,
}

impl Oidc {
    /// Signs people in as this section says. Nothing is called yet.
    ///
    /// # Errors
    /// A file of the section cannot be used.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let here = settings.issuer.host_str().is_some_and(is_here);
        let client = calls::client("oidc.ca", settings.ca.as_deref(), here)?;
        let secret = settings.client_secret_file.as_deref().map(secret::read).transpose();
        let secret = secret.map_err(|why| format!("oidc.client_secret_file, {why}"))?;
        let lookup = Lookup::new(client.clone(), settings.issuer_text.clone());
        Ok(Self { settings, secret, client, lookup })
    }

    /// The provider, as the button names it.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Begins a sign-in that goes on to `next`: the provider's address, and the cookie.
    ///
    /// # Errors
    /// The provider does not answer.
    pub async fn begin(&self, next: &str, now_ms: i64) -> Result<(String, HeaderValue), Refusal> {
        let provider = self.provider().await?;
        let begun = Begun::new(next, now_ms);
        let mut url = provider.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", &self.settings.back())
            .append_pair("scope", &self.settings.scopes)
            .append_pair("state", &begun.state())
            .append_pair("nonce", &begun.nonce())
            .append_pair("code_challenge", &begun.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok((url.into(), begun.cookie()))
    }

    /// The person that an answer names, and the ID token.
    ///
    /// # Errors
    /// The browser has not begun it, it came before, or the provider does not prove who it is.
    pub(super) async fn person(
        &self,
        desk: &Desk,
        begun: Option<&Begun>,
        answer: &Answer,
        now_ms: i64,
    ) -> Result<(Person, String), Refusal> {
        let begun = begun.ok_or(Refusal::Strayed(
            "this browser has not begun this sign-in, or it took over ten minutes",
        ))?;
        if !begun.owns(&answer.state) {
            return Err(Refusal::Strayed("this is the answer to another sign-in"));
        }
        let provider = self.provider().await?;
        let mut tx = desk.store().begin().await?;
        let first = store::oidc::once(&mut tx, &begun.hash(), begun.ends_ms(), now_ms).await?;
        tx.commit().await?;
        if !first {
            return Err(Refusal::Strayed("this answer was used before"));
        }
        // Before anything else that it says is believed (RFC 9207 section 2.4).
        let is_named = !answer.issuer.is_empty();
        if is_named && answer.issuer != self.settings.issuer_text
            || provider.names_itself && !is_named
        {
            return Err(self.bad("the answer is of another provider (iss)"));
        }
        if !answer.error.is_empty() {
            return Err(self.declined(&answer.error, &answer.description));
        }
        if answer.code.is_empty() || answer.code.len() > LONGEST_CODE {
            return Err(self.bad("the answer has no code"));
        }
        let tokens = self.exchange(&provider, begun, &answer.code).await?;
        let text = tokens.id_token.ok_or_else(|| self.bad("there is no ID token"))?;
        let nonce = begun.nonce();
        let mut claims = self
            .signed(&provider, now_ms, |keys, now| {
                token::identity(&text, keys, self.parties(), &nonce, now)
            })
            .await?;
        if let (Some(url), Some(access)) = (&provider.userinfo, &tokens.access_token)
            && person::lacks(&self.settings, &claims)
        {
            self.add_more(&mut claims, url.clone(), access).await?;
        }
        let person = person::person(&self.settings, &claims);
        let person = person.map_err(|why| Refusal::NoAccount { subject: String::new(), why })?;
        Ok((person, text))
    }

    /// Whose sessions end, by a call of the provider.
    ///
    /// # Errors
    /// It is not the provider's, or not for this controller.
    pub(super) async fn farewell(&self, text: &str, now_ms: i64) -> Result<Farewell, Refusal> {
        let provider = self.provider().await?;
        self.signed(&provider, now_ms, |keys, now| token::farewell(text, keys, self.parties(), now))
            .await
    }

    /// Where to sign out at the provider; `None`: it has no such place, or does not answer.
    pub(super) async fn way_out(&self, hint: Option<&str>) -> Option<WayOut> {
        let mut url = self.lookup.provider().await.ok()?.end_session.clone()?;
        let back = format!("{}/sign-in", self.settings.public_url);
        url.query_pairs_mut()
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("post_logout_redirect_uri", &back);
        if let Some(hint) = hint {
            url.query_pairs_mut().append_pair("id_token_hint", hint);
        }
        Some(WayOut { name: self.settings.name.clone(), url: url.into() })
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    fn parties(&self) -> Parties<'_> {
        Parties { issuer: &self.settings.issuer_text, client_id: &self.settings.client_id }
    }

    async fn provider(&self) -> Result<Arc<Provider>, Refusal> {
        self.lookup.provider().await.map_err(|why| self.down(why))
    }

    /// What is signed with the provider's keys.
    async fn signed<T>(
        &self,
        provider: &Arc<Provider>,
        now_ms: i64,
        read: impl Fn(&CoreJsonWebKeySet, DateTime<chrono::Utc>) -> Result<T, TokenError>,
    ) -> Result<T, Refusal> {
        self.read(provider, now_ms, read).await?.map_err(|why| self.bad(why))
    }

    /// Reads what is signed with the provider's keys, or with newer ones if that key is not among
    /// them.
    ///
    /// # Errors
    /// It does not answer; inside, that the token does not count.
    async fn read<T>(
        &self,
        provider: &Arc<Provider>,
        now_ms: i64,
        read: impl Fn(&CoreJsonWebKeySet, DateTime<chrono::Utc>) -> Result<T, TokenError>,
    ) -> Result<Result<T, TokenError>, Refusal> {
        let now = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        let mut found = read(&provider.keys, now);
        if found.as_ref().is_err_and(|why| *why == TokenError::UnknownKey)
            && let Some(newer) = self.lookup.newer(provider).await.map_err(|why| self.down(why))?
        {
            found = read(&newer.keys, now);
        }
        Ok(found)
    }

    /// Exchanges a code (RFC 6749 section 4.1.3).
    async fn exchange(
        &self,
        provider: &Provider,
        begun: &Begun,
        code: &str,
    ) -> Result<Tokens, Refusal> {
        let call = self.asking(provider, begun, code);
        calls::json(call).await.map_err(|why| match why {
            CallError::Status(status, body) if status.is_client_error() => {
                let said: Declined = serde_json::from_slice(&body).unwrap_or_default();
                if said.error == "invalid_client" || said.error == "unauthorized_client" {
                    tracing::error!(
                        "the provider of sign-ins refuses the controller: client_id or \
                         client_secret_file of [oidc] is wrong"
                    );
                }
                self.declined(&said.error, &said.error_description)
            }
            why => self.down(why.to_string()),
        })
    }

    /// The call that exchanges a code. The controller says who it is in the header, or in the body
    /// where the provider takes only that (RFC 6749 section 2.3.1).
    fn asking(&self, provider: &Provider, begun: &Begun, code: &str) -> RequestBuilder {
        let verifier = begun.verifier();
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.settings.back())
            .append_pair("code_verifier", &verifier);
        let mut call = self.client.post(provider.token.clone());
        let id = &self.settings.client_id;
        match &self.secret {
            Some(secret) if !provider.secret_in_body => {
                let coded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                call = call.basic_auth(coded(id), Some(Zeroizing::new(coded(secret)).as_str()));
            }
            Some(secret) => {
                form.append_pair("client_id", id).append_pair("client_secret", secret);
            }
            None => {
                form.append_pair("client_id", id);
            }
        }
        call.header("content-type", "application/x-www-form-urlencoded").body(form.finish())
    }

    /// Adds the claims that are not in the ID token (OpenID Connect Core 1.0, section 5.3).
    async fn add_more(&self, claims: &mut Claims, url: Url, access: &str) -> Result<(), Refusal> {
        let more = calls::json::<Claims>(self.client.get(url).bearer_auth(access)).await;
        let more = more.map_err(|why| self.down(format!("its claims: {why}")))?;
        if more.get("sub") != claims.get("sub") {
            return Err(self.bad("its claims are of another person than the ID token"));
        }
        person::merge(claims, more);
        Ok(())
    }

    fn down(&self, why: String) -> Refusal {
        Refusal::Down { name: self.settings.name.clone(), why }
    }

    fn bad(&self, why: impl ToString) -> Refusal {
        let why = clean(&why.to_string(), 2 * SHOWN);
        tracing::warn!("the provider of sign-ins: what it sent does not count: {why}");
        Refusal::Token { name: self.settings.name.clone(), why }
    }

    fn declined(&self, error: &str, description: &str) -> Refusal {
        let name = &self.settings.name;
        let (error, description) = (clean(error, SHOWN), clean(description, SHOWN));
        let words = format!("{error} {description}");
        Refusal::Declined(format!("{name} refused: {}", words.trim()))
    }
}
