//! A public key of one of the two algorithms: read once, strictly, and then verified with many times.
//!
//! ECDSA P-256 is `ring`'s, which takes a sixth of the time of `p256`. Ed25519 is not: `ring` takes 1.3
//! times as long as `ed25519-dalek`, and 1.6 times as long as `curve25519-dalek` with the tables of
//! [`Ed25519Key`]. What of Ed25519 stands here is the equation of RFC 8032 section 5.1.7; the curve,
//! its encodings and the scalars are that crate's. A test compares each verdict with
//! `ed25519-dalek`'s strict verification.

use std::{fmt, sync::Arc};

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::{CompressedEdwardsY, VartimeEdwardsPrecomputation},
    traits::VartimePrecomputedMultiscalarMul as _,
};
use ring::{
    agreement::{self, EphemeralPrivateKey},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use sha2::{Digest as _, Sha256, Sha512};

use crate::rules::keyring::KeyError;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410 section 4). It has one encoding.
const ED25519_SPKI: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The same of an uncompressed P-256 key, up to the point (RFC 5480 section 2.1).
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

/// The identity of a key, whatever its name: SHA-256 of algorithm and key bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

/// A public key that can be trusted to be one: no weak one, and a point on its curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PublicKey {
    Ed25519(Ed25519Key),
    P256(P256Key),
}

/// An Ed25519 public key, with tables for quick verification: 20 KiB.
#[derive(Clone)]
pub(crate) struct Ed25519Key {
    bytes: [u8; 32],
    /// Multiples of the base point B and of -A.
    tables: Arc<VartimeEdwardsPrecomputation>,
}

/// A P-256 public key: an uncompressed point.
#[derive(Clone, PartialEq)]
pub(super) struct P256Key([u8; 65]);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        if let Some(bytes) = der.strip_prefix(&ED25519_SPKI) {
            let bytes = bytes.try_into().map_err(|_| KeyError::Unsupported)?;
            return Ed25519Key::from_bytes(bytes).map(Self::Ed25519);
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
            Self::Ed25519(key) => (&b"ed25519"[..], &key.bytes[..]),
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

impl Ed25519Key {
    /// Reads the 32 bytes of RFC 8032 section 5.1.5.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(KeyError::Unsupported)?;
        if point.is_small_order() || !is_canonical(&bytes) {
            return Err(KeyError::Weak);
        }
        let tables = VartimeEdwardsPrecomputation::new([ED25519_BASEPOINT_POINT, -point]);
        Ok(Self { bytes, tables: Arc::new(tables) })
    }

    /// Reads a SubjectPublicKeyInfo in DER.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        match PublicKey::from_spki(der)? {
            PublicKey::Ed25519(key) => Ok(key),
            PublicKey::P256(_) => Err(KeyError::Unsupported),
        }
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub(crate) fn spki(&self) -> Vec<u8> {
        [&ED25519_SPKI[..], &self.bytes].concat()
    }

    /// The cofactorless check of RFC 8032 section 5.1.7, R = S B - k A. Strict: refuses an S that is
    /// not reduced, and an R that is not canonical or of small order (A was checked when it was
    /// read). R is not decoded: an encoding that equals that of a point is the canonical one of this
    /// point.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Some((encoded_r, s)) = signature.split_first_chunk::<32>() else { return false };
        let Ok(s) = s.try_into() else { return false };
        let Some(s) = Scalar::from_canonical_bytes(s).into_option() else { return false };
        let hash = Sha512::new_with_prefix(encoded_r).chain_update(self.bytes);
        let k = Scalar::from_bytes_mod_order_wide(&hash.chain_update(message).finalize().into());
        let r: EdwardsPoint = self.tables.vartime_multiscalar_mul([s, k]);
        r.compress().as_bytes() == encoded_r && !r.is_small_order()
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

impl PartialEq for Ed25519Key {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.bytes))
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

