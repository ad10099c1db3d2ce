//! A second copy of the pushed policies, beside the database: a database that cannot be read must not
//! open what a policy had closed.
//!
//! The file has a SHA-256 and then the message. It is replaced as a whole, so it is either the old
//! one or the new one.

use std::{
    fs::{File, OpenOptions, rename},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::disk::store::content::StoredPolicies;

const FILE: &str = "policy.copy";
const DIGEST: usize = 32;

/// Writes and syncs the copy.
pub(super) fn write(directory: &Path, policies: &StoredPolicies) -> io::Result<()> {
    let bytes = policies.encode_to_vec();
    let fresh = directory.join(format!("{FILE}.new"));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&Sha256::digest(&bytes))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    rename(&fresh, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

/// Reads the copy; `None` when there is none.
pub(super) fn read(directory: &Path) -> Result<Option<StoredPolicies>, String> {
    let bytes = match std::fs::read(directory.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {FILE}: {error}")),
    };
    let damaged = || format!("{FILE} is damaged");
    let (digest, body) = bytes.split_at_checked(DIGEST).ok_or_else(damaged)?;
    if Sha256::digest(body).as_slice() != digest {
        return Err(damaged());
    }
    StoredPolicies::decode(body).map(Some).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_or_reported_damaged() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), Ok(None));
        let policies = StoredPolicies { highest: 7, ..StoredPolicies::default() };
        write(directory.path(), &policies).unwrap();
        write(directory.path(), &policies).unwrap();
        assert_eq!(read(directory.path()), Ok(Some(policies)));
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(directory.path()).is_err(), "{length}");
        }
        let mut flipped = whole.clone();
        flipped[DIGEST] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(read(directory.path()).is_err());
    }
}
