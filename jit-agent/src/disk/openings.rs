//! Openings that root wrote to the kernel's tables while the agent did not answer (`break-glass`): one
//! small file each. The agent carries them into its ledger, database and audit when it goes on, or at
//! its next start, and removes them then.
//!
//! A file opens nothing by itself, and it is believed only if root made it: the directories are the
//! service's own, so whoever is that user may put files there, and may rename or remove root's. It
//! cannot make a file that belongs to root. A second name of one (a hard link) does not count either.
//!
//! Like a closing (`disk::closings`) an opening is kept twice: in the state directory, and in the
//! runtime directory, which is in memory. An agent that runs reads only the latter.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use jit_proto::{GrantId, PortRange, SourcePrefix, WallTime, v1};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, fstat, mkdirat, open, openat, renameat, unlinkat},
};
use serde::{Deserialize, Serialize};

use crate::{
    rules::{
        clock::{BootNanos, Now},
        grant::break_glass::{BreakGlass, REQUESTER},
        reconcile::EntryKey,
    },
    system::owner::Owner,
};

/// Name of the directory in both places.
const DIRECTORY: &str = "openings";
/// Most openings that are read at once, and the most bytes of one.
const MOST: usize = 64;
const MOST_BYTES: u64 = 16 * 1024;
/// Write permission for group and others.
const WRITE: u32 = 0o022;

/// What root opened past the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Opening {
    /// Its id, by which it is closed.
    pub id: GrantId,
    /// Who gets in.
    pub source: SourcePrefix,
    /// To where.
    pub ports: PortRange,
    /// The boot that `made` and `deadline` belong to.
    pub boot_id: String,
    /// When it was made.
    pub made: BootNanos,
    /// The same by the wall clock, as it was then.
    pub made_at: WallTime,
    /// Its end, which the kernel enforces.
    pub deadline: BootNanos,
    /// Where its connections are counted.
    pub slot: u32,
    /// The generation of the slot for it.
    pub generation: u32,
    /// Who did it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The same as text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    source: String,
    ports: String,
    boot_id: String,
    made: u64,
    made_at_ms: i64,
    deadline: u64,
    slot: u32,
    generation: u32,
    by: String,
    reason: String,
}

impl TryFrom<Written> for Opening {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { id, source, ports, boot_id, made, made_at_ms, deadline, .. } = &written;
        Ok(Self {
            id: id.parse().map_err(|error| format!("id: {error}"))?,
            source: source.parse().map_err(|error| format!("source: {error}"))?,
            ports: ports.parse().map_err(|error| format!("ports: {error}"))?,
            boot_id: boot_id.clone(),
            made: BootNanos(*made),
            made_at: WallTime(*made_at_ms),
            deadline: BootNanos(*deadline),
            slot: written.slot,
            generation: written.generation,
            by: written.by,
            reason: written.reason,
        })
    }
}

impl From<Opening> for Written {
    fn from(opening: Opening) -> Self {
        let Opening { id, source, ports, boot_id, made, made_at, deadline, .. } = opening;
        Self {
            id: id.to_string(),
            source: source.to_string(),
            ports: ports.to_string(),
            boot_id,
            made: made.0,
            made_at_ms: made_at.0,
            deadline: deadline.0,
            slot: opening.slot,
            generation: opening.generation,
            by: opening.by,
            reason: opening.reason,
        }
    }
}

