//! A key that hosts trust, and whether it made a signature of an envelope: what a person checks
//! with before a host does. The agent has its own check.

use jit_proto::{
    v1,
    webauthn::{RelyingParty, challenge},
};

use crate::public_key::PublicKey;

/// A key that hosts trust.
#[derive(Clone, Debug, PartialEq)]
pub struct Trusted {
    /// Its name for people.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// For whom its assertions are, if it is an approver's: then it signs by WebAuthn alone.
    pub approver: Option<RelyingParty>,
}

impl Trusted {
    pub(crate) fn is_named(&self, key_id: &str) -> bool {
        self.name == key_id || self.key.key_id() == key_id
    }

    /// Whether it made this signature over the message. The error says what is wrong with an
    /// approval by passkey.
    pub(crate) fn verifies(
        &self,
        message: &[u8],
        signature: &v1::Signature,
    ) -> Result<(), Option<String>> {
        let v1::Signature { key_id: _, signature, assertion } = signature;
        let name = &self.name;
        let good = |signed: &[u8]| self.key.verifies(signed, signature);
        let (party, assertion) = match (&self.approver, assertion) {
            (None, None) => return good(message).then_some(()).ok_or(None),
            (Some(party), Some(assertion)) => (party, assertion),
            (None, Some(_)) | (Some(_), None) => return Err(None),
        };
        let signed = party
            .check(&challenge(message), assertion)
            .map_err(|wrong| Some(format!("as one of {name}: {wrong}")))?;
        let forged = || Some(format!("the signature is not by the key of {name}"));
        good(&signed).then_some(()).ok_or_else(forged)
    }
}

/// A passkey in software.
#[cfg(test)]
pub(crate) mod passkey {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::signing::SigningKey;

    const ID: &str = "jit.example.org";
    pub(crate) const ORIGIN: &str = "https://jit.example.org";

    pub(crate) fn party() -> RelyingParty {
        RelyingParty::new(ID, vec![ORIGIN.into()]).unwrap()
    }

    /// What a browser's page at this origin gets.
    pub(crate) fn assertion(key: &SigningKey, message: &[u8], origin: &str) -> v1::Signature {
        let challenge = URL_SAFE_NO_PAD.encode(challenge(message));
        let client_data = format!(
            "{{\"type\":\"webauthn.get\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\",\
             \"crossOrigin\":false}}"
        );
        let data = [&Sha256::digest(ID)[..], &[5, 0, 0, 0, 0]].concat();
        let signed = [&data[..], &Sha256::digest(&client_data)[..]].concat();
        v1::Signature {
            key_id: key.key_id(),
            signature: key.sign(&signed).into(),
            assertion: Some(Box::new(v1::Assertion {
                authenticator_data: data.into(),
                client_data_json: client_data.into_bytes().into(),
            })),
        }
    }
}
