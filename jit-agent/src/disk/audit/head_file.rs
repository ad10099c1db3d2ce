//! `audit.head`: the signed head beside the files.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::disk::{
    audit::{
        error::{AuditError, io},
        files::HEAD,
        head::{Head, SignedHead},
    },
    host_key::HostPublicKey,
};

/// The head is padded to a multiple of this, so that a shorter one covers a longer one.
const BYTES: usize = 512;

/// Writes the head, without a sync.
pub(super) fn write(directory: &Path, signed: &SignedHead) -> Result<(), AuditError> {
    let path = directory.join(HEAD);
    let mut text = signed.to_line();
    let padded = (text.len() + 1).next_multiple_of(BYTES);
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    let put = || -> io::Result<()> {
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?
            }
            file => file?,
        };
        // One write, in place: at every moment the file has a head.
        file.write_all_at(text.as_bytes(), 0)?;
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(())
    };
    put().map_err(io("write", &path))
}

/// Reads the signed head, or returns why it cannot be used.
pub(super) fn read(directory: &Path, keys: &[HostPublicKey]) -> Result<Head, String> {
    let text = fs::read_to_string(directory.join(HEAD))
        .map_err(|error| format!("{HEAD}, the signed end of the audit, is not there: {error}"))?;
    let signed = SignedHead::parse(&text).ok_or_else(|| format!("{HEAD} is not a signed head"))?;
    signed.verify(keys).map_err(|why| format!("{HEAD}: {why}"))
}
