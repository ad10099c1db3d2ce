//! Signing keys and signatures: Ed25519 and ECDSA P-256 with SHA-256, over DSSE's encoding.
//!
//! Private keys are PKCS#8 PEM files without a passphrase. A key elsewhere (an HSM, a cloud key
//! service) signs the same bytes, see docs/signing.md. Nothing here re-encodes a payload.

use std::fmt;

use ed25519_dalek::{Signer as _, ed25519::KeypairBytes};
use jit_proto::{
    dsse::pre_authentication_encoding,
    pem::{self, PemError},
    v1,
};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use rustls::crypto::{GetRandomFailed, SecureRandom};

use crate::public_key::PublicKey;

/// Signature algorithms that agents accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032): small and fast.
    Ed25519,
    /// ECDSA over P-256 with SHA-256: what HSMs and cloud key services offer.
    P256,
}

/// A private key that signs grants or policies.
pub enum SigningKey {
    /// Ed25519.
    Ed25519(ed25519_dalek::SigningKey),
    /// ECDSA P-256.
    P256(p256::SecretKey),
}

/// Why a text is not a signing key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key has a passphrase.
    #[error(
        "it is encrypted; decrypt it to a file that only you can read: \
         `openssl pkey -in OLD -out NEW`"
    )]
    Encrypted,
    /// There is something in the file that is not understood.
    #[error("{0}")]
    Pem(PemError),
    /// It is the public key.
    #[error("it is a public key; the private one signs")]
    Public,
    /// The key is in the SEC 1 format (RFC 5915).
    #[error(
        "it is in the SEC 1 format; convert it: `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`"
    )]
    Sec1,
    /// It is none of these: another algorithm, another format, or not a key.
    #[error(
        "it is not an Ed25519 or ECDSA P-256 private key in PKCS#8 PEM; make one with \
         `jitctl keygen` or `openssl genpkey -algorithm ed25519`"
    )]
    Unsupported,
}

impl KeyError {
    /// Why this text is no key, in the words of the most likely mistake.
    fn of(text: &str, error: PemError) -> Self {
        let has = |label: &str| text.contains(&format!("BEGIN {label}"));
        match error {
            _ if has("ENCRYPTED PRIVATE KEY") => Self::Encrypted,
            _ if has("EC PRIVATE KEY") => Self::Sec1,
            PemError::Second { .. } | PemError::Boundary { .. } => Self::Pem(error),
            _ if has("PUBLIC KEY") => Self::Public,
            PemError::Empty => Self::Unsupported,
            _ => Self::Pem(error),
        }
    }
}

impl SigningKey {
    /// Makes a key from random bytes.
    pub fn generate(
        algorithm: Algorithm,
        random: &dyn SecureRandom,
    ) -> Result<Self, GetRandomFailed> {
        let mut secret = [0; 32];
        loop {
            random.fill(&mut secret)?;
            match algorithm {
                Algorithm::Ed25519 => {
                    return Ok(Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(&secret)));
                }
                Algorithm::P256 => {
                    // Zero and numbers from the group's order on are not keys: about one draw in
                    // 2^32.
                    if let Ok(key) = p256::SecretKey::from_slice(&secret) {
                        return Ok(Self::P256(key));
                    }
                }
            }
        }
    }

    /// Reads PKCS#8 in PEM, and nothing else beside it. The key names its algorithm.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = match pem::one(text, &["PRIVATE KEY"]) {
            Ok(document) => document.der,
            Err(error) => return Err(KeyError::of(text, error)),
        };
        if let Ok(key) = ed25519_dalek::SigningKey::from_pkcs8_der(&der) {
            return Ok(Self::Ed25519(key));
        }
        p256::SecretKey::from_pkcs8_der(&der).map(Self::P256).map_err(|_| KeyError::Unsupported)
    }

    /// The private key as PKCS#8 PEM.
    pub fn to_pem(&self) -> String {
        let pem = match self {
            // Version 1, without the public key in it: OpenSSL 3.0 reads no other.
            Self::Ed25519(key) => KeypairBytes { secret_key: key.to_bytes(), public_key: None }
                .to_pkcs8_pem(LineEnding::LF),
            Self::P256(key) => key.to_pkcs8_pem(LineEnding::LF),
        };
        pem.expect("a key of fixed size encodes").to_string()
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519(key) => PublicKey::Ed25519(key.verifying_key()),
            Self::P256(key) => PublicKey::P256(key.public_key()),
        }
    }

    /// The public key as SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` prints it.
    pub fn public_pem(&self) -> String {
        self.public().pem()
    }

    /// A hint for the agent, which key to try first ([`PublicKey::key_id`]).
    pub fn key_id(&self) -> String {
        self.public().key_id()
    }

    /// The algorithm's name for people.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "Ed25519",
            Self::P256(_) => "ECDSA P-256",
        }
    }

    /// Signs a message: 64 bytes for Ed25519, ASN.1 DER for P-256.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign(message).to_vec(),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::SigningKey::from(key).sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

