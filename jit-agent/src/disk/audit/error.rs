//! Why a record is not on the disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::system::sys::FileError;

/// Why a record is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process writes it.
    #[error("another process writes the audit in {}", .0.display())]
    Busy(PathBuf),
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The audit itself.
    #[error("cannot {verb} the audit {}: {error}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

/// An error of the audit, of one of the operating system.
pub(super) fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |error| AuditError::Io { verb, path: path.clone(), error }
}
