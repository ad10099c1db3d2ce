//! The signing keys that this host trusts, and the check of a signature.
//!
//! Keys come only from the configuration, which root owns; there is no trust on first use. A
//! signature's `key_id` only says which key to try first.

mod ed25519;
mod public_key;
mod trial;

use std::time::Duration;

use jit_proto::{
    PayloadType, Refusal, WallTime,
    dsse::MAX_SIGNATURES,
    pem::{self, PemError},
    v1,
    webauthn::RelyingParty,
};
use sha2::{Digest as _, Sha256};

use crate::rules::{
    keyring::{
        ed25519::Claim,
        public_key::PublicKey,
        trial::{Message, Outcome},
    },
    mandate::Mandate,
    refusal::Refused,
};

pub(crate) use ed25519::Ed25519Key;
pub(super) use ed25519::all_good;
pub use public_key::KeyId;
pub use trial::Objection;

/// Most tries of a key on a signature of one envelope, unless there are more keys: what as many
/// signatures as an envelope may have need at most, each by another one of as many keys, without a
/// hint.
const MAX_TRIES: usize = MAX_SIGNATURES * (MAX_SIGNATURES + 1) / 2;

/// One trusted key.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The key's name in the configuration.
    pub id: String,
    /// What the key may sign.
    pub mandate: Mandate,
    /// For whom its assertions are, if the key is an approver's.
    approver: Option<RelyingParty>,
    key: PublicKey,
    key_id: KeyId,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    sha256: String,
}

/// All trusted keys; no key is in it twice.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    signers: Vec<Signer>,
}

/// What the trusted keys say about the signatures of an envelope.
#[derive(Debug, Default)]
pub struct Found<'k> {
    /// The distinct keys with a good signature, in the order of the configuration.
    pub signers: Vec<&'k Signer>,
    /// Tries that were wasted on false signatures. As many false signatures as there are good ones
    /// are free: an envelope may be for hosts that trust other keys, too.
    pub wasted: usize,
    /// Not every signature was tried with every key: that would have been too many tries.
    pub capped: bool,
    /// Why the first signature that an approver should have made, or seems to have made, is not
    /// good.
    pub objection: Option<Objection>,
}

/// A signature that can be verified together with others, and the key that it names.
pub(super) struct Named<'k, 's> {
    pub(super) signer: &'k Signer,
    key: &'k Ed25519Key,
    signature: &'s [u8; 64],
    /// Of the key in the configuration.
    position: usize,
}

/// A signature, and its tries so far.
struct Trial<'s> {
    signature: &'s v1::Signature,
    tries: usize,
    good: bool,
    /// That of the first key that had one.
    objection: Option<Objection>,
}

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not one public key in PEM.
    #[error(
        "{0} (wanted: one PUBLIC KEY, SubjectPublicKeyInfo, as `openssl pkey -pubout` prints it)"
    )]
    Pem(#[from] PemError),
    /// The key has another algorithm.
    #[error(
        "not an Ed25519 or ECDSA P-256 public key in PEM (SubjectPublicKeyInfo, as \
         `openssl pkey -pubout` prints it)"
    )]
    Unsupported,
    /// The key is a P-256 point without its y coordinate.
    #[error(
        "a compressed P-256 point; write it uncompressed: \
         `openssl ec -pubin -in FILE -pubout -conv_form uncompressed`"
    )]
    Compressed,
    /// The key is a point of small order, under which forged signatures verify. Or it is a second
    /// encoding of a point, and one key would count as two.
    #[error(
        "weak_key: an Ed25519 key of small order or in a second encoding, under which signatures \
         can be forged or counted twice"
    )]
    Weak,
    /// The same key under two names would count as two approvals.
    #[error("the same key as `{0}`; a key may be listed once, as a [[signer]] or an [[approver]]")]
    Duplicate(String),
}

impl Signer {
    /// Reads a public key in PEM. It may sign grants that last at most `max_duration`.
    pub fn from_pem(id: String, max_duration: Duration, pem: &str) -> Result<Self, KeyError> {
        let der = pem::one(pem, &["PUBLIC KEY"])?.der;
        let key = PublicKey::from_spki(&der)?;
        let sha256 = hex::encode(Sha256::digest(&der));
        let (key_id, mandate) = (key.id(), Mandate::grants(max_duration));
        Ok(Self { id, mandate, approver: None, key, key_id, sha256 })
    }

