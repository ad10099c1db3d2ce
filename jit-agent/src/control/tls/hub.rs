//! TLS 1.3 as the agent's side of an uplink: it is the client of the handshake, and shows its
//! certificate. A hub's certificate is judged as a server's.

mod renewed;

use std::{path::Path, sync::Arc, time::Duration};

use jit_proto::WallTime;
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use zeroize::Zeroizing;

pub use self::renewed::{NotRenewed, request};
use super::{
    TlsError, certified,
    own::{Kind, Own, content},
};
use crate::{
    config::Uplink,
    control::{
        certificate::{Authority, Facts},
        link::Proofs,
    },
    gate::about::CertificateEnd,
    system::{image::Files, sys::Readers},
};

/// The certificates of `[uplink]`.
const UPLINK: Kind = Kind { section: "uplink", authorities: "ca", unfit: never_calls };

/// Certificates and key of `[uplink]`, and the credentials for the proxy.
#[derive(Clone, Debug)]
pub struct HubMaterial {
    /// Judges the hubs' certificates.
    pub hubs: Hubs,
    /// End of the agent's certificate.
    pub end: CertificateEnd,
    own: Own,
    credentials: Arc<Zeroizing<String>>,
}

/// Decides which hubs' certificates are accepted.
#[derive(Clone, Debug)]
pub struct Hubs(Arc<WebPkiServerVerifier>);

impl Hubs {
    fn of(roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Judges the certificates of handshakes.
    pub(crate) fn verifier(&self) -> Arc<WebPkiServerVerifier> {
        let Self(verifier) = self;
        Arc::clone(verifier)
    }

    /// Why a certificate is not accepted at this moment for a hub of this name; `None`: it is.
    pub(crate) fn objection(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: WallTime,
    ) -> Option<String> {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Some("there is none".into());
        };
        let now = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        let Self(verifier) = self;
        let verified = verifier.verify_server_cert(certificate, intermediates, name, &[], now);
        verified.err().map(|error| error.to_string())
    }
}

/// What the front makes uplinks by.
#[derive(Clone, Debug)]
pub(crate) struct Calling {
    /// Judges the hubs' certificates.
    pub(crate) hubs: Hubs,
    own: Arc<SingleCertAndKey>,
}

impl Calling {
    /// From what the gate said.
    pub(crate) fn of(proofs: &Proofs) -> Result<Self, String> {
        let Proofs { chain, key, roots } = proofs;
        let all = |certificates: &[prost::bytes::Bytes]| {
            certificates.iter().map(|one| CertificateDer::from(one.to_vec())).collect::<Vec<_>>()
        };
        let key = PrivateKeyDer::try_from(key.to_vec()).map_err(str::to_owned)?;
        let own = certified(all(chain), key).map_err(|error| error.to_string())?;
        Ok(Self { hubs: Hubs::of(&all(roots))?, own: Arc::new(SingleCertAndKey::from(own)) })
    }

