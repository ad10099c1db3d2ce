//! What the provider says of itself (OpenID Connect Discovery 1.0), and its keys.

use std::sync::Arc;

use openidconnect::core::CoreJsonWebKeySet;
use reqwest::{Client, Url};
use serde::Deserialize;

use crate::{
    calls::{self, CallError},
    here::secure,
    published::Published,
};

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
        let read = calls::json(client.get(&address)).await;
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
            keys: calls::json(client.get(keys)).await.map_err(|why| failed("its keys", why))?,
        })
    }
}

/// Keeps what the provider says of itself.
pub(super) struct Lookup {
    client: Client,
    issuer: String,
    kept: Published<Provider>,
}

impl Lookup {
    pub(super) fn new(client: Client, issuer: String) -> Self {
        Self { client, issuer, kept: Published::new("the provider of sign-ins") }
    }

    /// The provider.
    ///
    /// # Errors
    /// It does not answer, or not as it should; in words.
    pub(super) async fn provider(&self) -> Result<Arc<Provider>, String> {
        self.kept.current(Provider::read(&self.client, &self.issuer)).await
    }

    /// The provider with keys that are newer than those of `old`; `None`: there are none, or they
    /// were read just now.
    ///
    /// # Errors
    /// It does not answer, or not as it should; in words.
    pub(super) async fn newer(&self, old: &Arc<Provider>) -> Result<Option<Arc<Provider>>, String> {
        self.kept.newer(old, Provider::read(&self.client, &self.issuer)).await
    }
}
