//! Every request is taken in whole before anything of it is decoded: who asks is checked first, then
//! its bytes are counted against a budget, its time is limited, and its repeated fields are counted.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant as Deadline, timeout, timeout_at};
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};

use crate::{
    control::server::{
        activity::{OpenCall, Stage},
        authority::Authority,
        budget::{Budget, Reserved},
        call::{Answer, Call, MAX_MESSAGE_BYTES},
        peer::Linked,
    },
    gate::GateHandle,
};

/// Longest time for the bytes of a request to arrive.
const ARRIVAL: Duration = Duration::from_secs(15);
/// Longest wait for a part of a budget.
const QUEUE: Duration = Duration::from_secs(30);
/// Requests up to this size need no reservation: every question and every revocation. What they can
/// take is bounded by the number of connections and calls.
const SMALL: usize = 16 * 1024;
/// Bytes of requests at once: of one peer, and of all. A request is in memory up to three times
/// while it is decoded.
const BYTES_OF_PEER: usize = 3 * MAX_MESSAGE_BYTES;
const BYTES_OF_ALL: usize = 12 * MAX_MESSAGE_BYTES;
/// Grants in answers at once, in thousands: of one peer, and of all. A list with more than a peer's
/// takes the whole of it. A thousand take about 1 MiB while their answer is made.
const LISTED_OF_PEER: u32 = 16;
const LISTED_OF_ALL: u32 = 3 * LISTED_OF_PEER;
/// A short list counts as this many thousands.
const SHORT_LIST: u32 = 4;
/// Before each message: one byte of flags, four of its length (gRPC over HTTP/2).
const PREFIX: usize = 5;

/// Puts the intake before the service.
#[derive(Clone, Debug)]
pub(super) struct IntakeLayer {
    authority: Authority,
    bytes: Budget,
    lists: Budget,
    gate: GateHandle,
}

impl IntakeLayer {
    /// With budgets of its own.
    pub(super) fn new(authority: Authority, gate: GateHandle) -> Self {
        let bytes = Budget::new(kib(BYTES_OF_PEER), kib(BYTES_OF_ALL));
        Self { authority, bytes, lists: Budget::new(LISTED_OF_PEER, LISTED_OF_ALL), gate }
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
        let Linked { caller, activity } =
            linked.ok_or_else(|| Status::internal("a connection without a caller"))?;
        let open = activity.begin(Instant::now());
        let (mut head, body) = request.into_parts();
        let call = Call::of(head.uri.path())
            .ok_or_else(|| Status::unimplemented("the service has no such call"))?;
        // Before a byte is read: nothing of a peer that may not make this call is held in memory.
        let by = self.authority.authorize_any(&caller, call.needs)?;
        let (message, bytes) = self.read(body, &call, &by).await?;
        let content = message.get(PREFIX..).unwrap_or_default();
        if !call.shape.fits(content) {
            return Err(Status::invalid_argument(
                "the request repeats a field too often; send it in several parts",
            ));
        }
        let (list, after) = match call.answer {
            Answer::Short => (None, Stage::Answering),
            Answer::Long => {
                let share = share_of_list(self.gate.listed());
                let list = within_queue(self.lists.reserve(&by, share), "lists").await?;
                (Some(list), Stage::Answering)
            }
            Answer::Endless => (None, Stage::Watching),
        };
        open.enter(Stage::Working, Instant::now());
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
                let wait = self.bytes.reserve(by, kib(room));
                reserved = Some(within_queue(wait, "large requests").await?);
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

/// What a list of these many grants takes of the budget.
fn share_of_list(grants: usize) -> u32 {
    u32::try_from(grants.div_ceil(1000)).unwrap_or(u32::MAX).max(SHORT_LIST)
}

async fn within_queue(
    wait: impl Future<Output = Option<Reserved>>,
    what: &str,
) -> Result<Reserved, Status> {
    timeout(QUEUE, wait).await.ok().flatten().ok_or_else(|| {
        let seconds = QUEUE.as_secs();
        Status::resource_exhausted(format!(
            "too many {what} at once: no room became free within {seconds} s; try again later"
        ))
    })
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

    #[test]
    fn a_peer_has_several_short_lists_at_once_and_one_long_list() {
        let at_once = |grants| LISTED_OF_PEER / share_of_list(grants).min(LISTED_OF_PEER);
        assert_eq!([0, 1, 4_000, 8_000, 8_001, 16_000].map(at_once), [4, 4, 4, 2, 1, 1]);
        assert_eq!([100_000, usize::MAX].map(at_once), [1, 1]);
    }
}