    /// The configuration of a handshake with this verifier of the hub's certificate. It names no protocol yet.
    pub(crate) fn config(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = Arc::clone(&self.own);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(own);
        // Each connection proves itself anew.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl HubMaterial {
    /// Reads the files that an `[uplink]` names.
    pub fn read(uplink: &Uplink) -> Result<Self, TlsError> {
        Self::first(uplink, Self::examine(uplink, &Files::Host))
    }

    /// The same, or the renewed certificate that is kept in this file, if that one takes its place.
    pub fn in_use(uplink: &Uplink, kept: &Path) -> Result<Self, TlsError> {
        Self::first(uplink, Self::examine_in_use(uplink, kept, &Files::Host))
    }

    /// The same, from these places.
    ///
    /// # Errors
    /// Everything that is wrong with the files that the configuration names.
    pub fn examine_in_use(
        uplink: &Uplink,
        kept: &Path,
        files: &Files,
    ) -> Result<Self, Vec<TlsError>> {
        let of_files = Self::examine(uplink, files)?;
        let kept = kept.to_owned();
        let of_kept = Uplink { certificate: kept.clone(), key: kept, ..uplink.clone() };
        // There is most often none.
        Ok(match Self::examine(&of_kept, files) {
            Ok(kept) if kept.may_follow(&of_files).is_ok() => kept,
            _ => of_files,
        })
    }

    fn first(uplink: &Uplink, examined: Result<Self, Vec<TlsError>>) -> Result<Self, TlsError> {
        examined.map_err(|errors| {
            let mut errors = errors.into_iter();
            let none = || content("certificate", &uplink.certificate, "it cannot be used");
            errors.next().unwrap_or_else(none)
        })
    }

    /// The same, from these places.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn examine(uplink: &Uplink, files: &Files) -> Result<Self, Vec<TlsError>> {
        let Uplink { certificate, key, ca, proxy_credentials, hubs: _, proxy: _ } = uplink;
        let own = Own::read(&UPLINK, (certificate, key, ca), files);
        let login =
            proxy_credentials.as_deref().map_or(Ok(String::new()), |path| login(path, files));
        let login = login.map_err(|error| error.of(UPLINK.section));
        match (own, login) {
            (Ok(own), Ok(login)) => {
                Self::with(uplink, own, login).map_err(|error| vec![error.of(UPLINK.section)])
            }
            (own, login) => {
                let errors = own.err().unwrap_or_default().into_iter().chain(login.err());
                Err(errors.collect())
            }
        }
    }

    fn with(uplink: &Uplink, own: Own, login: String) -> Result<Self, TlsError> {
        let hubs = Hubs::of(&own.roots).map_err(|cause| content("ca", &uplink.ca, &cause))?;
        certified(own.chain.clone(), own.private_key()).map_err(|error| {
            content("key", &uplink.key, &format!("does not fit the certificate: {error}"))
        })?;
        let credentials = Arc::new(Zeroizing::new(login));
        Ok(Self { hubs, end: own.end, own, credentials })
    }

    /// The same for the front.
    pub(crate) fn proofs(&self) -> Proofs {
        self.own.proofs()
    }

    /// `USER:PASSWORD` for the proxy; empty: none.
    pub(crate) fn credentials(&self) -> &str {
        &self.credentials
    }

    /// Why no hub accepts the agent's certificate at this moment, whatever else is right; `None`: its
    /// time is right.
    pub fn not_now(&self, now: WallTime) -> Option<String> {
        self.own.not_now(now)
    }

    /// Takes the place of the material in use. A certificate that does not count now never takes the
    /// place of one that does.
    pub fn in_place_of(self, used: Option<&Self>, now: WallTime) -> Result<Self, TlsError> {
        self.own.replaces(used.map(|used| &used.own), now).map(|()| self)
    }

    /// What each certificate says: the key of the configuration, the facts.
    pub fn facts(&self) -> Vec<(&'static str, Facts)> {
        self.own.facts()
    }
}

/// Why no hub accepts this certificate, whatever else is right; `None`: one may.
fn never_calls(leaf: &Facts) -> Option<String> {
    let subject = &leaf.subject;
    if leaf.authority == Authority::Yes {
        Some(format!(
            "the first certificate ({subject}) is an authority's, which no hub accepts; put the \
             agent's own certificate first"
        ))
    } else if !leaf.calls {
        Some(format!(
            "the certificate ({subject}) is not for clients: its extended key usage lacks \
             clientAuth, so no hub accepts it; issue it with clientAuth"
        ))
    } else {
        None
    }
}

/// `USER:PASSWORD`, one line (RFC 7617 section 2: the name has no colon).
fn login(path: &Path, files: &Files) -> Result<String, TlsError> {
    let key = "proxy_credentials";
    let text = files.read_secret(path, Readers::Group).map_err(|error| TlsError::File {
        section: UPLINK.section,
        key,
        error,
    })?;
    let line = text.trim_end_matches(['\r', '\n']);
    let good = line.contains(':') && line.len() <= 1024 && !line.chars().any(char::is_control);
    let what = "it is not one line with USER:PASSWORD";
    if good { Ok(line.to_owned()) } else { Err(content(key, path, what)) }
}
