//! The signer: a process of its own, the only one with a handle of a key. It signs exactly what was
//! agreed to, and nothing that its own limits forbid.
//!
//! The controller starts it from its own program (`jit-controller signer`) and speaks with it over a
//! pair of sockets. It has no network, opens no file after its start, and leaves no core dump; it ends
//! with the controller. It believes nothing that it is sent: it makes the payload again from the
//! proposal and compares the bytes, counts the decisions again, and has limits and a journal that the
//! rest of the controller cannot change (docs/controller-signers.md).
//!
//! It does not protect from somebody who runs code as the controller's user: he can start another
//! signer. It protects from everything that only speaks with the controller.

mod authority;
mod base64_text;
mod check;
mod child;
mod command;
mod confine;
mod duration_text;
mod freshness;
mod issuing;
mod journal;
mod key_settings;
mod keys;
mod limits;
mod link;
mod narrower;
mod protocol;
mod refused;
mod revocation;
mod settings;
mod stamping;

use std::path::Path;

use jit_proto::v1;
use serde::{Deserialize, Serialize};

pub use authority::{AuthoritySettings, CertificateWish};
pub use child::child;
pub use freshness::{CheckpointWish, FreshnessSettings};
pub use key_settings::KeySettings;
pub use link::Signer;
pub use settings::{Limits, Settings, SettingsError};

use self::link::Made;
use crate::{
    enrol::issue::Issued,
    model::{Decision, Proposal, Verdict},
};

/// Everything that the signer checks a grant by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignRequest {
    /// What was asked for.
    pub proposal: Proposal,
    /// What the rules said of it.
    pub verdict: Verdict,
    /// What people said of it.
    pub decisions: Vec<Decision>,
    /// When it was approved, milliseconds since the Unix epoch.
    pub approved_ms: i64,
    /// Who agreed, as the payload names them.
    pub approvers: Vec<String>,
    /// Ids of the grants that end when these begin, by number.
    pub replaces: Vec<String>,
    /// Which of the request's grants it is, from 0.
    pub number: usize,
    /// The bytes to sign: an encoded `jit.v1.Grant`.
    #[serde(with = "base64_text")]
    pub payload: Vec<u8>,
    /// The payload of the grant that this one replaces and only narrows: then nobody must agree.
    #[serde(with = "base64_text::option", default)]
    pub shortens: Option<Vec<u8>>,
}

/// A key that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// `pem`, `pkcs11`, `ssh-agent` or `command`.
    pub kind: String,
    /// `Ed25519` or `ECDSA P-256`.
    pub algorithm: String,
    /// The hint in signatures, 16 hex digits.
    pub key_id: String,
    /// The public key in PEM: what hosts have as `public_key` of a `[[signer]]`.
    pub public_key: String,
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// It will never be signed.
    #[error("the signer refuses: {word}: {detail}")]
    Refused {
        /// A stable word, `payload_differs`.
        word: String,
        /// A sentence.
        detail: String,
    },
    /// It is to be tried again.
    #[error("the signer is not available: {0}")]
    Unavailable(String),
}

impl Signer {
    /// Starts the signer from this program, and waits until its keys are open.
    ///
    /// # Errors
    /// It does not start: a setting, a key, the journal.
    pub async fn start(settings: &Settings) -> Result<Self, SignerError> {
        Self::start_program(Path::new("/proc/self/exe"), settings).await
    }

    /// Signs a grant: one signature by each key.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn sign(&self, request: &SignRequest) -> Result<Vec<v1::Signature>, SignerError> {
        self.signatures(protocol::Ask::Grant(Box::new(request.clone()))).await
    }

    /// Signs an encoded `jit.v1.Policy`, if the settings allow policies.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn sign_policy(&self, payload: Vec<u8>) -> Result<Vec<v1::Signature>, SignerError> {
        self.signatures(protocol::Ask::Policy { payload }).await
    }

    /// Signs an encoded `jit.v1.Revocation` by each key that is for revocations. Who may close was decided
    /// before.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn sign_revocation(
        &self,
        payload: Vec<u8>,
    ) -> Result<Vec<v1::Signature>, SignerError> {
        self.signatures(protocol::Ask::Revocation { payload }).await
    }

    /// Issues a certificate of a host. Whether it may be that host was decided before.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn certify(&self, wish: CertificateWish) -> Result<Issued, SignerError> {
        match self.ask(protocol::Ask::Certificate(Box::new(wish))).await? {
            Made::Certificate(issued) => Ok(issued),
            Made::Checkpoint(_) | Made::Signatures(_) => Err(other_answer()),
        }
    }

    /// Signs the next checkpoint.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn checkpoint(&self, wish: CheckpointWish) -> Result<v1::Envelope, SignerError> {
        match self.ask(protocol::Ask::Checkpoint(wish)).await? {
            Made::Checkpoint(envelope) => Ok(envelope),
            Made::Certificate(_) | Made::Signatures(_) => Err(other_answer()),
        }
    }

    async fn signatures(&self, ask: protocol::Ask) -> Result<Vec<v1::Signature>, SignerError> {
        match self.ask(ask).await? {
            Made::Signatures(signatures) => Ok(signatures),
            Made::Certificate(_) | Made::Checkpoint(_) => Err(other_answer()),
        }
    }
}

fn other_answer() -> SignerError {
    SignerError::Unavailable("it has answered what it was not asked".into())
}
