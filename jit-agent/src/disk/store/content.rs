//! What is stored, and what changes it.

use std::{collections::HashMap, path::PathBuf};

use jit_proto::{GrantId, WallTime, v1};
use prost::Message;

use crate::rules::ledger::Tombstone;

/// A stored grant.
#[derive(Clone, PartialEq, Message)]
pub struct StoredGrant {
    /// Exactly what was verified; verified again at start.
    #[prost(message, optional, tag = "1")]
    pub envelope: Option<v1::Envelope>,
}

impl From<&v1::Envelope> for StoredGrant {
    fn from(envelope: &v1::Envelope) -> Self {
        Self { envelope: Some(envelope.clone()) }
    }
}

/// Where a stored grant stands. Written anew whenever that changes; without it a grant is as if it
/// had just been pushed.
#[derive(Clone, PartialEq, Message)]
pub struct StoredProgress {
    /// Boot in which deadline, slot and generation mean something.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// CLOCK_BOOTTIME nanoseconds; zero until it begins.
    #[prost(uint64, tag = "2")]
    pub deadline: u64,
    /// Where the kernel counts its connections.
    #[prost(uint32, tag = "3")]
    pub slot: u32,
    /// Of that slot: it is still the same while this is.
    #[prost(uint32, tag = "4")]
    pub generation: u32,
    /// Connections that it had let in before the slot was opened for it.
    #[prost(uint64, tag = "5")]
    pub before: u64,
    /// All connections that it is known to have let in.
    #[prost(uint64, tag = "6")]
    pub hits: u64,
    /// It has begun, in this boot or an earlier one.
    #[prost(bool, tag = "7")]
    pub began: bool,
}

/// The policies that were pushed: what is in force for good, and what waits for a confirmation.
#[derive(Clone, PartialEq, Message)]
pub struct StoredPolicies {
    /// The highest version that was ever accepted.
    #[prost(uint64, tag = "1")]
    pub highest: u64,
    /// As received.
    #[prost(message, optional, tag = "2")]
    pub confirmed: Option<v1::Envelope>,
    /// As received.
    #[prost(message, optional, tag = "3")]
    pub pending: Option<v1::Envelope>,
    /// Boot in which `deadline` means something.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// When `pending` ends, CLOCK_BOOTTIME nanoseconds.
    #[prost(uint64, tag = "5")]
    pub deadline: u64,
}

/// One transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Grants to write.
    pub put: Vec<(GrantId, StoredGrant)>,
    /// Where grants stand.
    pub progress: Vec<(GrantId, StoredProgress)>,
    /// Grants to take away.
    pub remove: Vec<GrantId>,
    /// Revoked ids, and until when they stay refused.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// Revoked ids that need not be refused any more.
    pub forget: Vec<GrantId>,
    /// The boot that boot times of tombstones mean, if it is another one.
    pub boot_id: Option<String>,
    /// The pushed policies, if they changed.
    pub policies: Option<StoredPolicies>,
    /// Wall time now; the floor only rises.
    pub floor: Option<WallTime>,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Stored {
    /// Grants, unverified.
    pub grants: Vec<(GrantId, StoredGrant)>,
    /// Where they stand.
    pub progress: HashMap<GrantId, StoredProgress>,
    /// Revoked ids.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// The boot that their boot times mean.
    pub boot_id: Option<String>,
    /// The pushed policies, unverified; `None`: there were none.
    pub policies: Option<StoredPolicies>,
    /// There were pushed policies, and both copies of them are lost: why.
    pub policies_lost: Option<String>,
    /// The latest wall time ever seen.
    pub floor: Option<WallTime>,
    /// Revocations before this moment are lost, with a database that was damaged: a grant that was
    /// issued earlier may be a revoked one.
    pub lost_before: Option<WallTime>,
    /// A database was lost just now.
    pub damaged: Option<Damage>,
    /// Transactions that closed something.
    pub(super) closings: u64,
}

/// A database that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the file is kept for a person; `None`: there was none any more.
    pub kept: Option<PathBuf>,
    /// What is wrong with it.
    pub why: String,
}
