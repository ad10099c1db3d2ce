//! What a configuration was read from: its text, where its relative paths start, and where the files
//! that it names are.

use std::path::{Path, PathBuf};

use crate::system::image::Files;

/// What a configuration was read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base<'t> {
    /// The text of the file.
    pub(super) text: &'t str,
    /// The directory of the file.
    pub(super) directory: &'t Path,
    /// Where the files are that it names; `None`: they are not read.
    pub(super) files: Option<&'t Files>,
}

impl Base<'_> {
    /// The path of a file that the configuration names.
    pub(super) fn path(&self, named: PathBuf) -> PathBuf {
        self.directory.join(named)
    }
}
