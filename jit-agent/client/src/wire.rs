//! One HTTP/2 connection with an agent, as gRPC calls need it.
//!
//! It is less than a channel of tonic, which makes connections again and has a queue and a task of its own
//! before each: here a call goes to the connection that is there, or fails. Of ten thousand agents that is
//! a part of the memory, and of the time of each call.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
};

use crate::budget::{Answer, Budget};

/// Bytes that an agent of many may send before they are read, on one connection.
const WINDOW: u32 = 128 * 1024;
/// Interval between probes of an idle connection, and the wait for the answer to one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The connection. It is closed with the last clone, and the last answer.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    calls: SendRequest<Body>,
    budget: Option<Arc<Budget>>,
}

impl Wire {
    /// Begins HTTP/2. With a budget it is one connection of many: it may send less at once, and its answers
    /// take their room from the budget.
    pub(crate) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        budget: Option<Arc<Budget>>,
    ) -> hyper::Result<Self> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if budget.is_some() {
            builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        }
        let (calls, connection) = builder.handshake(TokioIo::new(stream)).await?;
        // Who calls hears why it ended.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { calls, budget })
    }

    /// The same, without a budget.
    pub(crate) fn unbounded(&self) -> Self {
        Self { calls: self.calls.clone(), budget: None }
    }
}

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, hyper::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.calls.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (calling, budget) = (self.calls.send_request(request), self.budget.clone());
        Box::pin(async move {
            let response = calling.await?;
            Ok(match budget {
                Some(budget) => response.map(|body| Body::new(Answer::new(body, budget))),
                None => response.map(Body::new),
            })
        })
    }
}
