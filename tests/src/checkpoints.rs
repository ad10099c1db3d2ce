//! Whoever has a key that signs checkpoints and nothing else, with a tree of this host and one other.

use std::{fs, time::Duration};

use ed25519_dalek::{
    Signer as _, SigningKey,
    pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding},
};
use jit_proto::{
    dsse::pre_authentication_encoding,
    mailbox,
    merkle::{self, Hash},
    payload_type::CHECKPOINT_TYPE,
    v1,
};
use prost::Message as _;

use crate::agent::{HOST, Site};

/// The section of the configuration that trusts it.
pub const FRESHNESS: &str = "[[signer]]\nid = \"freshness\"\npublic_key = \"freshness.pem\"\n\
                             signs = [\"checkpoint\"]\n";

/// A key that signs checkpoints.
pub struct Checkpoints(SigningKey);

/// A signed checkpoint, and what a hub hands on with it.
pub struct Point {
    envelope: v1::Envelope,
    path: Vec<u8>,
    items: Vec<Hash>,
}

impl Checkpoints {
    /// With a new key, whose public half is in the site's scratch directory, for [`FRESHNESS`].
    pub fn new(site: &Site) -> Self {
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .expect("random bytes");
        let key = SigningKey::from_bytes(&seed);
        let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("a public key");
        fs::write(site.path("freshness.pem"), pem).expect("write the key of checkpoints");
        Self(key)
    }

    /// One of this moment: these pieces are in the host's mailbox.
    pub fn point(&self, number: u64, valid_for: Duration, items: &[Hash]) -> Point {
        let mut items = items.to_vec();
        items.sort_unstable();
        let own = mailbox::leaf(HOST, &mailbox::digest(items.iter()));
        let other = mailbox::leaf("another-host", &[9; 32]);
        let message = v1::Checkpoint {
            epoch: 1,
            number,
            issued_at_ms: jit_agent::system::sys::now().wall.0,
            valid_for_ms: valid_for.as_millis().try_into().expect("a short time"),
            root: merkle::node(&own, &other).to_vec().into(),
            hosts: 2,
        };
        Point { envelope: self.sign(&message), path: other.to_vec(), items }
    }

    /// Signs any checkpoint.
    pub fn sign(&self, message: &v1::Checkpoint) -> v1::Envelope {
        self.sign_as(CHECKPOINT_TYPE, message.encode_to_vec())
    }

    /// Signs anything.
    pub fn sign_as(&self, payload_type: &str, payload: Vec<u8>) -> v1::Envelope {
        let message = pre_authentication_encoding(payload_type, &payload);
        let signature = self.0.sign(&message).to_bytes().to_vec().into();
        v1::Envelope {
            payload_type: payload_type.into(),
            payload: payload.into(),
            signatures: vec![v1::Signature { signature, ..v1::Signature::default() }],
        }
    }
}

impl Point {
    /// The call that brings it. `listed`: with what is in the mailbox.
    pub fn request(&self, listed: bool) -> v1::CompareMailboxRequest {
        let items = if listed { self.items.concat() } else { Vec::new() };
        v1::CompareMailboxRequest {
            checkpoint: Some(self.envelope.clone()),
            index: 0,
            path: self.path.clone().into(),
            listed,
            items: items.into(),
        }
    }
}
