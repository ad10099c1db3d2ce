//! A bot in a channel of Slack: one message a request, which is changed in place.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header::RETRY_AFTER, redirect::Policy};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    courier::{Service, Trouble},
    news::About,
    settings::Slack,
    slack,
};
use crate::{clock::now_ms, desk::Desk, secret, store::Message};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Errors after which the message itself is not possible: no attempt changes that.
const HOPELESS: [&str; 5] =
    ["invalid_arguments", "invalid_blocks", "invalid_blocks_format", "msg_too_long", "no_text"];
/// Errors after which a message can no longer be changed.
const GONE: [&str; 4] =
    ["cant_update_message", "channel_not_found", "edit_window_closed", "message_not_found"];

/// A bot in a channel.
pub struct Bot {
    name: String,
    channel: String,
    api: Url,
    token: Zeroizing<String>,
    client: Client,
}

/// What Slack answers.
#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    ts: String,
}

impl Bot {
    /// The bot of this section of the configuration.
    ///
    /// # Errors
    /// The file with its token cannot be read.
    pub fn new(settings: &Slack) -> Result<Self, String> {
        // Of several in one process the first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none()).timeout(ANSWER).build();
        let Slack { name, channel, token_file, api } = settings;
        Ok(Self {
            name: format!("slack:{name}"),
            channel: channel.clone(),
            api: api.clone(),
            token: secret::read(token_file)?,
            client: client.map_err(|error| format!("[[messages.slack]] {name}: {error}"))?,
        })
    }

    async fn call(&self, method: &str, mut message: Value, more: Value) -> Result<Answer, Trouble> {
        if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
            message.extend(more);
        }
        let url = self.api.join(method).map_err(|why| why.to_string())?;
        let call = self.client.post(url).bearer_auth(self.token.as_str());
        let call = call.header("content-type", "application/json; charset=utf-8");
        let answer = call.body(message.to_string()).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = seconds.and_then(|seconds| seconds.parse::<u32>().ok()).unwrap_or(30);
            let pause = Some(Duration::from_secs(seconds.into()));
            return Err(Trouble { text: "it asks for a pause".into(), pause });
        }
        if !status.is_success() {
            return Err(format!("{method}: it answered {status}").into());
        }
        let answer: Result<Answer, _> = answer.json().await;
        answer.map_err(|error| format!("{method}: {}", error.without_url()).into())
    }

    /// Posts a message. `None`: it is not possible, and the log says so.
    async fn post(&self, message: Value) -> Result<Option<Answer>, Trouble> {
        let to = json!({ "channel": self.channel });
        let answer = self.call("chat.postMessage", message, to).await?;
        match answer.ok {
            true => Ok(Some(answer)),
            false if HOPELESS.contains(&answer.error.as_str()) => {
                tracing::error!("{}: a message is left out: {}", self.name, answer.error);
                Ok(None)
            }
            false => Err(format!("chat.postMessage: {}", answer.error).into()),
        }
    }

    /// Changes a message. `None`: there is none any more.
    async fn change(&self, before: &Message, message: Value) -> Result<Option<Answer>, Trouble> {
        let which = json!({ "channel": before.place, "ts": before.stamp });
        let answer = self.call("chat.update", message, which).await?;
        match answer.ok {
            true => Ok(Some(answer)),
            false if GONE.contains(&answer.error.as_str()) => Ok(None),
            false => Err(format!("chat.update: {}", answer.error).into()),
        }
    }
}

impl Service for Bot {
    fn name(&self) -> &str {
        &self.name
    }

    async fn say(&self, desk: &Desk, about: &About) -> Result<(), Trouble> {
        let (whole, card) = match about {
            About::Record(card) => {
                self.post(slack::message(card)).await?;
                return Ok(());
            }
            About::Request(whole, card) => (whole, card),
        };
        let request = &whole.request.proposal.id;
        let message = slack::message(card);
        let said = hex::encode(Sha256::digest(message.to_string()));
        let before = desk.store().message(&self.name, request).await?;
        let answer = match before {
            Some(before) if before.said == said => return Ok(()),
            Some(before) if !before.stamp.is_empty() => {
                match self.change(&before, message.clone()).await? {
                    Some(_) => Some((before.place, before.stamp)),
                    None => self.post(message).await?.map(|made| (made.channel, made.ts)),
                }
            }
            _ => self.post(message).await?.map(|made| (made.channel, made.ts)),
        };
        let (place, stamp) = answer.unwrap_or_default();
        let said = Message { said, place, stamp };
        Ok(desk.store().set_message(&self.name, request, &said, now_ms()).await?)
    }
}
