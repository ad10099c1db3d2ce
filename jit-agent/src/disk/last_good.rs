//! The last good configuration: the one that was put in force last, with the public keys that it
//! names. A start that cannot use the file on the disk uses this one, so that a typo opens nothing.
//!
//! It is one file in the state directory, JSON, mode 0600, replaced as a whole. It counts only for
//! the configuration file that it was made from. The private key of `[control]` is not in it: the
//! gate does not need it.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jit_proto::WallTime;
use rustix::io::Errno;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{ConfigError, KeyFile, Loaded},
    system::sys::{self, FileError},
};

const FILE: &str = "configuration.last-good";

/// A configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LastGood {
    /// The file that it comes from; an absolute path.
    pub path: PathBuf,
    /// When it was first put in force as it is, milliseconds since the Unix epoch.
    since_ms: i64,
    /// The text of the file.
    text: String,
    /// The public keys that it names, as they were.
    pub keys: Vec<KeyFile>,
}

impl LastGood {
    /// A configuration that is in force since `now`.
    pub fn new(path: &Path, loaded: &Loaded, now: WallTime) -> Self {
        let Loaded { text, keys, .. } = loaded;
        Self { path: path.into(), since_ms: now.0, text: text.clone(), keys: keys.clone() }
    }

    /// When it was first put in force as it is.
    pub const fn since(&self) -> WallTime {
        WallTime(self.since_ms)
    }

    /// The same configuration with the time of this copy, if it is one of it.
    #[must_use]
    pub fn since_as(self, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.text == self.text && before.path == self.path);
        Self { since_ms: same.map_or(self.since_ms, |same| same.since_ms), ..self }
    }

    /// The configuration. Keys whose file cannot be used are taken from the copy.
    ///
    /// # Errors
    /// This version of the agent does not take it.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::parse(&self.text, &self.path, &self.keys)
    }

    /// Looks in these state directories for the copy of this file. The first that can be read
    /// counts. Also returns what cannot be used.
    pub fn find(states: &[PathBuf], path: &Path) -> (Option<Self>, Vec<String>) {
        let mut problems = Vec::new();
        for state in states {
            match Self::read(state) {
                Ok(Some(found)) if found.path == path => return (Some(found), problems),
                Ok(_) => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        (None, problems)
    }

    fn read(state: &Path) -> Result<Option<Self>, FileError> {
        read_json(state, FILE)
    }

    /// Writes it to a state directory, completely or not at all.
    pub fn write(&self, state: &Path) -> Result<(), FileError> {
        write_json(state, FILE, self)
    }

    /// SHA-256 of the text of the file, hex.
    pub fn hash(&self) -> String {
        hash_of(&self.text)
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// SHA-256 of the text of a configuration, hex.
pub(super) fn hash_of(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether there is no such file. The file system of pins has no names with a dot, and refuses each of
/// them as not permitted (kernel/bpf/inode.c, bpf_lookup).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::PERM.raw_os_error())
}

/// Reads a file of a state directory that others cannot have written; `None`: there is none.
pub(super) fn read_json<T: DeserializeOwned>(
    state: &Path,
    name: &str,
) -> Result<Option<T>, FileError> {
    let path = state.join(name);
    if let Ok(directory) = fs::metadata(state)
        && path.exists()
    {
        sys::check_trusted(state, &directory)?;
    }
    let text = match sys::read_trusted(&path) {
        Ok(text) => text,
        Err(FileError::Io { error, .. }) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| FileError::Io {
        verb: "read",
        path,
        error: io::Error::new(ErrorKind::InvalidData, error),
    })
}

/// Writes a file of a state directory, completely or not at all.
pub(super) fn write_json<T: Serialize>(
    state: &Path,
    name: &str,
    content: &T,
) -> Result<(), FileError> {
    let text = serde_json::to_vec(content).map_err(|error| FileError::Io {
        verb: "write",
        path: state.join(name),
        error: error.into(),
    })?;
    write_whole(state, name, &text)
}

/// The same of these bytes.
pub(super) fn write_whole(state: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let path = state.join(name);
    let beside = state.join(format!("{name}.new"));
    let written = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        sys::sync_directory_of(&path)
    };
    sys::private_directory(state, 0o700)?;
    written().map_err(|error| FileError::Io { verb: "write", path: path.clone(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: WallTime = WallTime(1_000);

    fn copy(path: &str) -> LastGood {
        let key = KeyFile { id: "prod".into(), path: "/etc/prod.pem".into(), pem: "PEM".into() };
        LastGood { path: path.into(), since_ms: NOW.0, text: "[host]".into(), keys: vec![key] }
    }

    #[test]
    fn what_was_written_is_found_by_its_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let ours = copy("/etc/jit-agent/config.toml");
        ours.write(&state).unwrap();
        ours.write(&state).unwrap();
        let states = ["/nowhere".into(), "/dev/null".into(), state.clone()];
        assert_eq!(LastGood::find(&states, &ours.path), (Some(ours), vec![]));
        assert_eq!(LastGood::find(&states, Path::new("/etc/other.toml")), (None, vec![]));
        let mode = fs::metadata(state.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_copy_that_others_could_have_written_or_that_is_damaged_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let ours = copy("/etc/jit-agent/config.toml");
        ours.write(&state).unwrap();
        let refused = |says: &str| {
            let (found, problems) = LastGood::find(std::slice::from_ref(&state), &ours.path);
            assert!(found.is_none() && problems[0].contains(says), "{problems:?}");
        };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&state.join(FILE), 0o666);
        refused("others could write");
        mode(&state.join(FILE), 0o600);
        mode(&state, 0o777);
        refused("others could write");
        mode(&state, 0o700);
        fs::write(state.join(FILE), "{\"path\":").unwrap();
        refused("cannot read");
    }

    #[test]
    fn the_same_text_keeps_its_time() {
        let later = LastGood { since_ms: 2_000, ..copy("/a") };
        assert_eq!(later.clone().since_as(Some(&copy("/a"))).since(), NOW);
        assert_eq!(later.clone().since_as(Some(&copy("/b"))).since(), WallTime(2_000));
        assert_eq!(later.since_as(None).since(), WallTime(2_000));
    }
}
