//! The renewed certificate of `[uplink]`, with its key: one file in the state directory, PEM, mode
//! 0600, replaced as a whole, so that both always fit. The agent cannot write the files of the
//! configuration.

use std::path::{Path, PathBuf};

use crate::{disk::last_good::write_whole, system::sys::FileError};

const FILE: &str = "uplink.pem";

/// Where it is.
pub fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// Writes it, completely or not at all.
pub fn write(state: &Path, text: &str) -> Result<(), FileError> {
    write_whole(state, FILE, text.as_bytes())
}
