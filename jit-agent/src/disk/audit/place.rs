//! The directories of an audit, and its settings.

use std::path::{Path, PathBuf};

use crate::disk::audit::files::directory;

/// The audit's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The host's id, part of each head.
    pub host: String,
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Number of full files to keep.
    pub keep: u32,
}

/// The directories of an audit.
#[derive(Debug)]
pub(super) struct Place {
    /// The state directory, which contains the key.
    pub(super) state: PathBuf,
    /// The directory of the audit's files.
    pub(super) directory: PathBuf,
    pub(super) settings: Settings,
}

impl Place {
    /// The audit in a state directory.
    pub(super) fn new(state: &Path, settings: Settings) -> Self {
        Self { state: state.to_owned(), directory: directory(state), settings }
    }
}
