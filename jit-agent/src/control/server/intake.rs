//! Every request is taken in whole before anything of it is decoded: who asks is checked first, then
//! its bytes are counted against a budget, its time is limited, and its repeated fields are counted.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant as Deadline, timeout_at};
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};

use crate::control::server::{
    activity::{OpenCall, Stage},
    authority::Authority,
    budget::{Budget, Reserved},
    call::{Answer, Call, MAX_MESSAGE_BYTES},
    lists::Lists,
    peer::Linked,
};

/// Longest time for the bytes of a request to arrive.
const ARRIVAL: Duration = Duration::from_secs(15);
/// Requests up to this size need no reservation: every question and every revocation. What they can
/// take is bounded by the number of connections and calls.
pub(super) const SMALL: usize = 16 * 1024;
/// Bytes of requests at once: of one peer, and of all. A request is in memory up to three times
/// while it is decoded.
const BYTES_OF_PEER: usize = 3 * MAX_MESSAGE_BYTES;
pub(super) const BYTES_OF_ALL: usize = 12 * MAX_MESSAGE_BYTES;
/// Before each message: one byte of flags, four of its length (gRPC over HTTP/2).
pub(super) const PREFIX: usize = 5;

/// Puts the intake before the service.
#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    authority: Authority,
    bytes: Budget,
    /// `None`: the service does not decode requests, but passes them on.
    lists: Option<Lists>,
}

impl IntakeLayer {
    /// With budgets of its own.
    pub(super) fn new(authority: Authority, lists: Option<Lists>) -> Self {
        let bytes = Budget::new(kib(BYTES_OF_PEER), kib(BYTES_OF_ALL));
        Self { authority, bytes, lists }
    }
}

impl<S> Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { rules: self.clone(), inner }
    }
}

/// Takes in requests for the service behind it.
#[derive(Clone, Debug)]
pub(super) struct Intake<S> {
    rules: IntakeLayer,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Intake<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let rules = self.rules.clone();
        Box::pin(async move {
            match rules.take(request).await {
                Ok(Taken { request, open, list, bytes, after }) => {
                    let answer = inner.call(request).await?;
                    drop(bytes);
                    open.enter(after, Instant::now());
                    Ok(answer.map(|body| until_taken(body, (open, list))))
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// A request that was taken in, and what it holds.
struct Taken {
    request: http::Request<Body>,
    open: OpenCall,
    list: Option<Reserved>,
    bytes: Option<Reserved>,
    /// The stage when it is answered.
    after: Stage,
}

impl IntakeLayer {
    async fn take(&self, request: http::Request<Body>) -> Result<Taken, Status> {
        let linked = request.extensions().get::<Linked>().cloned();
        let Linked { caller, activity, connection: _ } =
            linked.ok_or_else(|| Status::internal("a connection without a caller"))?;
        let open = activity.begin(Instant::now());
        let (mut head, body) = request.into_parts();
        let call = Call::of(head.uri.path())
            .ok_or_else(|| Status::unimplemented("the service has no such call"))?;
        // Before a byte is read: nothing of a peer that may not make this call is held in memory.
        let by = self.authority.authorize_any(&caller, call.needs)?;
        let (message, bytes) = self.read(body, &call, &by).await?;
        let after = match call.answer {
            Answer::Short | Answer::Long => Stage::Answering,
            Answer::Endless => Stage::Watching,
        };
        let mut list = None;
        if let Some(lists) = &self.lists {
            if !call.shape.fits(message.get(PREFIX..).unwrap_or_default()) {
                return Err(repeats());
            }
            if call.answer == Answer::Long {
                list = Some(lists.reserve(&by).await?);
            }
        }
        // A list that is passed on may wait for its turn: until it is answered it can give way.
        if self.lists.is_some() || call.answer != Answer::Long {
            open.enter(Stage::Working, Instant::now());
        }
        head.extensions.insert(caller);
        let request = http::Request::from_parts(head, Body::new(Full::from(message)));
        Ok(Taken { request, open, list, bytes, after })
    }

    /// The bytes of a request. What is more than a small request needs a reservation.
    async fn read(
        &self,
        mut body: Body,
        call: &Call,
        by: &str,
    ) -> Result<(Vec<u8>, Option<Reserved>), Status> {
        let mut deadline = Deadline::now() + ARRIVAL;
        let (mut bytes, mut reserved, mut room) = (Vec::new(), None, call.largest);
        loop {
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| late())?;
            let Some(frame) = frame else { return Ok((bytes, reserved)) };
            let Ok(data) = frame?.into_data() else { continue };
            let length = bytes.len() + data.len();
            let grows = length > SMALL && reserved.is_none();
            if grows {
                room = announced(&bytes).unwrap_or(room).min(room);
            }
            if length > room {
                return Err(Status::out_of_range(format!(
                    "length limit exceeded: this request may have {room} bytes"
                )));
            }
            if grows {
                reserved = Some(self.bytes.reserve_soon(by, kib(room), "large requests").await?);
                bytes.reserve_exact(room.saturating_sub(bytes.len()));
                deadline = Deadline::now() + ARRIVAL;
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// The size that a request announces, with its prefix.
fn announced(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()?.checked_add(PREFIX)
}

/// The answer to a request that would take too much memory.
pub(super) fn repeats() -> Status {
    Status::invalid_argument("the request repeats a field too often; send it in several parts")
}

fn late() -> Status {
    let seconds = ARRIVAL.as_secs();
    Status::deadline_exceeded(format!("the request did not arrive within {seconds} s"))
}

/// The body of an answer. What it holds is dropped when the peer has taken it, or has gone.
fn until_taken(body: Body, held: (OpenCall, Option<Reserved>)) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &held;
        frame
    }))
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_how_long_it_is() {
        assert_eq!(announced(&[0, 0, 0, 1]), None);
        assert_eq!(announced(&[0, 0, 0, 1, 2]), Some(263));
        assert_eq!(announced(&[0, 0x40, 0, 0, 0, 9, 9]), Some(0x4000_0005));
    }
}
