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
    keyring::{Keyring, Signer},
    refusal::Refused,
};

/// To hash this many bytes takes about as long as a try of a short message.
const LONG: usize = 32 * 1024;

/// Checks size, type, and that at least one key which may sign payloads of this type made a good
/// signature (docs/grants.md, steps `size` to `signature`). Returns these keys, each once, in the
/// order of the configuration. Adds the tries of false signatures to `wasted`, a try of a long message
/// as several.
pub fn open<'k>(
    envelope: &v1::Envelope,
    expected: PayloadType,
    keyring: &'k Keyring,
    wasted: &mut usize,
) -> Result<Vec<&'k Signer>, Refused> {
    let refuse = |refusal, detail: String| Err(Refused::new(refusal, detail));
    let bytes = envelope.encoded_len();
    if bytes > MAX_ENVELOPE_BYTES {
        let detail = format!("the envelope has {bytes} bytes; at most {MAX_ENVELOPE_BYTES}");
        return refuse(Refusal::TooLarge, detail);
    }
    let v1::Envelope { payload_type, payload, signatures } = envelope;
    if signatures.len() > MAX_SIGNATURES {
        let detail = format!("{} signatures; at most {MAX_SIGNATURES}", signatures.len());
        return refuse(Refusal::TooLarge, detail);
    }
    if payload_type != expected.name() {
        let said = clean(payload_type, 100);
        let detail = format!("payload type \"{said}\"; expected \"{}\"", expected.name());
        return refuse(Refusal::BadType, detail);
    }
    let message = pre_authentication_encoding(payload_type, payload);
    let found = keyring.try_signatures(&message, signatures);
    *wasted = wasted.saturating_add(found.wasted * (1 + message.len() / LONG));
    let Some(first) = found.signers.first() else {
        return Err(no_good_signature(keyring, signatures, found.capped));
    };
    let name = first.id.clone();
    let may: Vec<_> =
        found.signers.into_iter().filter(|signer| signer.mandate.signs(expected)).collect();
    if may.is_empty() {
        let word = expected.word();
        let detail = format!(
            "the signature by {name:?} is good, but `signs` of that key does not list {word:?}"
        );
        return refuse(Refusal::UnknownKey, detail);
    }
    Ok(may)
}

fn no_good_signature(keyring: &Keyring, signatures: &[v1::Signature], capped: bool) -> Refused {
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
    if capped {
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
            let signature =
                v1::Signature { key_id: "k".into(), signature: signature.clone().into() };
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
