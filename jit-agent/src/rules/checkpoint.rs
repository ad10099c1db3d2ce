//! From an envelope to a [`VerifiedCheckpoint`] (docs/grants.md, section "Checkpoints").
//!
//! Nothing opens or closes by it, and a key that signs checkpoints signs nothing else. Nothing is
//! decoded before a signature over the exact bytes is good. `gate` compares what has arrived with it.

use std::time::Duration;

use jit_proto::{PayloadType, Refusal, WallTime, exact, merkle::Hash, v1};

use crate::rules::{
    clock::{Now, SKEW},
    envelope,
    freshness::Stamp,
    keyring::{KeyId, Keyring, Signer},
    refusal::Refused,
};

/// The shortest and the longest time for which a checkpoint can count as fresh, milliseconds.
const VALID_FOR_MS: std::ops::RangeInclusive<u32> = 1_000..=3_600_000;
/// Most leaves of a tree: its paths have at most [`jit_proto::merkle::MAX_PATH`] hashes.
const MAX_HOSTS: u64 = 1 << jit_proto::merkle::MAX_PATH;

/// A checkpoint with a good signature that decoded completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    stamp: Stamp,
    keys: Vec<KeyId>,
}

impl VerifiedCheckpoint {
    /// What it says.
    pub const fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Whether it counts at this time: a key that signed it does, and it is not of a moment to come.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self, keyring: &Keyring, now: Now) -> Result<(), Refused> {
        keyring.check_one_of(&self.keys, PayloadType::Checkpoint, now.wall)?;
        let issued_at = self.stamp.issued_at;
        if issued_at <= now.wall + SKEW {
            return Ok(());
        }
        let detail = format!(
            "issued {issued_at}, more than {} s ahead of this host's clock, {}",
            SKEW.as_secs(),
            now.wall
        );
        Err(Refused::new(Refusal::NotYetValid, detail))
    }
}

/// Every check that needs no clock (docs/grants.md, section "Checkpoints").
///
/// # Errors
/// The first check that failed.
pub fn verify(envelope: &v1::Envelope, keyring: &Keyring) -> Result<VerifiedCheckpoint, Refused> {
    verify_counting(envelope, keyring, &mut 0)
}

/// The same; adds the tries of false signatures to `wasted`.
pub fn verify_counting(
    envelope: &v1::Envelope,
    keyring: &Keyring,
    wasted: &mut usize,
) -> Result<VerifiedCheckpoint, Refused> {
    let opened = envelope::open(envelope, PayloadType::Checkpoint, keyring, wasted)?;
    let stamp = read(&envelope.payload).map_err(|why| Refused::new(Refusal::Malformed, why))?;
    let keys = opened.signers.iter().copied().map(Signer::key_id).collect();
    Ok(VerifiedCheckpoint { stamp, keys })
}

fn read(payload: &[u8]) -> Result<Stamp, String> {
    stamp(&exact::decode("jit.v1.Checkpoint", payload)?)
}

/// What a message says.
///
/// # Errors
/// What of it is missing or out of its bounds.
pub fn stamp(message: &v1::Checkpoint) -> Result<Stamp, String> {
    let v1::Checkpoint { epoch, number, issued_at_ms, valid_for_ms, root, hosts } = message;
    let root: Hash =
        root.as_ref().try_into().map_err(|_| format!("root has {} bytes, not 32", root.len()))?;
    if *epoch == 0 || *number == 0 {
        return Err("epoch and number are 1 or higher".into());
    }
    if *issued_at_ms <= 0 {
        return Err("issued_at_ms is missing".into());
    }
    if !VALID_FOR_MS.contains(valid_for_ms) {
        return Err(format!("valid_for_ms is {valid_for_ms}: one second to one hour"));
    }
    if !(1..=MAX_HOSTS).contains(hosts) {
        return Err(format!("hosts is {hosts}: 1 to {MAX_HOSTS}"));
    }
    Ok(Stamp {
        epoch: *epoch,
        number: *number,
        issued_at: WallTime(*issued_at_ms),
        valid_for: Duration::from_millis((*valid_for_ms).into()),
        root,
        hosts: *hosts,
    })
}

