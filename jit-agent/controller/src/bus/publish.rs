//! Publishing what is signed for a host.
//!
//! A grant is only put where nothing stands: a late copy of it cannot cover the revocation that has
//! taken its place. A revocation takes the place of whatever stands there. A policy only takes that
//! of one with a lower version, which the servers compare by the number of the message that was
//! read before.

use std::time::{Duration, Instant};

use async_nats::{
    HeaderMap,
    jetstream::{
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
        stream::LastRawMessageErrorKind,
    },
};
use bytes::Bytes;
use jit_proto::{WallTime, mailbox::Piece, merkle::Hash};

use super::{
    Bus, BusError,
    nats::share,
    stream::LONGEST,
    subject::{Place, Slot, To},
};

/// What sort of piece a message has; only whoever publishes reads it.
const KIND: &str = "Jit-Kind";
/// The version of the policy in a message.
const VERSION: &str = "Jit-Version";
const MESSAGE_ID: &str = "Nats-Msg-Id";
const REVOCATION: &str = "revocation";
/// Room in a message for its headers, bytes.
const HEADERS: usize = 4096;

/// What is published.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Whose mailbox.
    pub to: To,
    /// What identifies the payload: [`jit_proto::mailbox::item`].
    pub item: Hash,
    /// What it is.
    pub piece: Piece,
    /// The signed envelope.
    pub envelope: Bytes,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It stands there now.
    Acknowledged,
    /// It was there already, or what has taken its place.
    Standing,
}

/// What stands at a place.
struct Standing {
    sequence: u64,
    headers: HeaderMap,
}

impl Bus {
    /// Publishes a letter, and waits until the servers have acknowledged it, or what has taken its
    /// place. It is published again for [`Settings::patience`](super::Settings::patience). Hubs
    /// that listen get it also when it stood there already.
    ///
    /// # Errors
    /// It is too large, its time has ended, or it was not acknowledged: it may stand there all the same.
    pub async fn publish(&self, letter: &Letter, now: WallTime) -> Result<Published, BusError> {
        let most = usize::try_from(LONGEST).unwrap_or(0) - HEADERS;
        let size = letter.envelope.len();
        if size > most {
            return Err(BusError::TooLarge { what: "the envelope", size, most });
        }
        let mut done = Published::Standing;
        for place in Place::all_of(&letter.to, &letter.item, &letter.piece) {
            if self.place(letter, &place, now).await? == Published::Acknowledged {
                done = Published::Acknowledged;
            }
        }
        Ok(done)
    }

    async fn place(
        &self,
        letter: &Letter,
        place: &Place,
        now: WallTime,
    ) -> Result<Published, BusError> {
        let subject = place.to_string();
        let id = format!("{}@{subject}", hex::encode(letter.item));
        let begun = Instant::now();
        for attempt in 0_u32.. {
            let last = match (&letter.piece, attempt) {
                (Piece::Grant { .. }, _) => Some(0),
                (Piece::Policy { version }, _) => match self.standing(&subject).await? {
                    Some(standing) if standing.version() >= Some(*version) => {
                        return Ok(Published::Standing);
                    }
                    standing => Some(standing.map_or(0, |standing| standing.sequence)),
                },
                (Piece::Revocation { .. }, _) => None,
            };
            let message = self.message(letter, &id, last, now)?;
            let error = match self.acknowledged(&subject, message).await {
                Some(Ok(true)) => return Ok(Published::Standing),
                Some(Ok(false)) => return Ok(Published::Acknowledged),
                Some(Err(error)) => error,
                None if begun.elapsed() < self.settings.patience => continue,
                None => PublishErrorKind::BrokenPipe.into(),
            };
            match error.kind() {
                PublishErrorKind::WrongLastSequence if place.is_grant() => {
                    // Nothing there: it has just ended, or a server knows less; the next attempt
                    // finds out.
                    if let Some(standing) = self.standing(&subject).await? {
                        let same = standing.is(MESSAGE_ID, &id);
                        return match same || standing.is(KIND, REVOCATION) {
                            true => Ok(Published::Standing),
                            false => Err(BusError::Covered { subject }),
                        };
                    }
                }
                PublishErrorKind::MaxPayloadExceeded => {
                    return Err(BusError::api("publish", error));
                }
                PublishErrorKind::WrongLastSequence
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::Other
                | PublishErrorKind::StreamNotFound
                | PublishErrorKind::TimedOut
                | PublishErrorKind::WrongLastMessageId => {}
            }
            if begun.elapsed() >= self.settings.patience {
                return Err(BusError::api("publish", error));
            }
            let longest = Duration::from_millis(50) * (1 << attempt.min(4));
            tokio::time::sleep(longest.mul_f64(share())).await;
        }
        unreachable!("the time to try has an end")
    }

