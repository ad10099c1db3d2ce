//! What is published from now on, for all hosts of a hub: one subscription, which has no consumer
//! and keeps nothing.
//!
//! It shows what was published, also what the stream then refused, as a late copy of a grant that
//! is revoked. That does no harm: what a host holds does not depend on the order.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{
    Bus, BusError,
    subject::{self, CALLS, COMPARISONS, HostTag, MAILBOXES, Place, QUESTIONS},
};

/// Longest question, bytes.
const LONGEST: usize = 64;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This was published.
    Published {
        /// Where.
        place: Place,
        /// What whoever published it says is a signed envelope.
        envelope: Bytes,
    },
    /// A host is to compare itself with a checkpoint ([`Bus::compare`]).
    Compare {
        /// The host.
        host: HostTag,
        /// What it is asked.
        request: Bytes,
    },
    /// A host is called ([`Bus::call`]).
    Call {
        /// The host.
        host: HostTag,
        /// The call.
        call: Bytes,
    },
    /// It is asked who has this host ([`Bus::ask_for`]).
    Asked {
        /// The host.
        host: HostTag,
        /// What the answer must name.
        question: String,
    },
    /// Messages may have passed unseen: read all mailboxes again ([`Bus::mailbox`]).
    Gap,
}

/// What is published.
pub struct Changes {
    subscription: Subscriber,
    questions: Subscriber,
    comparisons: Subscriber,
    calls: Subscriber,
    gaps: watch::Receiver<u64>,
}

impl Bus {
    /// Listens to all mailboxes from now on.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn changes(&self) -> Result<Changes, BusError> {
        // First the gaps: one between these two lines is then seen.
        let mut gaps = self.gaps.clone();
        gaps.mark_unchanged();
        let subscription = self.client.subscribe(format!("{MAILBOXES}>")).await;
        let subscription =
            subscription.map_err(|error| BusError::api("listen to mailboxes", error))?;
        let questions = self.client.subscribe(format!("{QUESTIONS}*")).await;
        let questions = questions.map_err(|error| BusError::api("listen to questions", error))?;
        let comparisons = self.client.subscribe(format!("{COMPARISONS}*")).await;
        let comparisons =
            comparisons.map_err(|error| BusError::api("listen to checkpoints", error))?;
        let calls = self.client.subscribe(format!("{CALLS}*")).await;
        let calls = calls.map_err(|error| BusError::api("listen to calls", error))?;
        self.client.flush().await.map_err(|error| BusError::api("listen to mailboxes", error))?;
        Ok(Changes { subscription, questions, comparisons, calls, gaps })
    }
}

impl Changes {
    /// The next one. `None`: the connection has ended for good. Nothing is lost if this is dropped
    /// before it ends.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.gaps.changed() => return Some(Change::Gap),
                Some(asked) = self.questions.next() => {
                    let host = subject::asked(&asked.subject);
                    let question = str::from_utf8(&asked.payload).ok();
                    let question = question.filter(|text| text.len() <= LONGEST);
                    if let Some((host, question)) = host.zip(question) {
                        return Some(Change::Asked { host, question: question.to_owned() });
                    }
                }
                Some(asked) = self.comparisons.next() => {
                    if let Some(host) = subject::asked(&asked.subject) {
                        return Some(Change::Compare { host, request: asked.payload });
                    }
                }
                Some(call) = self.calls.next() => {
                    if let Some(host) = subject::asked(&call.subject) {
                        return Some(Change::Call { host, call: call.payload });
                    }
                }
                message = self.subscription.next() => {
                    let message = message?;
                    let Some(place) = Place::of(&message.subject) else {
                        tracing::warn!(subject = %message.subject, "no place in a mailbox");
                        continue;
                    };
                    return Some(Change::Published { place, envelope: message.payload });
                }
            }
        }
    }
}
