//! Closings that somebody made in the kernel's tables while the agent did not answer: one small file
//! each. The agent carries them into its ledger, database and audit when it goes on, or at its next
//! start, and removes them then.
//!
//! A closing is kept twice: in the state directory, for a start after a reboot, and in the runtime
//! directory, which is in memory. An agent that runs reads only the latter: no disk can hold it up.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jit_proto::{GrantId, SourcePrefix};
use serde::{Deserialize, Serialize};

/// Name of the directory in both places.
const DIRECTORY: &str = "closings";
/// Most closings that are read at once, and the most bytes of one.
const MOST: usize = 256;
const MOST_BYTES: u64 = 16 * 1024;

/// What was closed, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// What was closed.
    pub what: What,
    /// Sessions are to end, too.
    pub cut: bool,
    /// Who did it.
    pub by: String,
    /// Why.
    pub why: String,
    /// The boot that `made` belongs to.
    #[serde(default)]
    pub boot_id: String,
    /// When it was made: what root opened later stays open.
    #[serde(default)]
    pub made: u64,
    /// Number of sessions that were ended at once.
    #[serde(default)]
    pub sessions_ended: u32,
}

/// What was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Everything.
    All,
    /// The grant with this id, as text.
    Grant(String),
    /// Everything that opens to this source, as text.
    Source(String),
    /// Every grant of this requester.
    User(String),
}

impl What {
    /// The id, if it names one.
    pub fn grant(&self) -> Option<GrantId> {
        match self {
            Self::Grant(id) => id.parse().ok(),
            _ => None,
        }
    }

    /// The source, if it names one.
    pub fn source(&self) -> Option<SourcePrefix> {
        match self {
            Self::Source(source) => source.parse().ok(),
            _ => None,
        }
    }
}

impl Closing {
    /// Keeps it in this directory, on the disk when this returns. `name` is new.
    pub fn keep(&self, parent: &Path, name: &str) -> io::Result<()> {
        let directory = parent.join(DIRECTORY);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = directory.join(format!("{name}.json"));
        let begun = directory.join(format!("{name}.tmp"));
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&begun, &path)?;
        fs::File::open(&directory)?.sync_all()?;
        fs::File::open(parent)?.sync_all()
    }
}

/// The file with this name.
pub fn path(parent: &Path, name: &OsStr) -> PathBuf {
    parent.join(DIRECTORY).join(name)
}

/// The closings in this directory, each with its file. What cannot be read is left out, with why.
pub fn pending(parent: &Path) -> (Vec<(PathBuf, Closing)>, Vec<String>) {
    let (mut closings, mut unreadable) = (Vec::new(), Vec::new());
    let Ok(files) = fs::read_dir(parent.join(DIRECTORY)) else { return (closings, unreadable) };
    let paths = files.flatten().map(|file| file.path());
    let whole = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    for path in whole.take(MOST) {
        match read(&path) {
            Ok(closing) => closings.push((path, closing)),
            Err(error) => unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    closings.sort_by(|(a, _), (b, _)| a.cmp(b));
    (closings, unreadable)
}

fn read(path: &Path) -> io::Result<Closing> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(io::Error::other("it is no closing"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_is_read_back_as_it_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(pending(directory.path()), (Vec::new(), Vec::new()));
        let whats = [
            What::All,
            What::Grant("01J9W7K3AAAAAAAAAAAAAAAAAA".into()),
            What::Source("192.0.2.0/28".into()),
            What::User("eve\n\u{1b}[2J".into()),
        ];
        for (number, what) in whats.iter().enumerate() {
            let closing = Closing {
                what: what.clone(),
                cut: true,
                by: "root".into(),
                why: "x".into(),
                boot_id: "boot".into(),
                made: 5,
                sessions_ended: 2,
            };
            closing.keep(directory.path(), &number.to_string()).unwrap();
            assert!(closing.keep(directory.path(), &number.to_string()).is_ok(), "replaced");
        }
        fs::write(directory.path().join("closings/bad.json"), "{").unwrap();
        let (closings, unreadable) = pending(directory.path());
        assert!(closings.iter().map(|(_, closing)| &closing.what).eq(&whats));
        assert_eq!(unreadable.len(), 1);
        assert_eq!(whats[2].source(), Some("192.0.2.0/28".parse().unwrap()));
        assert!(whats[1].grant().is_some() && whats[0].grant().is_none());
    }
}
