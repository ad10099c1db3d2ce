//! What hubs report: hosts' answers, and which hosts they have. The side with the store takes each
//! report out of the stream when the store has it ([`Bus::reports`]).
//!
//! A hub that is broken into can lie in reports, also about hosts that it does not have: they are
//! what the hub says, no proof. What a host must have received is proven to the host itself, by
//! checkpoints.

use std::{future::IntoFuture as _, time::Duration};

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    Bus, BusError,
    stream::LONGEST_REPORT,
    subject::{self, HostTag},
};

/// A report is sent again after these times without an acknowledgement.
const SENT_AGAIN: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Characters of an answer's sentence.
const DETAIL: usize = 2048;

/// A host's answer to an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The host's id.
    pub host: String,
    /// The item that it answers to, hex; empty: the host says it by itself.
    pub item: String,
    /// The grant that it is about; empty: none by its id.
    pub grant: String,
    /// Whether the item ends the grant.
    pub ends: bool,
    /// What became of it: a word of the store's answers, or [`Outcome::NOT_NOW`].
    pub answer: String,
    /// The reason word.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// When it answered, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Outcome {
    /// The host could not take it at this moment; `detail` says why.
    pub const NOT_NOW: &'static str = "not_now";
}

/// A hub has a host, or has it no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The host's id.
    pub host: String,
    /// The hub's name.
    pub hub: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when the connection is or was there, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// When that was seen, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// From where the host has connected.
    pub peer: String,
    /// The most important of its status: a `jit.v1.StatusResponse` in base64; empty: not connected.
    pub status: String,
    /// Why two machines are this host, in words; empty: one is.
    pub rival: String,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A host has answered.
    Answer(Outcome),
    /// A host has come or gone.
    Presence(Presence),
}

impl Report {
    fn host(&self) -> &str {
        match self {
            Self::Answer(Outcome { host, .. }) | Self::Presence(Presence { host, .. }) => host,
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Presence(_) => "presence",
        }
    }
}

impl Bus {
    /// Reports, and waits until the servers have acknowledged it. Until then it is sent again after short
    /// times, and at once when the connection was made anew: what was under way is lost with the old one. The
    /// same report again within two minutes counts once.
    ///
    /// # Errors
    /// It is too long, or was not acknowledged: report it again.
    pub async fn report(&self, report: &Report) -> Result<(), BusError> {
        let mut report = report.clone();
        if let Report::Answer(outcome) = &mut report
            && let Some((at, _)) = outcome.detail.char_indices().nth(DETAIL)
        {
            outcome.detail.truncate(at);
        }
        let body = serde_json::to_vec(&report).map_err(|error| BusError::api("report", error))?;
        // Room for the headers.
        let most = usize::try_from(LONGEST_REPORT).unwrap_or(0) - 1024;
        if body.len() > most {
            return Err(BusError::TooLarge { what: "the report", size: body.len(), most });
        }
        let subject = subject::report(&HostTag::of(report.host()), report.kind());
        let message = PublishMessage::build()
            .message_id(hex::encode(Sha256::digest(&body)))
            .expected_stream(self.reports_stream())
            .payload(Bytes::from(body));
        let mut renewed = self.renewed.clone();
        let mut last = None;
        for pause in SENT_AGAIN {
            renewed.mark_unchanged();
            let one = async {
                let sent = self.context.send_publish(subject.clone(), message.clone()).await?;
                sent.into_future().await
            };
            let acknowledged = async {
                match timeout(pause, one).await {
                    Ok(Ok(_)) => return true,
                    // While nobody leads, servers refuse at once.
                    Ok(Err(error)) => last = Some(error),
                    Err(_) => return false,
                }
                tokio::time::sleep(pause).await;
                false
            };
            tokio::select! {
                done = acknowledged => if done { return Ok(()) },
                Ok(()) = renewed.changed() => {}
            }
        }
        let why =
            last.map_or_else(|| "no server acknowledges it".to_owned(), |why| why.to_string());
        Err(BusError::api("report", why))
    }
}

/// What a message says, if its subject is that of the host and the kind in it.
pub(super) fn read(subject: &str, body: &[u8]) -> Result<Report, String> {
    let report: Report = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let tag = HostTag::of(report.host());
    if subject::reported(subject).as_ref() != Some(&tag)
        || subject != subject::report(&tag, report.kind())
    {
        return Err("it is about another host or of another kind than its subject says".to_owned());
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_only_under_its_own_subject() {
        let report = Report::Presence(Presence {
            host: "web-1".into(),
            hub: "hub-a".into(),
            connected: true,
            since_ms: 5,
            at_ms: 6,
            peer: "192.0.2.1:4".into(),
            status: String::new(),
            rival: String::new(),
        });
        let body = serde_json::to_vec(&report).unwrap();
        let subject = |host, kind| subject::report(&HostTag::of(host), kind);
        assert_eq!(read(&subject("web-1", "presence"), &body), Ok(report));
        for bad in [subject("web-2", "presence"), subject("web-1", "answer"), "x".into()] {
            assert!(read(&bad, &body).is_err(), "{bad}");
        }
        assert!(read(&subject("web-1", "presence"), b"{}").is_err());
    }
}
