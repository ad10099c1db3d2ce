//! `[paths]`: where things are kept, and the defaults of it.

use std::path::{Path, PathBuf};

use crate::{config::raw, system::owner::Owner};

/// Default place of the configuration.
pub const DEFAULT_PATH: &str = "/etc/jit-agent/config.toml";
/// Where the shipped unit keeps the state.
const DEFAULT_STATE: &str = "/var/lib/jit-agent";
const DEFAULT_RUNTIME: &str = "/run/jit-agent";
const DEFAULT_PINS: &str = "/sys/fs/bpf/jit-agent";

/// Where things are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Database, audit and the host's key; survives reboots.
    pub state: PathBuf,
    /// Unix socket.
    pub runtime: PathBuf,
    /// Pins, on a BPF file system.
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
    /// Of `[paths]`.
    pub(super) fn new(raw: raw::Paths) -> Result<Self, String> {
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
                return Err(format!("[paths] {key}: {} is not absolute", path.display()));
            }
        }
        Ok(paths)
    }

    /// The unix socket for the command line.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// The user other than root whom the service runs as: the owner of the state directory.
    pub fn owner(&self) -> Option<Owner> {
        Owner::of(&self.state, self.state == Path::new(DEFAULT_STATE))
    }
}
