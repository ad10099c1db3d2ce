//! The user that the service runs as, for root's command line.
//!
//! When root works in that user's directories, or checks what that user may read, a thread becomes
//! that user and does the work. The alternative, to use root's rights and check owners and modes
//! before each step, would follow a link that the user makes between check and step, and would
//! leave files that the agent cannot write.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use nix::unistd::{self, Group, User};
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// The user in the shipped systemd unit.
const USER: &str = "jit-agent";
/// The group in the unit: its members may ask for the status.
pub const STATUS_GROUP: &str = "jit-agent";
/// The group in the unit that may read the private key (`SupplementaryGroups=`).
pub const KEY_GROUP: &str = "jit-agent-keys";

/// The user that the service runs as; never root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    name: Option<String>,
}

impl Owner {
    /// The owner of a state directory. When the directory does not exist yet and is that of the
    /// `shipped` unit, the user in the unit. `None` when that is root, or when this process is not
    /// root and so cannot become another user.
    pub fn of(state: &Path, shipped: bool) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let there = fs::symlink_metadata(state).ok().filter(fs::Metadata::is_dir);
        let user = match &there {
            Some(metadata) => User::from_uid(metadata.uid().into()),
            None if shipped => User::from_name(USER),
            None => return None,
        };
        let owner = match (user.ok().flatten(), there) {
            (Some(user), _) => Self::named(user),
            (None, Some(metadata)) => {
                let gid = Gid::from_raw(metadata.gid());
                Self { uid: Uid::from_raw(metadata.uid()), gid, groups: vec![gid], name: None }
            }
            (None, None) => return None,
        };
        (!owner.uid.is_root()).then_some(owner)
    }

    /// A user of the system with all its groups and the unit's own, as systemd starts the service.
    fn named(user: User) -> Self {
        let User { name, uid, gid, .. } = user;
        let all = CString::new(name.as_str()).map(|name| unistd::getgrouplist(&name, gid));
        let all = all.ok().and_then(Result::ok).unwrap_or_else(|| vec![gid]);
        let keys = Group::from_name(KEY_GROUP).ok().flatten().map(|group| group.gid);
        let all = all.into_iter().chain(keys);
        let groups = all.map(|group| Gid::from_raw(group.as_raw())).collect();
        let (uid, gid) = (Uid::from_raw(uid.as_raw()), Gid::from_raw(gid.as_raw()));
        Self { uid, gid, groups, name: Some(name) }
    }

    /// Runs `what` as this user, without any of root's rights.
    ///
    /// # Errors
    /// The kernel does not let this process become that user.
    pub fn act<T: Send>(&self, what: impl FnOnce() -> T + Send) -> io::Result<T> {
        // These change only this thread. The C library's calls would change all threads for good.
        let change = || -> io::Result<()> {
            set_thread_groups(&self.groups)?;
            set_thread_res_gid(self.gid, self.gid, self.gid)?;
            Ok(set_thread_res_uid(self.uid, self.uid, self.uid)?)
        };
        thread::scope(|scope| {
            let acting = scope.spawn(|| change().map(|()| what()));
            acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its own group, by number.
    pub fn group(&self) -> u32 {
        self.gid.as_raw()
    }

    /// Whether this is its uid.
    pub fn is(&self, uid: u32) -> bool {
        self.uid.as_raw() == uid
    }

    /// The existing ones of these files that this user may not read.
    ///
    /// # Errors
    /// As [`Owner::act`].
    pub fn unreadable(&self, files: Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
        self.act(|| {
            let denied = |path: &PathBuf| {
                let opened = fs::File::open(path);
                opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            };
            files.into_iter().filter(denied).collect()
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "uid {}", self.uid.as_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    /// A uid without a user.
    const OTHER: u32 = 64_999;

    #[test]
    fn what_root_does_as_the_owner_is_the_owners_and_no_more_than_the_owner_may() {
        if !geteuid().is_root() {
            // Only root can become somebody else; as anybody else there is no owner to become.
            assert_eq!(Owner::of(&std::env::temp_dir(), false), None);
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (state, secret) = (directory.path().join("state"), directory.path().join("secret"));
        fs::write(&secret, "root's").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Owner::of(&state, false), None, "not there");
        fs::create_dir(&state).unwrap();
        assert_eq!(Owner::of(&state, false), None, "root's");
        chown(&state, Some(OTHER), Some(OTHER)).unwrap();
        let owner = Owner::of(&state, false).unwrap();
        assert_eq!(owner.to_string(), format!("uid {OTHER}"));
        // A link that leads out of the directory leads nowhere.
        std::os::unix::fs::symlink(&secret, state.join("link")).unwrap();
        let made = state.join("made");
        let refused = owner
            .act(|| {
                fs::write(&made, "").unwrap();
                fs::write(state.join("link"), "").unwrap_err().kind()
            })
            .unwrap();
        assert_eq!(refused, io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "root's");
        let metadata = fs::metadata(&made).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (OTHER, OTHER));
        let files = vec![secret.clone(), made, state.join("nothing")];
        assert_eq!(owner.unreadable(files).unwrap(), std::slice::from_ref(&secret));
        // And this thread is root still.
        assert!(geteuid().is_root() && fs::read_to_string(secret).is_ok());
    }
}