    /// The same key as that of an approver: it signs by WebAuthn, for this relying party, and in no
    /// other way. Its identity is another one: what it has signed does not count as a signer's,
    /// should a reload make it one, nor for another relying party.
    #[must_use]
    pub fn as_approver(self, party: RelyingParty) -> Self {
        let key_id = self.key_id.of_approver(party.id());
        Self { approver: Some(party), key_id, ..self }
    }

    /// For whom its assertions are; `None`: it is no approver's key.
    pub const fn approver(&self) -> Option<&RelyingParty> {
        self.approver.as_ref()
    }

    /// The name of its section in the configuration.
    pub const fn section(&self) -> &'static str {
        match self.approver {
            None => "signer",
            Some(_) => "approver",
        }
    }

    /// The same key with these limits.
    #[must_use]
    pub fn with_mandate(self, mandate: Mandate) -> Self {
        Self { mandate, ..self }
    }

    /// The identity of the key, from its bytes and how it signs.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// First 8 bytes of [`Self::sha256`], as `jitctl keygen` prints them, and signatures name the
    /// key.
    pub fn fingerprint(&self) -> &str {
        self.sha256.get(..16).unwrap_or_default()
    }

    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    fn is_hinted(&self, key_id: &str) -> bool {
        self.id == key_id || self.fingerprint() == key_id
    }
}

impl Keyring {
    /// Adds a key. Refuses one that is in the keyring already under another name.
    pub fn add(&mut self, signer: Signer) -> Result<(), KeyError> {
        match self.signers.iter().find(|known| known.key == signer.key) {
            Some(known) => Err(KeyError::Duplicate(known.id.clone())),
            None => {
                self.signers.push(signer);
                Ok(())
            }
        }
    }

    /// All keys, in the order of the configuration.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// The keys that may sign payloads of this type.
    pub fn signers_of(&self, payload: PayloadType) -> impl Iterator<Item = &Signer> {
        self.signers.iter().filter(move |signer| signer.mandate.signs(payload))
    }

    /// Whether one of these keys may sign payloads of this type, and counts at this time.
    ///
    /// # Errors
    /// None does: why the first one does not count.
    pub fn check_one_of(
        &self,
        keys: &[KeyId],
        payload: PayloadType,
        now: WallTime,
    ) -> Result<(), Refused> {
        let mut first = None;
        for signer in self.signers_of(payload).filter(|signer| keys.contains(&signer.key_id())) {
            match signer.mandate.valid_at(now) {
                Ok(()) => return Ok(()),
                Err(beyond) => {
                    let detail = format!("the key {:?} {}", signer.id, beyond.detail);
                    first.get_or_insert(Refused::new(beyond.refusal, detail));
                }
            }
        }
        let gone =
            || Refused::new(Refusal::UnknownKey, "no key that signed it is trusted any more");
        Err(first.unwrap_or_else(gone))
    }

    /// The most keys of those that count which can sign one grant. An approver's key counts beside
    /// a signer's, not without one (docs/grants.md, step `threshold`).
    pub fn most_approvals(&self, counts: impl Fn(&Signer) -> bool) -> usize {
        let all: Vec<_> =
            self.signers_of(PayloadType::Grant).filter(|signer| counts(signer)).collect();
        let any = all.iter().any(|signer| signer.approver.is_none());
        if any { all.len() } else { 0 }
    }

