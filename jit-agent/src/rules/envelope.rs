//! Opens an envelope (DSSE): size, payload type, signatures.
//!
//! Envelopes are never re-encoded: protobuf has no canonical form, so the bytes that were signed
//! are the bytes that are verified, decoded, stored, and verified again at start.

use jit_proto::{
    PayloadType, Refusal,
    dsse::{MAX_ENVELOPE_BYTES, MAX_SIGNATURES, pre_authentication_encoding},
    printable::clean,
    v1,
};
use prost::Message as _;

use crate::rules::{
    keyring::{self, Found, Keyring, Objection, Signer},
    refusal::Refused,
};

/// To hash this many bytes takes about as long as a try of a short message.
const LONG: usize = 32 * 1024;

/// Most signatures that are verified together: more would gain little time for each, and all
/// together take less than 5 ms.
const MOST_TOGETHER: usize = 512;
/// Fewer signatures are not verified together: little time would be gained.
const LEAST_TOGETHER: usize = 8;
/// Most bytes of payload that are verified together: to hash them takes a fraction of the time.
const BYTES_TOGETHER: usize = 4 * LONG;

/// What was found out about the first of several envelopes, of which all signatures were verified
/// together.
#[derive(Debug, PartialEq)]
pub enum Together<T> {
    /// All signatures are good: the results of these envelopes, in their order.
    Good(Vec<T>),
    /// The first envelopes must be verified one by one.
    OneByOne {
        /// Number of these envelopes, at least one.
        envelopes: usize,
        /// Number of their signatures of which at least one is false; 0: none was verified.
        signatures: usize,
    },
}

/// An envelope with a good signature.
#[derive(Debug)]
pub struct Opened<'k> {
    /// The distinct keys with a good signature which may sign this type, in the order of the
    /// configuration; at least one.
    pub signers: Vec<&'k Signer>,
    /// Why an approval by passkey beside them does not count.
    pub objection: Option<Objection>,
}

/// Checks size, type, and that at least one key which may sign payloads of this type made a good
/// signature (docs/grants.md, steps `size` to `signature`). Adds the tries of false signatures to
/// `wasted`, a try of a long message as several.
pub fn open<'k>(
    envelope: &v1::Envelope,
    expected: PayloadType,
    keyring: &'k Keyring,
    wasted: &mut usize,
) -> Result<Opened<'k>, Refused> {
    check_form(envelope, expected)?;
    let v1::Envelope { payload_type, payload, signatures } = envelope;
    let message = pre_authentication_encoding(payload_type, payload);
    let found = keyring.try_signatures(&message, signatures);
    *wasted = wasted.saturating_add(found.wasted * (1 + message.len() / LONG));
    if found.signers.is_empty() {
        return Err(no_good_signature(keyring, signatures, &found));
    }
    let Found { signers, objection, .. } = found;
    Ok(Opened { signers: that_may_sign(signers, expected)?, objection })
}

/// Opens the first of these envelopes, as [`open`] does, if each of their signatures names another
/// Ed25519 key, and all are good.
pub fn open_together<'k, 'e>(
    envelopes: impl Iterator<Item = &'e v1::Envelope>,
    expected: PayloadType,
    keyring: &'k Keyring,
) -> Together<(&'e v1::Envelope, Result<Vec<&'k Signer>, Refused>)> {
    let (mut signatures, mut bytes) = (0, 0);
    let fit = envelopes.map_while(|envelope| {
        check_form(envelope, expected).ok()?;
        let named = keyring.named(&envelope.signatures)?;
        signatures += named.len();
        bytes += envelope.payload.len();
        if signatures > MOST_TOGETHER || bytes > BYTES_TOGETHER {
            return None;
        }
        let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
        Some((envelope, named, message))
    });
    let fit: Vec<_> = fit.collect();
    let claims: Vec<_> = fit
        .iter()
        .flat_map(|(_, named, message)| named.iter().map(|named| named.claim(message)))
        .collect();
    let tried = claims.len() >= LEAST_TOGETHER;
    if !tried || !keyring::all_good(&claims) {
        let signatures = if tried { claims.len() } else { 0 };
        return Together::OneByOne { envelopes: fit.len().max(1), signatures };
    }
    let opened = fit.into_iter().map(|(envelope, named, _)| {
        let signers = named.into_iter().map(|named| named.signer).collect();
        (envelope, that_may_sign(signers, expected))
    });
    Together::Good(opened.collect())
}

