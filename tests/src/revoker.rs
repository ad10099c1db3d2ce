//! Whoever has a key that signs revocations and nothing else.

use std::fs;

use ed25519_dalek::{
    Signer as _, SigningKey,
    pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding},
};
use jit_client::revocation_order::{KEEP, RevocationOrder, Whose};
use jit_proto::{
    dsse::pre_authentication_encoding,
    payload_type::REVOCATION_TYPE,
    v1::{self, revoke_request::What},
};
use prost::Message as _;

use crate::agent::{HOST, Site};

/// The section of the configuration that trusts it.
pub const REVOKER: &str =
    "[[signer]]\nid = \"revoker\"\npublic_key = \"revoker.pem\"\nsigns = [\"revocation\"]\n";

/// A key that signs revocations.
pub struct Revoker(SigningKey);

impl Revoker {
    /// With a new key, whose public half is in the site's scratch directory, for [`REVOKER`].
    pub fn new(site: &Site) -> Self {
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .expect("random bytes");
        let key = SigningKey::from_bytes(&seed);
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("a public key");
        fs::write(site.path("revoker.pem"), pem).expect("write the revoker's key");
        Self(key)
    }

    /// A signed revocation of everything that the host was granted until now.
    pub fn all(&self) -> v1::Envelope {
        self.of(Whose::All)
    }

    /// A signed revocation of these grants; of ids whenever they were issued, of others until now.
    pub fn of(&self, whose: Whose) -> v1::Envelope {
        let order = RevocationOrder {
            hosts: Some(vec![HOST.into()]),
            whose,
            issued_before_ms: jit_agent::system::sys::now().wall.0,
            cut: false,
            author: "bo@example.org".into(),
            reason: "stolen key".into(),
            keep: KEEP,
        };
        let payload = order.message().encode_to_vec();
        let message = pre_authentication_encoding(REVOCATION_TYPE, &payload);
        let signature = self.0.sign(&message).to_bytes().to_vec();
        v1::Envelope {
            payload_type: REVOCATION_TYPE.into(),
            payload: payload.into(),
            signatures: vec![v1::Signature {
                signature: signature.into(),
                ..v1::Signature::default()
            }],
        }
    }
}

/// The call that delivers it.
pub fn delivery(envelope: v1::Envelope) -> v1::RevokeRequest {
    v1::RevokeRequest { what: Some(What::Signed(envelope)), ..v1::RevokeRequest::default() }
}