    /// Whether it came twice. `None`: the connection was made anew meanwhile. What was under way on the one
    /// before may be lost.
    async fn acknowledged(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Option<Result<bool, PublishError>> {
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        let acknowledged = async {
            let sent = self.context.send_publish(subject.to_owned(), message).await?;
            sent.await.map(|acknowledgement| acknowledgement.duplicate)
        };
        tokio::select! {
            done = acknowledged => Some(done),
            Ok(()) = renewed.changed() => None,
        }
    }

    fn message(
        &self,
        letter: &Letter,
        id: &str,
        last: Option<u64>,
        now: WallTime,
    ) -> Result<PublishMessage, BusError> {
        let mut message = PublishMessage::build()
            .payload(letter.envelope.clone())
            .message_id(id)
            .expected_stream(&self.settings.stream);
        if let Some(last) = last {
            message = message.expected_last_subject_sequence(last);
        }
        let end = match &letter.piece {
            Piece::Grant { not_after, .. } => {
                message = message.header(KIND, "grant");
                Some(*not_after)
            }
            Piece::Policy { version } => {
                message = message.header(KIND, "policy").header(VERSION, version.to_string());
                None
            }
            Piece::Revocation { keep_until, .. } => {
                message = message.header(KIND, REVOCATION);
                Some(*keep_until)
            }
        };
        match end {
            Some(end) => {
                Ok(message.ttl(left(end, self.settings.skew, now).ok_or(BusError::Ended)?))
            }
            None => Ok(message),
        }
    }

    /// What the servers' leader has at this place.
    async fn standing(&self, subject: &str) -> Result<Option<Standing>, BusError> {
        let begun = Instant::now();
        let stream = self.context.get_stream_no_info(&self.settings.stream).await;
        let stream = stream.map_err(|error| BusError::api("name the stream", error))?;
        loop {
            match stream.get_last_raw_message_by_subject(subject).await {
                Ok(found) => {
                    let (sequence, headers) = (found.sequence, found.headers);
                    return Ok(Some(Standing { sequence, headers }));
                }
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                    return Ok(None);
                }
                // While there is no leader nobody answers.
                Err(error) if begun.elapsed() >= self.settings.patience => {
                    return Err(BusError::api("read what stands in a place", error));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100).mul_f64(share())).await,
            }
        }
    }
}

impl Place {
    const fn is_grant(&self) -> bool {
        matches!(self.slot, Slot::Grant(_))
    }
}

impl Standing {
    fn is(&self, header: &str, value: &str) -> bool {
        self.headers.get(header).is_some_and(|found| found.as_str() == value)
    }

    fn version(&self) -> Option<u64> {
        self.headers.get(VERSION)?.as_str().parse().ok()
    }
}

/// The time that a message has left, whole seconds; `None`: none.
fn left(end: WallTime, skew: Duration, now: WallTime) -> Option<Duration> {
    let skew = i64::try_from(skew.as_millis()).unwrap_or(i64::MAX);
    let left = end.0.saturating_add(skew).saturating_sub(now.0);
    let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
    Some(Duration::from_secs(left.div_ceil(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_until_its_end_and_the_skew_of_clocks() {
        let skew = Duration::from_secs(60);
        let left = |end| left(WallTime(end), skew, WallTime(1_000_000));
        assert_eq!(left(1_010_000), Some(Duration::from_secs(70)));
        assert_eq!(left(1_000_001), Some(Duration::from_secs(61)), "never shorter");
        assert_eq!(left(940_001), Some(Duration::from_secs(1)));
        assert_eq!(left(940_000), None, "0 would be without an end");
        assert_eq!(left(i64::MIN), None);
    }
}
