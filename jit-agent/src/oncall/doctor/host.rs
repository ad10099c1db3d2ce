//! What `doctor` looks at: the configuration, if there is one yet, the agent, if one runs, and what
//! the kernel says of the host.

use std::{fs, io, path::Path, path::PathBuf};

use jit_proto::v1;
use rustix::process::geteuid;

use super::process::{self, Process};
use crate::{
    config::{Config, ConfigError, Glimpse},
    kernel::datapath::{
        boot_clock,
        rtnetlink::{self, Device},
    },
    oncall::{
        agent::{Asked, Silence, ask},
        failure::Failure,
        status::without_agent,
    },
    rules::clock::Now,
    system::{
        metadata::{Report, ask_all},
        sys,
    },
};

/// A host, read once.
pub(super) struct Host {
    /// The path of the configuration file.
    pub(super) path: PathBuf,
    /// Why the configuration file cannot be opened.
    pub(super) unopened: Option<io::ErrorKind>,
    /// The configuration, or why there is none in force.
    pub(super) config: Result<Config, ConfigError>,
    /// What can be said of the configuration's file even where it is refused.
    pub(super) glimpse: Glimpse,
    /// The devices of this network namespace.
    pub(super) devices: io::Result<Vec<Device>>,
    /// Whether this process may see everything.
    pub(super) is_root: bool,
    /// The capabilities that the agent needs and this process has not.
    pub(super) lacks: Vec<&'static str>,
    /// Whether an agent answers.
    pub(super) agent: Agent,
    /// What is in force, from the agent or from the kernel; or why it is not known.
    pub(super) status: Result<v1::StatusResponse, String>,
    /// The process of the agent, if one runs and can be found.
    pub(super) process: Option<Process>,
    /// How much later the kernel programs' boot clock is than this process's own, nanoseconds;
    /// `None`: this process may not measure it.
    pub(super) boot_offset: Option<io::Result<i64>>,
    /// What the metadata services say, if the file leaves the host's id to them.
    pub(super) identity: Option<[Report; 4]>,
    /// The time.
    pub(super) now: Now,
}

/// Whether an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// It does.
    Answers,
    /// This user may not ask it.
    Denied,
    /// It does not.
    Silent(Silence),
}

impl Host {
    /// Reads the host. `path`: the configuration file.
    pub(super) async fn read(path: &Path) -> Self {
        let glimpse = Glimpse::of(path);
        let lacks = sys::missing_capabilities();
        let boot_offset = lacks.is_empty().then(boot_clock::align);
        let (agent, status) = ask_agent(path, &glimpse).await;
        let process = process::find(&glimpse.paths.pins, &glimpse.paths.socket()).await;
        let config = Config::read(path);
        let asks = config.as_ref().is_ok_and(|config| config.auto_host);
        let identity = if asks { Some(ask_all().await) } else { None };
        Self {
            path: path.to_owned(),
            unopened: fs::File::open(path).err().map(|error| error.kind()),
            config,
            glimpse,
            devices: rtnetlink::devices(),
            is_root: geteuid().is_root(),
            lacks,
            agent,
            status,
            process,
            boot_offset,
            identity,
            now: sys::now(),
        }
    }

    /// Nothing of the agent is here yet: neither a configuration, nor a state, nor pins.
    pub(super) fn is_bare(&self) -> bool {
        let paths = &self.glimpse.paths;
        self.unopened == Some(io::ErrorKind::NotFound)
            && [&paths.state, &paths.pins].into_iter().all(|path| is_missing(path))
    }
}

/// Whether nothing is there. A place that this process may not look at is not missing.
fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Asks the agent, or reads from the kernel what is in force without one.
async fn ask_agent(path: &Path, glimpse: &Glimpse) -> (Agent, Result<v1::StatusResponse, String>) {
    let socket = glimpse.paths.socket();
    let asked = ask(&socket, async |client| client.status(v1::StatusRequest {}).await);
    let silence = match asked.await {
        Ok(Asked::Answered(status)) => return (Agent::Answers, Ok(status)),
        Ok(Asked::Closed) => Silence::Closed,
        Ok(Asked::Refused(_)) => Silence::Hung,
        Ok(Asked::Silent(silence)) => silence,
        Err(error) => return (Agent::Denied, Err(error.to_string())),
    };
    let read = without_agent(path, glimpse.clone(), silence).map_err(|error| match error {
        Failure::NotRoot => "only root can read what the kernel enforces".to_owned(),
        other => other.to_string(),
    });
    (Agent::Silent(silence), read)
}
