//! Why an on-call command failed, and its exit code.

use std::{error::Error, io, path::PathBuf};

use jit_client::{exit::Exit, local};

use crate::{
    config::ConfigError,
    kernel::datapath::DatapathError,
    oncall::audit::CommandError,
    system::sys::{FileError, MissingCapabilities},
};

/// Why an on-call command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The agent took the connection and does not answer.
    #[error(
        "cannot {what}: the agent hangs: `systemctl restart jit-agent`, then try again; it may still do \
         it when it goes on, so look at `jit-agent status`"
    )]
    Hung {
        /// What was tried: "list the grants".
        what: &'static str,
    },
    /// The audit cannot be read.
    #[error(transparent)]
    Audit(#[from] CommandError),
    /// This process lacks capabilities.
    #[error(transparent)]
    Capabilities(#[from] MissingCapabilities),
    /// The agent closed the connection without an answer.
    #[error("{}", local::CLOSED)]
    Closed,
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An operation on the gate in the kernel failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// This user may not open the agent's socket.
    #[error(
        "cannot open {}: {error}: permission denied; use sudo, or join the group jit-agent",
        socket.display()
    )]
    DeniedSocket {
        /// The socket's path.
        socket: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A call into the operating system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No agent answers.
    #[error(
        "no agent answers on {}: {error}; `jit-agent status` shows what the kernel enforces",
        socket.display()
    )]
    NoAgent {
        /// The path where its socket should be.
        socket: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// `detach` needs a confirmation, and standard input is not a terminal.
    #[error(
        "detach opens every protected port to everybody; add --yes to do it without a terminal"
    )]
    NoTerminal,
    /// The agent does not let this user do it.
    #[error("cannot {what}: {why}; use sudo")]
    NotAllowed {
        /// What was tried: "list the grants".
        what: &'static str,
        /// The agent's answer.
        why: String,
    },
    /// No agent answers, and this process may not read the kernel's tables.
    #[error("no agent answers, and only root can read what the kernel enforces; use sudo")]
    NotRoot,
    /// The agent is running.
    #[error(
        "the agent is running and would put the gate back; stop it first: `systemctl stop jit-agent`"
    )]
    Running,
    /// Something is in the way, and nothing was done.
    #[error("{0}")]
    Refused(String),
    /// The agent did not do what it was asked for.
    #[error("cannot {what}")]
    Undone {
        /// What was tried: "list the grants".
        what: &'static str,
        /// Why.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration does not say where the pins are.
    #[error("{0}: nothing was detached")]
    UnknownPins(String),
    /// The kernel's tables cannot be read.
    #[error(transparent)]
    Unread(DatapathError),
}

impl Failure {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Audit(error) => error.exit(),
            Self::Capabilities(_)
            | Self::DeniedSocket { .. }
            | Self::NotAllowed { .. }
            | Self::NotRoot => Exit::Permission,
            Self::Config(_) | Self::Refused(_) | Self::UnknownPins(_) => Exit::Configuration,
            Self::Datapath(error) => datapath_exit(error),
            Self::File(error) => file_exit(error),
            Self::Closed
            | Self::Hung { .. }
            | Self::Io(_)
            | Self::NoAgent { .. }
            | Self::NoTerminal
            | Self::Running
            | Self::Undone { .. }
            | Self::Unread(_) => Exit::Unavailable,
            Self::Usage(_) => Exit::Usage,
        }
    }
}

/// The exit code for an error of the datapath.
pub(crate) const fn datapath_exit(error: &DatapathError) -> Exit {
    match error {
        DatapathError::Pin { .. } => Exit::Configuration,
        DatapathError::File(error) => file_exit(error),
        _ => Exit::Unavailable,
    }
}

/// The exit code for a file that cannot be used.
pub(crate) const fn file_exit(error: &FileError) -> Exit {
    match error {
        FileError::Untrusted { .. } | FileError::Exposed { .. } => Exit::Permission,
        FileError::Io { .. } => Exit::Unavailable,
    }
}
