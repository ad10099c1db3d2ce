//! TLS 1.3 with client certificates (rustls), and the names in a controller's certificate.

mod hub;
mod own;

use std::{sync::Arc, time::Duration};

use jit_proto::{
    WallTime,
    permission::{Permission, Permissions},
};
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroize as _;

pub(crate) use self::hub::Calling;
pub use self::hub::{HubMaterial, Hubs, NotRenewed, request};
use self::own::{Kind, Own, content};
use crate::{
    config::{Config, Control, Controller},
    control::{
        certificate::Facts,
        judge,
        link::{Listed, Proofs, Setup},
    },
    gate::about::CertificateEnd,
    system::{image::Files, sys::FileError},
};

/// HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";
/// The certificates of `[control]`.
const CONTROL: Kind =
    Kind { section: "control", authorities: "client_ca", unfit: judge::never_serves };

/// Certificates and key of the listening port.
#[derive(Clone, Debug)]
pub struct Material {
    /// Judges the controllers' certificates.
    pub authorities: Authorities,
    /// End of the agent's own certificate.
    pub end: CertificateEnd,
    own: Own,
}

/// What the front makes handshakes by.
pub(crate) struct Handshaking {
    /// With every client let in that the authorities vouch for.
    pub(crate) config: ServerConfig,
    /// Judges the controllers' certificates.
    pub(crate) authorities: Authorities,
}

/// Decides which certificates are accepted.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Judges the certificates of handshakes.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let Self(verifier) = self;
        Arc::clone(verifier)
    }

    /// Why a certificate is not accepted at this moment; `None`: it is. The certificates that lead
    /// to an authority follow it.
    pub fn objection(&self, chain: &[CertificateDer<'_>], now: WallTime) -> Option<String> {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Some("there is none".into());
        };
        let now = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        let Self(verifier) = self;
        verifier
            .verify_client_cert(certificate, intermediates, now)
            .err()
            .map(|error| error.to_string())
    }
}

/// Why certificates or keys are refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("[{section}] {key}: {error}")]
    File {
        /// Section of the configuration.
        section: &'static str,
        /// Configuration key.
        key: &'static str,
        /// Why.
        error: FileError,
    },
    /// The certificate does not count at this moment.
    #[error("[{section}] certificate: {why}; renew it")]
    NotNow {
        /// Section of the configuration.
        section: &'static str,
        /// Why.
        why: String,
    },
    /// A file without its certificate or key.
    #[error("[{section}] {key} {path}: {cause}")]
    Content {
        /// Section of the configuration.
        section: &'static str,
        /// Configuration key.
        key: &'static str,
        /// Its file.
        path: String,
        /// Why.
        cause: String,
    },
}

impl TlsError {
    /// The section of the configuration that names the file.
    pub const fn section(&self) -> &'static str {
        let (Self::File { section, .. }
        | Self::NotNow { section, .. }
        | Self::Content { section, .. }) = self;
        section
    }

    /// The same of another section.
    fn of(mut self, of: &'static str) -> Self {
        let (Self::File { section, .. }
        | Self::NotNow { section, .. }
        | Self::Content { section, .. }) = &mut self;
        *section = of;
        self
    }
}

