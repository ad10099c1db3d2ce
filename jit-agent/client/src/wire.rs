//! One HTTP/2 connection with an agent, as gRPC calls need it.
//!
//! It is less than a channel of tonic, which makes connections again and has a queue and a task of its own
//! before each: here a call goes to the connection that is there, or fails. A call is one write: its
//! headers wait for its message. Of ten thousand agents that is a part of the memory, and of the time of
//! each call.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Bytes, Service, http},
};

use crate::budget::{Answer, Budget};

/// Bytes that an agent may send before they are read: of one answer, and on one connection.
const ANSWER_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// Both, for an agent of many.
const WINDOW: u32 = 128 * 1024;
/// Bytes of the headers of an answer.
const HEADERS: u32 = 16 * 1024;
/// Interval between probes of a connection, and the wait for the answer to one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The connection. It is closed with the last clone, and the last answer.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    calls: SendRequest<Bytes>,
    budget: Option<Arc<Budget>>,
}

impl Wire {
    /// Begins HTTP/2. With a budget it is one connection of many: it may send less at once, and its answers
    /// take their room from the budget.
    pub(crate) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        budget: Option<Arc<Budget>>,
    ) -> Result<Self, h2::Error> {
        let (answer, all) = match budget {
            Some(_) => (WINDOW, WINDOW),
            None => (ANSWER_WINDOW, CONNECTION_WINDOW),
        };
        let (calls, connection) = Builder::new()
            .initial_window_size(answer)
            .initial_connection_window_size(all)
            .max_header_list_size(HEADERS)
            .enable_push(false)
            .handshake(stream)
            .await?;
        tokio::spawn(run(connection));
        Ok(Self { calls, budget })
    }

    /// The same, without a budget.
    pub(crate) fn unbounded(&self) -> Self {
        Self { calls: self.calls.clone(), budget: None }
    }
}

/// Runs the connection until it ends, or until a probe has no answer. Who calls hears why it ended.
async fn run<T: AsyncRead + AsyncWrite + Unpin>(mut connection: Connection<T, Bytes>) {
    let pings = connection.ping_pong();
    tokio::select! {
        _ended = connection => {}
        () = probe(pings) => {}
    }
}

/// Until a probe has no answer.
async fn probe(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return };
    loop {
        sleep(KEEP_ALIVE).await;
        let Ok(Ok(_)) = timeout(KEEP_ALIVE, pings.ping(Ping::opaque())).await else { return };
    }
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.calls.poll_ready(context).map_err(Status::from)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let (mut calls, budget) = (self.calls.clone(), self.budget.clone());
        Box::pin(async move {
            // All requests to an agent are single messages.
            let message = body.collect().await?.to_bytes();
            let (answer, mut sent) =
                calls.send_request(http::Request::from_parts(head, ()), false)?;
            sent.send_data(message, true)?;
            Ok(answer.await?.map(|stream| Body::new(Answer::new(stream, budget))))
        })
    }
}
