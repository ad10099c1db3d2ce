//! Files that commands write: new ones only, on the disk before the command ends.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::Failure;

/// Mode of private keys and of everything with secrets in it.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of everything else.
pub(super) const PUBLIC: u32 = 0o644;

/// Makes a directory that only its owner may enter.
pub(super) fn make_directory(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::files(format!("cannot make {}: {error}", path.display())))
}

/// A new file with this mode; never one that is there.
pub(super) fn create_new(path: &Path, mode: u32) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
        match error.kind() {
            ErrorKind::AlreadyExists => Failure::files(format!(
                "{} exists already and is not replaced; move it away or choose another name",
                path.display()
            )),
            _ => Failure::files(format!("cannot write {}: {error}", path.display())),
        }
    })
}

/// Writes a new file and syncs it.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut file = create_new(path, mode)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::files(format!("cannot write {}: {error}", path.display())))
}

/// Syncs what a directory names.
pub(super) fn sync_directory(path: &Path) {
    // A file system that cannot do it does it by itself, or never.
    let _unsynced = File::open(path).and_then(|directory| directory.sync_all());
}

/// SHA-256 and length of a file.
pub(super) fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let (mut digest, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(digest.finalize()), length)),
            read => {
                digest.update(buffer.get(..read).unwrap_or_default());
                length += read as u64;
            }
        }
    }
}

/// Names in a directory, in order; of one that is not there: none.
pub(super) fn names(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Failure::files(format!("cannot read {}: {error}", directory.display())));
        }
    };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| PathBuf::from(entry.file_name())).collect();
    names.sort();
    Ok(names)
}

/// A directory in which something is made whole before it gets its names. If that fails, nothing of it
/// is left.
pub(super) struct Draft {
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Begins one in the directory where its files will be. That is made if it does not exist.
    pub(super) fn begin(target: &Path) -> Result<Self, Failure> {
        make_directory(target)?;
        let path = target.join(format!(".making-{}", std::process::id()));
        make_directory(&path)?;
        Ok(Self { path, target: target.to_owned() })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives everything its name; `last` comes last.
    pub(super) fn finish(self, last: &str) -> Result<(), Failure> {
        let mut names = names(&self.path)?;
        names.sort_by_key(|name| name.as_os_str() == last);
        for name in names {
            let to = self.target.join(&name);
            fs::rename(self.path.join(&name), &to).map_err(|error| {
                Failure::files(format!("cannot make {}: {error}", to.display()))
            })?;
        }
        sync_directory(&self.target);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.path);
    }
}
