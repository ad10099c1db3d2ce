//! Files that only root or the agent's own user can have written, and secrets that nobody else can
//! read. The whole way to a file counts: who can write to a directory on it can put another file in
//! its place.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::process::geteuid;
use zeroize::Zeroizing;

/// The most symbolic links on the way to a file, as in the kernel (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// The most room that is taken before a file is read, bytes.
const MOST_ROOM: usize = 1024 * 1024;
/// Write permission for group and others.
const WRITE: u32 = 0o022;
/// In a directory with this bit, only its owner and the owner of an entry can rename the entry.
const STICKY: u32 = 0o1000;

/// A file or directory that is not safe to use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, created or locked.
    #[error("cannot {verb} {}: {error}", path.display())]
    Io {
        /// What was tried: "read".
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// Somebody other than root and the agent's user could have written it.
    #[error(
        "{} is owned by uid {owner} with mode {mode:03o}: others could write to it; it must belong \
         to root or to the agent's own user, without write permission for group and others: `{}`",
        path.display(),
        mend(path, *owner)
    )]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else can read a secret.
    #[error(
        "{} is a secret with mode {mode:03o}: others can read it; if they may have, make a new \
         one; then `chmod {change} {}`",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The change of mode that hides it.
        change: &'static str,
    },
}

/// The command that makes a file or directory safe to use.
fn mend(path: &Path, owner: u32) -> String {
    let path = path.display();
    if is_trusted(owner) {
        format!("chmod go-w {path}")
    } else {
        format!("chown root {path} && chmod go-w {path}")
    }
}

/// Who else may read a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody.
    Owner,
    /// The file's group: a key that root owns and the service's group may read.
    Group,
}

/// Reads a text file that only root or the agent itself can have written.
pub fn read_trusted(path: &Path) -> Result<String, FileError> {
    Ok(std::mem::take(&mut *read(path)?.0))
}

/// The same for a secret, which only these may read. The text is overwritten when it is dropped.
pub fn read_secret(path: &Path, readers: Readers) -> Result<Zeroizing<String>, FileError> {
    let (text, metadata) = read(path)?;
    let mode = metadata.permissions().mode() & 0o777;
    let (others, change) = match readers {
        Readers::Owner => (0o077, "go="),
        Readers::Group => (0o007, "o="),
    };
    if mode & others != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode, change });
    }
    Ok(text)
}

fn read(path: &Path) -> Result<(Zeroizing<String>, fs::Metadata), FileError> {
    let io = |error| FileError::Io { verb: "read", path: path.to_owned(), error };
    let mut file = fs::File::open(path).map_err(io)?;
    check_way(path)?;
    let metadata = file.metadata().map_err(io)?;
    check_trusted(path, &metadata)?;
    // It does not grow: the place that it would leave is not overwritten.
    let room = usize::try_from(metadata.len()).unwrap_or(0).min(MOST_ROOM).saturating_add(1);
    let mut text = Zeroizing::new(String::with_capacity(room));
    io::Read::read_to_string(&mut file, &mut text).map_err(io)?;
    Ok((text, metadata))
}

/// Creates a directory that nobody else can write to, or checks an existing one.
pub fn private_directory(path: &Path, mode: u32) -> Result<(), FileError> {
    let io = |verb: &'static str| move |error| FileError::Io { verb, path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io("create"))?;
    }
    match fs::DirBuilder::new().create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(io("set the mode of"))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io("create")(error)),
    }
    check_private_directory(path)
}

/// Refuses an existing directory that somebody else could write to, or could put another one in place
/// of.
pub fn check_private_directory(path: &Path) -> Result<(), FileError> {
    let io = |error| FileError::Io { verb: "look at", path: path.to_owned(), error };
    check_way(path)?;
    check_trusted(path, &fs::symlink_metadata(path).map_err(io)?)
}

/// Refuses an existing file that somebody else could have written, or could put another one in place
/// of.
pub fn check_trusted_file(path: &Path) -> Result<(), FileError> {
    let io = |error| FileError::Io { verb: "look at", path: path.to_owned(), error };
    check_way(path)?;
    check_trusted(path, &fs::metadata(path).map_err(io)?)
}

/// Refuses a file that somebody other than root and this process's user owns or can write.
pub fn check_trusted(path: &Path, metadata: &fs::Metadata) -> Result<(), FileError> {
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode());
    if is_trusted(owner) && mode & WRITE == 0 {
        return Ok(());
    }
    Err(FileError::Untrusted { path: path.to_owned(), owner, mode: mode & 0o777 })
}

