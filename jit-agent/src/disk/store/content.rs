//! The content of the store, and a transaction that changes it.

use std::{collections::HashMap, path::PathBuf};

use jit_proto::{GrantId, WallTime, v1};
use prost::Message;

use crate::rules::ledger::{Floors, Tombstone};

/// A stored grant.
#[derive(Clone, PartialEq, Message)]
pub struct StoredGrant {
    /// The bytes that were verified; they are verified again at start.
    #[prost(message, optional, tag = "1")]
    pub envelope: Option<v1::Envelope>,
}

impl From<v1::Envelope> for StoredGrant {
    fn from(envelope: v1::Envelope) -> Self {
        Self { envelope: Some(envelope) }
    }
}

/// The progress of a stored grant, written at each change. A grant without it counts as just
/// pushed.
#[derive(Clone, PartialEq, Message)]
pub struct StoredProgress {
    /// The boot that deadline, slot and generation belong to.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// The grant's end, CLOCK_BOOTTIME nanoseconds; zero until it begins.
    #[prost(uint64, tag = "2")]
    pub deadline: u64,
    /// The slot in which the kernel counts its connections.
    #[prost(uint32, tag = "3")]
    pub slot: u32,
    /// The generation of that slot; with another one the slot belongs to another grant.
    #[prost(uint32, tag = "4")]
    pub generation: u32,
    /// Number of connections that it had let in before the slot was opened for it.
    #[prost(uint64, tag = "5")]
    pub before: u64,
    /// Number of all connections that it is known to have let in.
    #[prost(uint64, tag = "6")]
    pub hits: u64,
    /// Whether it has begun, in this boot or an earlier one.
    #[prost(bool, tag = "7")]
    pub began: bool,
}

/// The pushed policies: the confirmed one, and the one that waits for a confirmation.
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
    /// The boot that `deadline` belongs to.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// When `pending` is taken back, CLOCK_BOOTTIME nanoseconds.
    #[prost(uint64, tag = "5")]
    pub deadline: u64,
}

/// One transaction: what it writes and removes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Grants to write.
    pub put: Vec<(GrantId, StoredGrant)>,
    /// Progress of grants to write.
    pub progress: Vec<(GrantId, StoredProgress)>,
    /// Grants to remove.
    pub remove: Vec<GrantId>,
    /// Revoked ids to write, and until when they stay refused.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// Revoked ids to remove, because they need not be refused any more.
    pub forget: Vec<GrantId>,
    /// Floors of revocations to add to the stored ones.
    pub floors: Floors,
    /// What was revoked before this moment is lost, if that was found.
    pub lost_before: Option<WallTime>,
    /// The boot that the tombstones' boot times belong to, if it changed.
    pub boot_id: Option<String>,
    /// The pushed policies, if they changed.
    pub policies: Option<StoredPolicies>,
    /// The history of denials, if it changed.
    pub denials: Option<Vec<u8>>,
    /// The last checkpoint, if it changed.
    pub checkpoint: Option<v1::Checkpoint>,
    /// Wall time now; the floor only rises.
    pub floor: Option<WallTime>,
}

impl Transaction {
    /// Whether it closes something. A database without it is an older one.
    pub(super) fn closes(&self) -> bool {
        !self.tombstones.is_empty() || !self.floors.is_empty()
    }
}

/// What was read at start.
#[derive(Debug, Default)]
pub struct Stored {
    /// Grants, unverified.
    pub grants: Vec<(GrantId, StoredGrant)>,
    /// Progress of the grants.
    pub progress: HashMap<GrantId, StoredProgress>,
    /// Revoked ids.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// Floors of revocations.
    pub floors: Floors,
    /// The boot that the tombstones' boot times belong to.
    pub boot_id: Option<String>,
    /// The pushed policies, unverified; `None`: there were none.
    pub policies: Option<StoredPolicies>,
    /// Why both copies of the pushed policies are lost; `None`: they are not.
    pub policies_lost: Option<String>,
    /// The history of denials, unread; `None`: there was none.
    pub denials: Option<Vec<u8>>,
    /// The last checkpoint; `None`: there was none.
    pub checkpoint: Option<v1::Checkpoint>,
    /// The latest wall time ever seen.
    pub floor: Option<WallTime>,
    /// Revocations before this moment are lost with a damaged database. A grant that was issued
    /// earlier may have been revoked.
    pub lost_before: Option<WallTime>,
    /// The database that was lost at this start.
    pub damaged: Option<Damage>,
    /// Number of transactions that closed something.
    pub(super) closings: u64,
}

/// A database that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the file is kept for a person; `None`: the file was gone.
    pub kept: Option<PathBuf>,
    /// What is wrong with it.
    pub why: String,
}
