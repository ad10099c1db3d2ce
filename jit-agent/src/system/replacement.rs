//! Replaces the text of a file that belongs to somebody else, completely or not at all. Its owner, mode,
//! access list and other extended attributes stay, and a link to it stays a link.
//!
//! Not written in place: a full disk or a crash would leave half a file. What cannot be kept is an
//! error, and nothing changes.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    },
    path::Path,
};

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr},
    io::Errno,
};

use crate::system::sys::{self, FileError};

/// Attributes that belong to the content: the kernel makes them anew.
const OF_CONTENT: [&CStr; 2] = [c"security.evm", c"security.ima"];
/// The longest value, and the longest list of names, that Linux has (`limits.h`: XATTR_SIZE_MAX).
const LONGEST: usize = 65_536;

/// Replaces a file.
///
/// # Errors
/// It cannot be read or written, or something of it cannot be kept.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let replaced = || -> io::Result<()> {
        let path = fs::canonicalize(path)?;
        let before = File::open(&path)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".jit-agent-new");
        let beside = path.with_file_name(name);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written =
            write_beside(&beside, &before, text).and_then(|()| fs::rename(&beside, &path));
        if written.is_err() {
            drop(fs::remove_file(&beside));
        }
        written?;
        sys::sync_directory_of(&path)
    };
    replaced().map_err(|error| FileError::Io { verb: "write", path: path.to_owned(), error })
}

fn write_beside(beside: &Path, before: &File, text: &str) -> io::Result<()> {
    let metadata = before.metadata()?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(beside)?;
    fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    // After the mode: setting that would change the access list.
    keep_attributes(before, &file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Gives a file the extended attributes of another one, and no others: a new file may have inherited
/// an access list from its directory.
fn keep_attributes(from: &File, to: &File) -> io::Result<()> {
    let (wanted, found) = (names(from)?, names(to)?);
    for name in found.iter().filter(|name| !wanted.contains(name)) {
        let removed = fremovexattr(to, name);
        removed.map_err(|errno| unkept("remove the new file's attribute", name, errno))?;
    }
    for name in wanted {
        let value = value(from, &name).map_err(|errno| unkept("read", &name, errno))?;
        if value.is_some() && value == self::value(to, &name).ok().flatten() {
            continue;
        }
        // It went meanwhile.
        let Some(value) = value else { continue };
        let set = fsetxattr(to, &name, &value, XattrFlags::empty());
        set.map_err(|errno| unkept("keep", &name, errno))?;
    }
    Ok(())
}

/// The names of the attributes that are kept. A filesystem without attributes has none.
fn names(file: &File) -> io::Result<Vec<CString>> {
    let mut list = vec![0; LONGEST];
    let length = match flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let list = list.get(..length).unwrap_or_default();
    let names = list.split_inclusive(|byte| *byte == 0).map(CStr::from_bytes_with_nul);
    let names = names.filter_map(Result::ok).filter(|name| !OF_CONTENT.contains(name));
    Ok(names.map(CStr::to_owned).collect())
}

/// The value of an attribute; `None`: there is none with this name.
fn value(file: impl AsFd, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; LONGEST];
    match fgetxattr(file, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn unkept(verb: &str, name: &CStr, errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An access list: the owner, user 1 and the mask may read and write, the group may read (acl(5),
    /// linux/posix_acl_xattr.h).
    fn access_list() -> Vec<u8> {
        const NOBODY: u32 = u32::MAX;
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1_u16, 6_u16, NOBODY), (2, 6, 1), (4, 4, NOBODY), (16, 6, NOBODY), (32, 0, NOBODY)]
        {
            list.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()));
            list.extend(id.to_le_bytes());
        }
        list
    }

    const ACCESS: &CStr = c"system.posix_acl_access";
    const INHERITED: &CStr = c"system.posix_acl_default";

    fn set(path: &Path, name: &CStr, value: &[u8]) {
        fsetxattr(File::open(path).unwrap(), name, value, XattrFlags::empty()).unwrap();
    }

    fn get(path: &Path, name: &CStr) -> Option<Vec<u8>> {
        value(File::open(path).unwrap(), name).unwrap()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_through_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("config.toml"), directory.path().join("link"));
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(replace(&directory.path().join("none"), "").is_err());
    }

    #[test]
    fn access_list_and_attributes_stay_and_none_is_inherited() {
        let directory = tempfile::tempdir().unwrap();
        let [listed, plain] = ["listed", "plain"].map(|name| directory.path().join(name));
        for path in [&listed, &plain] {
            fs::write(path, "before").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        set(&listed, ACCESS, &access_list());
        set(&listed, c"user.origin", b"ansible");
        let mode = fs::metadata(&listed).unwrap().mode();
        // From here on new files of the directory get an access list.
        set(directory.path(), INHERITED, &access_list());
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, "").unwrap();
        assert!(get(&fresh, ACCESS).is_some(), "the directory gives one");
        for path in [&listed, &plain] {
            replace(path, "after").unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "after");
        }
        assert_eq!(get(&listed, ACCESS), Some(access_list()));
        assert_eq!(get(&listed, c"user.origin"), Some(b"ansible".to_vec()));
        assert_eq!(fs::metadata(&listed).unwrap().mode(), mode);
        assert_eq!(get(&plain, ACCESS), None);
        assert_eq!(fs::metadata(&plain).unwrap().mode() & 0o7777, 0o640);
    }
}
