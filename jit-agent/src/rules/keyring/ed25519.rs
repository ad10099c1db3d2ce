//! Ed25519: a public key, and signatures verified one by one or many together.
//!
//! `ring` takes 1.3 times as long as `ed25519-dalek`, and 1.6 times as long as `curve25519-dalek` with
//! the tables of [`Ed25519Key`]; many together take a third of that. What stands here is the equation
//! of RFC 8032 section 5.1.7; the curve, its encodings and the scalars are that crate's.
//!
//! One signature alone and many together must get the same verdict for the same bytes. Only the
//! equation with the cofactor, 8 S B = 8 R + 8 k A, makes that so: the other one depends on parts of
//! small order, which may cancel out in a sum. The RFC allows both. All else is strict: S is reduced,
//! R and A are canonical encodings of points that are not of small order.

use std::{fmt, sync::Arc};

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::{CompressedEdwardsY, VartimeEdwardsPrecomputation},
    traits::{VartimeMultiscalarMul as _, VartimePrecomputedMultiscalarMul as _},
};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha512};

use crate::rules::keyring::KeyError;

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410 section 4). It has one encoding.
pub(super) const ED25519_SPKI: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key, with tables for quick verification: 20 KiB.
#[derive(Clone)]
pub(crate) struct Ed25519Key {
    bytes: [u8; 32],
    point: EdwardsPoint,
    /// Multiples of the base point B and of -A.
    tables: Arc<VartimeEdwardsPrecomputation>,
}

/// A signature that is said to be by this key over this message.
#[derive(Clone, Copy, Debug)]
pub(in crate::rules) struct Claim<'a> {
    pub(super) key: &'a Ed25519Key,
    pub(super) message: &'a [u8],
    pub(super) signature: &'a [u8; 64],
}

/// The numbers of a claim: R as encoded, S, and k.
struct Numbers<'a> {
    r: &'a [u8; 32],
    s: Scalar,
    k: Scalar,
}

impl Ed25519Key {
    /// Reads the 32 bytes of RFC 8032 section 5.1.5.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(KeyError::Unsupported)?;
        if point.is_small_order() || !is_canonical(&bytes) {
            return Err(KeyError::Weak);
        }
        let tables = VartimeEdwardsPrecomputation::new([ED25519_BASEPOINT_POINT, -point]);
        Ok(Self { bytes, point, tables: Arc::new(tables) })
    }

    /// Reads a SubjectPublicKeyInfo in DER.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let bytes = der.strip_prefix(&ED25519_SPKI).and_then(|bytes| bytes.try_into().ok());
        Self::from_bytes(bytes.ok_or(KeyError::Unsupported)?)
    }

    /// Its SubjectPublicKeyInfo in DER.
    pub(crate) fn spki(&self) -> Vec<u8> {
        [&ED25519_SPKI[..], &self.bytes].concat()
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Whether a signature is good. The R of almost every good one is S B - k A itself, and needs
    /// not be decoded: an encoding that equals that of a point is the canonical one of this point.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let claim = Claim { key: self, message, signature };
        let Some(Numbers { r, s, k }) = claim.numbers() else { return false };
        let expected: EdwardsPoint = self.tables.vartime_multiscalar_mul([s, k]);
        if expected.compress().as_bytes() == r {
            return !expected.is_small_order();
        }
        nonce(r).is_some_and(|r| (r - expected).is_small_order())
    }
}

impl<'a> Claim<'a> {
    /// `None`: S is not reduced.
    fn numbers(&self) -> Option<Numbers<'a>> {
        let Self { key, message, signature } = self;
        let (r, s) = signature.split_first_chunk::<32>()?;
        let s = Scalar::from_canonical_bytes(s.try_into().ok()?).into_option()?;
        let hash = Sha512::new_with_prefix(r).chain_update(key.bytes).chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        Some(Numbers { r, s, k })
    }
}

