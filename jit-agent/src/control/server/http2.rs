//! The HTTP/2 server with its bounds: for the network in the front, and for the local socket in the
//! gate's process.

use std::time::Duration;

use tonic::transport::Server;

/// Largest number of calls at once on one connection. Each may hold a request of the largest size.
pub(super) const MAX_STREAMS: u32 = 8;
/// Bytes that a peer may send before they are read: of one call, and of one connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// A connection of this age ends when its calls are done.
pub(crate) const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// A server without a service.
pub(super) fn http2() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .concurrency_limit_per_connection(8)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .http2_max_pending_accept_reset_streams(Some(20))
        .max_connection_age(OLDEST)
}
