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

/// Bytes that an agent may send before they are read. An answer to a probe comes after them: of a slow link they
/// must not take all of its time.
const LONE_WINDOW: u32 = 512 * 1024;
/// The same, of one agent of many.
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
        let window = if budget.is_some() { WINDOW } else { LONE_WINDOW };
        let (calls, connection) = Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(window)
            .max_header_list_size(HEADERS)
            .enable_push(false)
            .handshake(stream)
            .await?;
        tokio::spawn(run(connection, KEEP_ALIVE));
        Ok(Self { calls, budget })
    }

    /// The same, without a budget.
    pub(crate) fn unbounded(&self) -> Self {
        Self { calls: self.calls.clone(), budget: None }
    }
}

/// Runs the connection until it ends, or until a probe has no answer in time: one is sent each `every`. Who
/// calls hears why it ended.
async fn run<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<T, Bytes>,
    every: Duration,
) {
    let pings = connection.ping_pong();
    tokio::select! {
        _ended = connection => {}
        () = probe(pings, every) => {}
    }
}

/// Until a probe has no answer.
async fn probe(pings: Option<PingPong>, every: Duration) {
    let Some(mut pings) = pings else { return };
    loop {
        sleep(every).await;
        let Ok(Ok(_)) = timeout(every, pings.ping(Ping::opaque())).await else { return };
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

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http_body_util::Full;
    use tokio::io::{AsyncReadExt as _, DuplexStream, ReadBuf, duplex};

    use super::*;

    /// The longest that something may take here.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Counts writes.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, into)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    /// Sends back what it gets, and how the call ended.
    async fn echo(stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = call.unwrap();
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    answer.send_data(data, false).unwrap();
                }
                let mut ended = http::HeaderMap::new();
                ended.insert("grpc-status", 0.into());
                answer.send_trailers(ended).unwrap();
            });
        }
    }

    async fn call(wire: &mut Wire, message: Bytes) -> Result<(Bytes, bool), Status> {
        let request = http::Request::post("http://localhost/").body(Body::new(Full::new(message)));
        std::future::poll_fn(|context| wire.poll_ready(context)).await?;
        let answer = wire.call(request.unwrap()).await?.into_body().collect().await?;
        let ended = answer.trailers().is_some_and(|ended| ended.contains_key("grpc-status"));
        Ok((answer.to_bytes(), ended))
    }

    #[tokio::test]
    async fn a_call_is_one_write() {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(echo(far));
        let writes = Arc::new(AtomicUsize::new(0));
        let near = Counted { stream: near, writes: Arc::clone(&writes) };
        let mut wire = Wire::begin(near, None).await.unwrap();
        let message = Bytes::from_static(&[7; 400]);
        let answer = (message.clone(), true);
        // The first one comes with the settings of both ends.
        assert_eq!(call(&mut wire, message.clone()).await.unwrap(), answer);
        let before = writes.load(Ordering::Relaxed);
        assert_eq!(call(&mut wire, message).await.unwrap(), answer);
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
    }

    #[tokio::test]
    async fn a_message_larger_than_all_windows_arrives_and_takes_its_room() {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(echo(far));
        let message = Bytes::from(vec![7; 3 * WINDOW as usize]);
        let budget = Arc::new(Budget::new(message.len()));
        let mut wire = Wire::begin(near, Some(Arc::clone(&budget))).await.unwrap();
        assert_eq!(call(&mut wire, message.clone()).await.unwrap(), (message.clone(), true));
        assert_eq!(budget.taken(), 0, "it is given back");
        // Another one holds it all.
        let none = Arc::new(Budget::new(0));
        wire.budget = Some(none);
        let refused = call(&mut wire, message.clone()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        // Only this call failed.
        assert_eq!(call(&mut wire.unbounded(), message.clone()).await.unwrap(), (message, true));
    }

    #[tokio::test]
    async fn without_an_answer_to_a_probe_the_connection_ends() {
        let (near, mut far) = duplex(64 * 1024);
        let (_calls, connection) = Builder::new().handshake::<_, Bytes>(near).await.unwrap();
        run(connection, Duration::from_millis(20)).await;
        // Closed, after the preface, the settings and the probe, to which nothing was said.
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        assert!(said.starts_with(b"PRI * HTTP/2.0"), "{said:?}");
    }

    /// What an agent that means harm does once.
    async fn meet(far: DuplexStream, settings: &h2::server::Builder) -> Option<()> {
        let mut connection = settings.handshake::<_, Bytes>(far).await.ok()?;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            // It answers at once, and reads nothing of what is sent.
            let mut answer = http::Response::new(());
            answer.headers_mut().insert("grpc-status", 8.into());
            respond.send_response(answer, true).ok()?;
            drop(request);
        }
        Some(())
    }

    #[tokio::test]
    async fn an_answer_before_the_request_was_read_counts() {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move { meet(far, &h2::server::Builder::new()).await });
        let mut wire = Wire::begin(near, None).await.unwrap();
        for _ in 0..20 {
            let message = Bytes::from(vec![7; 4 * WINDOW as usize]);
            let request =
                http::Request::post("http://localhost/").body(Body::new(Full::new(message)));
            let answer = timeout(PATIENCE, wire.call(request.unwrap())).await.unwrap().unwrap();
            assert_eq!(answer.headers()["grpc-status"], "8");
        }
    }

    #[tokio::test]
    async fn an_agent_that_takes_no_call_keeps_no_connection() {
        let (near, far) = duplex(64 * 1024);
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(0);
        let met = tokio::spawn(async move { meet(far, &settings).await });
        let mut wire = Wire::begin(near, None).await.unwrap();
        // Its settings have come with the second at the latest.
        for _ in 0..2 {
            let late = timeout(Duration::from_millis(50), call(&mut wire, Bytes::new())).await;
            assert!(!matches!(late, Ok(Ok(_))), "{late:?}");
        }
        drop(wire);
        timeout(PATIENCE, met).await.expect("the connection is closed").unwrap();
    }
}
