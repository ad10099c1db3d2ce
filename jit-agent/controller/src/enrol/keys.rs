//! The public keys by which a cloud signs tokens of machines: read over HTTPS when a token comes,
//! and kept. Where they are, the configuration says; an address in a token is never followed.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use openidconnect::core::CoreJsonWebKeySet;
use reqwest::{Client, Url};

use super::{
    attest::{self, jwt::JwtError},
    proof::Proof,
    settings::{ArcSettings, GcpSettings},
};
use crate::{calls, here::is_here, published::Published};

/// Why a token proves nothing now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    /// The keys cannot be read.
    #[error("{0}")]
    Down(String),
    /// The token.
    #[error(transparent)]
    Token(#[from] JwtError),
}

/// The keys of one issuer.
pub struct Keys {
    url: Url,
    client: Client,
    kept: Published<CoreJsonWebKeySet>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Those at this address. `ca`: authorities beside those of the system. Nothing is read yet.
    ///
    /// # Errors
    /// The file of authorities.
    pub fn new(section: &str, url: Url, ca: Option<&Path>) -> Result<Self, String> {
        let here = url.host_str().is_some_and(is_here);
        let client = calls::client(&format!("{section}.keys_ca"), ca, here)?;
        let kept = Published::new(format!("the keys at {url}"));
        Ok(Self { url, client, kept })
    }

    /// What a token proves with these keys, or with newer ones if its key is not among them.
    ///
    /// # Errors
    /// [`NotProven`]
    pub async fn prove(
        &self,
        prove: impl Fn(&CoreJsonWebKeySet) -> Result<Proof, JwtError>,
    ) -> Result<Proof, NotProven> {
        let keys = self.kept.current(self.read()).await.map_err(NotProven::Down)?;
        let proven = prove(&keys);
        if !matches!(proven, Err(JwtError::Key)) {
            return Ok(proven?);
        }
        match self.kept.newer(&keys, self.read()).await.map_err(NotProven::Down)? {
            Some(newer) => Ok(prove(&newer)?),
            None => Ok(proven?),
        }
    }

    async fn read(&self) -> Result<CoreJsonWebKeySet, String> {
        let read = calls::json(self.client.get(self.url.clone())).await;
        read.map_err(|why| format!("the keys at {} cannot be read: {why}", self.url))
    }
}

/// Machines of Azure Arc, with the keys of each tenant.
#[derive(Clone, Debug)]
pub struct ArcMachines {
    whose: attest::arc::Arc,
    keys: BTreeMap<String, Arc<Keys>>,
}

impl ArcMachines {
    /// Of these tenants. Nothing is read yet.
    ///
    /// # Errors
    /// The file of authorities.
    pub fn open(settings: &ArcSettings) -> Result<Self, String> {
        let ArcSettings { audience, tenants, keys, keys_ca } = settings;
        let whose = attest::arc::Arc { audience: audience.clone(), tenants: tenants.clone() };
        let of = |tenant: &String| {
            let url = keys.of(tenant)?;
            let keys = Keys::new("enrolment.arc", url, keys_ca.as_deref())?;
            Ok::<_, String>((tenant.clone(), Arc::new(keys)))
        };
        Ok(Self { whose, keys: tenants.iter().map(of).collect::<Result<_, _>>()? })
    }

    /// That a machine is the host that it says it is.
    ///
    /// # Errors
    /// [`NotProven`]
    pub async fn prove(&self, text: &str, host: &str, now_ms: i64) -> Result<Proof, NotProven> {
        let keys = self.keys.get(self.whose.tenant(text)?).ok_or(JwtError::Issuer)?;
        keys.prove(|keys| self.whose.prove(text, host, keys, now_ms)).await
    }
}

/// Instances of Google Compute Engine, with Google's keys.
#[derive(Clone, Debug)]
pub struct GcpInstances {
    whose: attest::gcp::Gcp,
    keys: Arc<Keys>,
}

impl GcpInstances {
    /// Of these projects. Nothing is read yet.
    ///
    /// # Errors
    /// The file of authorities.
    pub fn open(settings: &GcpSettings) -> Result<Self, String> {
        let GcpSettings { audience, projects, keys, keys_ca } = settings;
        let whose = attest::gcp::Gcp { audience: audience.clone(), projects: projects.clone() };
        let keys = Keys::new("enrolment.gcp", keys.of("")?, keys_ca.as_deref())?;
        Ok(Self { whose, keys: Arc::new(keys) })
    }

    /// That an instance is the host with its own name.
    ///
    /// # Errors
    /// [`NotProven`]
    pub async fn prove(&self, text: &str, now_ms: i64) -> Result<Proof, NotProven> {
        self.keys.prove(|keys| self.whose.prove(text, keys, now_ms)).await
    }
}
