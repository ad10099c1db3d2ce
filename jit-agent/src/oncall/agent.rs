//! Connects to the agent on this host.

use std::{
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use jit_client::local::{self, LocalClient};
use jit_proto::printable::clean;
use tonic::{Code, Response, Status};

use crate::{config::Glimpse, oncall::failure::Failure};

/// The longest wait for an agent, where the kernel's tables can be read instead. With the reading
/// of tables and database the command ends within two seconds.
pub(super) const PATIENCE: Duration = Duration::from_millis(1_200);

/// The result of a request to the agent.
pub(super) enum Asked<T> {
    /// The agent answered.
    Answered(T),
    /// The agent closed the connection without an answer.
    Closed,
    /// The agent does not do it, and says why.
    Refused(Status),
    /// No agent answers.
    Silent(Silence),
}

/// Why no agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// No agent is running.
    Dead,
    /// It is stopped, hangs, or broke the connection.
    Hung,
    /// It closed the connection.
    Closed,
}

impl Silence {
    /// The begin of a sentence.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Dead => "no agent answers",
            Self::Hung => "the agent does not answer",
            Self::Closed => local::CLOSED,
        }
    }
}

/// Asks the agent, and waits no longer than an engineer should.
pub(super) async fn ask<T>(
    socket: &Path,
    request: impl AsyncFnOnce(&mut LocalClient) -> Result<Response<T>, Status>,
) -> Result<Asked<T>, Failure> {
    ask_within(PATIENCE, socket, request).await
}

/// The same, with a wait of its own.
pub(super) async fn ask_within<T>(
    patience: Duration,
    socket: &Path,
    request: impl AsyncFnOnce(&mut LocalClient) -> Result<Response<T>, Status>,
) -> Result<Asked<T>, Failure> {
    let asked = tokio::time::timeout(patience, async {
        let mut client = connect(socket).await?;
        Ok(request(&mut client).await)
    });
    match asked.await {
        Ok(Ok(Ok(answer))) => Ok(Asked::Answered(answer.into_inner())),
        Ok(Ok(Err(status))) if local::is_closed(&status) => Ok(Asked::Closed),
        Ok(Ok(Err(status))) => Ok(Asked::Refused(status)),
        Ok(Err(Unreached::Closed)) => Ok(Asked::Closed),
        Ok(Err(Unreached::Denied(error))) => {
            Err(Failure::DeniedSocket { socket: socket.to_owned(), error })
        }
        Ok(Err(Unreached::NotThere(_))) => Ok(Asked::Silent(Silence::Dead)),
        Ok(Err(Unreached::NoAnswer(_))) | Err(_) => Ok(Asked::Silent(Silence::Hung)),
    }
}

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
