//! DSSE: the bytes that a signature is over, and the payload types that exist.
//!
//! Envelopes are never re-encoded: protobuf has no canonical form, so the bytes that were signed
//! are the bytes that are verified, decoded, stored, and verified again at start.

use jit_proto::v1;
use prost::Message as _;

use crate::{
    keyring::{Keyring, Signer},
    printable::clean,
    refusal::{Refusal, Refused},
};

/// Payload type of a [`jit_proto::v1::Grant`].
pub const GRANT_TYPE: &str = "application/vnd.jit-agent.grant.v1+protobuf";
/// Payload type of a policy.
pub const POLICY_TYPE: &str = "application/vnd.jit-agent.policy.v1+protobuf";
/// Largest encoded envelope, bytes.
pub const MAX_ENVELOPE_BYTES: usize = 256 * 1024;
/// Most signatures on one envelope.
pub const MAX_SIGNATURES: usize = 8;

/// What is in an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadType {
    /// A grant.
    Grant,
    /// A policy.
    Policy,
}

impl PayloadType {
    /// As the envelope names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grant => GRANT_TYPE,
            Self::Policy => POLICY_TYPE,
        }
    }

    /// As `signs` of a `[[signer]]` names it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Policy => "policy",
        }
    }
}

/// Size, type, and a good signature by at least one key that may sign payloads of this type
/// (docs/grants.md, steps `size` to `signature`). Returns these keys, each once, in the order of
/// the configuration.
pub fn open<'k>(
    envelope: &v1::Envelope,
    expected: PayloadType,
    keyring: &'k Keyring,
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
    let good = keyring.good_signers(&message, signatures);
    let Some(first) = good.first() else {
        return Err(no_good_signature(keyring, signatures));
    };
    let name = first.id.clone();
    let may: Vec<_> = good.into_iter().filter(|signer| signer.mandate.signs(expected)).collect();
    if may.is_empty() {
        let word = expected.word();
        let detail = format!(
            "the signature by {name:?} is good, but `signs` of that [[signer]] does not list {word:?}"
        );
        return refuse(Refusal::UnknownKey, detail);
    }
    Ok(may)
}

fn no_good_signature(keyring: &Keyring, signatures: &[v1::Signature]) -> Refused {
    if keyring.knows_any(signatures) {
        let detail = "no signature is good over these exact bytes, though one names a trusted key";
        return Refused::new(Refusal::BadSignature, detail);
    }
    if signatures.iter().all(|signature| signature.key_id.is_empty()) {
        let detail = format!("none of {} signatures is good by a trusted key", signatures.len());
        return Refused::new(Refusal::BadSignature, detail);
    }
    let detail = "no signature is by a key that this host trusts ([[signer]] in its configuration)";
    Refused::new(Refusal::UnknownKey, detail)
}

/// The pre-authentication encoding of DSSE (docs/grants.md, section "Envelope"): what is signed.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of DSSE's own specification.
    #[test]
    fn encoding_is_the_one_of_the_specification() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