    /// Tries keys on the signatures over `message`: first the keys that they name, then the others.
    /// A key that made one good signature is not tried any more, and a signature is good for one
    /// key. The number of tries is limited (docs/grants.md, step `signature`).
    pub fn try_signatures<'k>(&'k self, message: &[u8], signatures: &[v1::Signature]) -> Found<'k> {
        let mut keys: Vec<_> = self.signers.iter().map(|signer| (signer, false)).collect();
        let mut left = MAX_TRIES.max(keys.len());
        let mut capped = false;
        let message = Message::new(message);
        let mut attempt = |trial: &mut Trial<'_>, hinted: bool| {
            let Trial { signature, tries, good, objection } = trial;
            let untried = keys
                .iter_mut()
                .filter(|(signer, found)| !*found && signer.is_hinted(&signature.key_id) == hinted);
            for (signer, found) in untried {
                if left == 0 {
                    capped = true;
                    return;
                }
                let why = match signer.attempt(&message, signature) {
                    Outcome::Untried(why) if hinted => why,
                    // That a key of the other kind does not sign like this says nothing.
                    Outcome::Untried(_) => continue,
                    Outcome::False(why) => {
                        left -= 1;
                        *tries += 1;
                        why
                    }
                    Outcome::Good => {
                        left -= 1;
                        *tries += 1;
                        (*found, *good) = (true, true);
                        return;
                    }
                };
                *objection = objection.take().or(why);
            }
        };
        let trial = |signature| Trial { signature, tries: 0, good: false, objection: None };
        let mut trials: Vec<_> = signatures.iter().map(trial).collect();
        for trial in &mut trials {
            attempt(trial, true);
        }
        // A signature with the name of another key is the least likely one to be good.
        trials.sort_by_key(|trial| !trial.signature.key_id.is_empty());
        for trial in trials.iter_mut().filter(|trial| !trial.good) {
            attempt(trial, false);
        }
        let signers: Vec<_> =
            keys.into_iter().filter_map(|(signer, found)| found.then_some(signer)).collect();
        let wrong = trials.iter().filter(|trial| !trial.good).skip(signers.len());
        let wasted = wrong.map(|trial| trial.tries).sum();
        let objections = trials.into_iter().filter(|trial| !trial.good);
        let objection = objections.filter_map(|trial| trial.objection).next();
        Found { signers, wasted, capped, objection }
    }

    /// The signatures in the order of the keys that they name. `None`: there is none, one of them
    /// names no Ed25519 key of a signer or is an approval by passkey, or two of them the same. If
    /// all are good, these are the keys that [`Self::try_signatures`] finds: it tries just these
    /// first.
    pub(super) fn named<'s>(&self, signatures: &'s [v1::Signature]) -> Option<Vec<Named<'_, 's>>> {
        let mut all: Vec<Named<'_, 's>> = Vec::with_capacity(signatures.len());
        for v1::Signature { key_id, signature, assertion } in signatures {
            let mut signers = self.signers.iter().enumerate();
            let (position, signer) = signers.find(|(_, signer)| signer.is_hinted(key_id))?;
            let PublicKey::Ed25519(key) = &signer.key else { return None };
            if signer.approver.is_some() || assertion.is_some() {
                return None;
            }
            if all.iter().any(|named| named.position == position) {
                return None;
            }
            let signature = signature.as_ref().try_into().ok()?;
            all.push(Named { signer, key, signature, position });
        }
        all.sort_by_key(|named| named.position);
        (!all.is_empty()).then_some(all)
    }

    /// Whether any signature names a trusted key. It only distinguishes a bad signature from an
    /// unknown key.
    pub fn knows_any(&self, signatures: &[v1::Signature]) -> bool {
        signatures
            .iter()
            .any(|signature| self.signers.iter().any(|signer| signer.is_hinted(&signature.key_id)))
    }
}

