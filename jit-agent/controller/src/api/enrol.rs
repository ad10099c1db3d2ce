//! What a machine calls that has no certificate yet. It has no token of the API either: what it
//! sends is the proof. So it is bounded: in bytes, and in calls of a network and of all.

use std::time::Duration;

use axum::{
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::Response,
};
use jit_client::controller::types::{EnrolmentAnswer, EnrolmentInput, NonceView};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    answer,
    enrolling::Enrolling,
    input::{Body, Call},
    problem::{Failure, Word},
    state::ApiState,
};
use crate::{
    audit::{self, Code, Record},
    clock,
    enrol::{
        ask::{self, AskError, Asked, Outcome},
        nonce,
        proof::Method,
        request::Request,
    },
    keyed::network,
};

/// Largest body of a machine, bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a machine waits at most for its certificate in one call.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the store is asked, for what another process has issued.
const LOOK: Duration = Duration::from_millis(250);
/// After this many seconds a machine that waits for a person asks again.
const AGAIN_S: u64 = 15;

/// Bodies of machines are small.
pub(super) fn limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MAX_BODY)
}

/// A nonce for a cloud to sign: it is good once, for ten minutes.
#[utoipa::path(get, path = "/api/v1/enrolments/nonce", tag = "enrolments", security(()),
    responses((status = 200, body = NonceView)))]
pub(super) async fn nonce(State(state): State<ApiState>, call: Call) -> Result<Response, Failure> {
    let enrolling = state.enrolling()?;
    enrolling.call(call.origin.address)?;
    enrolling.nonce()?;
    let now_ms = clock::now_ms();
    let mut tx = state.store().begin().await?;
    let nonce = nonce::give(&mut tx, now_ms).await?;
    tx.commit().await?;
    let view = NonceView { nonce, ends_ms: now_ms.saturating_add(nonce::VALID_MS) };
    Ok(not_stored(answer::one(&call, &view)))
}

/// A machine proves which host it is, and gets its certificate (201), or hears that a person decides
/// (202): then it sends the same again later. The same request gets the same certificate.
#[utoipa::path(post, path = "/api/v1/enrolments", tag = "enrolments", security(()),
    request_body = EnrolmentInput,
    responses((status = 201, body = EnrolmentAnswer), (status = 202, body = EnrolmentAnswer)))]
pub(super) async fn enrol(
    State(state): State<ApiState>,
    call: Call,
    Body(new): Body<EnrolmentInput>,
) -> Result<Response, Failure> {
    let enrolling = state.enrolling()?;
    enrolling.call(call.origin.address)?;
    let EnrolmentInput { csr, method, proof, host, nonce } = new;
    let request = Request::read(&csr).map_err(|why| Failure::field("csr", why.to_string()))?;
    let method = Method::of_word(&method).ok_or_else(|| {
        let words: Vec<_> = Method::ALL.into_iter().map(Method::word).collect();
        Failure::field("method", format!("{method:?} is none of {}", words.join(", ")))
    })?;
    let asked = Asked { method, proof, host, nonce };
    let now_ms = clock::now_ms();
    let opened = enrolling.opened();
    let outcome = match ask::ask(state.store(), opened, &request, &asked, now_ms).await {
        Ok(outcome) => outcome,
        Err(error) => return Err(refusal(&state, &call, &asked, error, now_ms).await),
    };
    state.desk().changed();
    let mut reply = EnrolmentAnswer::default();
    (reply.enrolment, reply.host, reply.state) = match outcome {
        Outcome::Waits { enrolment, host } => (enrolment, host, "waiting".to_owned()),
        Outcome::Issued { enrolment, host } => {
            let issued = certificate(&state, &request, now_ms, &mut reply).await?;
            (enrolment, host, if issued { "issued" } else { "issuing" }.to_owned())
        }
    };
    if reply.certificate.is_empty() {
        let mut response = answer::made(StatusCode::ACCEPTED, "/api/v1/enrolments", &reply);
        response.headers_mut().insert("retry-after", HeaderValue::from(AGAIN_S));
        return Ok(not_stored(response));
    }
    reply.ca.clone_from(&opened.hub_ca);
    reply.hubs.clone_from(&opened.hubs);
    Ok(not_stored(answer::made(StatusCode::CREATED, "/api/v1/enrolments", &reply)))
}

/// Waits for the certificate, and writes it into the answer; returns whether it came in time.
async fn certificate(
    state: &ApiState,
    request: &Request,
    now_ms: i64,
    reply: &mut EnrolmentAnswer,
) -> Result<bool, Failure> {
    let mut changes = state.desk().changes();
    let until = Instant::now() + PATIENCE;
    loop {
        changes.borrow_and_update();
        if let Some(found) = state.store().certificate_of_request(request.sha256()).await? {
            if found.not_after_ms <= now_ms {
                let detail = "the certificate of this request has ended";
                let failure = Failure::new(Word::EnrolmentRefused, detail);
                return Err(failure.next("enrol the host again, with a new key"));
            }
            reply.certificate = found.pem;
            reply.not_after_ms = found.not_after_ms;
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        let _by_the_clock = timeout_at(until.min(Instant::now() + LOOK), changes.changed()).await;
    }
}

/// Says why a machine is refused, and records it, once a minute for a network and once a second for all.
async fn refusal(
    state: &ApiState,
    call: &Call,
    asked: &Asked,
    error: AskError,
    now_ms: i64,
) -> Failure {
    let why = match error {
        AskError::Field { field, why } => return Failure::field(field, why),
        AskError::Down(why) => {
            tracing::warn!("a machine cannot enrol now: {why}");
            return Failure::new(Word::Unavailable, why).retry_after(AGAIN_S);
        }
        AskError::Store(error) => return error.into(),
        AskError::Refused(why) => why,
    };
    let failure = Failure::new(Word::EnrolmentRefused, why.clone());
    let from = network(call.origin.address).to_string();
    let word = Word::EnrolmentRefused.text();
    if state.limits().records(&from, word) && state.enrolling().is_ok_and(Enrolling::records) {
        let detail = format!("{} from {from}: {why}", asked.method.word());
        let fields = json!({ "account": "", "token": "", "word": word, "detail": detail });
        let written = async {
            let mut tx = state.store().begin().await?;
            let record = Record::new(Code::Refused, "", super::auth::NOBODY, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            state.commit(tx).await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "a refusal was not recorded");
        }
    }
    failure
}

fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
