//! Why a record is not on the disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{disk::own_thread::Unanswered, system::sys::FileError};

/// Why a record is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process writes the audit.
    #[error("another process writes the audit in {}", .0.display())]
    Busy(PathBuf),
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the audit cannot be used.
    #[error("cannot {verb} the audit {}: {error}", path.display())]
    Io {
        /// What was tried: "write to".
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// The disk has not answered yet. The records may be on it all the same.
    #[error("cannot write the audit: {0}")]
    Unanswered(#[from] Unanswered),
}

/// Makes an error of the audit from one of the operating system.
pub(super) fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |error| AuditError::Io { verb, path: path.clone(), error }
}
