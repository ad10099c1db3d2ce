//! Why a command did not do what it was asked for, and how it ends.

use std::{error::Error, io, path::PathBuf};

use jit_client::{exit::Exit, local};

use crate::{
    config::ConfigError,
    control::tls::TlsError,
    kernel::datapath::DatapathError,
    oncall::audit::CommandError,
    system::sys::{FileError, MissingCapabilities},
};

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What the service's user would meet.
    #[error("as the service sees it, as {owner}")]
    AsService {
        /// The service's user.
        owner: String,
        /// The cause.
        #[source]
        error: Box<Self>,
    },
    /// The audit.
    #[error(transparent)]
    Audit(#[from] CommandError),
    /// Capabilities.
    #[error(transparent)]
    Capabilities(#[from] MissingCapabilities),
    /// The agent closed the connection.
    #[error("{}", local::CLOSED)]
    Closed,
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gate in the kernel.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Files of the configuration that the service's user may not read.
    #[error("{0}")]
    DeniedFiles(String),
    /// The agent's socket.
    #[error(
        "cannot open {}: {error}: permission denied; use sudo, or join the group jit-agent",
        socket.display()
    )]
    DeniedSocket {
        /// Where it is.
        socket: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// A call into the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The list of grants.
    #[error("cannot list the grants")]
    List(#[source] Box<dyn Error + Send + Sync>),
    /// No agent.
    #[error(
        "no agent answers on {}: {error}; `jit-agent status` reads what the kernel enforces",
        socket.display()
    )]
    NoAgent {
        /// Where its socket should be.
        socket: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Nobody can be asked.
    #[error(
        "detach opens every protected port to everybody; say --yes to do it without a terminal"
    )]
    NoTerminal,
    /// No agent, and too few rights to look into the kernel.
    #[error("no agent answers, and to read what the kernel enforces needs root")]
    NotRoot,
    /// The agent has the gate.
    #[error(
        "the agent is running and would put the gate back; stop it first: `systemctl stop jit-agent`"
    )]
    Running,
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A configuration that does not say where the pins are.
    #[error("{0}: nothing was detached")]
    UnknownPins(String),
    /// What the kernel enforces cannot be read.
    #[error(transparent)]
    Unread(DatapathError),
}

impl Failure {
    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::AsService { error, .. } => error.exit(),
            Self::Audit(error) => error.exit(),
            Self::Capabilities(_)
            | Self::DeniedFiles(_)
            | Self::DeniedSocket { .. }
            | Self::NotRoot => Exit::Permission,
            Self::Config(_) | Self::Tls(_) | Self::UnknownPins(_) => Exit::Configuration,
            Self::Datapath(error) => datapath_exit(error),
            Self::File(error) => file_exit(error),
            Self::Closed
            | Self::Io(_)
            | Self::List(_)
            | Self::NoAgent { .. }
            | Self::NoTerminal
            | Self::Running
            | Self::Unread(_) => Exit::Unavailable,
        }
    }
}

/// How the process ends with an error of the kernel side.
pub(crate) const fn datapath_exit(error: &DatapathError) -> Exit {
    match error {
        DatapathError::Pin { .. } => Exit::Configuration,
        DatapathError::File(error) => file_exit(error),
        _ => Exit::Unavailable,
    }
}

/// How it ends with a file that cannot be used.
pub(crate) const fn file_exit(error: &FileError) -> Exit {
    match error {
        FileError::Untrusted { .. } => Exit::Permission,
        FileError::Io { .. } => Exit::Unavailable,
    }
}
