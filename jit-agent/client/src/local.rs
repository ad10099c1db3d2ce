//! The command line's connection to a running agent: gRPC over its unix socket.

use std::{io, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use jit_proto::v1::jit_agent_client::JitAgentClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The explanation when an agent accepted the connection and closed it without an answer.
pub const CLOSED: &str = "the agent closed the connection without an answer: it has no free place \
                          for another local connection (16 for root and the agent's user, 16 for \
                          all others), or it is stopping; try again, as root";

/// Bytes of an answer that the agent may send before this side takes them.
const WINDOW: u32 = 16 * 1024 * 1024;

/// The generated client over the unix socket.
pub type LocalClient = JitAgentClient<Channel>;

/// Connects to the agent at `socket`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no agent is running; `Other` when the agent closed the
/// connection at once.
pub async fn connect(socket: &Path) -> io::Result<LocalClient> {
    // The first connection is made here, so that its error is not wrapped in tonic's.
    let stream = UnixStream::connect(socket).await?;
    let mut first = Some(stream);
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let first = first.take();
        let socket = socket.clone();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(socket).await.map(TokioIo::new),
            }
        }
    });
    // The address is only a placeholder: the connector knows the socket.
    let channel = Endpoint::from_static("http://local")
        .timeout(Duration::from_secs(10))
        // A long list need not wait for this side's leave again and again.
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
        .map_err(io::Error::other)?;
    Ok(JitAgentClient::new(channel).max_decoding_message_size(usize::MAX))
}

/// Whether the connection broke before the agent answered.
pub fn is_closed(status: &tonic::Status) -> bool {
    // A status from the agent has no cause; a status from the transport has one.
    std::error::Error::source(status).is_some() && status.code() != tonic::Code::Cancelled
}
