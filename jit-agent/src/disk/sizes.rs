//! How much of the disk the agent's files take. For people: nothing is decided by it.

use std::{fs, path::Path};

use crate::disk::{audit, store};

/// Sizes in bytes; `None`: it cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the database.
    pub(crate) database: Option<u64>,
    /// Of all files of the audit.
    pub(crate) audit: Option<u64>,
}

impl Sizes {
    /// Reads the sizes of the files in a state directory. It waits for the disk.
    pub(crate) fn read(state: &Path) -> Self {
        let database = fs::metadata(state.join(store::FILE)).ok();
        Self {
            database: database.map(|file| file.len()),
            audit: size_of_files(&audit::directory(state)),
        }
    }
}

fn size_of_files(directory: &Path) -> Option<u64> {
    let mut sum: u64 = 0;
    for entry in fs::read_dir(directory).ok()? {
        // One that was removed meanwhile has no size.
        let size = entry.ok()?.metadata().map_or(0, |file| file.len());
        sum = sum.saturating_add(size);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_files_or_unknown() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Sizes::read(state.path()), Sizes::default());
        fs::write(state.path().join(store::FILE), [0; 77]).unwrap();
        let audit = audit::directory(state.path());
        fs::create_dir(&audit).unwrap();
        fs::write(audit.join("audit.jsonl"), [0; 5]).unwrap();
        fs::write(audit.join("audit-000001.jsonl"), [0; 6]).unwrap();
        let expected = Sizes { database: Some(77), audit: Some(11) };
        assert_eq!(Sizes::read(state.path()), expected);
    }
}