/// Whether all these signatures are good, in a third of the time that they take one by one. `false`
/// does not say which one is not.
///
/// Each equation counts a random number of times that nobody can foresee, so that errors do not
/// cancel out: a false signature passes once in 2^128 tries.
pub(in crate::rules) fn all_good(claims: &[Claim<'_>]) -> bool {
    let mut random = vec![[0; 16]; claims.len()];
    if SystemRandom::new().fill(random.as_flattened_mut()).is_err() {
        return false;
    }
    let mut keys: Vec<(&Ed25519Key, Scalar)> = Vec::new();
    let mut base = Scalar::ZERO;
    let (mut scalars, mut points) = (Vec::new(), Vec::new());
    for (claim, random) in claims.iter().zip(random) {
        let Some(Numbers { r, s, k }) = claim.numbers() else { return false };
        let Some(r) = nonce(r) else { return false };
        let times = Scalar::from(u128::from_le_bytes(random));
        base -= times * s;
        match keys.iter_mut().find(|(key, _)| *key == claim.key) {
            Some((_, sum)) => *sum += times * k,
            None => keys.push((claim.key, times * k)),
        }
        scalars.push(times);
        points.push(r);
    }
    scalars.extend(keys.iter().map(|(_, sum)| *sum));
    points.extend(keys.iter().map(|(key, _)| key.point));
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    EdwardsPoint::vartime_multiscalar_mul(scalars, points).is_small_order()
}

/// The point R; `None`: no point, not in its canonical encoding, or of small order.
fn nonce(encoded: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*encoded).decompress()?;
    (is_canonical(encoded) && !point.is_small_order()).then_some(point)
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

    /// The equation with the cofactor as it stands in the RFC, and all that is strict.
    fn by_the_book(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let decoded = |encoded: [u8; 32]| {
            let point = CompressedEdwardsY(encoded).decompress()?;
            (point.compress().0 == encoded && !point.is_small_order()).then_some(point)
        };
        let r: [u8; 32] = signature[..32].try_into().unwrap();
        let s: [u8; 32] = signature[32..].try_into().unwrap();
        let (Some(a), Some(point), Some(s)) =
            (decoded(*public), decoded(r), Scalar::from_canonical_bytes(s).into_option())
        else {
            return false;
        };
        let right = point + hash(&r, public, message) * a;
        EdwardsPoint::mul_base(&s).mul_by_cofactor() == right.mul_by_cofactor()
    }

    /// Eight good signatures by two keys, with this one at this place: all good?
    fn among_good_ones(claim: Claim<'_>, place: usize) -> bool {
        let good: Vec<_> = (0..8_u64).map(|n| sign(5 + n % 2, 20 + n, (0, 0), b"good")).collect();
        let keys: Vec<_> = good.iter().map(|(public, _)| Ed25519Key::from_bytes(*public)).collect();
        let claims = keys.iter().zip(&good).map(|(key, (_, signature))| {
            let key = key.as_ref().unwrap();
            Claim { key, message: b"good", signature }
        });
        let mut claims: Vec<_> = claims.collect();
        assert!(all_good(&claims));
        claims.insert(place, claim);
        all_good(&claims)
    }

    /// The verdict is the same alone and among others, and that of the RFC. It is that of
    /// `ed25519-dalek`'s strict verification, which has no cofactor, if no `parts` are of small order.
    fn check_ed25519(
        public: [u8; 32],
        message: &[u8],
        signature: &[u8; 64],
        (parts, place): (bool, usize),
    ) -> bool {
        let theirs = ed25519_dalek::VerifyingKey::from_bytes(&public);
        let Ok(ours) = Ed25519Key::from_bytes(public) else {
            assert!(theirs.is_err() || theirs.unwrap().is_weak() || !is_canonical(&public));
            return false;
        };
        let theirs = theirs
            .unwrap()
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
            .is_ok();
        let good = ours.verifies(message, signature);
        assert!(good == theirs || (good && parts), "{ours:?}, {signature:02x?}");
        assert_eq!(good, by_the_book(&public, message, signature), "{ours:?}, {signature:02x?}");
        let claim = Claim { key: &ours, message, signature };
        assert_eq!(among_good_ones(claim, place), good, "{ours:?}, {signature:02x?}");
        good
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
        fn an_ed25519_verdict_is_that_of_the_rfc_alone_and_among_others(
            (a, r) in (1_u64..99, 0_u64..99),
            parts in (0_usize..8, 0_usize..8),
            message in prop::collection::vec(any::<u8>(), 0..40),
            change in prop::option::of((0_usize..64, 1_u8..)),
            place in 0_usize..9,
        ) {
            let mixed = (parts != (0, 0), place);
            let (public, mut signature) = sign(a, r, parts, &message);
            check_ed25519(public, &message, &with_group_order(signature), mixed);
            if let Some((place, bits)) = change {
                signature[place] ^= bits;
            }
            let good = check_ed25519(public, &message, &signature, mixed);
            prop_assert_eq!(good, change.is_none() && r != 0);
        }
    }

    #[test]
    fn parts_of_small_order_decide_nothing_and_points_of_small_order_are_refused() {
        for (case, message) in (0_usize..200).map(|case| (case, case.to_le_bytes())) {
            let (parts, place) = ((case, case / 8), case % 9);
            let (public, signature) = sign(7, 9, parts, &message);
            assert!(check_ed25519(public, &message, &signature, (true, place)));
            // R of small order with S to match: only an R that is checked refuses it.
            let (public, signature) = sign(7, 0, parts, &message);
            assert!(!check_ed25519(public, &message, &signature, (true, place)));
        }
    }

    #[test]
    fn encodings_that_are_not_canonical_are_refused_alone_and_among_others() {
        let (public, signature) = sign(7, 9, (0, 0), b"m");
        // The second encodings of y = 0 to 18, with both signs; some are of points of large order.
        for (y, sign) in (0xed_u8..=0xff).flat_map(|y| [(y, 0x7f), (y, 0xff)]) {
            let mut second = [0xff; 32];
            (second[0], second[31]) = (y, sign);
            assert!(!is_canonical(&second));
            assert!(Ed25519Key::from_bytes(second).is_err());
            let mut other = signature;
            other[..32].copy_from_slice(&second);
            assert!(!check_ed25519(public, b"m", &other, (true, 3)));
            // The equation holds for none of these, so it is asked what decodes them.
            assert!(nonce(&second).is_none());
        }
    }

    #[test]
    fn one_false_signature_is_found_at_every_place_and_no_two_cancel_out() {
        let signed: Vec<_> = (0..15_u64).map(|n| sign(5 + n % 3, 20 + n, (0, 0), b"m")).collect();
        let keys: Vec<_> = signed.iter().map(|(key, _)| Ed25519Key::from_bytes(*key)).collect();
        let verdict = |signatures: &[[u8; 64]]| {
            let claims = keys.iter().zip(signatures).map(|(key, signature)| {
                let key = key.as_ref().unwrap();
                Claim { key, message: b"m", signature }
            });
            all_good(&claims.collect::<Vec<_>>())
        };
        let good: Vec<_> = signed.iter().map(|(_, signature)| *signature).collect();
        assert!(verdict(&good) && verdict(&[]));
        let changed = |signature: &mut [u8; 64], by: Scalar| {
            let s: [u8; 32] = signature[32..].try_into().unwrap();
            let s = Scalar::from_canonical_bytes(s).unwrap() + by;
            signature[32..].copy_from_slice(s.as_bytes());
        };
        for place in 0..good.len() {
            let mut signatures = good.clone();
            changed(&mut signatures[place], Scalar::ONE);
            assert!(!verdict(&signatures), "{place}");
            // The sum of all S is right again.
            changed(&mut signatures[(place + 1) % 15], -Scalar::ONE);
            assert!(!verdict(&signatures), "{place}");
            let mut signatures = good.clone();
            signatures.swap(place, (place + 1) % 15);
            assert!(!verdict(&signatures), "{place}: each belongs to its own key and nonce");
        }
    }
}
