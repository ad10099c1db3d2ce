//! The directories of the pins and of the state: whose they are, who may write there, and the room
//! on the disk. A disk that hangs is not waited for.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};

use super::{finding::Finding, host::Host};
use crate::{
    config::AuditConfig,
    disk::audit,
    oncall::names,
    system::{
        owner::Owner,
        sys::{self, FileError},
    },
};

/// Room for the database beside the audit, bytes.
const DATABASE: u64 = 16 * 1024 * 1024;
/// With less room nothing can be written, bytes.
const FULL: u64 = 1024 * 1024;
const MIB: u64 = 1024 * 1024;
const NO_ROOT: &str = "only root can look into it";

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let paths = &host.glimpse.paths;
    let mut found = Vec::new();
    if paths.pins.ancestors().any(sys::is_bpffs) {
        found.push(directory(Kind::Pins, &paths.pins, paths.owner().as_ref()));
    }
    let (state, owner) = (paths.state.clone(), paths.owner());
    let limits = host.config.as_ref().ok().map(|config| config.audit);
    let looked = names::within_patience(move || {
        [directory(Kind::State, &state, owner.as_ref()), disk(&state, limits)]
    });
    match looked {
        Ok(both) => found.extend(both),
        Err(why) => {
            let seen = format!("{}: {why}", paths.state.display());
            found.push(Finding::failure("state", seen).fix("dmesg; look at the disk"));
        }
    }
    found
}

/// Which directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pins,
    State,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Pins => "pins",
            Self::State => "state",
        }
    }
}

/// Judges a directory as the agent does at its start, as the user that the agent runs as.
fn directory(kind: Kind, path: &Path, owner: Option<&Owner>) -> Finding {
    let name = kind.name();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unlooked(kind, path, owner, &error),
    };
    let shown = path.display();
    if !metadata.is_dir() {
        let seen = format!("{shown} is no directory");
        return Finding::failure(name, seen).fix(format!("look at it, then rm {shown}"));
    }
    let look = || {
        let checked = sys::check_private_directory(path);
        let writable = accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
        (checked, writable, barrier(path))
    };
    let looked = match owner {
        Some(owner) => owner.act(look),
        None => Ok(look()),
    };
    let who = owner.map_or_else(|| "root".to_owned(), Owner::to_string);
    let mode = metadata.permissions().mode() & 0o777;
    let mend = format!("chown {who} {shown}; chmod 0700 {shown}");
    match looked {
        Err(error) => Finding::unseen(name, format!("cannot look at it as {who}: {error}")),
        Ok(_) if owner.is_none() && !rustix::process::geteuid().is_root() => {
            let seen = format!("{shown} is uid {}'s, mode {mode:04o}: {NO_ROOT}", metadata.uid());
            Finding::unseen(name, seen)
        }
        Ok((Err(error @ FileError::Untrusted { .. }), ..)) => {
            let of_it = matches!(&error, FileError::Untrusted { path: at, .. } if at == path);
            let finding = Finding::failure(name, error.to_string());
            if of_it { finding.fix(format!("look at what is in it; {mend}")) } else { finding }
        }
        Ok((_, _, Some(barrier))) => {
            let barrier = barrier.display();
            let seen = format!("{who}, who runs the agent, may not pass {barrier} to {shown}");
            Finding::failure(name, seen).fix(format!("chmod a+x {barrier}"))
        }
        Ok((Err(error), ..)) => Finding::failure(name, error.to_string()).fix(mend),
        Ok((Ok(()), Err(error), _)) => {
            let seen = format!("{who}, who runs the agent, may not write to {shown}: {error}");
            Finding::failure(name, seen).fix(mend)
        }
        Ok((Ok(()), Ok(()), None)) if kind == Kind::State && mode & 0o077 != 0 => {
            let seen = format!("others may look into {shown} (mode {mode:04o})");
            Finding::warning(name, seen).fix(format!("chmod 0700 {shown}"))
        }
        Ok(_) => Finding::ok(name, format!("{shown} is {who}'s alone (mode {mode:04o})")),
    }
}

/// The first directory on the way that this thread's user may not pass: systemd mounts the BPF file
/// system with mode 0700.
fn barrier(path: &Path) -> Option<PathBuf> {
    let mut way: Vec<_> = path.ancestors().skip(1).collect();
    way.reverse();
    let closed = |at: &&Path| accessat(CWD, *at, Access::EXEC_OK, AtFlags::EACCESS).is_err();
    way.into_iter().find(closed).map(Path::to_owned)
}

