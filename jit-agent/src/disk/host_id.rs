//! The host's id that a metadata service gave last, for `[host] id = "auto"`: a start does not wait
//! for the network.
//!
//! One file in the state directory, JSON, mode 0600, replaced as a whole. It counts only for the
//! configuration file whose agent found it.

use std::path::{Path, PathBuf};

use jit_proto::WallTime;
use serde::{Deserialize, Serialize};

use crate::{
    disk::last_good::{read_json, write_json},
    system::{metadata::Found, sys::FileError},
};

const FILE: &str = "host-id";

/// An id, and when it was found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeptId {
    /// The configuration file; an absolute path.
    path: PathBuf,
    /// The id and its source.
    #[serde(flatten)]
    pub found: Found,
    /// When it was found first, milliseconds since the Unix epoch.
    since_ms: i64,
}

impl KeptId {
    /// An id that was found now.
    pub fn new(path: &Path, found: Found, now: WallTime) -> Self {
        Self { path: path.to_owned(), found, since_ms: now.0 }
    }

    /// When it was found first.
    pub const fn since(&self) -> WallTime {
        WallTime(self.since_ms)
    }

    /// Looks in these state directories for the id of this configuration file. Also returns what
    /// cannot be used.
    pub fn find(states: &[PathBuf], path: &Path) -> (Option<Self>, Vec<String>) {
        let mut problems = Vec::new();
        for state in states {
            match read_json::<Self>(state, FILE) {
                Ok(Some(kept)) if kept.path == path && is_usable(&kept.found.id) => {
                    return (Some(kept), problems);
                }
                Ok(_) => {}
                Err(error) => problems.push(error.to_string()),
            }
        }
        (None, problems)
    }

    /// Writes it to a state directory, completely or not at all.
    pub fn write(&self, state: &Path) -> Result<(), FileError> {
        write_json(state, FILE, self)
    }
}

fn is_usable(id: &str) -> bool {
    matches!(id.len(), 1..=512) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::system::metadata::Source;

    #[test]
    fn what_was_kept_is_found_by_its_file_and_not_where_others_could_have_written() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let path = Path::new("/etc/jit-agent/config.toml");
        let found = Found { source: Source::Ec2, id: "arn:aws:ec2:x:1:instance/i-1".into() };
        let kept = KeptId::new(path, found, WallTime(1_000));
        kept.write(&state).unwrap();
        let states = ["/nowhere".into(), state.clone()];
        assert_eq!(KeptId::find(&states, path), (Some(kept.clone()), vec![]));
        assert_eq!(KeptId::find(&states, Path::new("/etc/other.toml")), (None, vec![]));
        let file = state.join(FILE);
        assert!(fs::read_to_string(&file).unwrap().contains("\"source\":\"ec2\""));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let (none, problems) = KeptId::find(&states, path);
        assert!(none.is_none() && problems[0].contains("others could write"), "{problems:?}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "a\\n"] {
            let text = fs::read_to_string(&file).unwrap().replace(&kept.found.id, bad);
            fs::write(&file, text).unwrap();
            assert_eq!(KeptId::find(&states, path).0, None, "{bad:?}");
            kept.write(&state).unwrap();
        }
    }
}
