//! Files that commands write. They never replace an existing file.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::failure::{self, Failure};

/// Mode of private keys.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of everything else.
pub(crate) const PUBLIC: u32 = 0o644;

/// Warns when anybody but the owner has access to a private key.
pub(crate) fn warn_if_exposed(path: &Path, what: &str) {
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.mode() & 0o077 != 0
    {
        failure::warn(&format!(
            "{what} {} is accessible to others (mode {:04o}); run chmod 600 on it",
            path.display(),
            metadata.mode() & 0o7777
        ));
    }
}

/// Fails when one of the files exists already; called before anything is written.
pub(crate) fn refuse_existing(paths: &[&Path]) -> Result<(), Failure> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(exists(path)),
        None => Ok(()),
    }
}

/// Writes a new file with this mode and syncs it; never replaces one.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::files(format!("cannot write {}: {error}", path.display())),
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// `path` with `suffix` appended to its name. Dots in the name stay.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn exists(path: &Path) -> Failure {
    Failure::files(format!(
        "{} exists already and is not replaced; move it away or choose another name",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jit_client::exit::Exit;

    #[test]
    fn an_existing_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_new(&path, b"first", PRIVATE).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(write_new(&path, b"second", PRIVATE).unwrap_err().exit, Exit::Configuration);
        assert_eq!(refuse_existing(&[&path]).unwrap_err().exit, Exit::Configuration);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn a_suffix_keeps_dots_in_names() {
        let path = with_suffix(Path::new("/keys/prod-2026.1"), ".pub.pem");
        assert_eq!(path, Path::new("/keys/prod-2026.1.pub.pem"));
    }
}
