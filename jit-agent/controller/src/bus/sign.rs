//! What hubs say of themselves, and what all with the store must hear at once: it is kept nowhere, and each
//! of them gets it. The side with the store asks which hubs have a host; each that has it says so.

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use jit_proto::v1::CompareMailboxRequest;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{
    Bus, BusError, Presence,
    stream::LONGEST_REPORT,
    subject::{self, HostTag, SIGNS},
};

/// A hub is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The hub's name.
    pub hub: String,
    /// When, by its clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Hosts that are connected.
    pub hosts: u64,
    /// It ends in order: its hosts go to other hubs.
    pub ends: bool,
}

/// What a host says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The host's id.
    pub host: String,
    /// The number of the checkpoint.
    pub number: u64,
    /// The host's word.
    pub standing: String,
    /// The first of what has not arrived, hashes one after another, base64.
    pub missing: String,
}

/// What a hub says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// It is there.
    Hub(Beat),
    /// A host has compared itself with a checkpoint.
    Compared(Comparison),
    /// It has a host, and its agent has answered just now.
    Here {
        /// The question that it answers.
        question: String,
        /// The host.
        presence: Presence,
    },
}

impl Sign {
    fn subject(&self) -> String {
        let of = match self {
            Self::Hub(beat) => &beat.hub,
            Self::Compared(comparison) => &comparison.host,
            Self::Here { presence, .. } => &presence.host,
        };
        format!("{SIGNS}{}", HostTag::of(of))
    }
}

/// What hubs say, as it comes.
pub struct Signs {
    subscription: Subscriber,
}

impl Bus {
    /// Says something. Nobody acknowledges it.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn sign(&self, sign: &Sign) -> Result<(), BusError> {
        let body = serde_json::to_vec(sign).map_err(|error| BusError::api("say it", error))?;
        let said = self.client.publish(sign.subject(), body.into()).await;
        said.map_err(|error| BusError::api("say it", error))
    }

    /// Listens to what hubs say from now on.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn signs(&self) -> Result<Signs, BusError> {
        let subscription = self.client.subscribe(format!("{SIGNS}*")).await;
        let subscription = subscription.map_err(|error| BusError::api("listen to hubs", error))?;
        Ok(Signs { subscription })
    }

    /// Asks which hubs have a host.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn ask_for(&self, host: &str, question: &str) -> Result<(), BusError> {
        let subject = subject::question(&HostTag::of(host));
        let asked = self.client.publish(subject, question.to_owned().into()).await;
        asked.map_err(|error| BusError::api("ask for a host", error))
    }

    /// Has a host compare itself with a checkpoint.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn compare(
        &self,
        host: &str,
        request: &CompareMailboxRequest,
    ) -> Result<(), BusError> {
        let subject = subject::comparison(&HostTag::of(host));
        let sent = self.client.publish(subject, request.encode_to_vec().into()).await;
        sent.map_err(|error| BusError::api("bring a checkpoint", error))
    }

    /// Waits until what was said has gone out.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn flush(&self) -> Result<(), BusError> {
        self.client.flush().await.map_err(|error| BusError::api("say it", error))
    }

    /// Whether it is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

impl Signs {
    /// The next one. `None`: the connection has ended for good.
    pub async fn next(&mut self) -> Option<Sign> {
        let longest = usize::try_from(LONGEST_REPORT).unwrap_or(0);
        loop {
            let message = self.subscription.next().await?;
            if message.payload.len() > longest {
                continue;
            }
            match serde_json::from_slice::<Sign>(&message.payload) {
                Ok(sign) if sign.subject() == message.subject.as_str() => return Some(sign),
                Ok(_) | Err(_) => tracing::warn!(subject = %message.subject, "no sign of a hub"),
            }
        }
    }
}