impl Opening {
    /// Its places in the kernel's tables.
    pub fn keys(&self) -> impl Iterator<Item = EntryKey> + '_ {
        self.ports.ports().map(|port| EntryKey { port, source: self.source })
    }

    /// The same as root asks an agent that answers.
    pub fn asked(&self, lasts: std::time::Duration) -> BreakGlass {
        let Self { source, ports, reason, .. } = self.clone();
        BreakGlass { source, ports, lasts, reason }
    }

    /// The same as a grant of this host.
    pub fn message(&self, host: String) -> v1::Grant {
        let ends = Now { wall: self.made_at, boot: self.made };
        let ends = ends.wall + ends.until(self.deadline);
        v1::Grant {
            id: self.id.0.to_vec().into(),
            hosts: vec![host],
            sources: vec![(&self.source).into()],
            ports: vec![self.ports.into()],
            issued_at_ms: self.made_at.0,
            not_before_ms: self.made_at.0,
            not_after_ms: ends.0,
            requester: REQUESTER.into(),
            justification: self.reason.clone(),
            ..v1::Grant::default()
        }
    }

    /// Keeps it in this directory, on the disk when this returns. `owner`: the service's user, to
    /// whom the directory may belong; root only.
    pub fn keep(&self, parent: &Path, owner: Option<&Owner>) -> io::Result<()> {
        let trusted = |directory: &OwnedFd| {
            let found = fstat(directory)?;
            let ours = found.st_uid == 0 || owner.is_some_and(|owner| owner.is(found.st_uid));
            if ours && found.st_mode & WRITE == 0 {
                return Ok(());
            }
            Err(io::Error::other("it belongs to somebody else, or others may write to it"))
        };
        let path = parent.join(DIRECTORY);
        let parent = open(parent, directory_flags(), Mode::empty())?;
        trusted(&parent)?;
        // The service's user makes it, so that the agent can remove what it has carried.
        let made = match owner {
            Some(owner) => owner.act(|| DirBuilder::new().mode(0o700).create(path))?,
            None => mkdirat(&parent, DIRECTORY, Mode::from(0o700)).map_err(io::Error::from),
        };
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = openat(&parent, DIRECTORY, directory_flags(), Mode::empty())?;
        trusted(&directory)?;
        let (begun, name) = (format!("{}.tmp", self.id), file_name(self.id));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut file = File::from(openat(
            &directory,
            &begun,
            flags | OFlags::CLOEXEC,
            // The agent reads it as its own user.
            Mode::from(0o644),
        )?);
        let written = (|| {
            rustix::fs::fchmod(&file, Mode::from(0o644))?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            check_root(&file)?;
            renameat(&directory, &begun, &directory, &name)?;
            rustix::fs::fsync(&directory)?;
            Ok(rustix::fs::fsync(&parent)?)
        })();
        if written.is_err() {
            let _gone = unlinkat(&directory, &begun, rustix::fs::AtFlags::empty());
        }
        written
    }
}

fn file_name(id: GrantId) -> String {
    format!("{id}.json")
}

/// The file of the opening with this id.
pub fn path(parent: &Path, id: GrantId) -> PathBuf {
    parent.join(DIRECTORY).join(file_name(id))
}

