//! The calls that the front passed on and that have not been answered whole.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use jit_proto::v1::jit_agent_server::JitAgentServer;
use prost::bytes::Bytes;
use tokio::{sync::Semaphore, task::AbortHandle};
use tonic::{
    Status,
    body::Body,
    codegen::http::{self, Uri},
};
use tower::Service as _;

use crate::control::{
    link::{Answer as Part, Fields, Order, ToFront, pipe::Sender},
    server::{
        budget::Reserved,
        call::{Answer, Call},
        intake::{PREFIX, repeats},
        lists::Lists,
        peer::Caller,
        relay::Broken,
        service::Service,
        upstream::fields,
    },
};

/// Bytes of an answer in one message, and the most messages that the front has not passed on yet.
const PART: usize = 64 * 1024;
const WINDOW: usize = 4;

/// A call as the front passed it on.
pub(super) struct Asked {
    pub(super) call: u64,
    pub(super) path: String,
    pub(super) known: Call,
    pub(super) message: Bytes,
    /// `None`: the connection is closed already.
    pub(super) caller: Option<Caller>,
}

/// The calls that are being answered. They end when this is dropped.
pub(super) struct Answers {
    running: Running,
    gate: Sender<ToFront>,
    service: Service,
    methods: JitAgentServer<Service>,
    lists: Lists,
}

#[derive(Clone, Debug, Default)]
struct Running(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<u64, One>,
    /// Bytes of requests.
    bytes: usize,
}

#[derive(Debug)]
struct One {
    task: AbortHandle,
    /// Messages that may be sent.
    window: Arc<Semaphore>,
    bytes: usize,
}

impl Answers {
    pub(super) fn new(gate: Sender<ToFront>, service: Service) -> Self {
        let (lists, methods) = (Lists::new(service.gate().clone()), service.clone().methods());
        Self { running: Running::default(), gate, service, methods, lists }
    }

    pub(super) fn number(&self) -> usize {
        self.running.lock().calls.len()
    }

    /// Bytes of the requests that are being answered.
    pub(super) fn bytes(&self) -> usize {
        self.running.lock().bytes
    }

    /// Begins to answer a call.
    pub(super) fn begin(&self, asked: Asked) -> Result<(), Broken> {
        let (call, bytes) = (asked.call, asked.message.len());
        let window = Arc::new(Semaphore::new(WINDOW));
        let mut table = self.running.lock();
        if table.calls.contains_key(&call) {
            return Err("it used the number of a call twice");
        }
        let answering = Answering {
            call,
            running: self.running.clone(),
            gate: self.gate.clone(),
            window: Arc::clone(&window),
        };
        let (service, methods, lists) =
            (self.service.clone(), self.methods.clone(), self.lists.clone());
        // The end of the task waits for the lock: by then the call is in the table.
        let task = tokio::spawn(async move {
            match response(asked, &service, methods, &lists).await {
                Ok((response, list)) => {
                    answering.request_is_done();
                    answering.send(response).await;
                    drop(list);
                }
                Err(status) => answering.send(status.into_http()).await,
            }
        });
        table.bytes = table.bytes.saturating_add(bytes);
        table.calls.insert(call, One { task: task.abort_handle(), window, bytes });
        Ok(())
    }

    /// The front does not want this answer any more.
    pub(super) fn give_up(&self, call: u64) {
        if let Some(one) = self.running.lock().remove(call) {
            one.task.abort();
        }
    }

    /// The front has passed on a part of this answer.
    pub(super) fn taken(&self, call: u64) -> Result<(), Broken> {
        let table = self.running.lock();
        // It may have ended meanwhile.
        let Some(One { window, .. }) = table.calls.get(&call) else { return Ok(()) };
        if window.available_permits() >= WINDOW {
            return Err("it passed on more of an answer than there was");
        }
        window.add_permits(1);
        Ok(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for (_, one) in std::mem::take(&mut *self.running.lock()).calls {
            one.task.abort();
        }
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Table> {
        let Self(table) = self;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, call: u64) -> Option<One> {
        let one = self.calls.remove(&call)?;
        self.bytes = self.bytes.saturating_sub(one.bytes);
        Some(one)
    }
}

/// What the service answers.
async fn response(
    asked: Asked,
    service: &Service,
    mut methods: JitAgentServer<Service>,
    lists: &Lists,
) -> Result<(http::Response<Body>, Option<Reserved>), Status> {
    let Asked { call: _, path, known, message, caller } = asked;
    let caller = caller.ok_or_else(|| Status::unavailable("the connection is closed"))?;
    if !known.shape.fits(message.get(PREFIX..).unwrap_or_default()) {
        return Err(repeats());
    }
    // Each method asks again who may make it.
    let list = if known.answer == Answer::Long {
        let by = service.authority().authorize_any(&caller, known.needs)?;
        Some(lists.reserve(&by).await?)
    } else {
        None
    };
    let mut request = http::Request::new(Body::new(Full::from(message)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() =
        path.parse::<Uri>().map_err(|_| Status::unimplemented("the service has no such call"))?;
    request.extensions_mut().insert(caller);
    match methods.call(request).await {
        Ok(response) => Ok((response, list)),
        Err(never) => match never {},
    }
}

/// A call that is being answered. It has ended when this is dropped.
struct Answering {
    call: u64,
    running: Running,
    gate: Sender<ToFront>,
    window: Arc<Semaphore>,
}

impl Answering {
    /// The bytes of the request are not held any more.
    fn request_is_done(&self) {
        let mut table = self.running.lock();
        if let Some(one) = table.calls.get_mut(&self.call) {
            let bytes = std::mem::take(&mut one.bytes);
            table.bytes = table.bytes.saturating_sub(bytes);
        }
    }

    /// Sends an answer: as much as is ready in one message.
    async fn send(&self, response: http::Response<Body>) {
        let (head, mut body) = response.into_parts();
        let mut part = self.part();
        part.headers = Some(fields(&head.headers));
        loop {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    if part.headers.is_some() || !part.data.is_empty() {
                        self.pass(std::mem::replace(&mut part, self.part())).await;
                    }
                    body.frame().await
                }
            };
            match frame.map(|frame| frame.map(|frame| frame.into_data())) {
                Some(Ok(Ok(data))) => {
                    if !part.data.is_empty() {
                        self.pass(std::mem::replace(&mut part, self.part())).await;
                    }
                    part.data = data;
                }
                Some(Ok(Err(other))) => {
                    part.trailers = other.into_trailers().ok().map(|all| fields(&all));
                }
                Some(Err(status)) => {
                    let headers = status.into_http::<Body>();
                    part.trailers = Some(fields(headers.headers()));
                }
                None => part.trailers = Some(Fields::default()),
            }
            if part.trailers.is_some() {
                return self.pass(part).await;
            }
        }
    }

    fn part(&self) -> Part {
        Part { call: self.call, ..Part::default() }
    }

    /// Sends a part, in several if it is large.
    async fn pass(&self, mut part: Part) {
        while part.data.len() > PART {
            let data = part.data.split_to(PART);
            let headers = part.headers.take();
            self.pass_one(Part { headers, data, ..self.part() }).await;
        }
        self.pass_one(part).await;
    }

    async fn pass_one(&self, part: Part) {
        self.gate.room().await;
        if !part.data.is_empty()
            && let Ok(permit) = self.window.acquire().await
        {
            // The front gives it back.
            permit.forget();
        }
        self.gate.send(&ToFront { order: Some(Order::Answer(part)) });
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.running.lock().remove(self.call);
    }
}
