//! What a certificate says, as far as its peers will judge it (RFC 5280).

use std::{net::IpAddr, time::Duration};

use jit_proto::WallTime;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    prelude::{FromDer as _, GeneralName, X509Certificate, X509Version},
    public_key::PublicKey,
};

use crate::gate::about::CertificateEnd;

/// The longest time before its end in which a certificate has to be renewed.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The facts of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its subject, as `CN=agent, O=example`.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Its DNS names and addresses (subject alternative names), in its order.
    pub hosts: Vec<String>,
    /// It counts from here.
    pub not_before: WallTime,
    /// It counts until here.
    pub not_after: WallTime,
    /// SHA-256 of the whole certificate, hex, as `openssl x509 -fingerprint -sha256` has it.
    pub fingerprint: String,
    /// The kind of its key: "ECDSA P-256", "RSA 2048".
    pub key: String,
    /// It may issue certificates (section 4.2.1.9); those of version 1 say nothing.
    pub authority: Authority,
    /// It may stand for a server (section 4.2.1.12): no usage is listed, or this one is.
    pub serves: bool,
    /// It may stand for a client: likewise.
    pub calls: bool,
    /// Its key may sign handshakes (section 4.2.1.3): no usage of the key is listed, or this one is.
    pub signs: bool,
    /// Its key may sign certificates: likewise.
    pub issues: bool,
}

/// What a certificate says about issuing others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// It may.
    Yes,
    /// It may not.
    No,
    /// It is of version 1, which cannot say.
    Unsaid,
}

impl Facts {
    /// Reads a certificate; `None`: it does not parse, or something follows it.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let constraints = parsed.basic_constraints().ok()?;
        let authority = match constraints.map(|found| found.value.ca) {
            Some(true) => Authority::Yes,
            None if parsed.version() == X509Version::V1 => Authority::Unsaid,
            Some(false) | None => Authority::No,
        };
        let usage = parsed.extended_key_usage().ok()?;
        let of_key = parsed.key_usage().ok()?.map(|found| found.value);
        let time = |at: x509_parser::time::ASN1Time| WallTime(at.timestamp().saturating_mul(1000));
        Some(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            hosts: hosts(&parsed),
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
            fingerprint: hex::encode(Sha256::digest(certificate)),
            key: key(&parsed),
            authority,
            serves: usage.as_ref().is_none_or(|usage| usage.value.server_auth),
            calls: usage.is_none_or(|usage| usage.value.client_auth),
            signs: of_key.is_none_or(|usage| usage.digital_signature()),
            issues: of_key.is_none_or(|usage| usage.key_cert_sign()),
        })
    }

    /// Its end: a quarter of its life before, two weeks at most, it has to be renewed.
    pub fn end(&self) -> CertificateEnd {
        let soon = self.not_after.since(self.not_before).map_or(SOON, |life| SOON.min(life / 4));
        CertificateEnd { at: self.not_after, soon }
    }

    /// Whether it issued itself.
    pub fn is_root(&self) -> bool {
        self.subject == self.issuer
    }

    /// Why it does not count at this moment; `None`: it does.
    pub fn not_now(&self, now: WallTime) -> Option<String> {
        if now < self.not_before {
            return Some(format!("it counts only from {}", self.not_before));
        }
        (now >= self.not_after).then(|| format!("it ended at {}", self.not_after))
    }
}

/// The kind of a key (RFC 3279 section 2.3, RFC 5480 section 2, RFC 8410 section 3).
fn key(parsed: &X509Certificate<'_>) -> String {
    let info = parsed.public_key();
    let id = info.algorithm.algorithm.to_id_string();
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    match (&*id, info.parsed()) {
        ("1.3.101.112", _) => "Ed25519".into(),
        ("1.3.101.113", _) => "Ed448".into(),
        ("1.2.840.10045.2.1", _) => match curve.map(|curve| curve.to_id_string()).as_deref() {
            Some("1.2.840.10045.3.1.7") => "ECDSA P-256".into(),
            Some("1.3.132.0.34") => "ECDSA P-384".into(),
            Some("1.3.132.0.35") => "ECDSA P-521".into(),
            curve => format!("ECDSA, curve {}", curve.unwrap_or("not named")),
        },
        (_, Ok(PublicKey::RSA(rsa))) => format!("RSA {}", rsa.key_size()),
        _ => format!("algorithm {id}"),
    }
}

fn hosts(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
