//! Where an audit is, and what is configured of it.

use std::path::{Path, PathBuf};

use crate::disk::audit::files::directory;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Host id, part of each head.
    pub host: String,
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Full files that are kept.
    pub keep: u32,
}

/// Where an audit is.
#[derive(Debug)]
pub(super) struct Place {
    /// The state directory, which has the key.
    pub(super) state: PathBuf,
    /// The audit's own.
    pub(super) directory: PathBuf,
    pub(super) settings: Settings,
}

impl Place {
    /// In a state directory.
    pub(super) fn new(state: &Path, settings: Settings) -> Self {
        Self { state: state.to_owned(), directory: directory(state), settings }
    }
}
