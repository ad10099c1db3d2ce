//! TLS 1.3 with client certificates (rustls), and the names in a controller's certificate.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{
    clock::WallTime,
    config::Control,
    sys::{self, FileError},
};

/// HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// What the listening port needs.
#[derive(Clone, Debug)]
pub struct Material {
    /// For the handshakes.
    pub config: Arc<ServerConfig>,
    /// End of the agent's own certificate.
    pub not_after: WallTime,
}

/// Why certificates or keys are not taken.
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
    /// A file without what it should hold.
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
    /// Reads the files.
    pub fn read(control: &Control) -> Result<Self, TlsError> {
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
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|error| {
                content("key", key, &format!("does not fit the certificate: {error}"))
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config), not_after })
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
