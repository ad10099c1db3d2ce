//! A public key of one of the two algorithms: read once, strictly, and then verified with many times.
//!
//! ECDSA P-256 is `ring`'s, which takes a sixth of the time of `p256`. Ed25519 is not: see
//! `ed25519`.

use std::fmt;

use ring::{
    agreement::{self, EphemeralPrivateKey},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use sha2::{Digest as _, Sha256};

use crate::rules::keyring::{
    KeyError,
    ed25519::{ED25519_SPKI, Ed25519Key},
};

/// SubjectPublicKeyInfo of an uncompressed P-256 key, up to the point (RFC 5480 section 2.1).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same of a compressed P-256 key: lengths of 32 bytes less.
const P256_COMPRESSED_SPKI: [u8; 26] = [
    0x30, 0x39, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x22, 0x00,
];
/// First byte of an uncompressed point (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// A P-256 signature in DER: two integers of 1 to 33 bytes each.
const P256_DER_BYTES: std::ops::RangeInclusive<usize> = 8..=72;

/// The identity of a key, whatever its name: SHA-256 of algorithm and key bytes; of an approver's
/// key, also of its rpId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

/// A public key that can be trusted to be one: no weak one, and a point on its curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PublicKey {
    Ed25519(Ed25519Key),
    P256(P256Key),
}

/// A P-256 public key: an uncompressed point.
#[derive(Clone, PartialEq)]
pub(super) struct P256Key([u8; 65]);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        if der.starts_with(&ED25519_SPKI) {
            return Ed25519Key::from_spki(der).map(Self::Ed25519);
        }
        if let Some(point) = der.strip_prefix(&P256_SPKI) {
            return P256Key::from_point(point).map(Self::P256).ok_or(KeyError::Unsupported);
        }
        let compressed = der.starts_with(&P256_COMPRESSED_SPKI);
        Err(if compressed { KeyError::Compressed } else { KeyError::Unsupported })
    }

    /// Hashes the key itself, not an encoding of it.
    pub(super) fn id(&self) -> KeyId {
        let (algorithm, key) = match self {
            Self::Ed25519(key) => (&b"ed25519"[..], &key.bytes()[..]),
            Self::P256(P256Key(point)) => (&b"p256"[..], &point[..]),
        };
        KeyId(Sha256::new_with_prefix(algorithm).chain_update(key).finalize().into())
    }

    /// `None`: these bytes are no signature of this algorithm, which costs no time.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> Option<bool> {
        match self {
            Self::Ed25519(key) => Some(key.verifies(message, signature.try_into().ok()?)),
            Self::P256(key) => key.verifies(message, signature),
        }
    }
}

impl KeyId {
    /// The identity of the same key as that of an approver.
    pub(super) fn of_approver(self, rp_id: &str) -> Self {
        Self(
            Sha256::new_with_prefix(b"webauthn")
                .chain_update(self.0)
                .chain_update(rp_id)
                .finalize()
                .into(),
        )
    }
}

impl P256Key {
    /// Reads an uncompressed point; `None`: it is none, or not on the curve.
    fn from_point(point: &[u8]) -> Option<Self> {
        let key = Self(point.try_into().ok()?);
        if key.0.first() != Some(&UNCOMPRESSED) {
            return None;
        }
        // This is how `ring` says whether a point is on the curve: it agrees on a secret with no
        // other. The secret is thrown away.
        let any =
            EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new()).ok()?;
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, key.0);
        agreement::agree_ephemeral(any, &peer, |_secret| ()).ok()?;
        Some(key)
    }

    /// Takes a signature in DER or as two numbers of 32 bytes. S may be in either half of its range:
    /// nothing is identified by the bytes of a signature.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> Option<bool> {
        let good = |algorithm: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, self.0).verify(message, signature).is_ok()
        };
        let der = P256_DER_BYTES.contains(&signature.len()) && signature.starts_with(&[0x30]);
        let fixed = signature.len() == 64;
        // A number may begin like DER.
        (der || fixed).then(|| {
            (fixed && good(&ECDSA_P256_SHA256_FIXED)) || (der && good(&ECDSA_P256_SHA256_ASN1))
        })
    }
}

impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.get(..8).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use p256::{
        ecdsa::signature::Signer as _,
        pkcs8::{DecodePublicKey as _, EncodePublicKey as _},
    };

    use super::*;

    fn p256(seed: u8) -> (p256::ecdsa::SigningKey, Vec<u8>) {
        let key = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
        let spki = p256::PublicKey::from(key.verifying_key()).to_public_key_der().unwrap();
        (key, spki.as_bytes().to_vec())
    }

    #[test]
    fn both_encodings_and_both_halves_of_a_p256_signature_are_good() {
        let (key, spki) = p256(2);
        let public = PublicKey::from_spki(&spki).unwrap();
        let low: p256::ecdsa::Signature = key.sign(b"m");
        let high = p256::ecdsa::Signature::from_scalars(low.r(), -*low.s()).unwrap();
        for signature in [low, high] {
            for bytes in [signature.to_der().as_bytes(), signature.to_bytes().as_slice()] {
                assert_eq!(public.verifies(b"m", bytes), Some(true));
                assert_eq!(public.verifies(b"n", bytes), Some(false));
                let longer = [bytes, &[0]].concat();
                assert_ne!(public.verifies(b"m", &longer), Some(true));
                assert_ne!(public.verifies(b"m", &bytes[1..]), Some(true));
            }
        }
        for none in [&b""[..], b"short", &[1; 63], &[0x30; 73]] {
            assert_eq!(public.verifies(b"m", none), None);
        }
    }

    #[test]
    fn a_p256_key_is_an_uncompressed_point_on_the_curve() {
        let (_, spki) = p256(2);
        assert!(PublicKey::from_spki(&spki).is_ok());
        // Every change of one byte is refused, or gives another key that others take, too.
        for place in 0..spki.len() {
            let mut other = spki.clone();
            other[place] ^= 1;
            let theirs = p256::PublicKey::from_public_key_der(&other);
            assert_eq!(PublicKey::from_spki(&other).is_ok(), theirs.is_ok(), "byte {place}");
        }
        for other in [[&spki[..], &[0]].concat(), spki[..spki.len() - 1].to_vec()] {
            assert!(matches!(PublicKey::from_spki(&other), Err(KeyError::Unsupported)));
        }
        // The point at infinity.
        let infinity = [&P256_SPKI[..24], &[0x02, 0x00, 0x00]].concat();
        assert!(matches!(PublicKey::from_spki(&infinity), Err(KeyError::Unsupported)));
        let zeros = [&P256_SPKI[..], &[4; 1], &[0; 64]].concat();
        assert!(matches!(PublicKey::from_spki(&zeros), Err(KeyError::Unsupported)));
    }

    #[test]
    fn a_compressed_point_is_refused_by_name() {
        let (key, _) = p256(2);
        let point = key.verifying_key().to_sec1_point(true);
        let spki = [&P256_COMPRESSED_SPKI[..], point.as_bytes()].concat();
        assert!(p256::PublicKey::from_public_key_der(&spki).is_ok(), "others take it");
        let error = PublicKey::from_spki(&spki).unwrap_err();
        assert!(matches!(error, KeyError::Compressed), "{error}");
    }
}
