//! The command line's connection to a running agent: gRPC over its unix socket.

use std::{io, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use jit_proto::v1::jit_agent_client::JitAgentClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A client of a running agent.
pub type LocalClient = JitAgentClient<Channel>;

/// Connects. An error of kind `NotFound` or `ConnectionRefused`: no agent is running.
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
