//! What a request costs in memory when it is decoded, from its bytes alone. An empty message takes
//! two bytes on the wire and a hundred in memory, so repeated fields are counted before any of them
//! is decoded.

use jit_proto::v1;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// The most that the repeated fields of one request may take, bytes: twice that of the largest
/// batch, with all its signatures.
const MOST: usize = 16 * 1024 * 1024;

/// The fields of a message that are repeated, or have such fields inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape(&'static [Field]);

#[derive(Debug, PartialEq, Eq)]
struct Field {
    number: u32,
    /// Size of one in memory.
    size: usize,
    inside: Shape,
}

/// A message without repeated fields.
pub(super) const PLAIN: Shape = Shape(&[]);
/// Not repeated, but in a place of its own in memory.
const ASSERTION: Shape = Shape(&[Field::new::<v1::Assertion>(3, PLAIN)]);
const SIGNATURES: Field = Field::new::<v1::Signature>(3, ASSERTION);
const ENVELOPE: Shape = Shape(&[SIGNATURES]);
/// `PushRequest`, `PushPolicyRequest` and `CompareMailboxRequest` have the same place for it.
pub(super) const ONE_ENVELOPE: Shape = Shape(&[Field::new::<v1::Envelope>(1, ENVELOPE)]);
pub(super) const REVOCATION: Shape = Shape(&[Field::new::<v1::Envelope>(7, ENVELOPE)]);
pub(super) const BATCH: Shape =
    Shape(&[Field::new::<v1::Envelope>(1, ENVELOPE), Field::new::<Vec<u8>>(2, PLAIN)]);
const POLICY_PORT: Shape =
    Shape(&[Field::new::<v1::Source>(3, PLAIN), Field::new::<v1::Exemption>(10, PLAIN)]);
const POLICY: Shape =
    Shape(&[Field::new::<String>(1, PLAIN), Field::new::<v1::PolicyPort>(5, POLICY_PORT)]);
pub(super) const DRAFT: Shape =
    Shape(&[Field::new::<v1::Policy>(1, POLICY), Field::new::<v1::Envelope>(2, ENVELOPE)]);

impl Field {
    const fn new<T>(number: u32, inside: Shape) -> Self {
        Self { number, size: size_of::<T>(), inside }
    }
}

impl Shape {
    /// Whether a message of this shape may be decoded.
    pub(super) fn fits(&self, message: &[u8]) -> bool {
        self.spend(message, MOST).is_some()
    }

    /// What is left after this message; `None` if it takes more. Bytes that do not parse cost
    /// nothing: the decoder stops there.
    fn spend(&self, mut message: &[u8], mut left: usize) -> Option<usize> {
        let Self(fields) = self;
        while !message.is_empty() {
            let Ok((number, wire)) = decode_key(&mut message) else { break };
            let field = fields.iter().find(|field| field.number == number);
            let Some(Field { size, inside, .. }) =
                field.filter(|_| wire == WireType::LengthDelimited)
            else {
                if skip_field(wire, number, &mut message, DecodeContext::default()).is_err() {
                    break;
                }
                continue;
            };
            left = left.checked_sub(*size)?;
            let length = decode_varint(&mut message).ok().and_then(|length| length.try_into().ok());
            let Some((content, rest)) = length.and_then(|length| message.split_at_checked(length))
            else {
                break;
            };
            left = inside.spend(content, left)?;
            message = rest;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn batch(envelopes: usize, signatures: usize) -> Vec<u8> {
        let envelope = v1::Envelope {
            payload_type: "x".repeat(40),
            payload: vec![7; 20].into(),
            signatures: vec![v1::Signature::default(); signatures],
        };
        let envelopes = vec![envelope; envelopes];
        v1::PushBatchRequest { envelopes, revoke_ids: Vec::new() }.encode_to_vec()
    }

    #[test]
    fn the_largest_batch_fits_and_empty_envelopes_do_not_fill_the_memory() {
        let most =
            batch(crate::control::server::service::MAX_BATCH, jit_proto::dsse::MAX_SIGNATURES);
        assert!(BATCH.fits(&most));
        let empty = [10, 0].repeat(2 * 1024 * 1024);
        assert!(!BATCH.fits(&empty));
        assert!(BATCH.fits(&empty[..2_000]));
        let ids = [18, 0].repeat(2 * 1024 * 1024);
        assert!(!BATCH.fits(&ids));
    }

    #[test]
    fn what_is_inside_counts_too() {
        let signatures = v1::PushRequest {
            envelope: Some(v1::Envelope {
                signatures: vec![v1::Signature::default(); 500_000],
                ..v1::Envelope::default()
            }),
        };
        assert!(!ONE_ENVELOPE.fits(&signatures.encode_to_vec()));
        assert!(!BATCH.fits(&batch(16, 50_000)), "spread over several");
        let approval =
            v1::Signature { assertion: Some(Box::default()), ..v1::Signature::default() };
        let approvals = |count| {
            let signatures = vec![approval.clone(); count];
            let envelope = v1::Envelope { signatures, ..v1::Envelope::default() };
            v1::PushRequest { envelope: Some(envelope) }.encode_to_vec()
        };
        assert!(ONE_ENVELOPE.fits(&approvals(100_000)) && !ONE_ENVELOPE.fits(&approvals(150_000)));
        let ports = |count, exemptions| {
            let port = v1::PolicyPort {
                exemptions: vec![v1::Exemption::default(); exemptions],
                ..v1::PolicyPort::default()
            };
            let policy = v1::Policy { ports: vec![port; count], ..v1::Policy::default() };
            let what = Some(v1::diff_policy_request::What::Policy(policy));
            v1::DiffPolicyRequest { what }.encode_to_vec()
        };
        assert!(DRAFT.fits(&ports(4_096, 4)));
        assert!(!DRAFT.fits(&ports(200_000, 0)) && !DRAFT.fits(&ports(2, 200_000)));
    }

    #[test]
    fn bytes_that_do_not_parse_are_left_to_the_decoder() {
        for bytes in [&[][..], &[10], &[10, 200], &[255; 20], &[11, 12], &[0], &[10, 255, 255]] {
            assert!(BATCH.fits(bytes), "{bytes:?}");
        }
        // The decoder has met these before it stops.
        let mut bytes = [10, 0].repeat(1024 * 1024);
        bytes.push(10);
        assert!(!BATCH.fits(&bytes));
    }
}