impl<'a> Named<'a, 'a> {
    /// What the signature says, if it is over this message.
    pub(super) const fn claim(&self, message: &'a [u8]) -> Claim<'a> {
        Claim { key: self.key, message, signature: self.signature }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
    use jit_proto::Refusal;
    use p256::pkcs8::LineEnding;

    use super::*;

    fn ed25519(seed: u8) -> (SigningKey, Signer) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        (key, Signer::from_pem(format!("k{seed}"), Duration::from_secs(60), &pem).unwrap())
    }

    fn signature(bytes: &[u8], key_id: &str) -> v1::Signature {
        v1::Signature {
            key_id: key_id.into(),
            signature: bytes.to_vec().into(),
            ..v1::Signature::default()
        }
    }

    #[test]
    fn both_algorithms_verify_and_the_hint_decides_nothing() {
        let (ed, ed_signer) = ed25519(1);
        let p256 = p256::ecdsa::SigningKey::from_slice(&[2; 32]).unwrap();
        let pem =
            p256::PublicKey::from(p256.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap();
        let mut ring = Keyring::default();
        ring.add(ed_signer).unwrap();
        ring.add(Signer::from_pem("p".into(), Duration::from_secs(60), &pem).unwrap()).unwrap();
        let der: p256::ecdsa::Signature = p256.sign(b"m");
        let ed = signature(&ed.sign(b"m").to_bytes(), "nobody");
        for p in [der.to_der().as_bytes(), der.to_bytes().as_slice()] {
            let good = ring.try_signatures(b"m", &[signature(p, "k1"), ed.clone()]).signers;
            assert_eq!(good.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["k1", "p"]);
        }
        assert!(ring.try_signatures(b"n", &[ed]).signers.is_empty());
    }

    #[test]
    fn one_key_counts_once_however_often_it_signs() {
        let (key, signer) = ed25519(1);
        let mut ring = Keyring::default();
        ring.add(signer.clone()).unwrap();
        let good = signature(&key.sign(b"m").to_bytes(), "k1");
        assert_eq!(ring.try_signatures(b"m", &[good.clone(), good]).signers.len(), 1);
        let again = Signer { id: "alias".into(), ..signer };
        assert!(matches!(ring.add(again), Err(KeyError::Duplicate(id)) if id == "k1"));
    }

    /// A keyring of keys 1 to this number, and the signatures of all of them.
    fn ring(keys: u8, hinted: bool) -> (Keyring, Vec<v1::Signature>) {
        let mut ring = Keyring::default();
        let signatures = (1..=keys).map(|seed| {
            let (key, signer) = ed25519(seed);
            let hint = if hinted { signer.id.clone() } else { String::new() };
            ring.add(signer).unwrap();
            signature(&key.sign(b"m").to_bytes(), &hint)
        });
        let signatures = signatures.collect();
        (ring, signatures)
    }

    #[test]
    fn as_many_approvals_as_an_envelope_can_have_are_found_with_and_without_hints() {
        for hinted in [true, false] {
            let (ring, mut signatures) = ring(8, hinted);
            for _ in 0..2 {
                let found = ring.try_signatures(b"m", &signatures);
                assert_eq!((found.signers.len(), found.wasted, found.capped), (8, 0, false));
                signatures.reverse();
            }
        }
        // One signature finds its key however many there are.
        let (ring, signatures) = ring(50, false);
        let found = ring.try_signatures(b"m", signatures.get(49..).unwrap());
        assert_eq!((found.signers.len(), found.wasted, found.capped), (1, 0, false));
    }

    #[test]
    fn the_tries_of_false_signatures_are_limited_and_counted() {
        let (ring, good) = ring(8, true);
        let (stranger, _) = ed25519(99);
        let bad = |hint: &str| signature(&stranger.sign(b"m").to_bytes(), hint);
        let found = ring.try_signatures(b"m", &vec![bad(""); 8]);
        assert_eq!((found.signers.len(), found.wasted, found.capped), (0, MAX_TRIES, true));
        let found = ring.try_signatures(b"m", &[bad("k3")]);
        assert_eq!((found.wasted, found.capped), (8, false), "each key once");
        // Keys that are named are tried first, so that junk beside them takes no try from them.
        let mixed = [vec![bad(""); 4], good.get(..4).unwrap().to_vec()].concat();
        let found = ring.try_signatures(b"m", &mixed);
        assert_eq!((found.signers.len(), found.wasted), (4, 0), "as many false as good ones");
        let mixed = [vec![bad(""); 7], good.get(..1).unwrap().to_vec()].concat();
        let found = ring.try_signatures(b"m", &mixed);
        assert_eq!((found.signers.len(), found.wasted, found.capped), (1, 28, true));
        // What is no signature of any algorithm costs nothing.
        let found = ring.try_signatures(b"m", &vec![signature(b"short", ""); 8]);
        assert_eq!((found.signers.len(), found.wasted, found.capped), (0, 0, false));
    }

    #[test]
    fn small_order_keys_are_refused_at_load() {
        // The identity, an order-8 point, and the non-canonical encoding of y = p + 1 (identity).
        for hex_key in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            // The identity with a sign, orders 2 and 4, the other points of order 8.
            "0100000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            // The other encodings of y = 0 and 1, and of points that are of no small order.
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "f1ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            let mut der = hex::decode("302a300506032b6570032100").unwrap();
            der.extend(hex::decode(hex_key).unwrap());
            let body = rustls_pki_base64(&der);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
            let error = Signer::from_pem("w".into(), Duration::ZERO, &pem).unwrap_err();
            assert!(matches!(error, KeyError::Weak), "{hex_key}: {error}");
            assert!(error.to_string().starts_with(Refusal::WeakKey.word()), "{error}");
        }
    }

    #[test]
    fn private_keys_certificates_and_noise_are_no_public_keys() {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let private = SigningKey::from_bytes(&[1; 32]).to_pkcs8_pem(LineEnding::LF).unwrap();
        for bad in [private.as_str(), "", "-----BEGIN PUBLIC KEY-----\n", "\u{0}\u{ff}"] {
            let error = Signer::from_pem("x".into(), Duration::ZERO, bad).unwrap_err();
            assert!(matches!(error, KeyError::Pem(_)), "{bad}: {error}");
        }
    }

    fn rustls_pki_base64(der: &[u8]) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        der.chunks(3)
            .flat_map(|chunk| {
                let mut bytes = [0; 3];
                bytes[..chunk.len()].copy_from_slice(chunk);
                let bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
                (0..4).map(move |i| {
                    if i > chunk.len() {
                        '='
                    } else {
                        char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63])
                    }
                })
            })
            .collect()
    }
}
