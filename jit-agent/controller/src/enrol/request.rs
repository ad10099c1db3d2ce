//! A machine's request for a certificate (PKCS#10, RFC 2986): only its key counts, and that the
//! machine has it. Which names the certificate bears is decided here, and never by who asks.

use jit_proto::{pem, uplink::next_certificate};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest,
    prelude::FromDer as _, x509::SubjectPublicKeyInfo,
};

/// Longest request, bytes of PEM.
pub const MAX_BYTES: usize = 8 * 1024;
const LABELS: [&str; 1] = ["CERTIFICATE REQUEST"];
/// 1.2.840.10045.2.1
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// prime256v1, 1.2.840.10045.3.1.7
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// id-Ed25519, 1.3.101.112
const ED25519_OID: &[u8] = &[0x2b, 0x65, 0x70];

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A key of another kind.
    #[error("its key is neither P-256 (signed with SHA-256) nor Ed25519")]
    Key,
    /// It cannot be read.
    #[error("it is no request for a certificate: {0}")]
    Malformed(String),
    /// Who sent it does not have the key.
    #[error("it is not signed with its own key")]
    Signature,
    /// Too long.
    #[error("it has over {MAX_BYTES} bytes")]
    TooLarge,
}

/// A request whose sender has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pem: String,
    key: Vec<u8>,
    sha256: String,
}

impl Request {
    /// Reads one in PEM.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn read(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_BYTES {
            return Err(RequestError::TooLarge);
        }
        let malformed = |why: &dyn ToString| RequestError::Malformed(why.to_string());
        let document = pem::one(text, &LABELS).map_err(|why| malformed(&why))?;
        let (rest, request) = X509CertificationRequest::from_der(&document.der)
            .map_err(|_| malformed(&"no PKCS#10"))?;
        if !rest.is_empty() {
            return Err(malformed(&"something is after it"));
        }
        let info = &request.certification_request_info;
        let (algorithm, named) = algorithm(&info.subject_pki)?;
        if request.signature_algorithm.algorithm.as_bytes() != named {
            return Err(RequestError::Key);
        }
        let key = UnparsedPublicKey::new(algorithm, &info.subject_pki.subject_public_key.data);
        if request.signature_value.unused_bits != 0
            || key.verify(info.raw, &request.signature_value.data).is_err()
        {
            return Err(RequestError::Signature);
        }
        Ok(Self {
            // As it was read, without what may stand around it.
            pem: pem::encode(LABELS[0], &document.der).to_string(),
            key: info.subject_pki.raw.to_vec(),
            sha256: hex::encode(Sha256::digest(info.raw)),
        })
    }

    /// Its text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key: SubjectPublicKeyInfo, DER.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// SHA-256 of what is signed in it (CertificationRequestInfo, DER), 64 hex digits: the same
    /// request that is signed once more is the same.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Whether who has the key of a certificate (DER) has made this request (DER):
/// [`next_certificate`] is what it signs.
pub fn is_proven(certificate: &[u8], csr: &[u8], proof: &[u8]) -> bool {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return false };
    let Ok((algorithm, _)) = algorithm(read.public_key()) else { return false };
    let key = UnparsedPublicKey::new(algorithm, &read.public_key().subject_public_key.data);
    key.verify(&next_certificate(csr), proof).is_ok()
}

/// How such a key signs, and the name of that.
fn algorithm(
    key: &SubjectPublicKeyInfo<'_>,
) -> Result<(&'static dyn VerificationAlgorithm, &'static [u8]), RequestError> {
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let curve = curve.as_ref().map(|curve| curve.as_bytes());
    match (key.algorithm.algorithm.as_bytes(), curve) {
        (EC_KEY, Some(P256)) => Ok((&ECDSA_P256_SHA256_ASN1, ECDSA_SHA256)),
        (ED25519_OID, None) => Ok((&ED25519, ED25519_OID)),
        _ => Err(RequestError::Key),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        SignatureAlgorithm, SigningKey as _,
    };

    use super::*;

    /// A request that asks for more than it gets.
    pub(in crate::enrol) fn asking(algorithm: &'static SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["evil.example.org".to_owned()]).unwrap();
        let uri = "spiffe://example.org/jit-controller".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_with_a_key_of_its_own_is_read() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let text = asking(algorithm);
            let request = Request::read(&text).unwrap();
            assert_eq!(Request::read(request.pem()).unwrap(), request);
            assert_eq!(Request::read(&format!("# x\n{text}")).unwrap(), request);
            assert_ne!(Request::read(&asking(algorithm)).unwrap().sha256(), request.sha256());
        }
    }

    #[test]
    fn a_request_that_its_key_has_not_signed_is_refused() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let text = asking(algorithm);
            let good = Request::read(&text).unwrap();
            let der = pem::one(&text, &LABELS).unwrap().der;
            let mut refused = 0;
            for place in 0..der.len() {
                let mut changed = der.to_vec();
                changed[place] ^= 1;
                let text = pem::encode(LABELS[0], &changed);
                // The tag of the algorithm is not signed, and nobody reads it.
                match Request::read(&text) {
                    Ok(read) => assert_eq!((&read.key, &read.sha256), (&good.key, &good.sha256)),
                    Err(_) => refused += 1,
                }
            }
            assert!(refused + 2 >= der.len(), "{refused} of {}", der.len());
        }
    }

    #[test]
    fn who_has_the_key_of_a_certificate_proves_its_request_and_no_other() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let certificate = CertificateParams::default().self_signed(&key).unwrap();
            let certificate = certificate.der();
            let [csr, other] = [(); 2].map(|()| pem::one(&asking(algorithm), &LABELS).unwrap().der);
            let proof = key.sign(&next_certificate(&csr)).unwrap();
            assert!(is_proven(certificate, &csr, &proof));
            assert!(!is_proven(certificate, &other, &proof), "a hub's own request");
            assert!(!is_proven(certificate, &csr, &key.sign(&csr).unwrap()), "for another use");
            assert!(!is_proven(certificate, &csr, &[]));
            let another = KeyPair::generate_for(algorithm).unwrap();
            let proof = another.sign(&next_certificate(&csr)).unwrap();
            assert!(!is_proven(certificate, &csr, &proof), "by another key");
            assert!(!is_proven(&[], &csr, &proof));
        }
    }

    #[test]
    fn other_keys_and_what_is_no_request_are_refused() {
        let refused = |text: &str| Request::read(text).unwrap_err();
        assert_eq!(refused(&asking(&PKCS_ECDSA_P384_SHA384)), RequestError::Key);
        let good = asking(&PKCS_ED25519);
        assert!(matches!(refused(&good.repeat(2)), RequestError::Malformed(_)));
        assert_eq!(refused(&format!("{good}{}", "x".repeat(MAX_BYTES))), RequestError::TooLarge);
        let longer = [pem::one(&good, &LABELS).unwrap().der.as_slice(), &[0]].concat();
        for bad in [
            String::new(),
            good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            pem::encode(LABELS[0], &longer).to_string(),
            pem::encode(LABELS[0], &[0x30, 0x80]).to_string(),
        ] {
            assert!(matches!(refused(&bad), RequestError::Malformed(_)), "{bad}");
        }
    }
}
