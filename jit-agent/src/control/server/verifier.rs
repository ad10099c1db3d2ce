//! Who is let in by a TLS handshake: a certificate of the authorities, for clients, with the name of
//! a controller. All others get no connection, so they hold no place.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::control::{
    server::authority::Authority,
    tls::{self, Calling},
};

/// The configuration of handshakes: `base` with only controllers let in. `None`: no authority
/// vouches for anybody.
pub(super) fn for_controllers(base: &ServerConfig, authority: &Authority) -> Option<ServerConfig> {
    let chain = authority.chain_verifier()?;
    let verifier = Arc::new(Controllers { chain, authority: authority.clone() });
    let mut config = ServerConfig::builder_with_provider(Arc::clone(base.crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&base.cert_resolver));
    config.alpn_protocols.clone_from(&base.alpn_protocols);
    // No handshake goes past the verifier.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(config)
}

/// The configuration of a handshake with a hub that is a controller.
pub(super) fn for_hubs(calling: &Calling, authority: &Authority) -> Result<ClientConfig, Error> {
    let chain = calling.hubs.verifier();
    calling.config(Arc::new(HubsOfControllers { chain, authority: authority.clone() }))
}

/// Accepts what the chain's verifier accepts, if it is a controller's.
struct HubsOfControllers {
    chain: Arc<WebPkiServerVerifier>,
    authority: Authority,
}

impl fmt::Debug for HubsOfControllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubsOfControllers").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for HubsOfControllers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        if self.authority.knows(&tls::names(end_entity)) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts what the chain's verifier accepts, if it is a controller's.
struct Controllers {
    chain: Arc<dyn ClientCertVerifier>,
    authority: Authority,
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controllers").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Controllers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if self.authority.knows(&tls::names(end_entity)) {
            Ok(verified)
        } else {
            // The peer gets the alert access_denied.
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
