//! The command line's connection to a running agent: gRPC over its unix socket.

use std::{io, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use jit_proto::v1::jit_agent_client::JitAgentClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// What it means that an agent which took the connection closed it without an answer.
pub const CLOSED: &str = "the agent closed the connection without an answer: it has no free place \
                          for another local connection (16 for root and the agent's user, 16 for \
                          all others), or it is just ending; try again, as root";

/// A client of a running agent.
pub type LocalClient = JitAgentClient<Channel>;

/// Connects. An error of kind `NotFound` or `ConnectionRefused`: no agent is running; of kind
/// `Other`: it closed the connection at once.
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
    // The address is a form only: the connector knows where to go.
    let channel = Endpoint::from_static("http://local")
        .timeout(Duration::from_secs(10))
        .connect_with_connector(connector)
        .await
        .map_err(io::Error::other)?;
    Ok(JitAgentClient::new(channel).max_decoding_message_size(usize::MAX))
}

/// The connection broke before there was an answer.
pub fn is_closed(status: &tonic::Status) -> bool {
    // An answer of the agent has no cause; what the transport makes of its own errors has.
    std::error::Error::source(status).is_some() && status.code() != tonic::Code::Cancelled
}
