//! What the provider says of itself (OpenID Connect Discovery 1.0), and its keys: read once an
//! hour, and anew for a key that is not among them, once a minute at most.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use openidconnect::core::CoreJsonWebKeySet;
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::{self, CallError};
use crate::here::secure;

/// After this time it is read again.
const FRESH: Duration = Duration::from_secs(3600);
/// For this time it is used if the provider does not answer.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// Shortest time between two readings for an unknown key.
const FORCED: Duration = Duration::from_secs(60);
/// Shortest time between an attempt that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);

/// The provider, as it describes itself.
#[derive(Debug)]
pub(super) struct Provider {
    /// Where people sign in.
    pub(super) authorization: Url,
    /// Where a code is exchanged.
    pub(super) token: Url,
    /// Where more claims are.
    pub(super) userinfo: Option<Url>,
    /// Where people sign out.
    pub(super) end_session: Option<Url>,
    /// It names itself in each answer (RFC 9207).
    pub(super) names_itself: bool,
    /// It takes the controller's secret only in the body of a call, not in its header.
    pub(super) secret_in_body: bool,
    /// The keys that it signs with.
    pub(super) keys: CoreJsonWebKeySet,
}

/// The document as it is written; fields that nobody here needs are left out.
#[derive(Debug, Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Provider {
    async fn read(client: &Client, issuer: &str) -> Result<Self, String> {
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let failed = |address: &str, why: CallError| format!("{address}: {why}");
        let read = http::json(client.get(&address)).await;
        let document: Document = read.map_err(|why| failed(&address, why))?;
        if document.issuer != issuer {
            let other = jit_proto::printable::clean(&document.issuer, 200);
            return Err(format!(
                "{address} is of {other}, not of {issuer}; `issuer` in [oidc] must be the same, letter \
                 by letter"
            ));
        }
        let url = |field: &str, text: &str| {
            secure(text).map_err(|why| format!("{address}: {field}: {why}"))
        };
        let optional = |field: &str, text: &Option<String>| {
            text.as_ref().map(|text| url(field, text)).transpose()
        };
        let keys = url("jwks_uri", &document.jwks_uri)?;
        let methods = document.token_endpoint_auth_methods_supported.unwrap_or_default();
        let takes = |method: &str| methods.iter().any(|one| one == method);
        Ok(Self {
            authorization: url("authorization_endpoint", &document.authorization_endpoint)?,
            token: url("token_endpoint", &document.token_endpoint)?,
            userinfo: optional("userinfo_endpoint", &document.userinfo_endpoint)?,
            end_session: optional("end_session_endpoint", &document.end_session_endpoint)?,
            names_itself: document.authorization_response_iss_parameter_supported,
            secret_in_body: takes("client_secret_post") && !takes("client_secret_basic"),
            keys: http::json(client.get(keys)).await.map_err(|why| failed("its keys", why))?,
        })
    }
}

/// Keeps what the provider says of itself.
pub(super) struct Lookup {
    client: Client,
    issuer: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    provider: Option<(Arc<Provider>, Instant)>,
    failed: Option<(String, Instant)>,
    forced: Option<Instant>,
}

/// What to do for who asks.
#[derive(Debug)]
enum Step {
    Use(Arc<Provider>),
    Read,
    Fail(String),
}

impl Lookup {
    pub(super) fn new(client: Client, issuer: String) -> Self {
        Self { client, issuer, kept: Mutex::default() }
    }

    /// The provider.
    ///
    /// # Errors
    /// It does not answer, or not as it should; in words.
    pub(super) async fn provider(&self) -> Result<Arc<Provider>, String> {
        // Who waits here gets the answer of who is first.
        let mut kept = self.kept.lock().await;
        match kept.step(Instant::now()) {
            Step::Use(provider) => Ok(provider),
            Step::Fail(why) => Err(why),
            Step::Read => {
                let read = Provider::read(&self.client, &self.issuer).await;
                kept.take(read, Instant::now())
            }
        }
    }