/// A directory that is not there, or out of this user's sight.
fn unlooked(kind: Kind, path: &Path, owner: Option<&Owner>, error: &io::Error) -> Finding {
    let (name, shown) = (kind.name(), path.display());
    match (error.kind(), owner) {
        (ErrorKind::NotFound, None) => {
            Finding::ok(name, format!("{shown} is not there: the agent makes it at its start"))
        }
        // That user may make nothing in /sys/fs/bpf or /var/lib.
        (ErrorKind::NotFound, Some(owner)) => {
            let seen = format!("{shown} is not there, and {owner} may not be able to make it");
            let fix = format!("install -d -o {owner} -g {owner} -m 0700 {shown}");
            let made_by = match kind {
                Kind::Pins => "systemd-tmpfiles --create jit-agent.conf",
                Kind::State => "the unit makes it: StateDirectory=jit-agent",
            };
            Finding::warning(name, seen).fix(format!("{made_by}; or {fix}"))
        }
        (ErrorKind::PermissionDenied, _) => Finding::unseen(name, format!("{shown}: {NO_ROOT}")),
        _ => Finding::failure(name, format!("cannot look at {shown}: {error}")),
    }
}

/// What a file system has left.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: u64,
    /// `None`: it does not count them.
    files: Option<u64>,
    read_only: bool,
}

fn disk(state: &Path, limits: Option<AuditConfig>) -> Finding {
    // Before the first start it is not there.
    let there = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let vfs = match statvfs(there) {
        Ok(vfs) => vfs,
        Err(error) => {
            let seen = format!("cannot read the room on {}: {error}", there.display());
            return Finding::unseen("disk", seen);
        }
    };
    let room = Room {
        bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
        files: (vfs.f_files > 0).then_some(vfs.f_favail),
        read_only: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
    };
    let most = limits.map(|AuditConfig { max_size, keep }| {
        max_size.saturating_mul(u64::from(keep).saturating_add(1))
    });
    let used = used_by_audit(state);
    room_finding(there, room, most.map(|most| most.saturating_sub(used)))
}

/// Bytes that the audit takes now; what cannot be read counts as nothing.
fn used_by_audit(state: &Path) -> u64 {
    let entries = fs::read_dir(audit::directory(state)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// `audit`: how much the audit may still grow.
fn room_finding(path: &Path, room: Room, audit: Option<u64>) -> Finding {
    const NAME: &str = "disk";
    let Room { bytes, files, read_only } = room;
    let shown = path.display();
    let free = format!("{} MiB free on {shown}", bytes / MIB);
    let full = "without room no grant is accepted";
    if read_only {
        return Finding::failure(NAME, format!("{shown} is read-only: {full}"))
            .fix(format!("dmesg; mount -o remount,rw the file system of {shown}"));
    }
    if bytes < FULL || files == Some(0) {
        let what = if files == Some(0) { "no more files fit".to_owned() } else { free };
        return Finding::failure(NAME, format!("{what}: {full}"))
            .fix(format!("df -h {shown}; df -i {shown}"));
    }
    match audit.map(|audit| audit.saturating_add(DATABASE)) {
        Some(needed) if bytes < needed => {
            let seen = format!("{free}, and audit and database may grow by {} MiB", needed / MIB);
            Finding::warning(NAME, seen)
                .fix(format!("make room on {shown}, or lower [audit] keep or max_size"))
        }
        _ => Finding::ok(NAME, free),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::{super::finding::Level, *};

    /// A uid without a user.
    const OTHER: u32 = 64_999;

    #[test]
    fn room_for_the_audit_is_counted() {
        let room = |bytes| Room { bytes, files: Some(9), read_only: false };
        let level = |room, audit| room_finding(Path::new("/var/lib"), room, audit).level;
        assert_eq!(level(room(600 * MIB), Some(500 * MIB)), Level::Ok);
        assert_eq!(level(room(510 * MIB), Some(500 * MIB)), Level::Warning);
        assert_eq!(level(room(510 * MIB), None), Level::Ok);
        assert_eq!(level(room(FULL - 1), None), Level::Failure);
        assert_eq!(level(Room { files: Some(0), ..room(600 * MIB) }, None), Level::Failure);
        assert_eq!(level(Room { files: None, ..room(600 * MIB) }, None), Level::Ok);
        assert_eq!(level(Room { read_only: true, ..room(600 * MIB) }, None), Level::Failure);
    }

    #[test]
    fn a_directory_of_somebody_else_is_named_with_the_command() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        assert_eq!(directory(Kind::State, &path, None).level, Level::Ok, "not there yet");
        fs::create_dir(&path).unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for (mode, level) in [(0o700, Level::Ok), (0o750, Level::Warning), (0o777, Level::Failure)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let finding = directory(Kind::State, &path, None);
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.fix.is_empty(), level == Level::Ok, "{finding:?}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(OTHER), Some(OTHER)).unwrap();
        let finding = directory(Kind::Pins, &path, None);
        assert_eq!(finding.level, Level::Failure, "{finding:?}");
        assert!(finding.seen.contains("64999") && finding.fix[0].contains("chown root"));
        // The service's user must come there at all.
        let owner = Owner::of(&path, false).unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let finding = directory(Kind::Pins, &path, Some(&owner));
        let fix = format!("chmod a+x {}", scratch.path().display());
        assert_eq!((finding.level, &finding.fix), (Level::Failure, &vec![fix]), "{finding:?}");
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(directory(Kind::Pins, &path, Some(&owner)).level, Level::Ok);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(directory(Kind::Pins, &path, None).level, Level::Failure);
    }
}