/// The message that says this.
pub fn message(stamp: &Stamp) -> v1::Checkpoint {
    let Stamp { epoch, number, issued_at, valid_for, root, hosts } = stamp;
    v1::Checkpoint {
        epoch: *epoch,
        number: *number,
        issued_at_ms: issued_at.0,
        valid_for_ms: u32::try_from(valid_for.as_millis()).unwrap_or(u32::MAX),
        root: root.to_vec().into(),
        hosts: *hosts,
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use jit_proto::dsse::pre_authentication_encoding;
    use prost::Message as _;

    use super::*;
    use crate::rules::mandate::Mandate;

    const NOW: Now =
        Now { wall: WallTime(1_800_000_000_000), boot: crate::rules::clock::BootNanos(5) };

    fn good() -> v1::Checkpoint {
        v1::Checkpoint {
            epoch: 1,
            number: 7,
            issued_at_ms: NOW.wall.0,
            valid_for_ms: 25_000,
            root: vec![9; 32].into(),
            hosts: 2,
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    fn keyring(mandate: Mandate) -> Keyring {
        use ed25519_dalek::pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding};
        let pem = key().verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        let signer = Signer::from_pem("fresh".into(), mandate.max_duration, &pem).unwrap();
        let mut keyring = Keyring::default();
        keyring.add(signer.with_mandate(mandate)).unwrap();
        keyring
    }

    fn mandate() -> Mandate {
        let none = Mandate::grants(Duration::from_secs(60));
        Mandate { checkpoints: true, grants: false, ..none }
    }

    fn signed(payload_type: &str, payload: Vec<u8>) -> v1::Envelope {
        let message = pre_authentication_encoding(payload_type, &payload);
        let signature = key().sign(&message).to_bytes().to_vec();
        v1::Envelope {
            payload_type: payload_type.into(),
            payload: payload.into(),
            signatures: vec![v1::Signature { signature: signature.into(), ..Default::default() }],
        }
    }

    fn refusal(envelope: &v1::Envelope, mandate: Mandate) -> Option<Refusal> {
        verify(envelope, &keyring(mandate)).err().map(|refused| refused.refusal)
    }

    #[test]
    fn a_good_one_says_what_was_signed_and_comes_back_as_a_message() {
        let name = PayloadType::Checkpoint.name();
        let verified = verify(&signed(name, good().encode_to_vec()), &keyring(mandate())).unwrap();
        assert_eq!(message(verified.stamp()), good());
        assert_eq!(verified.check(&keyring(mandate()), NOW), Ok(()));
    }

    #[test]
    fn a_key_for_anything_else_signs_none_and_this_one_signs_nothing_else() {
        let name = PayloadType::Checkpoint.name();
        let envelope = signed(name, good().encode_to_vec());
        let none = Mandate::grants(Duration::from_secs(60));
        let all_but = Mandate { policies: true, revocations: true, ..none };
        assert_eq!(refusal(&envelope, all_but), Some(Refusal::UnknownKey));
        for other in [PayloadType::Grant, PayloadType::Policy, PayloadType::Revocation] {
            assert!(!mandate().signs(other));
            let envelope = signed(other.name(), good().encode_to_vec());
            assert_eq!(refusal(&envelope, mandate()), Some(Refusal::BadType));
        }
    }

    #[test]
    fn each_value_out_of_its_bounds_is_malformed() {
        let change: [fn(&mut v1::Checkpoint); 11] = [
            |one| one.epoch = 0,
            |one| one.number = 0,
            |one| one.issued_at_ms = 0,
            |one| one.issued_at_ms = -5,
            |one| one.valid_for_ms = 999,
            |one| one.valid_for_ms = 3_600_001,
            |one| one.root = vec![9; 31].into(),
            |one| one.root = vec![9; 33].into(),
            |one| one.root = Vec::new().into(),
            |one| one.hosts = 0,
            |one| one.hosts = (1 << 32) + 1,
        ];
        let name = PayloadType::Checkpoint.name();
        for (number, change) in change.into_iter().enumerate() {
            let mut one = good();
            change(&mut one);
            let envelope = signed(name, one.encode_to_vec());
            assert_eq!(refusal(&envelope, mandate()), Some(Refusal::Malformed), "{number}");
        }
        // An unknown field, a number with a byte too many, and no message at all.
        let bytes = good().encode_to_vec();
        let long = [&[8, 0x81, 0][..], &bytes[2..]].concat();
        for bad in [[&bytes[..], &[0x78, 1]].concat(), long, vec![255; 9]] {
            assert_eq!(refusal(&signed(name, bad), mandate()), Some(Refusal::Malformed));
        }
    }

    #[test]
    fn it_counts_within_the_window_of_its_key_and_not_before_its_time() {
        let name = PayloadType::Checkpoint.name();
        let verified = verify(&signed(name, good().encode_to_vec()), &keyring(mandate())).unwrap();
        let checked = |mandate, wall| {
            let checked = verified.check(&keyring(mandate), Now { wall, ..NOW });
            checked.err().map(|refused| refused.refusal)
        };
        let early = WallTime(NOW.wall.0 - 60_001);
        assert_eq!(checked(mandate(), early), Some(Refusal::NotYetValid));
        assert_eq!(checked(mandate(), WallTime(early.0 + 1)), None);
        let ended = Mandate { not_after: Some(NOW.wall), ..mandate() };
        assert_eq!(checked(ended, NOW.wall), Some(Refusal::UnknownKey));
        let other = Mandate { checkpoints: false, grants: true, ..mandate() };
        assert_eq!(checked(other, NOW.wall), Some(Refusal::UnknownKey));
    }
}