/// The openings in this directory. What root did not make, or what cannot be read, is left out, with
/// why.
pub fn pending(parent: &Path) -> (Vec<Opening>, Vec<String>) {
    let (mut openings, mut refused) = (Vec::new(), Vec::new());
    let directory = parent.join(DIRECTORY);
    let Ok(files) = std::fs::read_dir(&directory) else { return (openings, refused) };
    let paths = files.flatten().map(|file| file.path());
    let whole = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    for path in whole.take(MOST) {
        match read(&path) {
            Ok(opening) => openings.push(opening),
            // The agent has carried and removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    openings.sort_by_key(|opening| opening.id);
    refused.sort();
    (openings, refused)
}

fn read(path: &Path) -> io::Result<Opening> {
    // Nothing is followed, and a pipe is not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    check_root(&file)?;
    let mut text = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
    let opening: Opening = serde_json::from_slice(&text)?;
    let named = path.file_name().is_some_and(|name| name == file_name(opening.id).as_str());
    if named { Ok(opening) } else { Err(io::Error::other("its name is not that of its id")) }
}

/// Root made this file, and it has one name.
fn check_root(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() || found.len() > MOST_BYTES {
        return Err(io::Error::other("it is no file of an opening"));
    }
    if found.uid() != 0 || found.mode() & WRITE != 0 || found.nlink() != 1 {
        let (uid, mode, names) = (found.uid(), found.mode() & 0o777, found.nlink());
        let why = format!("root did not make it (uid {uid}, mode {mode:03o}, {names} names)");
        return Err(io::Error::other(why));
    }
    Ok(())
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
    };

    use super::*;

    fn opening(byte: u8) -> Opening {
        Opening {
            id: GrantId([byte; 16]),
            source: "192.0.2.7".parse().unwrap(),
            ports: "22/tcp".parse().unwrap(),
            boot_id: "boot".into(),
            made: BootNanos(5),
            made_at: WallTime(1_780_272_000_000),
            deadline: BootNanos(9),
            slot: 7,
            generation: 3,
            by: "local uid 0".into(),
            reason: "disk full\n\u{1b}[2J".into(),
        }
    }

    /// Only root can make such files.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[track_caller]
    fn refused(directory: &Path, says: &str) {
        let (openings, refused) = pending(directory);
        assert_eq!((openings, refused.len()), (Vec::new(), 1));
        assert!(refused[0].contains(says), "{refused:?}");
    }

    #[test]
    fn an_opening_is_read_back_as_it_was_kept() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(pending(directory.path()), (Vec::new(), Vec::new()));
        for byte in [2, 1] {
            opening(byte).keep(directory.path(), None).unwrap();
        }
        assert_eq!(pending(directory.path()), (vec![opening(1), opening(2)], Vec::new()));
        assert!(opening(1).keys().eq(["22/tcp".parse::<PortRange>().unwrap()].iter().flat_map(
            |range| {
                range.ports().map(|port| EntryKey { port, source: "192.0.2.7".parse().unwrap() })
            }
        )));
    }

    #[test]
    fn what_root_did_not_make_is_refused() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = path(directory.path(), GrantId([1; 16]));
        let again = || {
            drop(fs::remove_dir_all(directory.path().join(DIRECTORY)));
            opening(1).keep(directory.path(), None).unwrap();
        };
        again();
        chown(&file, Some(65_534), None).unwrap();
        refused(directory.path(), "root did not make it (uid 65534");
        again();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        refused(directory.path(), "mode 666");
        again();
        fs::hard_link(&file, directory.path().join("openings/second")).unwrap();
        refused(directory.path(), "2 names");
        again();
        fs::rename(&file, directory.path().join("elsewhere")).unwrap();
        symlink(directory.path().join("elsewhere"), &file).unwrap();
        refused(directory.path(), &io::Error::from_raw_os_error(libc::ELOOP).to_string());
        again();
        fs::rename(&file, path(directory.path(), GrantId([2; 16]))).unwrap();
        refused(directory.path(), "not that of its id");
        again();
        fs::write(&file, "{\"id\":").unwrap();
        refused(directory.path(), "EOF");
        again();
        let whole = fs::read_to_string(&file).unwrap();
        fs::write(&file, whole.replace('{', "{\"more\":1,")).unwrap();
        refused(directory.path(), "unknown field");
    }

    #[test]
    fn nothing_is_kept_where_a_link_leads_elsewhere_or_others_may_write() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert!(opening(1).keep(&link, None).is_err());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(opening(1).keep(&real, None).is_err());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(directory.path(), real.join(DIRECTORY)).unwrap();
        assert!(opening(1).keep(&real, None).is_err());
        fs::remove_file(real.join(DIRECTORY)).unwrap();
        chown(&real, Some(65_534), None).unwrap();
        assert!(opening(1).keep(&real, None).is_err(), "nobody is not the service's user");
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
        let owner = Owner::of(&real, false).unwrap();
        opening(1).keep(&real, Some(&owner)).unwrap();
        assert_eq!(pending(&real).0, [opening(1)]);
        // The service's user can remove it.
        owner.act(|| fs::remove_file(path(&real, GrantId([1; 16]))).unwrap()).unwrap();
    }
}
