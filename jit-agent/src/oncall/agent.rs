//! Connects to the agent on this host.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use jit_client::local::{self, LocalClient};
use jit_proto::printable::clean;
use tonic::{Code, Status};

use crate::{config::Glimpse, oncall::failure::Failure};

/// Why no agent was reached.
#[derive(Debug)]
pub(super) enum Unreached {
    /// The agent closed the connection at once.
    Closed,
    /// This user may not open the socket.
    Denied(io::Error),
    /// The socket exists, but the connection failed.
    NoAnswer(io::Error),
    /// No agent is running.
    NotThere(io::Error),
}

pub(super) async fn connect(socket: &Path) -> Result<LocalClient, Unreached> {
    local::connect(socket).await.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Unreached::Denied(error),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Unreached::NotThere(error),
        ErrorKind::Other => Unreached::Closed,
        _ => Unreached::NoAnswer(error),
    })
}

/// The agent of this configuration; a command that needs one fails without it.
pub(super) async fn reach(config: &Path) -> Result<LocalClient, Failure> {
    let socket = Glimpse::of(config).paths.socket();
    connect(&socket).await.map_err(|unreached| match unreached {
        Unreached::Closed => Failure::Closed,
        Unreached::Denied(error) => Failure::DeniedSocket { socket, error },
        Unreached::NoAnswer(error) | Unreached::NotThere(error) => {
            Failure::NoAgent { socket, error }
        }
    })
}

/// Why the agent did not do what it was asked for.
pub(super) fn undone(what: &'static str, status: Status) -> Failure {
    if status.code() == Code::PermissionDenied {
        return Failure::NotAllowed { what, why: clean(status.message(), 400) };
    }
    if local::is_closed(&status) {
        return Failure::Undone { what, error: Box::new(Failure::Closed) };
    }
    Failure::Undone { what, error: Box::new(status) }
}