    /// The provider with keys that are newer than those of `old`; `None`: there are none, or they
    /// were read just now.
    ///
    /// # Errors
    /// It does not answer, or not as it should; in words.
    pub(super) async fn newer(&self, old: &Arc<Provider>) -> Result<Option<Arc<Provider>>, String> {
        let mut kept = self.kept.lock().await;
        if let Some((provider, _)) =
            kept.provider.as_ref().filter(|(one, _)| !Arc::ptr_eq(one, old))
        {
            return Ok(Some(Arc::clone(provider)));
        }
        let now = Instant::now();
        if !kept.may_force(now) {
            return Ok(None);
        }
        kept.forced = Some(now);
        let read = Provider::read(&self.client, &self.issuer).await?;
        kept.take(Ok(read), Instant::now()).map(Some)
    }
}

impl Kept {
    fn step(&self, now: Instant) -> Step {
        let age = |since: Instant| now.saturating_duration_since(since);
        let paused = self.failed.as_ref().filter(|(_, when)| age(*when) < PAUSE);
        match (&self.provider, paused) {
            (Some((provider, read)), None) if age(*read) < FRESH => Step::Use(Arc::clone(provider)),
            (Some((provider, read)), Some(_)) if age(*read) < USABLE => {
                Step::Use(Arc::clone(provider))
            }
            (_, Some((why, _))) => Step::Fail(why.clone()),
            (_, None) => Step::Read,
        }
    }

    /// Takes what was read; what is there stays if that failed.
    fn take(
        &mut self,
        read: Result<Provider, String>,
        now: Instant,
    ) -> Result<Arc<Provider>, String> {
        match read {
            Ok(provider) => {
                let provider = Arc::new(provider);
                self.provider = Some((Arc::clone(&provider), now));
                self.failed = None;
                Ok(provider)
            }
            Err(why) => {
                tracing::warn!("the provider of sign-ins: {why}");
                self.failed = Some((why, now));
                match self.step(now) {
                    Step::Use(provider) => Ok(provider),
                    Step::Fail(why) => Err(why),
                    Step::Read => Err("it was not read".into()),
                }
            }
        }
    }

    fn may_force(&self, now: Instant) -> bool {
        self.forced.is_none_or(|last| now.saturating_duration_since(last) >= FORCED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Provider {
        let url = || Url::parse("https://idp.example.org/x").unwrap();
        Provider {
            authorization: url(),
            token: url(),
            userinfo: None,
            end_session: None,
            names_itself: false,
            secret_in_body: false,
            keys: CoreJsonWebKeySet::new(Vec::new()),
        }
    }

    #[test]
    fn it_is_read_once_an_hour_and_kept_for_a_day_if_there_is_no_answer() {
        let began = Instant::now();
        let mut kept = Kept::default();
        assert!(matches!(kept.step(began), Step::Read));
        let first = kept.take(Ok(provider()), began).unwrap();
        let at = |after: Duration| began + after;
        assert!(matches!(kept.step(at(FRESH - PAUSE)), Step::Use(_)));
        assert!(matches!(kept.step(at(FRESH)), Step::Read));
        let same = kept.take(Err("down".into()), at(FRESH)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(matches!(kept.step(at(FRESH)), Step::Use(_)), "no attempt for a while");
        assert!(matches!(kept.step(at(FRESH + PAUSE)), Step::Read));
        assert_eq!(kept.take(Err("down".into()), at(USABLE)).unwrap_err(), "down");
        assert!(matches!(kept.step(at(USABLE)), Step::Fail(why) if why == "down"));
        assert!(matches!(kept.step(at(USABLE + PAUSE)), Step::Read));
    }

    #[test]
    fn unknown_keys_do_not_make_it_read_again_and_again() {
        let began = Instant::now();
        let kept = Kept { forced: Some(began), ..Kept::default() };
        assert!(Kept::default().may_force(began));
        assert!(!kept.may_force(began + Duration::from_secs(59)));
        assert!(kept.may_force(began + FORCED));
    }
}
