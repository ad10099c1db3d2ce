//! Connects to the agent on this host.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use jit_client::local::{self, LocalClient};

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
