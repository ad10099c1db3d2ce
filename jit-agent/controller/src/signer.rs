//! The signer: processes of its own, the only ones with a handle of a key. They sign exactly what was
//! agreed to, and nothing that their own limits forbid. One signs what opens, one what closes, one
//! checkpoints: a key that hangs, or cannot be opened, holds up nothing of another purpose.
//!
//! The controller starts them from its own program (`jit-controller signer`) and speaks with each over
//! a pair of sockets. A process has no network, opens no file after its start, and leaves no core dump;
//! it ends with the controller. It believes nothing that it is sent: it makes the payload again from the
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

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use jit_proto::v1;
use serde::{Deserialize, Serialize};

pub use authority::{AuthoritySettings, CertificateWish};
pub use child::child;
pub use freshness::{CheckpointWish, FreshnessSettings};
pub use key_settings::KeySettings;
pub use link::Process;
pub use settings::{Limits, Purpose, Settings, SettingsError};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use self::link::{Line, Made, Seen};
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

/// The signer. The last one that is dropped ends its processes.
#[derive(Clone, Debug)]
pub struct Signer {
    lines: BTreeMap<Purpose, Line>,
    seen: Seen,
}

/// When one process is open, the others get this time to be, too. Later they come by themselves.
const TOGETHER: Duration = Duration::from_secs(10);

impl Signer {
    /// Starts the signer from this program, and waits until its keys are open. If those of one purpose
    /// cannot be opened, the others sign, and it is tried again.
    ///
    /// # Errors
    /// A setting is wrong, or nothing starts that opens or closes: a key, the journal.
    pub async fn start(settings: &Settings) -> Result<Self, SignerError> {
        Self::start_program(Path::new("/proc/self/exe"), settings).await
    }

    /// As [`Signer::start`], from this program.
    ///
    /// # Errors
    /// As [`Signer::start`].
    pub async fn start_program(program: &Path, settings: &Settings) -> Result<Self, SignerError> {
        let unavailable = |error: io::Error| SignerError::Unavailable(error.to_string());
        settings.check().map_err(|error| SignerError::Unavailable(error.to_string()))?;
        let (mut lines, seen, mut starts) = (BTreeMap::new(), Seen::default(), JoinSet::new());
        for purpose in Purpose::ALL {
            let Some(part) = settings.part(purpose) else { continue };
            let (line, start) = Line::start(program, purpose, part, &seen).map_err(unavailable)?;
            lines.insert(purpose, line);
            starts.spawn(async move { (purpose, outcome(start).await) });
        }
        started(&mut starts).await.map_err(SignerError::Unavailable)?;
        // That does not pass.
        seen.clash().map_or(Ok(Self { lines, seen }), |why| Err(SignerError::Unavailable(why)))
    }

    /// What is known of its processes.
    pub fn processes(&self) -> BTreeMap<Purpose, Process> {
        self.seen.all()
    }

    /// The keys that sign grants, in the order of the settings; empty: they have not been open yet.
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.process(Purpose::Opens).keys
    }

    /// The keys that sign revocations, in the order of the settings.
    pub fn revocation_keys(&self) -> Vec<KeyInfo> {
        self.process(Purpose::Closes).keys
    }

    fn process(&self, purpose: Purpose) -> Process {
        self.seen.all().remove(&purpose).unwrap_or_default()
    }

    /// Signs a grant: one signature by each key.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn sign(&self, request: &SignRequest) -> Result<Vec<v1::Signature>, SignerError> {
        let ask = protocol::Ask::Grant(Box::new(request.clone()));
        self.signatures(Purpose::Opens, ask).await
    }

    /// Signs an encoded `jit.v1.Policy`, if the settings allow policies.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn sign_policy(&self, payload: Vec<u8>) -> Result<Vec<v1::Signature>, SignerError> {
        self.signatures(Purpose::Opens, protocol::Ask::Policy { payload }).await
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
        self.signatures(Purpose::Closes, protocol::Ask::Revocation { payload }).await
    }

    /// Issues a certificate of a host. Whether it may be that host was decided before.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn certify(&self, wish: CertificateWish) -> Result<Issued, SignerError> {
        match self.ask(Purpose::Opens, protocol::Ask::Certificate(Box::new(wish))).await? {
            Made::Certificate(issued) => Ok(issued),
            Made::Checkpoint(_) | Made::Signatures(_) => Err(other_answer()),
        }
    }

    /// Signs the next checkpoint.
    ///
    /// # Errors
    /// It refuses, or it must be tried again.
    pub async fn checkpoint(&self, wish: CheckpointWish) -> Result<v1::Envelope, SignerError> {
        match self.ask(Purpose::Stamps, protocol::Ask::Checkpoint(wish)).await? {
            Made::Checkpoint(envelope) => Ok(envelope),
            Made::Certificate(_) | Made::Signatures(_) => Err(other_answer()),
        }
    }

    async fn signatures(
        &self,
        by: Purpose,
        ask: protocol::Ask,
    ) -> Result<Vec<v1::Signature>, SignerError> {
        match self.ask(by, ask).await? {
            Made::Signatures(signatures) => Ok(signatures),
            Made::Certificate(_) | Made::Checkpoint(_) => Err(other_answer()),
        }
    }

    async fn ask(&self, by: Purpose, ask: protocol::Ask) -> Result<Made, SignerError> {
        // What there is no process for, any of them refuses by its word.
        let line = self.lines.get(&by).or_else(|| self.lines.get(&Purpose::Opens));
        let gone = || SignerError::Unavailable("it was not started".into());
        line.ok_or_else(gone)?.ask(ask).await
    }
}

async fn outcome(start: oneshot::Receiver<Result<(), String>>) -> Result<(), String> {
    start.await.unwrap_or_else(|_| Err("its thread has ended".into()))
}

/// Waits until all have started or failed. When one signs that opens or closes, the others get a moment.
async fn started(starts: &mut JoinSet<(Purpose, Result<(), String>)>) -> Result<(), String> {
    let mut troubles = Vec::new();
    let mut signs = false;
    loop {
        let next = match signs {
            true => timeout(TOGETHER, starts.join_next()).await.unwrap_or(None),
            false => starts.join_next().await,
        };
        match next {
            Some(Ok((Purpose::Stamps, Ok(())))) | Some(Err(_)) => {}
            Some(Ok((_, Ok(())))) => signs = true,
            Some(Ok((purpose, Err(why)))) => {
                tracing::warn!("the signer of {} does not start: {why}", purpose.words());
                troubles.push(why);
            }
            None if signs => return Ok(()),
            None => return Err(troubles.join("; ")),
        }
    }
}

fn other_answer() -> SignerError {
    SignerError::Unavailable("it has answered what it was not asked".into())
}
