//! Certificates and private keys from PEM, for TLS. Nothing in a file is left out in silence
//! ([`jit_proto::pem`]).

use jit_proto::pem::{Document, PemError, documents};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

const CERTIFICATE: &str = "CERTIFICATE";
/// `openssl ecparam -genkey` writes the curve before the key, which names it too.
const CURVE: &str = "EC PARAMETERS";
/// PKCS#8, SEC 1 and PKCS#1.
const PRIVATE_KEYS: [&str; 3] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Only what is asked for.
    One,
    /// A certificate chain and its key: one file stands for both.
    Both,
}

impl Holds {
    fn labels(self, own: &[&'static str], others: &[&'static str]) -> Vec<&'static str> {
        let others = if self == Self::Both { others } else { &[] };
        own.iter().chain(others).copied().collect()
    }
}

/// All certificates, in their order; at least one.
///
/// # Errors
/// Something in the text is no certificate.
pub fn certificates(text: &str, holds: Holds) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let [pkcs8, sec1, pkcs1] = PRIVATE_KEYS;
    let found = documents(text, &holds.labels(&[CERTIFICATE], &[pkcs8, sec1, pkcs1, CURVE]))?;
    let found = found.into_iter().filter(|one| one.label == CERTIFICATE);
    let chain: Vec<_> = found.map(|one| CertificateDer::from(one.der.to_vec())).collect();
    if chain.is_empty() { Err(PemError::Empty) } else { Ok(chain) }
}

/// The only private key, without a passphrase.
///
/// # Errors
/// Something in the text is no private key, or there is a second one.
pub fn private_key(text: &str, holds: Holds) -> Result<PrivateKeyDer<'static>, PemError> {
    let [pkcs8, sec1, pkcs1] = PRIVATE_KEYS;
    let found = documents(text, &holds.labels(&[pkcs8, sec1, pkcs1, CURVE], &[CERTIFICATE]))?;
    let mut keys = found.into_iter().filter(|one| PRIVATE_KEYS.contains(&one.label.as_str()));
    let Document { label, mut der, .. } = keys.next().ok_or(PemError::Empty)?;
    if let Some(second) = keys.next() {
        return Err(PemError::Second { line: second.line, label: second.label });
    }
    // It is the caller's now, to overwrite it.
    let der = std::mem::take(&mut *der);
    Ok(match label.as_str() {
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        _ => PrivatePkcs8KeyDer::from(der).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERT: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nBAUG\n-----END PRIVATE KEY-----\n";

    #[test]
    fn one_file_may_hold_certificate_and_key_only_where_it_stands_for_both() {
        let both = format!("{CERT}{KEY}");
        assert_eq!(certificates(&both, Holds::Both).unwrap().len(), 1);
        assert!(private_key(&both, Holds::Both).is_ok());
        let error = certificates(&both, Holds::One).unwrap_err().to_string();
        assert!(error.contains("a private key belongs into a file of its own"), "{error}");
        assert!(private_key(&both, Holds::One).is_err());
        assert_eq!(private_key(CERT, Holds::Both), Err(PemError::Empty));
    }

    #[test]
    fn a_second_key_and_a_passphrase_are_refused() {
        let error = private_key(&format!("{KEY}{KEY}"), Holds::One).unwrap_err();
        assert!(matches!(error, PemError::Second { line: 4, .. }), "{error}");
        let locked = KEY.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let error = private_key(&locked, Holds::One).unwrap_err().to_string();
        assert!(error.contains("remove its passphrase"), "{error}");
        let curve =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let sec1 = KEY.replace("PRIVATE", "EC PRIVATE");
        let read = private_key(&format!("{curve}{sec1}"), Holds::One).unwrap();
        assert!(matches!(read, PrivateKeyDer::Sec1(_)));
    }
}