/// Says which key it is, and nothing of its secret.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {}", self.algorithm(), self.key_id())
    }
}

/// Makes an envelope of exactly these bytes, with a signature by each key.
pub fn seal(payload_type: &str, payload: Vec<u8>, keys: &[SigningKey]) -> v1::Envelope {
    let message = pre_authentication_encoding(payload_type, &payload);
    let signatures = keys
        .iter()
        .map(|key| v1::Signature {
            key_id: key.key_id(),
            signature: key.sign(&message).into(),
            ..v1::Signature::default()
        })
        .collect();
    v1::Envelope { payload_type: payload_type.to_owned(), payload: payload.into(), signatures }
}

#[cfg(test)]
mod tests {
    use jit_proto::payload_type::GRANT_TYPE;
    use p256::ecdsa::signature::Verifier as _;

    use super::*;

    fn fresh(algorithm: Algorithm) -> SigningKey {
        let provider = rustls::crypto::ring::default_provider();
        SigningKey::generate(algorithm, provider.secure_random).unwrap()
    }

    #[test]
    fn an_ed25519_signature_is_strictly_good_over_the_encoding() {
        let key = fresh(Algorithm::Ed25519);
        let envelope = seal(GRANT_TYPE, b"payload".to_vec(), std::slice::from_ref(&key));
        let SigningKey::Ed25519(inner) = &key else { panic!("asked for Ed25519") };
        let bytes = &envelope.signatures[0].signature;
        let signature = ed25519_dalek::Signature::from_slice(bytes).unwrap();
        let message = pre_authentication_encoding(GRANT_TYPE, b"payload");
        inner.verifying_key().verify_strict(&message, &signature).unwrap();
        assert!(inner.verifying_key().verify_strict(b"payload", &signature).is_err());
    }

    #[test]
    fn a_p256_signature_is_good_der_over_the_encoding() {
        let key = fresh(Algorithm::P256);
        let envelope = seal(GRANT_TYPE, b"payload".to_vec(), std::slice::from_ref(&key));
        let SigningKey::P256(inner) = &key else { panic!("asked for P-256") };
        let signature =
            p256::ecdsa::Signature::from_der(&envelope.signatures[0].signature).unwrap();
        let message = pre_authentication_encoding(GRANT_TYPE, b"payload");
        let public = p256::ecdsa::VerifyingKey::from(inner.public_key());
        public.verify(&message, &signature).unwrap();
        assert!(public.verify(b"payload", &signature).is_err());
    }

    #[test]
    fn a_key_survives_its_file() {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let key = fresh(algorithm);
            let again = SigningKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.key_id(), key.key_id());
            assert_eq!(again.public_pem(), key.public_pem());
        }
    }

    #[test]
    fn a_file_that_is_no_signing_key_is_named() {
        let public = fresh(Algorithm::P256).public_pem();
        let private = fresh(Algorithm::P256).to_pem();
        let line = private.lines().count() + 1;
        let second = KeyError::Pem(PemError::Second { line, label: "PRIVATE KEY".into() });
        let rsa_like = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        for (pem, error) in [
            (public.as_str(), KeyError::Public),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", KeyError::Encrypted),
            ("-----BEGIN EC PRIVATE KEY-----\n", KeyError::Sec1),
            (rsa_like, KeyError::Unsupported),
            ("", KeyError::Unsupported),
            (&format!("{private}{private}"), second.clone()),
            (&format!("{private}{public}"), KeyError::Public),
        ] {
            assert_eq!(SigningKey::from_pem(pem).err(), Some(error));
        }
    }
}
