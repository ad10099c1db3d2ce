//! The service as the front has it: it takes requests in, decodes none, and passes them on to the
//! gate's process. What comes back goes to the peer as it is.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tonic::{
    Status,
    body::Body,
    codegen::http::{self, HeaderMap, HeaderName, HeaderValue},
    server::NamedService,
    transport::server::Router,
};
use tower::{
    Service,
    layer::util::{Identity as Bare, Stack},
};

use crate::{
    config::Controller,
    control::{
        link::{Answer, Called, Field, Fields, Opened, Said, ToGate, Unlinked, pipe::Sender},
        server::{
            activity::Activity,
            authority::{Authority, Trusted, Witness},
            http2::http2,
            intake::IntakeLayer,
            peer::{Caller, Linked, Who},
            places::{Places, Registered},
        },
    },
    rules::clock::BootNanos,
};

/// What connections from the network need in the front. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    gate: Sender<ToGate>,
    authority: Authority,
    places: Places,
    calls: Calls,
    next: Arc<AtomicU64>,
}

/// The calls whose answer has not come whole.
#[derive(Clone, Debug, Default)]
struct Calls(Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Answer>>>>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Answer>>> {
        let Self(calls) = self;
        calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// With nobody let in.
    pub(crate) fn new(gate: Sender<ToGate>) -> Self {
        let authority = Authority::new(Witness::Front(gate.clone()));
        let (places, calls, next) = (Places::default(), Calls::default(), Arc::default());
        Self { gate, authority, places, calls, next }
    }

    /// From now on these are the controllers, and these authorities vouch for them.
    pub(crate) fn set_controllers(&self, controllers: &[Controller], trusted: Trusted) {
        self.authority.replace(controllers, trusted);
    }

    /// Takes a part of an answer from the gate.
    pub(crate) fn take(&self, answer: Answer) {
        let (call, last) = (answer.call, answer.trailers.is_some());
        let mut calls = self.calls.lock();
        if let Some(waits) = calls.get(&call) {
            // Whoever is gone has given the call up, or is about to.
            let _gone = waits.send(answer);
        }
        if last {
            calls.remove(&call);
        }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Reports that a connection did not become a controller's.
    pub(super) fn report_failed(&self) {
        self.gate.send_if_room(&ToGate { said: Some(Said::Failed(1)) });
    }

    /// Reports that an uplink did not come to be.
    pub(super) fn report_unlinked(&self, uplink: u64, why: String) {
        self.gate.send(&ToGate { said: Some(Said::Unlinked(Unlinked { uplink, why })) });
    }

    /// Reports that a spare uplink waits to be used.
    pub(super) fn report_waiting(&self, uplink: u64) {
        self.gate.send(&ToGate { said: Some(Said::Waits(uplink)) });
    }

    /// Reports a controller's connection that was let in.
    pub(super) fn register(
        &self,
        caller: &Caller,
        connection: u64,
        uplink: Option<(u64, Activity)>,
        now: BootNanos,
    ) -> Registered {
        let Caller { who, connected } = caller;
        let chain = match who {
            Who::Certificate { chain, .. } => chain.iter().map(|one| one.to_vec().into()).collect(),
            Who::Local { .. } => Vec::new(),
        };
        let age = now.0.saturating_sub(connected.0);
        let number = uplink.as_ref().map_or(0, |(number, _)| *number);
        let opened = Opened { connection, chain, age, uplink: number };
        self.gate.send(&ToGate { said: Some(Said::Opened(opened)) });
        Registered::new(self.gate.clone(), connection, uplink)
    }

    /// The HTTP/2 server for the network.
    pub(super) fn router(self) -> Router<Stack<IntakeLayer, Bare>> {
        let intake = IntakeLayer::new(self.authority.clone(), None);
        http2().layer(intake).add_service(self)
    }

    fn begin(&self, place: u64, path: &str, message: prost::bytes::Bytes) -> Waiting {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, parts) = mpsc::unbounded_channel();
        self.calls.lock().insert(call, sender);
        let called = Called { call, connection: place, path: path.to_owned(), message };
        self.gate.send(&ToGate { said: Some(Said::Called(called)) });
        Waiting { call, parts, upstream: self.clone(), ended: false }
    }
}

impl NamedService for Upstream {
    const NAME: &'static str = "jit.v1.JitAgent";
}

impl Service<http::Request<Body>> for Upstream {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let upstream = self.clone();
        Box::pin(async move {
            let answer = upstream.pass_on(request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Upstream {
    async fn pass_on(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let connection = head.extensions.get::<Linked>().and_then(|linked| linked.connection);
        let connection =
            connection.ok_or_else(|| Status::internal("a connection without a place"))?;
        // The intake has taken it in.
        let message = body.collect().await?.to_bytes();
        let mut waiting = self.begin(connection, head.uri.path(), message);
        let Answer { headers, data, trailers, call: _ } = waiting.next().await?;
        let headers = headers.ok_or_else(|| Status::internal("an answer without a beginning"))?;
        let body = if data.is_empty() && trailers.as_ref().is_some_and(|all| all.all.is_empty()) {
            // "Trailers-Only" (gRPC over HTTP/2): the headers end the stream. Other libraries take no
            // DATA frame after them.
            Body::empty()
        } else {
            let first = Answer { data, trailers, ..Answer::default() };
            Body::new(StreamBody::new(stream::unfold((waiting, Some(first)), next_frame)))
        };
        let mut response = http::Response::new(body);
        *response.headers_mut() = header_map(&headers);
        Ok(response)
    }
}

/// A call that waits for its answer. It is given up when this is dropped.
struct Waiting {
    call: u64,
    parts: mpsc::UnboundedReceiver<Answer>,
    upstream: Upstream,
    /// The last part has come.
    ended: bool,
}

impl Waiting {
    async fn next(&mut self) -> Result<Answer, Status> {
        let gone = || Status::unavailable("the gate does not answer any more");
        let answer = self.parts.recv().await.ok_or_else(gone)?;
        self.ended = answer.trailers.is_some();
        Ok(answer)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.ended {
            self.upstream.calls.lock().remove(&self.call);
            self.upstream.gate.send(&ToGate { said: Some(Said::Cancelled(self.call)) });
        }
    }
}

type Piece = Result<Frame<prost::bytes::Bytes>, Status>;

/// The next frame of an answer: what is left of its present part, or the next part.
async fn next_frame(
    (mut waiting, part): (Waiting, Option<Answer>),
) -> Option<(Piece, (Waiting, Option<Answer>))> {
    let mut part = part?;
    loop {
        if !part.data.is_empty() {
            let data = std::mem::take(&mut part.data);
            let taken = Said::Taken(waiting.call);
            waiting.upstream.gate.send(&ToGate { said: Some(taken) });
            return Some((Ok(Frame::data(data)), (waiting, Some(part))));
        }
        if let Some(trailers) = part.trailers {
            let frame = Frame::trailers(header_map(&trailers));
            return (!trailers.all.is_empty()).then_some((Ok(frame), (waiting, None)));
        }
        part = match waiting.next().await {
            Ok(part) => part,
            Err(status) => return Some((Err(status), (waiting, None))),
        };
    }
}

/// The fields of a header or a trailer for the other process.
pub(super) fn fields(headers: &HeaderMap) -> Fields {
    let field = |(name, value): (&HeaderName, &HeaderValue)| Field {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec().into(),
    };
    Fields { all: headers.iter().map(field).collect() }
}

fn header_map(fields: &Fields) -> HeaderMap {
    let parsed = fields.all.iter().filter_map(|Field { name, value }| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    parsed.collect()
}