/// Checks every directory and symbolic link on the way to a file, not the file itself: nobody else
/// can lead the way elsewhere. A directory that all may write to is safe with the sticky bit,
/// because the next entry must belong to root or to this process's user.
fn check_way(path: &Path) -> Result<(), FileError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| FileError::Io { verb: "look at", path, error }
    };
    let mut rest: VecDeque<OsString> = components(&std::path::absolute(path).map_err(io(path))?);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop_front() {
        check_directory(&at, &fs::symlink_metadata(&at).map_err(io(&at))?)?;
        if name == OsStr::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(name);
        let metadata = fs::symlink_metadata(&next).map_err(io(&next))?;
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        // The mode of a link means nothing.
        let owner = metadata.uid();
        if !is_trusted(owner) {
            return Err(FileError::Untrusted { path: next, owner, mode: 0o777 });
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(io(path)(io::Error::from_raw_os_error(libc::ELOOP)));
        }
        let target = fs::read_link(&next).map_err(io(&next))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut before = components(&target);
        before.append(&mut rest);
        rest = before;
    }
    Ok(())
}

fn check_directory(path: &Path, metadata: &fs::Metadata) -> Result<(), FileError> {
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode());
    if is_trusted(owner) && (mode & WRITE == 0 || mode & STICKY != 0) {
        return Ok(());
    }
    Err(FileError::Untrusted { path: path.to_owned(), owner, mode: mode & 0o777 })
}

/// The names of a path, without the root.
fn components(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether this is root or this process's user.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    /// A uid without a user.
    const OTHER: u32 = 64_999;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A file at the end of a way of directories and a link: `a/link/file`, where `link` leads to
    /// `b/c`.
    fn way(of: &Path) -> PathBuf {
        fs::create_dir_all(of.join("b/c")).unwrap();
        fs::create_dir(of.join("a")).unwrap();
        symlink("../b/c", of.join("a/link")).unwrap();
        let file = of.join("b/c/file");
        fs::write(&file, "text").unwrap();
        for (path, bits) in [("b/c/file", 0o644), ("b/c", 0o755), ("b", 0o755), ("a", 0o755)] {
            mode(&of.join(path), bits);
        }
        of.join("a/link/file")
    }

    #[test]
    fn every_directory_on_the_way_is_checked_also_the_one_of_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let file = way(directory.path());
        assert_eq!(read_trusted(&file).unwrap(), "text");
        for at in ["a", "b", "b/c", "b/c/file"] {
            let at = directory.path().join(at);
            let before = fs::metadata(&at).unwrap().permissions().mode() & 0o7777;
            for bits in [before | 0o020, before | 0o002] {
                mode(&at, bits);
                let error = read_trusted(&file).unwrap_err().to_string();
                let named = if at.is_dir() { &at } else { &file };
                let expected = format!("`chmod go-w {}`", named.display());
                assert!(error.contains(&expected), "{error}");
            }
            if at.is_dir() {
                mode(&at, 0o1777);
                assert!(read_trusted(&file).is_ok(), "with the sticky bit, as /tmp has it");
            }
            mode(&at, before);
        }
        assert_eq!(read_trusted(&file).unwrap(), "text");
    }

    #[test]
    fn what_belongs_to_somebody_else_leads_nowhere() {
        if !geteuid().is_root() {
            return; // Only root can give files away.
        }
        let directory = tempfile::tempdir().unwrap();
        let file = way(directory.path());
        for at in ["a", "a/link", "b", "b/c", "b/c/file"] {
            let at = directory.path().join(at);
            lchown(&at, Some(OTHER), None).unwrap();
            let error = read_trusted(&file).unwrap_err();
            assert!(matches!(error, FileError::Untrusted { owner: OTHER, .. }), "{error}");
            assert!(error.to_string().contains("chown root"), "{error}");
            lchown(&at, Some(0), None).unwrap();
        }
        assert!(read_trusted(&file).is_ok());
        let state = directory.path().join("a/state");
        private_directory(&state, 0o700).unwrap();
        chown(directory.path().join("a"), Some(OTHER), None).unwrap();
        assert!(private_directory(&state, 0o700).is_err(), "its parent is somebody else's");
    }

    #[test]
    fn links_that_lead_in_a_circle_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        symlink("two", directory.path().join("one")).unwrap();
        symlink("one", directory.path().join("two")).unwrap();
        assert!(check_way(&directory.path().join("one/file")).is_err());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_command_that_hides_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.key");
        fs::write(&file, "secret").unwrap();
        for (bits, group, owner) in [
            (0o600, true, true),
            (0o640, true, false),
            (0o644, false, false),
            (0o604, false, false),
        ] {
            mode(&file, bits);
            assert_eq!(read_secret(&file, Readers::Group).is_ok(), group, "{bits:o}");
            assert_eq!(read_secret(&file, Readers::Owner).is_ok(), owner, "{bits:o}");
        }
        let error = read_secret(&file, Readers::Group).unwrap_err().to_string();
        assert!(error.contains(&format!("`chmod o= {}`", file.display())), "{error}");
    }
}
