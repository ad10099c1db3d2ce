//! Whether nobody else could have written the database and the files beside it. Another one's database
//! would bring back what was revoked; what it opens is signed all the same.

use std::path::Path;

use crate::{
    disk::store::{FILE, reserve, witness},
    system::sys::{self, FileError},
};

/// Makes the directory, or checks it, and what is in it.
///
/// # Errors
/// Somebody else could have written a file, which is named.
pub(super) fn check(directory: &Path) -> Result<(), FileError> {
    sys::private_directory(directory, 0o700)?;
    let files = [FILE, reserve::FILE, witness::FILE].map(|name| directory.join(name));
    files
        .iter()
        .filter(|path| path.is_symlink() || path.exists())
        .try_for_each(|path| sys::check_trusted_file(path))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_that_others_could_have_written_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path().join("state");
        check(&state).unwrap();
        for name in [FILE, reserve::FILE, witness::FILE] {
            let path = state.join(name);
            fs::write(&path, "").unwrap();
            check(&state).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
            let refused = check(&state).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("others could write"), "{refused}");
            // A link of our own leads to a file that is judged.
            let elsewhere = scratch.path().join(name);
            fs::rename(&path, &elsewhere).unwrap();
            symlink(&elsewhere, &path).unwrap();
            assert!(check(&state).is_err(), "{name}");
            fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
            check(&state).unwrap();
        }
    }
}
