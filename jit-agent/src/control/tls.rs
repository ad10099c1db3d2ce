//! TLS 1.3 with client certificates (rustls), and the names in a controller's certificate.

use std::{path::Path, sync::Arc, time::Duration};

use jit_proto::WallTime;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{
    config::{Config, Control},
    system::sys::{self, FileError},
};

/// HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// Configuration of the listening port.
#[derive(Clone, Debug)]
pub struct Material {
    /// For the handshakes.
    pub config: Arc<ServerConfig>,
    /// Judges the controllers' certificates.
    pub authorities: Authorities,
    /// End of the agent's own certificate.
    pub not_after: WallTime,
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
    #[error("[control] {key}: {error}")]
    File {
        /// Configuration key.
        key: &'static str,
        /// Why.
        error: FileError,
    },
    /// A file without its certificate or key.
    #[error("[control] {key} {path}: {cause}")]
    Content {
        /// Configuration key.
        key: &'static str,
        /// Its file.
        path: String,
        /// Why.
        cause: String,
    },
}

impl Material {
    /// Reads the files that a configuration names. `None`: the agent does not listen.
    pub fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        config.control.as_ref().map(Self::read).transpose()
    }

    fn read(control: &Control) -> Result<Self, TlsError> {
        let Control { certificate, key, client_ca, listen: _ } = control;
        let chain = certificates("certificate", certificate)?;
        let not_after = chain
            .first()
            .and_then(|certificate| X509Certificate::from_der(certificate).ok())
            .map(|(_, parsed)| parsed.validity().not_after.timestamp().saturating_mul(1000))
            .map(WallTime)
            .ok_or_else(|| content("certificate", certificate, "the certificate does not parse"))?;
        let private = read("key", key)?;
        let private = PrivateKeyDer::from_pem_slice(private.as_bytes())
            .map_err(|error| content("key", key, &format!("no private key in PEM: {error}")))?;
        let mut roots = RootCertStore::empty();
        for root in certificates("client_ca", client_ca)? {
            roots.add(root).map_err(|error| content("client_ca", client_ca, &error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| content("client_ca", client_ca, &error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| content("key", key, &error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, private)
            .map_err(|error| {
                content("key", key, &format!("does not fit the certificate: {error}"))
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config), authorities: Authorities(verifier), not_after })
    }
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

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, path)?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(key, path, &error.to_string()))?;
    if chain.is_empty() {
        return Err(content(key, path, "no certificate in PEM"));
    }
    Ok(chain)
}

fn read(key: &'static str, path: &Path) -> Result<String, TlsError> {
    sys::read_trusted(path).map_err(|error| TlsError::File { key, error })
}

fn content(key: &'static str, path: &Path, cause: &str) -> TlsError {
    TlsError::Content { key, path: path.display().to_string(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn authority(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, Issuer::new(params, key))
    }

    fn trusting(root: &CertificateDer<'static>) -> Authorities {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Authorities(verifier.build().unwrap())
    }

    #[test]
    fn a_controller_is_known_by_uris_and_dns_names_alone() {
        let named = |alternative: Vec<rcgen::SanType>| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://example.org/cn");
            params.subject_alt_names = alternative;
            let key = KeyPair::generate().unwrap();
            names(params.self_signed(&key).unwrap().der())
        };
        let ia5 = |text: &str| text.try_into().unwrap();
        let all = named(vec![
            rcgen::SanType::Rfc822Name(ia5("ana@example.org")),
            rcgen::SanType::URI(ia5("spiffe://example.org/controller")),
            rcgen::SanType::IpAddress([192, 0, 2, 7].into()),
            rcgen::SanType::DnsName(ia5("controller.example.org")),
        ]);
        assert_eq!(all, ["spiffe://example.org/controller", "controller.example.org"]);
        assert!(named(Vec::new()).is_empty(), "the subject's name is nobody's");
        assert!(names(&CertificateDer::from(&b"no certificate"[..])).is_empty());
    }

    #[test]
    fn a_certificate_counts_until_its_end_and_under_its_authority_alone() {
        let (ours, issuer) = authority("ours");
        let (theirs, _) = authority("theirs");
        let mut params = CertificateParams::new(vec!["controller.example.org".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 2, 1);
        let key = KeyPair::generate().unwrap();
        let chain = [params.signed_by(&key, &issuer).unwrap().der().clone()];
        let at = |day: &str| WallTime(day.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let (before, inside, after) =
            (at("2025-12-31T00:00:00Z"), at("2026-01-15T00:00:00Z"), at("2026-02-01T00:00:01Z"));
        let authorities = trusting(&ours);
        assert_eq!(authorities.objection(&chain, inside), None);
        assert!(authorities.objection(&chain, before).is_some());
        assert!(authorities.objection(&chain, after).is_some());
        assert!(authorities.objection(&[], inside).is_some());
        assert!(trusting(&theirs).objection(&chain, inside).is_some());
    }
}
