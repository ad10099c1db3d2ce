//! Calls webhooks: what happened, in order, each at least once.
//!
//! A webhook's cursor into the audit is its outbox: it moves on only after a good answer. Who does not
//! answer well is tried again with growing pauses; after a day it is disabled, and that is in the audit.
//!
//! A chat gets a message of what a request has become instead of each record; a message that would
//! say the same as the last one is left out.
//!
//! A receiver of records checks `Jit-Signature: t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of
//! `SECONDS.BODY` by the webhook's secret, and that SECONDS is near its own clock.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{StreamExt as _, stream};
use reqwest::{Certificate, Client, RequestBuilder, redirect::Policy};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::json;
use tokio::{task::AbortHandle, time::timeout};
use zeroize::Zeroizing;

use super::{settings::Settings, target, view};
use crate::{
    audit::{self, Code, Line, Record},
    causes::causes,
    clock,
    desk::Desk,
    messages::{
        self,
        news::{About, Page},
    },
    model::Form,
    store::{Message, StoreError, Webhook, webhooks},
};

/// Bytes of the key from which secrets follow.
const KEY_BYTES: usize = 32;
/// Longest wait for a receiver's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for something to happen.
const IDLE: Duration = Duration::from_secs(30);
/// Webhooks that are called at once.
const AT_ONCE: usize = 16;
/// Records that are read at once for one webhook.
const CHUNK: u32 = 100;
/// Letters of a failure that are kept.
const TROUBLE: usize = 300;

/// The key from which the secret of each webhook follows, so that the database holds none.
#[derive(Clone)]
pub struct WebhookKey(hmac::Key);

