//! A witness beside the database: the number of revocations that the database must hold, and the
//! latest time that it has seen. It shows that the database was replaced by an older copy, has lost
//! a revocation, or is gone.
//!
//! It is 48 bytes, written in place: that needs no room on a full disk, and leaves either the old
//! bytes or the new ones. A damaged witness is ignored.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use jit_proto::WallTime;
use sha2::{Digest as _, Sha256};

pub(super) const FILE: &str = "grants.witness";
const BODY: usize = 16;
/// How much earlier the witness's floor may be than the database's, milliseconds.
const FLOOR_MILLIS: i64 = 60_000;

/// What the witness says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Witness {
    /// Number of transactions that closed something.
    pub(super) closings: u64,
    /// The latest wall time ever seen; zero: none.
    pub(super) floor: WallTime,
}

impl Witness {
    /// Whether the witness must be written again.
    pub(super) fn is_due(self, written: Option<Self>) -> bool {
        written.is_none_or(|Self { closings, floor }| {
            closings != self.closings || self.floor.0.saturating_sub(floor.0) >= FLOOR_MILLIS
        })
    }

    fn body(self) -> [u8; BODY] {
        let mut body = [0; BODY];
        let (closings, floor) = body.split_at_mut(BODY / 2);
        closings.copy_from_slice(&self.closings.to_le_bytes());
        floor.copy_from_slice(&self.floor.0.to_le_bytes());
        body
    }
}

/// Writes and syncs the witness.
pub(super) fn write(directory: &Path, witness: Witness) -> io::Result<()> {
    let path = directory.join(FILE);
    let existed = path.exists();
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let body = witness.body();
    let mut bytes = Sha256::digest(body).to_vec();
    bytes.extend(body);
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    if existed { Ok(()) } else { File::open(directory)?.sync_all() }
}

/// Reads the witness; `None` when there is none, or it is damaged.
pub(super) fn read(directory: &Path) -> Option<Witness> {
    let bytes = std::fs::read(directory.join(FILE)).ok()?;
    let (digest, body) = bytes.split_at_checked(bytes.len().checked_sub(BODY)?)?;
    if Sha256::digest(body).as_slice() != digest {
        return None;
    }
    let (closings, floor) = body.split_first_chunk::<8>()?;
    Some(Witness {
        closings: u64::from_le_bytes(*closings),
        floor: WallTime(i64::from_le_bytes(*floor.first_chunk::<8>()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITNESS: Witness = Witness { closings: 7, floor: WallTime(1_000) };

    #[test]
    fn a_witness_is_whole_or_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), None);
        write(directory.path(), Witness::default()).unwrap();
        write(directory.path(), WITNESS).unwrap();
        assert_eq!(read(directory.path()), Some(WITNESS));
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(read(directory.path()), None, "{at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(read(directory.path()), None, "{at}");
        }
    }

    #[test]
    fn a_revocation_is_witnessed_at_once_and_the_time_now_and_then() {
        assert!(WITNESS.is_due(None) && !WITNESS.is_due(Some(WITNESS)));
        assert!(WITNESS.is_due(Some(Witness { closings: 6, ..WITNESS })));
        let written = |floor| Some(Witness { floor: WallTime(floor), ..WITNESS });
        let later = Witness { floor: WallTime(61_000), ..WITNESS };
        assert!(later.is_due(written(1_000)) && !later.is_due(written(1_001)));
    }
}
