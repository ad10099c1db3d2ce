//! Where the files are that a configuration names: on this host, or below a directory that will be the
//! root of another one. In the second case nobody asks who could have written them: owners and modes are
//! set when the image is made.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use zeroize::Zeroizing;

use crate::system::files::{FileError, Readers, read_secret, read_trusted};

/// The most room that is taken before a file is read, bytes.
const MOST_ROOM: usize = 1024 * 1024;
/// Others may read, write or search it.
const OTHERS: u32 = 0o007;

/// Where the files are that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// On this host: only those count that nobody but root and the agent itself could have written.
    Host,
    /// Below this directory. Symbolic links in it lead nowhere else. A relative path is one of this
    /// host.
    Image(PathBuf),
}

impl Files {
    /// Reads a file.
    pub fn read(&self, path: &Path) -> Result<String, FileError> {
        match self {
            Self::Host => read_trusted(path),
            Self::Image(root) => Ok(std::mem::take(&mut *read_below(root, path)?.0)),
        }
    }

    /// Reads a secret. In an image its group is not asked for either.
    pub fn read_secret(
        &self,
        path: &Path,
        readers: Readers,
    ) -> Result<Zeroizing<String>, FileError> {
        match self {
            Self::Host => read_secret(path, readers),
            Self::Image(root) => {
                let (text, mode) = read_below(root, path)?;
                if mode & OTHERS == 0 {
                    return Ok(text);
                }
                Err(FileError::Exposed { path: below(root, path), mode, change: "o=" })
            }
        }
    }
}

/// The path of a file of an image on this host, for people.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix("/").map_or_else(|_| path.to_owned(), |inside| root.join(inside))
}

fn read_below(root: &Path, path: &Path) -> Result<(Zeroizing<String>, u32), FileError> {
    let failed = |error| FileError::Io { verb: "read", path: below(root, path), error };
    let mut file = open_below(root, path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    // It does not grow: the place that it would leave is not overwritten.
    let room = usize::try_from(metadata.len()).unwrap_or(0).min(MOST_ROOM).saturating_add(1);
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.read_to_string(&mut text).map_err(failed)?;
    Ok((text, mode))
}

fn open_below(root: &Path, path: &Path) -> io::Result<File> {
    if path.is_relative() {
        return File::open(path);
    }
    let directory = openat2(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(openat2(directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_link_in_an_image_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("image");
        fs::create_dir_all(root.join("etc/keys")).unwrap();
        fs::write(directory.path().join("outside"), "outside").unwrap();
        fs::write(root.join("etc/keys/inside"), "inside").unwrap();
        symlink("/etc/keys/inside", root.join("etc/absolute")).unwrap();
        symlink("../../../../../outside", root.join("etc/out")).unwrap();
        let image = Files::Image(root.clone());
        let read = |path: &str| image.read(Path::new(path));
        assert_eq!(read("/etc/keys/inside").unwrap(), "inside");
        assert_eq!(read("/etc/absolute").unwrap(), "inside", "a link of the image's own root");
        let error = read("/etc/out").unwrap_err().to_string();
        assert!(error.contains(&root.join("etc/out").display().to_string()), "{error}");
    }

    #[test]
    fn a_secret_of_an_image_that_all_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("agent.key");
        fs::write(&key, "secret").unwrap();
        let image = Files::Image(directory.path().to_owned());
        for (mode, good) in [(0o600, true), (0o640, true), (0o664, false), (0o644, false)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let read = image.read_secret(Path::new("/agent.key"), Readers::Group);
            assert_eq!(read.is_ok(), good, "{mode:o}");
        }
        // Who owns the image and may write to it is not asked.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(image.read(Path::new("/agent.key")).is_ok());
    }
}
