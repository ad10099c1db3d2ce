//! Reading one host's mailbox as a whole, without a consumer: the batched direct get of NATS's
//! ADR-31.
//!
//! The library has no call for it, so the request is made here. Answers come until an empty one
//! with status 204, which says how many were left out; if it is missing, or one of the answers is,
//! the mailbox is not used.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{
    Bus, BusError,
    subject::{self, HostTag, Place},
};

/// The most bytes of a mailbox.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// The most messages of a mailbox.
const MOST: usize = 16_384;
/// The most messages of one answer. The servers refuse `multi_last` for more subjects.
const BATCH: usize = 1000;
/// The end of an answer.
const END: u16 = 204;
const NOTHING: u16 = 404;
const TOO_MANY: u16 = 413;

/// A message that stands in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub place: Place,
    /// The number of the message: higher ones came later.
    pub sequence: u64,
    /// What whoever published it says is a signed envelope.
    pub envelope: Bytes,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_last: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    batch: usize,
    max_bytes: usize,
}

/// An answer.
enum Answer {
    /// All of it, how many messages more there are, and the number of the last one.
    Whole(Vec<Stored>, u64, u64),
    /// More subjects than one answer may have.
    TooMany,
}

impl Bus {
    /// Everything that stands in a host's mailbox, and in that of every host. Listen first
    /// ([`changes`](Self::changes)), then read: what comes in between is seen twice and not missed.
    /// The server that answers may know a little less than the others.
    ///
    /// # Errors
    /// It did not come as a whole: it has to be read again.
    pub async fn mailbox(&self, host: &str) -> Result<Vec<Stored>, BusError> {
        let filters = subject::mailbox(&HostTag::of(host));
        let ask = Request {
            multi_last: Some(&filters),
            next_by_subj: None,
            seq: None,
            batch: BATCH,
            max_bytes: MOST_BYTES,
        };
        match self.ask(host, &ask).await? {
            Answer::Whole(all, 0, _) => Ok(all),
            Answer::Whole(..) | Answer::TooMany => {
                let mut all = Vec::new();
                for filter in &filters {
                    self.large(host, filter, &mut all).await?;
                }
                Ok(all)
            }
        }
    }

    /// Reads what one answer cannot hold.
    async fn large(&self, host: &str, filter: &str, all: &mut Vec<Stored>) -> Result<(), BusError> {
        let mut seq = 1;
        loop {
            let bytes: usize = all.iter().map(|stored| stored.envelope.len()).sum();
            if all.len() > MOST || bytes > MOST_BYTES {
                let why = format!("it has more than {MOST} messages or {MOST_BYTES} bytes");
                return Err(BusError::Partial { host: host.to_owned(), why });
            }
            let ask = Request {
                multi_last: None,
                next_by_subj: Some(filter),
                seq: Some(seq),
                batch: BATCH,
                max_bytes: MOST_BYTES,
            };
            match self.ask(host, &ask).await? {
                Answer::Whole(part, pending, last) => {
                    all.extend(part);
                    if pending == 0 || last < seq {
                        return Ok(());
                    }
                    seq = last.saturating_add(1);
                }
                Answer::TooMany => {
                    let why = "the servers refuse to read it".to_owned();
                    return Err(BusError::Partial { host: host.to_owned(), why });
                }
            }
        }
    }

    async fn ask(&self, host: &str, ask: &Request<'_>) -> Result<Answer, BusError> {
        let partial = |why: String| BusError::Partial { host: host.to_owned(), why };
        let inbox = self.inboxes.one();
        let mut answers = inbox.ok_or_else(|| partial("there are no random numbers".into()))?;
        let body = serde_json::to_vec(ask).map_err(|error| partial(error.to_string()))?;
        let to = format!("$JS.API.DIRECT.GET.{}", self.settings.stream);
        self.client
            .publish_with_reply(to, answers.subject.clone(), body.into())
            .await
            .map_err(|error| BusError::api("ask for a mailbox", error))?;
        let end = Instant::now() + self.settings.timeout.max(Duration::from_millis(1));
        let (mut found, mut bytes): (Vec<Stored>, usize) = (Vec::new(), 0);
        let mut last = 0;
        loop {
            let answer = match timeout_at(end, answers.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(partial("the connection ended".into())),
                Err(_) => {
                    return Err(partial(format!("no end came, after {} messages", found.len())));
                }
            };
            let status = answer.status.map(|status| status.as_u16());
            // Each message, and the end, names the number of the one before.
            if matches!(status, None | Some(END)) {
                if number(&answer, "Nats-Last-Sequence") != Some(last) {
                    return Err(partial(format!("a message is missing after number {last}")));
                }
                last = number(&answer, "Nats-Sequence").unwrap_or(last);
            }
            match status {
                None => {}
                Some(END) => {
                    let pending = number(&answer, "Nats-Num-Pending").unwrap_or(0);
                    return Ok(Answer::Whole(found, pending, last));
                }
                Some(NOTHING) if found.is_empty() => return Ok(Answer::Whole(found, 0, 0)),
                Some(TOO_MANY) => return Ok(Answer::TooMany),
                Some(status) => {
                    let no_one = StatusCode::NO_RESPONDERS.as_u16();
                    let said = answer.description.unwrap_or_default();
                    let said = if status == no_one { "no server has it now".into() } else { said };
                    return Err(partial(format!("status {status} {said}")));
                }
            }
            let Some(stored) = stored(&answer) else {
                tracing::warn!(
                    host,
                    subject = header(&answer, "Nats-Subject"),
                    "no place in a mailbox"
                );
                continue;
            };
            bytes = bytes.saturating_add(answer.payload.len());
            if found.len() >= MOST || bytes > MOST_BYTES {
                return Err(partial(format!("more than {MOST_BYTES} bytes came")));
            }
            found.push(stored);
        }
    }
}

fn stored(answer: &Message) -> Option<Stored> {
    let place = Place::of(header(answer, "Nats-Subject")?)?;
    let sequence = number(answer, "Nats-Sequence")?;
    Some(Stored { place, sequence, envelope: answer.payload.clone() })
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

fn number(message: &Message, name: &str) -> Option<u64> {
    header(message, name)?.parse().ok()
}