impl WebhookKey {
    /// Reads the key of this file; makes it if there is none.
    ///
    /// # Errors
    /// The file cannot be read or made, or has not 32 bytes.
    pub fn open(file: &Path) -> Result<Self, String> {
        let failed =
            |why: std::io::Error| format!("the key of webhooks, {}: {why}", file.display());
        let bytes = match std::fs::read(file) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new(vec![0_u8; KEY_BYTES]);
                SystemRandom::new().fill(&mut bytes).map_err(|_| "no random bytes".to_owned())?;
                write_new(file, &bytes).map_err(failed)?;
                bytes
            }
            Err(error) => return Err(failed(error)),
        };
        if bytes.len() != KEY_BYTES {
            return Err(format!(
                "the key of webhooks, {}: it has {} bytes and not {KEY_BYTES}; restore it, or remove \
                 it and make all webhooks again",
                file.display(),
                bytes.len()
            ));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The secret of a webhook, as text.
    pub fn secret_of(&self, id: &str) -> String {
        let tag = hmac::sign(&self.0, format!("webhook:{id}").as_bytes());
        format!("whsec_{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

fn write_new(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// `t=SECONDS,v1=HEX`
pub fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    format!("t={seconds},v1={}", hex::encode(context.sign()))
}

/// Calls webhooks for as long as it lives.
pub struct Deliverer(AbortHandle);

impl Drop for Deliverer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deliverer {
    /// Calls the webhooks of this controller from now on.
    ///
    /// # Errors
    /// The file with authorities cannot be read.
    pub fn start(desk: Desk, settings: &Settings, key: WebhookKey) -> Result<Self, String> {
        let client = client(settings)?;
        let rounds = Rounds { desk, settings: settings.clone(), client, key };
        Ok(Self(tokio::spawn(Arc::new(rounds).run()).abort_handle()))
    }
}

struct Rounds {
    desk: Desk,
    settings: Settings,
    client: Client,
    key: WebhookKey,
}

impl Rounds {
    async fn run(self: Arc<Self>) {
        let mut changes = self.desk.changes();
        loop {
            changes.mark_unchanged();
            let wait = match Arc::clone(&self).round().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "webhooks wait: the database did not answer");
                    Duration::from_secs(1)
                }
            };
            // Woken by a change, or when the next one is due.
            if let Ok(Err(_)) = timeout(wait, changes.changed()).await {
                return;
            }
        }
    }

    /// Calls all that are due. Returns when the next is.
    async fn round(self: Arc<Self>) -> Result<Duration, StoreError> {
        let now_ms = clock::now_ms();
        let all = self.desk.store().webhooks().await?;
        let due = all.into_iter().filter(|webhook| webhook.enabled && webhook.next_ms <= now_ms);
        let calls = stream::iter(due).map(|webhook| {
            let this = Arc::clone(&self);
            async move { this.catch_up(webhook).await }
        });
        let done: Vec<_> = calls.buffer_unordered(AT_ONCE).collect().await;
        done.into_iter().collect::<Result<Vec<()>, _>>()?;
        let now_ms = clock::now_ms();
        let all = self.desk.store().webhooks().await?;
        let next = all.iter().filter(|webhook| webhook.enabled && webhook.next_ms > 0);
        let next = next.map(|webhook| webhook.next_ms.saturating_sub(now_ms)).min();
        let next = next.and_then(|millis| u64::try_from(millis.max(1)).ok());
        Ok(next.map_or(IDLE, Duration::from_millis).min(IDLE))
    }

    /// Says to one webhook what it has not got yet, until it fails.
    async fn catch_up(&self, mut webhook: Webhook) -> Result<(), StoreError> {
        let store = self.desk.store();
        loop {
            let lines = store.audit_after(webhook.cursor, CHUNK).await?;
            let Some(last) = lines.last().map(|line| line.seq) else { return Ok(()) };
            let mut page = Page::default();
            for line in lines {
                if !wants(&webhook, &line) {
                    continue;
                }
                let seq = line.seq;
                let said = match webhook.form {
                    Form::Generic => self.say(&webhook, line).await,
                    Form::Slack | Form::Teams => self.inform(&webhook, &mut page, &line).await,
                };
                if let Err(trouble) = said {
                    return self.failed(&webhook, &trouble).await;
                }
                store.webhook_said(&webhook.id, seq).await?;
                webhook.since_ms = 0;
                webhook.attempts = 0;
            }
            store.webhook_said(&webhook.id, last).await?;
            webhook.cursor = last;
        }
    }

    /// One record, for a program.
    async fn say(&self, webhook: &Webhook, line: Line) -> Result<(), String> {
        let mut event = view::audit(line);
        event.line = None;
        let body = serde_json::to_vec(&event).map_err(|error| error.to_string())?;
        let seconds = clock::now_ms().div_euclid(1000);
        let signature = signature(&self.key.secret_of(&webhook.id), seconds, &body);
        let call = self
            .post(webhook)?
            .header("jit-event", event.event.as_str())
            .header("jit-delivery", format!("{}-{}", webhook.id, event.seq))
            .header("jit-signature", signature);
        finish(call.body(body)).await
    }

    /// One message, for people.
    async fn inform(&self, webhook: &Webhook, page: &mut Page, line: &Line) -> Result<(), String> {
        let (store, now_ms) = (self.desk.store(), clock::now_ms());
        let site = self.settings.public_url.as_deref();
        let about = page.about(&self.desk, line, site, now_ms).await;
        let (card, request) = match about.map_err(|error| error.to_string())? {
            None => return Ok(()),
            Some(About::Record(card)) => (card, ""),
            Some(About::Request(whole, card)) => {
                let before = store.message(&webhook.id, &whole.request.proposal.id).await;
                let before = before.map_err(|error| error.to_string())?;
                if before.is_some_and(|before| before.said == card.news) {
                    return Ok(());
                }
                (card, line.request.as_str())
            }
        };
        let message = match webhook.form {
            Form::Teams => messages::teams::message(&card),
            Form::Generic | Form::Slack => messages::slack::message(&card),
        };
        finish(self.post(webhook)?.body(message.to_string())).await?;
        if request.is_empty() {
            return Ok(());
        }
        let said = Message { said: card.news, ..Message::default() };
        let kept = store.set_message(&webhook.id, request, &said, now_ms).await;
        kept.map_err(|error| error.to_string())
    }

    /// A call of a webhook, without its body.
    fn post(&self, webhook: &Webhook) -> Result<RequestBuilder, String> {
        let url = target::check(&webhook.url, self.settings.allow_private)?;
        Ok(self.client.post(url).header("content-type", "application/json"))
    }

    async fn failed(&self, webhook: &Webhook, trouble: &str) -> Result<(), StoreError> {
        let now_ms = clock::now_ms();
        let trouble = jit_proto::printable::clean(trouble, TROUBLE);
        let next_ms = now_ms.saturating_add(self.settings.webhook_retry.pause_ms(webhook.attempts));
        self.desk.store().webhook_failed(&webhook.id, &trouble, now_ms, next_ms).await?;
        let longest =
            i64::try_from(self.settings.webhook_retry.give_up.as_millis()).unwrap_or(i64::MAX);
        if webhook.since_ms == 0 || now_ms.saturating_sub(webhook.since_ms) < longest {
            return Ok(());
        }
        let since = jit_proto::WallTime(webhook.since_ms);
        let why = format!("it has failed since {since}: {trouble}");
        let mut tx = self.desk.store().begin().await?;
        if webhooks::disable(&mut tx, &webhook.id, &why).await? {
            let fields = json!({ "webhook": webhook.id, "url": webhook.url, "detail": why });
            let record = Record::new(Code::WebhookDisabled, "", "controller", fields);
            audit::append(&mut tx, now_ms, &record).await?;
            tx.commit().await?;
            self.desk.changed();
            tracing::warn!(webhook = webhook.id, why, "a webhook is not called any more");
        }
        Ok(())
    }
}

