//! The trial that goes on, or the file that was refused because nobody confirmed it.
//!
//! One file in the state directory, JSON, mode 0600, replaced as a whole. It is written before the
//! trial is in force. So a start of the same boot goes on with the trial, to the same end; and a start
//! after its end, or of another boot, knows which file must not come into force by itself.
//!
//! The last good configuration beside it stays that of before, until the trial is confirmed: then it
//! is another one than `before` says, and this file counts no more.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, KeyFile, Loaded, enforcing_text},
    disk::last_good::{LastGood, hash_of, read_json, write_json},
    rules::clock::{BootNanos, Now},
    system::sys::{self, FileError},
};

const FILE: &str = "configuration.trial";

/// A TCP connection: the peer's end, and this host's.
pub type Connection = (SocketAddr, SocketAddr);

/// A trial.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StoredTrial {
    /// The configuration file; an absolute path.
    pub path: PathBuf,
    /// The boot that `until_ns` belongs to.
    boot_id: String,
    /// CLOCK_BOOTTIME nanoseconds at which it ends.
    until_ns: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub begun_ms: i64,
    /// Hash of the text of the good configuration before it.
    before: String,
    /// The text on trial.
    text: String,
    /// The public keys that it names, as they were.
    keys: Vec<KeyFile>,
    /// The text is that of the file on the disk. Otherwise it is that of before, enforcing.
    pub of_file: bool,
    /// It has ended without a confirmation, and that was recorded.
    pub lapsed: bool,
    /// The connections to protected ports when it began.
    pub connections: Vec<Connection>,
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was confirmed, or another configuration is the good one: it counts no more.
    Gone,
    /// It ended without a confirmation.
    Lapsed,
    /// It goes on.
    Live,
}

impl StoredTrial {
    /// A trial of `on_trial` that begins now.
    pub fn new(
        before: &LastGood,
        on_trial: &Loaded,
        of_file: bool,
        (boot_id, within): (String, Duration),
        now: Now,
    ) -> Self {
        Self {
            path: before.path.clone(),
            boot_id,
            until_ns: (now.boot + within).0,
            begun_ms: now.wall.0,
            before: before.hash(),
            text: on_trial.text.clone(),
            keys: on_trial.keys.clone(),
            of_file,
            lapsed: false,
            connections: Vec::new(),
        }
    }

    /// The same trial, ended and recorded.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { lapsed: true, ..self }
    }

    /// When it ends.
    pub const fn until(&self) -> BootNanos {
        BootNanos(self.until_ns)
    }

    /// What has become of it. `good`: the last good configuration.
    pub fn standing(&self, good: &LastGood, boot_id: &str, now: BootNanos) -> Standing {
        if good.path != self.path || good.hash() != self.before {
            Standing::Gone
        } else if self.lapsed || self.boot_id != boot_id || now >= self.until() {
            Standing::Lapsed
        } else {
            Standing::Live
        }
    }

    /// Whether this is the text on trial.
    pub fn is_of(&self, text: &str) -> bool {
        self.text == text
    }

    /// The text of the configuration on trial.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The configuration on trial.
    ///
    /// # Errors
    /// This version of the agent does not take it.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::parse(&self.text, &self.path, &self.keys)
    }

    /// Looks in these state directories for the trial of this configuration file.
    pub fn find(states: &[PathBuf], path: &Path) -> Option<Self> {
        let mut all = states.iter().filter_map(|state| match read_json(state, FILE) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!("the trial of a configuration cannot be read: {error}");
                None
            }
        });
        all.find(|trial: &Self| trial.path == path)
    }

    /// Writes it to a state directory, completely or not at all.
    pub fn write(&self, state: &Path) -> Result<(), FileError> {
        write_json(state, FILE, self)
    }

    /// Removes it from a state directory.
    pub fn remove(state: &Path) -> Result<(), FileError> {
        let path = state.join(FILE);
        let removed = match fs::remove_file(&path) {
            Ok(()) => sys::sync_directory_of(&path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| FileError::Io { verb: "remove", path, error })
    }
}

/// The good configuration with every mode on "enforce".
///
/// # Errors
/// What is wrong with it.
pub fn enforcing(good: &LastGood) -> Result<Loaded, String> {
    let text = enforcing_text(good.text()).ok_or("the configuration in force cannot be read")?;
    Loaded::parse(&text, &good.path, &good.keys).map_err(|error| error.to_string())
}

/// Whether this is the text of a file.
pub fn holds(path: &Path, text: &str) -> bool {
    sys::read_trusted(path).is_ok_and(|found| hash_of(&found) == hash_of(text))
}

#[cfg(test)]
mod tests {
    use jit_proto::WallTime;

    use super::*;

    const GOOD: &str = "[host]\nid = \"web-1\"\n[gate]\nmode = \"observe\"\n[[port]]\nport = 22\n\
                        protocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\nmax_duration = \"1h\"\n\
                        [[signer]]\nid = \"a\"\npublic_key = \"a.pem\"\n";
    const BEGIN: Now = Now { wall: WallTime(1_000), boot: BootNanos(5_000_000_000) };
    const MINUTE: Duration = Duration::from_secs(60);

    fn good() -> LastGood {
        let path = Path::new("/etc/jit-agent/config.toml");
        let loaded = Loaded::parse(GOOD, path, &[]).unwrap();
        LastGood::new(path, &loaded, BEGIN.wall)
    }

    fn trial() -> StoredTrial {
        let on_trial = enforcing(&good()).unwrap();
        StoredTrial::new(&good(), &on_trial, false, ("boot-1".into(), MINUTE), BEGIN)
    }

    #[test]
    fn a_trial_goes_on_in_its_boot_until_its_end_and_is_gone_when_confirmed() {
        let (good, trial) = (good(), trial());
        let at = |seconds: u64| BootNanos(BEGIN.boot.0 + seconds * 1_000_000_000);
        assert_eq!(trial.standing(&good, "boot-1", at(59)), Standing::Live);
        assert_eq!(trial.standing(&good, "boot-1", at(60)), Standing::Lapsed);
        assert_eq!(trial.standing(&good, "boot-2", at(1)), Standing::Lapsed);
        let lapsed = StoredTrial { lapsed: true, ..trial.clone() };
        assert_eq!(lapsed.standing(&good, "boot-1", at(1)), Standing::Lapsed);
        let confirmed = LastGood::new(&good.path, &trial.load().unwrap(), BEGIN.wall);
        assert_eq!(trial.standing(&confirmed, "boot-1", at(1)), Standing::Gone);
        assert!(!trial.load().unwrap().config.observes() && !trial.is_of(GOOD));
    }

    #[test]
    fn what_was_written_is_found_by_its_file_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let trial = StoredTrial {
            connections: vec![(
                "192.0.2.7:40000".parse().unwrap(),
                "[2001:db8::1]:22".parse().unwrap(),
            )],
            ..trial()
        };
        StoredTrial::remove(Path::new("/nowhere")).unwrap();
        trial.write(&state).unwrap();
        let states = ["/nowhere".into(), state.clone()];
        assert_eq!(StoredTrial::find(&states, &trial.path), Some(trial.clone()));
        assert_eq!(StoredTrial::find(&states, Path::new("/etc/other.toml")), None);
        StoredTrial::remove(&state).unwrap();
        StoredTrial::remove(&state).unwrap();
        assert_eq!(StoredTrial::find(&states, &trial.path), None);
    }
}
