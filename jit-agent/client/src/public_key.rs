//! Public keys of the two algorithms, from every form in which keys that sign come, and the check
//! of a signature. The agent has its own check: nothing here opens anything.

use ed25519_dalek::pkcs8::spki::EncodePublicKey as _;
use jit_proto::pem;
use p256::{
    ecdsa::signature::Verifier as _,
    pkcs8::{DecodePublicKey as _, LineEnding},
};
use sha2::{Digest as _, Sha256};

/// A public key whose signatures agents accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// Ed25519.
    Ed25519(ed25519_dalek::VerifyingKey),
    /// ECDSA P-256 with SHA-256.
    P256(p256::PublicKey),
}

impl PublicKey {
    /// Reads one SubjectPublicKeyInfo in PEM, and nothing else beside it.
    ///
    /// # Errors
    /// It is something else, in words.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let wanted = "wanted: one Ed25519 or ECDSA P-256 PUBLIC KEY, as `openssl pkey -pubout` \
                      prints it";
        let document =
            pem::one(text, &["PUBLIC KEY"]).map_err(|error| format!("{error} ({wanted})"))?;
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_public_key_der(&document.der) {
            return Self::strong(key);
        }
        let key = p256::PublicKey::from_public_key_der(&document.der);
        key.map(Self::P256).map_err(|_| format!("it has another algorithm ({wanted})"))
    }

    /// From the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// They are no key.
    pub fn from_ed25519(bytes: &[u8]) -> Result<Self, String> {
        let bytes: &[u8; 32] =
            bytes.try_into().map_err(|_| format!("{} bytes; Ed25519 has 32", bytes.len()))?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes);
        Self::strong(key.map_err(|_| "the bytes are no point of Ed25519".to_owned())?)
    }

    /// From a point of P-256 (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// It is none.
    pub fn from_p256_point(point: &[u8]) -> Result<Self, String> {
        let key = p256::PublicKey::from_sec1_bytes(point);
        key.map(Self::P256).map_err(|_| "the bytes are no point of P-256".to_owned())
    }

    fn strong(key: ed25519_dalek::VerifyingKey) -> Result<Self, String> {
        if key.is_weak() {
            return Err(
                "it is an Ed25519 key of small order, under which signatures can be forged"
                    .to_owned(),
            );
        }
        Ok(Self::Ed25519(key))
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn der(&self) -> Vec<u8> {
        let der = match self {
            Self::Ed25519(key) => key.to_public_key_der(),
            Self::P256(key) => key.to_public_key_der(),
        };
        der.expect("a key of fixed size encodes").into_vec()
    }

    /// SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` prints it.
    pub fn pem(&self) -> String {
        let pem = match self {
            Self::Ed25519(key) => key.to_public_key_pem(LineEnding::LF),
            Self::P256(key) => key.to_public_key_pem(LineEnding::LF),
        };
        pem.expect("a key of fixed size encodes")
    }

    /// A hint for the agent, which key to try first: the first 8 bytes of the SHA-256 of the
    /// SubjectPublicKeyInfo in DER, as 16 hex digits.
    pub fn key_id(&self) -> String {
        hex::encode(Sha256::digest(self.der()).get(..8).unwrap_or_default())
    }

    /// The whole SHA-256 of the SubjectPublicKeyInfo in DER, hex: what to compare where somebody
    /// could make another key with the same id.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.der()))
    }

    /// The algorithm's name for people.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "Ed25519",
            Self::P256(_) => "ECDSA P-256",
        }
    }

    /// Whether this is a good signature over the message, in a form that agents accept.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Self::P256(key) => p256_signature(signature).is_some_and(|signature| {
                p256::ecdsa::VerifyingKey::from(key).verify(message, &signature).is_ok()
            }),
        }
    }

    /// A signature of a device or a service, in the form of envelopes (64 bytes, or ASN.1 DER for
    /// P-256) and verified: what is not good does not leave.
    ///
    /// # Errors
    /// It is no signature, or not over this message by this key.
    pub fn finished(&self, message: &[u8], raw: &[u8]) -> Result<Vec<u8>, String> {
        if !self.verifies(message, raw) {
            return Err(format!(
                "what came back ({} bytes) is no good {} signature by the key {}; check that it is \
                 this key that signs, and that the message is hashed once",
                raw.len(),
                self.algorithm(),
                self.key_id()
            ));
        }
        Ok(match self {
            Self::Ed25519(_) => raw.to_vec(),
            Self::P256(_) => p256_signature(raw)
                .map_or_else(Vec::new, |signature| signature.to_der().as_bytes().to_vec()),
        })
    }
}

/// From DER, or from r and s with 32 bytes each.
fn p256_signature(bytes: &[u8]) -> Option<p256::ecdsa::Signature> {
    let fixed = (bytes.len() == 64).then(|| p256::ecdsa::Signature::from_slice(bytes).ok());
    fixed.flatten().or_else(|| p256::ecdsa::Signature::from_der(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{Algorithm, SigningKey};

    fn fresh(algorithm: Algorithm) -> SigningKey {
        let provider = rustls::crypto::ring::default_provider();
        SigningKey::generate(algorithm, provider.secure_random).unwrap()
    }

    #[test]
    fn a_key_survives_its_pem_and_verifies_its_own_signatures_only() {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let (key, other) = (fresh(algorithm), fresh(algorithm));
            let public = PublicKey::from_pem(&key.public_pem()).unwrap();
            assert_eq!((public.key_id(), public.pem()), (key.key_id(), key.public_pem()));
            assert!(public.verifies(b"m", &key.sign(b"m")));
            assert!(!public.verifies(b"n", &key.sign(b"m")));
            assert!(!public.verifies(b"m", &other.sign(b"m")));
            assert!(public.finished(b"m", &other.sign(b"m")).is_err());
            assert!(public.finished(b"m", b"").is_err());
            assert!(PublicKey::from_pem(&key.to_pem()).is_err());
        }
    }

    #[test]
    fn a_p256_signature_of_two_numbers_becomes_der() {
        let key = fresh(Algorithm::P256);
        let public = key.public();
        let der = key.sign(b"m");
        let fixed = p256::ecdsa::Signature::from_der(&der).unwrap().to_bytes();
        assert_eq!(public.finished(b"m", &fixed).unwrap(), der);
        assert_eq!(public.finished(b"m", &der).unwrap(), der);
    }

    #[test]
    fn an_ed25519_key_of_small_order_is_refused() {
        let mut zero = [0; 32];
        zero[0] = 1;
        assert!(PublicKey::from_ed25519(&zero).is_err());
        assert!(PublicKey::from_ed25519(&[0; 31]).is_err());
        assert!(PublicKey::from_p256_point(&[4; 65]).is_err());
    }
}