/// Makes a call. Only a good answer is good.
async fn finish(call: RequestBuilder) -> Result<(), String> {
    let answer = call.send().await.map_err(|error| causes(&error.without_url()))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
}

fn wants(webhook: &Webhook, line: &Line) -> bool {
    if webhook.events.is_empty() || webhook.events.contains(&line.code) {
        return true;
    }
    let code = Code::ALL.iter().find(|code| code.id() == line.code);
    code.is_some_and(|code| webhook.events.contains(code.name()))
}

/// The HTTP client: it follows nothing, and asks no proxy, which would reach what it must not.
fn client(settings: &Settings) -> Result<Client, String> {
    // Of several in one process the first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(ANSWER)
        .user_agent(concat!("jit-controller/", env!("CARGO_PKG_VERSION")));
    if !settings.allow_private {
        builder = builder.dns_resolver(target::Guarded::new());
    }
    if let Some(file) = &settings.webhook_ca {
        let failed = |why: String| format!("api.webhook_ca, {}: {why}", file.display());
        let pem = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        let more = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
        builder = builder.tls_certs_merge(more);
    }
    builder.build().map_err(|error| format!("the client of webhooks: {}", causes(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_another_implementation() {
        // printf '1803888000.{}' | openssl dgst -sha256 -hmac whsec_test
        assert_eq!(
            signature("whsec_test", 1_803_888_000, b"{}"),
            "t=1803888000,v1=9a70e11c44221480f119d9986a3e255fc718a838bca5ded3ca1c2430539f6c6b"
        );
    }

    #[test]
    fn the_key_is_made_once_and_read_by_nobody_else() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("webhook.key");
        let secret = WebhookKey::open(&file).unwrap().secret_of("W");
        assert_eq!(WebhookKey::open(&file).unwrap().secret_of("W"), secret);
        assert_ne!(WebhookKey::open(&file).unwrap().secret_of("X"), secret);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, b"short").unwrap();
        assert!(WebhookKey::open(&file).is_err());
    }
}
