//! Where `init` puts files, and how: each one whole or not at all, never over an edited configuration.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown},
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::unistd::Group;

use super::mark::is_ours;
use crate::{
    oncall::failure::Failure,
    system::sys::{self, FileError},
};

/// The configuration as the package installs it: nobody edited it.
const SHIPPED: &str = include_str!("../../../packaging/config.toml");
/// Members may ask for the status.
const STATUS: &str = "jit-agent";
/// Has no members but the service.
const KEYS: &str = "jit-agent-keys";

/// The group that may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oncall) enum Readers {
    /// Who may ask for the status.
    Status,
    /// The service alone.
    Service,
}

/// The configuration, and the files beside it.
#[derive(Clone, Debug)]
pub(in crate::oncall) struct Places {
    pub(in crate::oncall) config: PathBuf,
    directory: PathBuf,
}

impl Places {
    /// For a configuration, or for `config.toml` in a directory: one that is there, or whose name ends in
    /// `/`. That one is made by [`Self::prepare`] if it is missing.
    pub(in crate::oncall) fn new(path: &Path) -> Result<Self, Failure> {
        let absolute = std::path::absolute(path).map_err(|error| io_error("find", path)(error))?;
        let is_directory = absolute.is_dir() || path.as_os_str().as_bytes().ends_with(b"/");
        let config = if is_directory { absolute.join("config.toml") } else { absolute };
        let directory = config.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { config, directory })
    }

    pub(in crate::oncall) fn certificate(&self) -> PathBuf {
        self.directory.join("tls/agent.pem")
    }

    pub(super) fn client_ca(&self) -> PathBuf {
        self.directory.join("tls/ca.pem")
    }

    pub(in crate::oncall) fn key(&self) -> PathBuf {
        self.directory.join("tls/agent.key")
    }

    /// A file beside the key.
    pub(in crate::oncall) fn beside_key(&self, name: &str) -> PathBuf {
        self.directory.join("tls").join(name)
    }

    pub(super) fn request(&self) -> PathBuf {
        self.directory.join("tls/agent.csr")
    }

    pub(super) fn signer(&self, id: &str) -> PathBuf {
        self.directory.join("signers").join(format!("{id}.pem"))
    }

    /// Whether a configuration is there that neither the package nor `init` wrote as it is.
    pub(super) fn is_edited(&self) -> Result<bool, Failure> {
        match fs::read(&self.config) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes);
                Ok(!text.is_ok_and(|text| text == SHIPPED || is_ours(&text)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("read", &self.config)(error)),
        }
    }

    /// Makes the directories that are missing.
    pub(in crate::oncall) fn prepare(&self, keys: bool, signers: bool) -> Result<(), Failure> {
        make(&self.directory, 0o755, None)?;
        if keys {
            make(&self.directory.join("tls"), 0o750, group(Readers::Service))?;
        }
        if signers {
            make(&self.directory.join("signers"), 0o755, None)?;
        }
        Ok(())
    }

    /// Writes a file with mode 0640 in place of one that may be there.
    pub(in crate::oncall) fn write(
        &self,
        path: &Path,
        bytes: &[u8],
        readers: Readers,
    ) -> Result<(), Failure> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".new-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = whole(&beside, bytes, group(readers))
            .and_then(|()| fs::rename(&beside, path))
            .and_then(|()| sys::sync_directory_of(path));
        written.map_err(|error| {
            let _gone = fs::remove_file(&beside);
            io_error("write", path)(error)
        })
    }

    /// Writes the configuration. Returns where the old one is kept, if it was an edited one. It looks
    /// once more: somebody may have edited it meanwhile.
    pub(super) fn write_config(&self, text: &str, force: bool) -> Result<Option<PathBuf>, Failure> {
        let edited = self.is_edited()?;
        if edited && !force {
            return Err(Failure::Refused(format!(
                "{} was edited meanwhile: it stays as it is",
                self.config.display()
            )));
        }
        let kept = if edited { Some(self.keep()?) } else { None };
        self.write(&self.config, text.as_bytes(), Readers::Status)?;
        Ok(kept)
    }

    /// Gives the old configuration a second name, with the time.
    fn keep(&self) -> Result<PathBuf, Failure> {
        let mut name = self.config.as_os_str().to_owned();
        name.push(format!(".old-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
        let kept = PathBuf::from(name);
        fs::hard_link(&self.config, &kept).map_err(|error| io_error("keep", &kept)(error))?;
        Ok(kept)
    }
}

fn whole(path: &Path, bytes: &[u8], group: Option<u32>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if group.is_some() {
        fchown(&file, None, group)?;
    }
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn make(directory: &Path, mode: u32, group: Option<u32>) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    let owned = made.and_then(|()| match group {
        Some(_) => std::os::unix::fs::chown(directory, None, group),
        None => Ok(()),
    });
    owned.map_err(|error| io_error("make", directory)(error))
}

/// The id of a group. Without it (no package is installed), or where this is not root, files belong to
/// the group of the caller.
fn group(readers: Readers) -> Option<u32> {
    let find = |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    match readers {
        Readers::Status => find(STATUS),
        Readers::Service => find(KEYS).or_else(|| find(STATUS)),
    }
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File(FileError::Io { verb, path, error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn an_edited_configuration_is_never_lost() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::new(directory.path()).unwrap();
        assert!(!places.is_edited().unwrap(), "there is none");
        fs::write(&places.config, SHIPPED).unwrap();
        assert!(!places.is_edited().unwrap(), "as it was installed");
        assert_eq!(places.write_config("first", false).unwrap(), None);
        assert!(places.is_edited().unwrap());
        assert!(places.write_config("second", false).is_err());
        let kept = places.write_config("second", true).unwrap().unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), "first");
        assert_eq!(fs::read_to_string(&places.config).unwrap(), "second");
        assert_eq!(fs::metadata(&places.config).unwrap().mode() & 0o777, 0o640);
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 2, "nothing else is left");
    }

    #[test]
    fn a_directory_that_is_missing_is_made_where_nobody_else_writes() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::new(&directory.path().join("deep/etc/")).unwrap();
        assert_eq!(places.config, directory.path().join("deep/etc/config.toml"));
        assert!(!places.is_edited().unwrap());
        assert!(!directory.path().join("deep").exists(), "a question makes nothing");
        places.prepare(true, true).unwrap();
        places.write_config("first", false).unwrap();
        for (name, mode) in [("deep", 0o755), ("deep/etc", 0o755), ("deep/etc/tls", 0o750)] {
            let of = fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
            assert!(of & !mode == 0 && of & 0o700 == 0o700, "{name}: {of:o}");
        }
        let file = Places::new(&directory.path().join("etc")).unwrap();
        assert_eq!(file.config, directory.path().join("etc"), "without a / it is a file");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let places = Places::new(Path::new("/proc/jit-agent-init/config.toml")).unwrap();
        let error = places.prepare(true, true).unwrap_err().to_string();
        assert!(error.contains("/proc/jit-agent-init"), "{error}");
    }
}