/// Whether the y coordinate is below the field's prime, 2^255 - 19 (RFC 8032 section 5.1.3); the
/// highest bit is the sign of x. A sign with x = 0 needs no check here: both such points are of
/// small order.
fn is_canonical(encoded: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = encoded;
    *low < 0xed || middle.iter().any(|byte| *byte != 0xff) || high & 0x7f != 0x7f
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use p256::{
        ecdsa::signature::Signer as _,
        pkcs8::{DecodePublicKey as _, EncodePublicKey as _},
    };
    use proptest::prelude::*;

    use super::*;

    fn hash(r: &[u8; 32], a: &[u8; 32], message: &[u8]) -> Scalar {
        let hash = Sha512::new_with_prefix(r).chain_update(a).chain_update(message);
        Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
    }

    /// A signature by key `a` with nonce `r`, of which each point got a part of small order. It
    /// satisfies the equation whenever these parts cancel out.
    fn sign(a: u64, r: u64, parts: (usize, usize), message: &[u8]) -> ([u8; 32], [u8; 64]) {
        let point = |scalar: Scalar, part: usize| {
            (EdwardsPoint::mul_base(&scalar) + EIGHT_TORSION[part % 8]).compress().0
        };
        let (a, r) = (Scalar::from(a), Scalar::from(r));
        let (public, encoded) = (point(a, parts.0), point(r, parts.1));
        let s = r + hash(&encoded, &public, message) * a;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&encoded);
        signature[32..].copy_from_slice(s.as_bytes());
        (public, signature)
    }

    /// The verdict is that of `ed25519-dalek`'s strict verification.
    fn check_ed25519(public: [u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let theirs = ed25519_dalek::VerifyingKey::from_bytes(&public);
        let Ok(ours) = Ed25519Key::from_bytes(public) else {
            assert!(theirs.is_err() || theirs.unwrap().is_weak() || !is_canonical(&public));
            return false;
        };
        let theirs = theirs
            .unwrap()
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
            .is_ok();
        assert_eq!(ours.verifies(message, signature), theirs, "{ours:?}, {signature:02x?}");
        theirs
    }

    /// S + L, which a check without care takes for S.
    fn with_group_order(signature: [u8; 64]) -> [u8; 64] {
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let (mut sum, mut carry) = (signature, 0);
        for (byte, order) in sum[32..].iter_mut().zip(ORDER) {
            let digit = u16::from(*byte) + u16::from(order) + carry;
            (*byte, carry) = (digit.to_le_bytes()[0], digit >> 8);
        }
        sum
    }

    proptest! {
        #[test]
        fn an_ed25519_verdict_is_that_of_strict_verification(
            (a, r) in (1_u64..99, 0_u64..99),
            parts in (0_usize..8, 0_usize..8),
            message in prop::collection::vec(any::<u8>(), 0..40),
            change in prop::option::of((0_usize..64, 1_u8..)),
        ) {
            let (public, mut signature) = sign(a, r, parts, &message);
            check_ed25519(public, &message, &with_group_order(signature));
            if let Some((place, bits)) = change {
                signature[place] ^= bits;
            }
            let good = check_ed25519(public, &message, &signature);
            prop_assert!(!good || change.is_none());
            prop_assert!(good || change.is_some() || r == 0 || parts != (0, 0));
        }
    }

    #[test]
    fn parts_of_small_order_that_cancel_out_are_judged_as_strict_verification_does() {
        let mut good = 0;
        for (case, message) in (0_usize..2_000).map(|case| (case, case.to_le_bytes())) {
            let (public, signature) = sign(7, 9, (case, case / 8), &message);
            good += usize::from(check_ed25519(public, &message, &signature));
            // R of small order with S to match: only an R that is checked refuses it.
            let (public, signature) = sign(7, 0, (case, case / 8), &message);
            assert!(!check_ed25519(public, &message, &signature));
        }
        assert!(good > 2_000 / 8, "{good}: of those without parts, and some more");
    }

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