impl Material {
    /// Reads the files that a configuration names. `None`: the agent does not listen.
    pub fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        config.control.as_ref().map(Self::read).transpose()
    }

    /// Reads the files that a `[control]` names.
    pub fn read(control: &Control) -> Result<Self, TlsError> {
        Self::examine(control, &Files::Host).map_err(|errors| {
            let mut errors = errors.into_iter();
            let none = || content("certificate", &control.certificate, "it cannot be used");
            errors.next().unwrap_or_else(none)
        })
    }

    /// The same, from these places.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn examine(control: &Control, files: &Files) -> Result<Self, Vec<TlsError>> {
        let Control { certificate, key, client_ca, listen: _ } = control;
        let own = Own::read(&CONTROL, (certificate, key, client_ca), files)?;
        let made = handshaking(own.chain.clone(), own.private_key(), &own.roots);
        let Handshaking { config: _, authorities } = made.map_err(|unfit| {
            vec![match unfit {
                Unfit::Authorities(cause) => content("client_ca", client_ca, &cause),
                Unfit::Key(cause) => content("key", key, &cause),
            }]
        })?;
        Ok(Self { authorities, end: own.end, own })
    }

    /// The same for the front, with these controllers.
    pub(crate) fn setup(&self, controllers: &[Controller]) -> Setup {
        let Proofs { chain, key, roots } = self.own.proofs();
        Setup { chain, key, roots, controllers: listed(controllers), uplink: None }
    }

    /// Why no controller accepts the agent's certificate at this moment, whatever else is right;
    /// `None`: its time is right.
    pub fn not_now(&self, now: WallTime) -> Option<String> {
        self.own.not_now(now)
    }

    /// Takes the place of the material in use. A certificate that does not count now never takes the
    /// place of one that does.
    pub fn in_place_of(self, used: Option<&Self>, now: WallTime) -> Result<Self, TlsError> {
        self.own.replaces(used.map(|used| &used.own), now).map(|()| self)
    }

    /// What a controller may object to, one sentence each.
    pub fn doubts(&self, now: WallTime) -> Vec<String> {
        let Own { chain, roots, .. } = &self.own;
        let doubt = judge::doubt(chain, roots, now);
        let doubts = doubt.into_iter().chain(judge::oddities(chain));
        let doubts = doubts.map(|doubt| format!("[control] certificate: {doubt}"));
        let ended = roots.iter().filter_map(Facts::of).filter_map(|facts| {
            let why = facts.not_now(now)?;
            Some(format!("[control] client_ca: {} does not count now: {why}", facts.subject))
        });
        doubts.chain(ended).collect()
    }

    /// The names and addresses in the agent's certificate.
    pub fn hosts(&self) -> Vec<String> {
        self.own.chain.first().and_then(Facts::of).map(|facts| facts.hosts).unwrap_or_default()
    }

    /// What each certificate says: the key of the configuration, the facts.
    pub fn facts(&self) -> Vec<(&'static str, Facts)> {
        self.own.facts()
    }

    /// When each certificate ends: the key of the configuration, the subject, the end.
    pub fn ends(&self) -> Vec<(&'static str, String, WallTime)> {
        let all = self.facts().into_iter();
        all.map(|(key, facts)| (key, facts.subject, facts.not_after)).collect()
    }

    /// What was taken from the files: one line a certificate, with the key of the configuration.
    pub fn certificates(&self) -> Vec<String> {
        let line = |(key, facts): (&str, Facts)| {
            let Facts { subject, not_after, fingerprint, .. } = facts;
            format!("{key:<12} {subject}, until {not_after}, SHA-256 {fingerprint}")
        };
        self.facts().into_iter().map(line).collect()
    }
}

/// What a setup says: how handshakes are made, and who the controllers are.
pub(crate) struct Read {
    /// With who connects to the agent; `None`: nobody may.
    pub(crate) handshaking: Option<Handshaking>,
    /// With hubs; `None`: there are none.
    pub(crate) calling: Option<Calling>,
    pub(crate) controllers: Vec<Controller>,
}

/// Reads a setup.
pub(crate) fn of_setup(setup: &Setup) -> Result<Read, String> {
    let Setup { chain, key, roots, controllers, uplink } = setup;
    let all = |certificates: &[prost::bytes::Bytes]| {
        certificates.iter().map(|one| CertificateDer::from(one.to_vec())).collect::<Vec<_>>()
    };
    let handshaking = if chain.is_empty() {
        None
    } else {
        let key = PrivateKeyDer::try_from(key.to_vec()).map_err(str::to_owned)?;
        let made = handshaking(all(chain), key, &all(roots)).map_err(|unfit| match unfit {
            Unfit::Authorities(cause) | Unfit::Key(cause) => cause,
        })?;
        Some(made)
    };
    let permission = |word: &String| Permission::ALL.into_iter().find(|one| one.word() == word);
    let controller = |Listed { identity, may }: &Listed| Controller {
        identity: identity.clone(),
        may: may.iter().filter_map(permission).collect(),
    };
    let controllers = controllers.iter().map(controller).collect();
    Ok(Read { handshaking, calling: uplink.as_ref().map(Calling::of).transpose()?, controllers })
}

/// Who may call, for the front.
pub(crate) fn listed(controllers: &[Controller]) -> Vec<Listed> {
    let words = |may: Permissions| {
        let held = Permission::ALL.into_iter().filter(move |one| may.contains(*one));
        held.map(|one| one.word().to_owned()).collect()
    };
    let listed = |Controller { identity, may }: &Controller| Listed {
        identity: identity.clone(),
        may: words(*may),
    };
    controllers.iter().map(listed).collect()
}

/// Which file is to blame, and why.
enum Unfit {
    Authorities(String),
    Key(String),
}

fn handshaking(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: &[CertificateDer<'static>],
) -> Result<Handshaking, Unfit> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| Unfit::Authorities(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .map_err(|error| Unfit::Authorities(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Unfit::Key(error.to_string()))?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            certified(chain, key)
                .map_err(|error| Unfit::Key(format!("does not fit the certificate: {error}")))?,
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Handshaking { config, authorities: Authorities(verifier) })
}

/// The subject alternative names of a certificate that can stand for a controller: URIs and DNS
/// names (RFC 5280 section 4.2.1.6).
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// The chain with its key. The key's bytes are overwritten: from here on only `ring` has them.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let read = rustls::crypto::ring::sign::any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, read?);
    match certified.keys_match() {
        // As rustls itself does: it does not know every kind of key.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
