//! `[signer.freshness]`: the key that signs checkpoints, and how often. Only the signer's process opens it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jit_proto::mailbox::{CHECKPOINT_EVERY, CHECKPOINT_VALID_FOR};
use serde::{Deserialize, Serialize};

use super::{base64_text, duration_text, key_settings::KeySettings};

/// How often a checkpoint can be made.
const EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// The longest time for which one counts as fresh: agents take no more.
const LONGEST: Duration = Duration::from_secs(3600);
/// The section `[signer.freshness]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessSettings {
    /// The key: none of those that sign grants.
    pub key: KeySettings,
    /// File with the last epoch.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// How often a checkpoint is made.
    #[serde(default = "default_every", with = "duration_text")]
    pub every: Duration,
    /// For how long a checkpoint counts as fresh.
    #[serde(default = "default_valid_for", with = "duration_text")]
    pub valid_for: Duration,
}

/// What a checkpoint is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointWish {
    /// The moment that it is about, milliseconds since the Unix epoch.
    pub issued_at_ms: i64,
    /// Root of the tree: 32 bytes.
    #[serde(with = "base64_text")]
    pub root: Vec<u8>,
    /// Number of its leaves.
    pub hosts: u64,
}

impl FreshnessSettings {
    pub(super) fn resolve(&mut self, directory: &Path) {
        self.journal = directory.join(&self.journal);
        self.key.resolve(directory);
    }

    /// Checks what can be checked without opening a file: the field that is wrong, and why.
    pub(super) fn check(&self, others: &[KeySettings]) -> Result<(), (&'static str, String)> {
        if others.contains(&self.key) {
            let why = "it signs grants, too; make a key that signs checkpoints alone";
            return Err(("freshness.key", why.into()));
        }
        if !EVERY.contains(&self.every) {
            return Err(("freshness.every", "it is from 1s to 60s".into()));
        }
        if self.valid_for < self.every * 2 || self.valid_for > LONGEST {
            let why = "it is at least twice `every`, and at most 1h".into();
            return Err(("freshness.valid_for", why));
        }
        Ok(())
    }
}

fn default_journal() -> PathBuf {
    "freshness.journal".into()
}

const fn default_every() -> Duration {
    CHECKPOINT_EVERY
}

const fn default_valid_for() -> Duration {
    CHECKPOINT_VALID_FOR
}