/// The steps `size` and `type`.
fn check_form(envelope: &v1::Envelope, expected: PayloadType) -> Result<(), Refused> {
    let refuse = |refusal, detail: String| Err(Refused::new(refusal, detail));
    let bytes = envelope.encoded_len();
    if bytes > MAX_ENVELOPE_BYTES {
        let detail = format!("the envelope has {bytes} bytes; at most {MAX_ENVELOPE_BYTES}");
        return refuse(Refusal::TooLarge, detail);
    }
    let v1::Envelope { payload_type, signatures, .. } = envelope;
    if signatures.len() > MAX_SIGNATURES {
        let detail = format!("{} signatures; at most {MAX_SIGNATURES}", signatures.len());
        return refuse(Refusal::TooLarge, detail);
    }
    if payload_type != expected.name() {
        let said = clean(payload_type, 100);
        let detail = format!("payload type \"{said}\"; expected \"{}\"", expected.name());
        return refuse(Refusal::BadType, detail);
    }
    Ok(())
}

/// Those of the keys with a good signature that may sign this type; at least one.
fn that_may_sign(
    mut signers: Vec<&Signer>,
    expected: PayloadType,
) -> Result<Vec<&Signer>, Refused> {
    let first = signers.first().copied();
    signers.retain(|signer| signer.mandate.signs(expected));
    if signers.is_empty() {
        let name = first.map_or("", |signer| signer.id.as_str());
        let word = expected.word();
        let detail = match first.and_then(Signer::approver) {
            Some(_) => {
                format!("the signature by {name:?} is good, but an [[approver]] signs grants")
            }
            None => format!(
                "the signature by {name:?} is good, but `signs` of that key does not list {word:?}"
            ),
        };
        return Err(Refused::new(Refusal::UnknownKey, detail));
    }
    Ok(signers)
}

fn no_good_signature(
    keyring: &Keyring,
    signatures: &[v1::Signature],
    found: &Found<'_>,
) -> Refused {
    let (refusal, mut detail) = if keyring.knows_any(signatures) {
        let detail = "a signature names a trusted key, but none is good over these exact bytes";
        (Refusal::BadSignature, detail.to_owned())
    } else if signatures.iter().all(|signature| signature.key_id.is_empty()) {
        let detail = format!("no trusted key made any of the {} signatures", signatures.len());
        (Refusal::BadSignature, detail)
    } else {
        let detail =
            "no signature is by a key that this host trusts ([[signer]] in its configuration)";
        (Refusal::UnknownKey, detail.to_owned())
    };
    if let Some(objection) = &found.objection {
        detail.push_str(&format!("; {objection}"));
    }
    if found.capped {
        detail.push_str("; not every key was tried on each of them: key_id says which one to try");
    }
    Refused::new(refusal, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
    use jit_proto::payload_type::GRANT_TYPE;

    use super::*;

    #[test]
    fn a_false_signature_over_a_long_payload_costs_more() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let pem = key.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF).unwrap();
        let mut keyring = Keyring::default();
        keyring.add(Signer::from_pem("k".into(), Duration::ZERO, &pem).unwrap()).unwrap();
        let signature = key.sign(b"something else").to_bytes().to_vec();
        let cost = |bytes: usize| {
            let signature = v1::Signature {
                key_id: "k".into(),
                signature: signature.clone().into(),
                ..v1::Signature::default()
            };
            let envelope = v1::Envelope {
                payload_type: GRANT_TYPE.into(),
                payload: vec![0; bytes].into(),
                signatures: vec![signature; 2],
            };
            let mut wasted = 0;
            let refused = open(&envelope, PayloadType::Grant, &keyring, &mut wasted).unwrap_err();
            assert_eq!(refused.refusal, Refusal::BadSignature);
            wasted
        };
        assert_eq!((cost(1), cost(2 * LONG), cost(7 * LONG)), (2, 6, 16));
    }
}
