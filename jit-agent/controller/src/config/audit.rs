//! `[audit]`: the key that signs its heads.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// `[audit]` as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    key: PathBuf,
    #[serde(default)]
    former_keys: Vec<PathBuf>,
}

/// The keys of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// File with the private key that signs heads: Ed25519, PEM.
    pub key: PathBuf,
    /// Files with public keys that signed heads before this one.
    pub former_keys: Vec<PathBuf>,
}

impl AuditConfig {
    pub(super) fn of(raw: Raw, directory: &Path) -> Self {
        let Raw { key, former_keys } = raw;
        let below = |file: PathBuf| directory.join(file);
        Self { key: below(key), former_keys: former_keys.into_iter().map(below).collect() }
    }
}
