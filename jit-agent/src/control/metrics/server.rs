//! HTTP for scrapes. A peer has one request a connection and a fixed time for all of it, so one that
//! hangs holds a place for that time and nothing else.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prost::bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::control::{
    metrics::{
        Listener,
        scrape::{self, Asked},
    },
    server::Service,
};

/// The path of the metrics.
const PATH: &str = "/metrics";
/// Largest number of connections. More of them wait in the kernel.
const MAX_CONNECTIONS: usize = 8;
/// Longest time of a connection, from its acceptance to the last byte of the answer.
const LONGEST: Duration = Duration::from_secs(5);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after an error of accept, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(500);

/// Serves scrapes for as long as it is polled.
pub(crate) async fn serve(listener: &Listener, service: Service) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (pages, asked) = mpsc::channel(MAX_CONNECTIONS);
    // It ends with the last connection.
    tokio::spawn(scrape::make(service, asked));
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| boxed(stream)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| boxed(stream)),
        };
        match accepted {
            Ok(stream) => answer(stream, place, pages.clone()),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A connection of either kind. So the machinery of HTTP is compiled once.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

fn boxed(stream: impl Stream + 'static) -> Box<dyn Stream> {
    Box::new(stream)
}

/// Serves one connection in a task of its own.
fn answer(stream: Box<dyn Stream>, place: OwnedSemaphorePermit, pages: mpsc::Sender<Asked>) {
    let service = service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(respond(&request, &pages).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::spawn(async move {
        // A peer that is gone, late or wrong has lost nothing but its scrape.
        let _ended = timeout(LONGEST, connection).await;
        drop(place);
    });
}

async fn respond(
    request: &Request<Incoming>,
    pages: &mpsc::Sender<Asked>,
) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, Bytes::from_static(b"the metrics are at /metrics\n"));
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, Bytes::from_static(b"only GET\n"));
    }
    let (reply, made) = oneshot::channel();
    let _gone = pages.send(reply).await;
    match made.await.unwrap_or(Err("the agent is ending\n")) {
        Ok(page) => text(StatusCode::OK, page),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(why.as_bytes())),
    }
}

fn text(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
