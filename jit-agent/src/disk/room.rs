//! Whether a file system has room. A write that succeeds does not show it: on a full disk a small one
//! still fits into the last block of a file, and a sync without anything to write succeeds, too.

use std::path::Path;

/// Free bytes with which a transaction with grants fits, and its records in the audit.
const ROOM: u64 = 1024 * 1024;

/// Whether the file system of this path has room for grants. What is not known counts as room.
pub(super) fn has_room(path: &Path) -> bool {
    let vfs = rustix::fs::statvfs(path);
    vfs.map_or(true, |vfs| vfs.f_bavail.saturating_mul(vfs.f_frsize) >= ROOM)
}
