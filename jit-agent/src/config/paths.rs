//! `[paths]`: the directories of the agent, and their defaults.

use std::path::{Path, PathBuf};

use jit_proto::wrong::Wrongs;

use crate::{config::raw, system::owner::Owner};

/// Default path of the configuration file.
pub const DEFAULT_PATH: &str = "/etc/jit-agent/config.toml";
/// State directory of the shipped systemd unit.
const DEFAULT_STATE: &str = "/var/lib/jit-agent";
const DEFAULT_RUNTIME: &str = "/run/jit-agent";
const DEFAULT_PINS: &str = "/sys/fs/bpf/jit-agent";

/// The directories of the agent; absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Directory of the database, the audit and the host's key; it must survive reboots.
    pub state: PathBuf,
    /// Directory of the unix socket.
    pub runtime: PathBuf,
    /// Directory of the pins, on a BPF file system.
    pub pins: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: DEFAULT_STATE.into(),
            runtime: DEFAULT_RUNTIME.into(),
            pins: DEFAULT_PINS.into(),
        }
    }
}

impl Paths {
    /// Checks a `[paths]`.
    pub(super) fn new(raw: raw::Paths, wrongs: &mut Wrongs) -> Self {
        let raw::Paths { state, runtime, pins } = raw;
        let default = Self::default();
        let paths = Self {
            state: state.unwrap_or(default.state),
            runtime: runtime.unwrap_or(default.runtime),
            pins: pins.unwrap_or(default.pins),
        };
        for (key, path) in
            [("state", &paths.state), ("runtime", &paths.runtime), ("pins", &paths.pins)]
        {
            if !path.is_absolute() {
                let what = format!("[paths] {key}: {} is not an absolute path", path.display());
                wrongs.add(format!("paths.{key}"), what);
            }
        }
        paths
    }

    /// Path of the unix socket for the command line.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// The user that the service runs as, when it is not root: the owner of the state directory.
    pub fn owner(&self) -> Option<Owner> {
        Owner::of(&self.state, self.state == Path::new(DEFAULT_STATE))
    }
}
