//! `[signer.authority]`: who issues certificates of hosts. Only the signer's process opens its key.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jit_client::{ca::Authority, files::read_text};
use serde::{Deserialize, Serialize};

use super::duration_text;
use crate::enrol::issue::{Issuer, LIFETIME, LONGEST, SHORTEST, TrustDomain};

/// The most certificates a minute that can be set.
const MAX_RATE: u32 = 100_000;

/// `[signer.authority]`: who issues certificates of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySettings {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The domain of hosts' names: `example.org`.
    pub trust_domain: String,
    /// How long a certificate counts.
    #[serde(default = "default_lifetime", with = "duration_text")]
    pub lifetime: Duration,
    /// The most certificates that are issued in a minute.
    #[serde(default = "default_rate")]
    pub certificates_a_minute: u32,
}

/// A certificate that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateWish {
    /// The host's request, PEM: only its key counts.
    pub csr: String,
    /// The host.
    pub host: String,
    /// Names by which it is dialled, as an administrator has written them.
    pub dns: Vec<String>,
}

impl AuthoritySettings {
    pub(super) fn resolve(&mut self, directory: &Path) {
        for path in [&mut self.certificate, &mut self.key] {
            *path = directory.join(&*path);
        }
    }

    /// Checks what can be checked without opening a file: the field that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let wrong = |field, why: String| Err((field, why));
        if let Err(why) = TrustDomain::new(&self.trust_domain) {
            return wrong("authority.trust_domain", why);
        }
        if !(SHORTEST..=LONGEST).contains(&self.lifetime) {
            return wrong("authority.lifetime", "it is from 1m to 90 days (2160h)".into());
        }
        if !(1..=MAX_RATE).contains(&self.certificates_a_minute) {
            return wrong("authority.certificates_a_minute", format!("it is from 1 to {MAX_RATE}"));
        }
        Ok(())
    }

    /// Opens it.
    ///
    /// # Errors
    /// The file, and why it cannot be used.
    pub fn open(&self) -> Result<Issuer, String> {
        let read = |file, what| read_text(file, what).map_err(|error| error.to_string());
        let certificate = read(&self.certificate, "the authority's certificate")?;
        let key = read(&self.key, "the authority's private key")?;
        let authority = Authority::from_pem(&certificate, &key).map_err(|why| {
            format!("{} with {}: {why}", self.certificate.display(), self.key.display())
        })?;
        let domain = TrustDomain::new(&self.trust_domain)?;
        Ok(Issuer::new(authority, &certificate, domain, self.lifetime))
    }
}

const fn default_lifetime() -> Duration {
    LIFETIME
}

const fn default_rate() -> u32 {
    600
}
