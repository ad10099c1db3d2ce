//! Calls to a host through the hub that has it: a closed list of them, none of which opens anything
//! that the host does not verify. They are kept nowhere; an answer that does not come in time never
//! comes.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt as _;
use jit_proto::v1;
use prost::Message;

use super::{
    Bus, BusError,
    subject::{self, ANSWERS, HostTag},
};

/// The longest call and the longest answer, bytes: a policy has at most half as many.
const LONGEST: usize = 256 * 1024;

/// A call to a host.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// What its answer names, by chance.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The hub that is to make it; others leave it.
    #[prost(string, tag = "2")]
    pub hub: String,
    /// The host's id.
    #[prost(string, tag = "3")]
    pub host: String,
    /// The connection that it is to be made over: since when the hub has it, as it has reported.
    #[prost(int64, tag = "4")]
    pub since_ms: i64,
    /// What is asked.
    #[prost(oneof = "Ask", tags = "5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub ask: Option<Ask>,
}

/// What can be asked.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// What it enforces.
    #[prost(message, tag = "5")]
    Status(v1::StatusRequest),
    /// The policy in force.
    #[prost(message, tag = "6")]
    ShowPolicy(v1::ShowPolicyRequest),
    /// What a policy would change.
    #[prost(message, tag = "7")]
    DiffPolicy(v1::DiffPolicyRequest),
    /// Puts a signed policy in force.
    #[prost(message, tag = "8")]
    PushPolicy(v1::PushPolicyRequest),
    /// Confirms the policy that is in force.
    #[prost(message, tag = "9")]
    ConfirmPolicy(v1::ConfirmPolicyRequest),
    /// Who was refused.
    #[prost(message, tag = "10")]
    Denials(v1::DenialsRequest),
    /// Has the agent make its connection anew.
    #[prost(message, tag = "11")]
    Reconnect(v1::ReconnectRequest),
    /// A request for its next certificate.
    #[prost(message, tag = "12")]
    RequestCertificate(v1::RequestCertificateRequest),
    /// Brings its next certificate.
    #[prost(message, tag = "13")]
    InstallCertificate(v1::InstallCertificateRequest),
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// The call.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The hub that has made it.
    #[prost(string, tag = "2")]
    pub hub: String,
    /// The host's id.
    #[prost(string, tag = "3")]
    pub host: String,
    /// What was said.
    #[prost(oneof = "Said", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub said: Option<Said>,
}

/// What was said to it.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// By the agent.
    #[prost(message, tag = "4")]
    Refused(Refusal),
    /// By the hub: why there is no answer now.
    #[prost(string, tag = "5")]
    Unavailable(String),
    /// By the agent.
    #[prost(message, boxed, tag = "6")]
    Status(Box<v1::StatusResponse>),
    /// By the agent.
    #[prost(message, tag = "7")]
    ShowPolicy(v1::ShowPolicyResponse),
    /// By the agent.
    #[prost(message, tag = "8")]
    DiffPolicy(v1::DiffPolicyResponse),
    /// By the agent.
    #[prost(message, tag = "9")]
    PushPolicy(v1::PushPolicyResponse),
    /// By the agent.
    #[prost(message, tag = "10")]
    ConfirmPolicy(v1::ConfirmPolicyResponse),
    /// By the agent.
    #[prost(message, tag = "11")]
    Denials(v1::DenialsResponse),
    /// The agent was asked for another connection.
    #[prost(message, tag = "12")]
    Reconnect(v1::ReconnectResponse),
    /// By the agent.
    #[prost(message, tag = "13")]
    RequestCertificate(v1::RequestCertificateResponse),
    /// By the agent.
    #[prost(message, tag = "14")]
    InstallCertificate(v1::InstallCertificateResponse),
}

/// A refusal by the agent.
#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    /// The reason word.
    #[prost(string, tag = "1")]
    pub word: String,
    /// A sentence.
    #[prost(string, tag = "2")]
    pub detail: String,
}

/// Answers to calls, as they come.
pub struct Answers {
    subscription: Subscriber,
}

impl Call {
    /// Reads one. `None`: it is none.
    pub fn read(bytes: &Bytes) -> Option<Self> {
        if bytes.len() > LONGEST {
            return None;
        }
        Self::decode(bytes.clone()).ok()
    }
}

impl Answer {
    /// Whether it can be sent.
    pub fn fits(&self) -> bool {
        self.encoded_len() <= LONGEST
    }
}

impl Bus {
    /// Sends a call.
    ///
    /// # Errors
    /// It is too long, or the connection has ended for good.
    pub async fn call(&self, call: &Call) -> Result<(), BusError> {
        let size = call.encoded_len();
        if size > LONGEST {
            return Err(BusError::TooLarge { what: "the call of a host", size, most: LONGEST });
        }
        let subject = subject::call(&HostTag::of(&call.host));
        let sent = self.client.publish(subject, call.encode_to_vec().into()).await;
        sent.map_err(|error| BusError::api("call a host", error))
    }

    /// Sends the answer to one.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn answer(&self, answer: &Answer) -> Result<(), BusError> {
        let subject = subject::answer(&HostTag::of(&answer.host));
        let sent = self.client.publish(subject, answer.encode_to_vec().into()).await;
        sent.map_err(|error| BusError::api("answer a call", error))
    }

    /// Listens to answers from now on. Who makes no calls gets none.
    ///
    /// # Errors
    /// The connection has ended for good.
    pub async fn answers(&self) -> Result<Answers, BusError> {
        let subscription = self.client.subscribe(format!("{ANSWERS}*")).await;
        let subscription = subscription.map_err(|error| BusError::api("listen to calls", error))?;
        self.flush().await?;
        Ok(Answers { subscription })
    }
}

impl Answers {
    /// The next one. `None`: the connection has ended for good.
    pub async fn next(&mut self) -> Option<Answer> {
        loop {
            let message = self.subscription.next().await?;
            if message.payload.len() > LONGEST {
                continue;
            }
            match Answer::decode(message.payload) {
                Ok(answer)
                    if subject::answer(&HostTag::of(&answer.host)) == message.subject.as_str() =>
                {
                    return Some(answer);
                }
                Ok(_) | Err(_) => tracing::warn!(subject = %message.subject, "no answer of a host"),
            }
        }
    }
}
