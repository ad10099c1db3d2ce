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

/// Checks size, type, and that at least one key which may sign payloads of this type made a good
/// signature (docs/grants.md, steps `size` to `signature`). Returns these keys, each once, in the
/// order of the configuration. Adds the tries of false signatures to `wasted`.
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
    *wasted = wasted.saturating_add(found.wasted);
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
