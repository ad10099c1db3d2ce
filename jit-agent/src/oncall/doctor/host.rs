//! What `doctor` looks at: the configuration, if there is one yet, and what the kernel says of the
//! host.

use std::{io, path::Path};

use rustix::process::geteuid;

use crate::{
    config::{Config, ConfigError, Glimpse},
    kernel::datapath::rtnetlink::{self, Device},
};

/// A host, read once.
pub(super) struct Host {
    /// The configuration, or why there is none in force.
    pub(super) config: Result<Config, ConfigError>,
    /// What can be said of the configuration's file even where it is refused.
    pub(super) glimpse: Glimpse,
    /// The devices of this network namespace.
    pub(super) devices: io::Result<Vec<Device>>,
    /// Whether this process may see everything.
    pub(super) is_root: bool,
}

impl Host {
    /// Reads the host. `path`: the configuration file.
    pub(super) fn read(path: &Path) -> Self {
        Self {
            config: Config::read(path),
            glimpse: Glimpse::of(path),
            devices: rtnetlink::devices(),
            is_root: geteuid().is_root(),
        }
    }
}
