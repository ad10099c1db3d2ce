//! One try of a trusted key on one signature. A key signs either plainly, as a `[[signer]]`, or by
//! WebAuthn, as an `[[approver]]`, and never in the other way.

use std::{cell::OnceCell, fmt};

use jit_proto::{
    v1,
    webauthn::{AssertionError, challenge},
};

use crate::rules::keyring::Signer;

/// The bytes that an envelope signs.
pub(super) struct Message<'m> {
    bytes: &'m [u8],
    /// What passkeys sign for them. A payload is long: it is hashed once, and only if it is asked
    /// for.
    challenge: OnceCell<[u8; 32]>,
}

/// What came out of a try.
pub(super) enum Outcome {
    /// The signature is not good.
    False(Option<Objection>),
    /// It is good.
    Good,
    /// The key does not sign like this, or the bytes are no signature: that cost no time.
    Untried(Option<Objection>),
}

/// Why a signature that concerns an approver, or says that it is an approver's, does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The key that it was tried with, by its name in the configuration.
    key: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// A check before that of the signature itself.
    Assertion(AssertionError),
    /// The signature itself.
    Forged,
    /// The key is a signer's, and the signature an assertion.
    NoApprover,
    /// The key is an approver's, and the signature is plain.
    Plain,
}

impl<'m> Message<'m> {
    pub(super) const fn new(bytes: &'m [u8]) -> Self {
        Self { bytes, challenge: OnceCell::new() }
    }

    fn challenge(&self) -> &[u8; 32] {
        self.challenge.get_or_init(|| challenge(self.bytes))
    }
}

impl Signer {
    /// Tries this key on a signature.
    pub(super) fn attempt(&self, message: &Message<'_>, signature: &v1::Signature) -> Outcome {
        let objection = |why| Some(Objection { key: self.id.clone(), why });
        let v1::Signature { key_id: _, signature: bytes, assertion } = signature;
        match (&self.approver, assertion) {
            (None, None) => match self.key.verifies(message.bytes, bytes) {
                Some(true) => Outcome::Good,
                Some(false) => Outcome::False(None),
                None => Outcome::Untried(None),
            },
            (Some(party), Some(assertion)) => {
                let checked = party.check(message.challenge(), assertion);
                match checked.map(|signed| self.key.verifies(&signed, bytes)) {
                    Ok(Some(true)) => Outcome::Good,
                    Ok(Some(false) | None) => Outcome::False(objection(Why::Forged)),
                    Err(wrong) => Outcome::False(objection(Why::Assertion(wrong))),
                }
            }
            (Some(_), None) => Outcome::Untried(objection(Why::Plain)),
            (None, Some(_)) => Outcome::Untried(objection(Why::NoApprover)),
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, why } = self;
        match why {
            Why::Assertion(wrong) => write!(f, "as an approval by {key:?}: {wrong}"),
            Why::Forged => write!(
                f,
                "as an approval by {key:?}: the signature is not by this key over \
                 authenticatorData and the hash of clientDataJSON"
            ),
            Why::NoApprover => write!(f, "{key:?} is a [[signer]]: it never signs by WebAuthn"),
            Why::Plain => write!(f, "{key:?} is an [[approver]]: it signs by WebAuthn alone"),
        }
    }
}
