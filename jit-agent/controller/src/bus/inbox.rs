//! Where answers come that have several parts. One subscription has them all: each one of its own for a
//! question would be work for every server of the cluster, twice.
//!
//! Where the next answer comes cannot be known before: another hub, which can listen here, could have a server
//! send it something else first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::{Client, Message, SubscribeError};
use futures_util::StreamExt as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{sync::mpsc, task::JoinSet};

/// Parts that wait for who has asked. More are lost, which is seen by their numbers.
const PARTS: usize = 2048;

/// The inboxes of one connection.
pub(super) struct Inboxes {
    base: String,
    waiting: Arc<Waiting>,
    _forwards: JoinSet<()>,
}

/// Who waits for answers, by the end of their subject.
#[derive(Default)]
struct Waiting(Mutex<HashMap<String, mpsc::Sender<Message>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, part: Message) {
        let name = part.subject.rsplit('.').next().unwrap_or_default();
        let who = self.lock().get(name).cloned();
        // Nobody waits any more, or for so much.
        let _given = who.map(|who| who.try_send(part).is_ok());
    }
}

/// Where the answer to one question comes, until it is dropped.
pub(super) struct Inbox {
    /// Its subject.
    pub(super) subject: String,
    parts: mpsc::Receiver<Message>,
    name: String,
    waiting: Arc<Waiting>,
}

impl Inboxes {
    pub(super) async fn open(client: &Client) -> Result<Self, SubscribeError> {
        let base = client.new_inbox();
        let mut parts = client.subscribe(format!("{base}.*")).await?;
        let waiting = Arc::new(Waiting::default());
        let (to, mut forwards) = (Arc::clone(&waiting), JoinSet::new());
        forwards.spawn(async move {
            while let Some(part) = parts.next().await {
                to.give(part);
            }
        });
        Ok(Self { base, waiting, _forwards: forwards })
    }

    /// One for a question. `None`: the kernel gives no random numbers.
    pub(super) fn one(&self) -> Option<Inbox> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let name = hex::encode(bytes);
        let (sender, parts) = mpsc::channel(PARTS);
        self.waiting.lock().insert(name.clone(), sender);
        let subject = format!("{}.{name}", self.base);
        Some(Inbox { subject, parts, name, waiting: Arc::clone(&self.waiting) })
    }
}

impl Inbox {
    /// The next part. `None`: none comes any more.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.parts.recv().await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.name);
    }
}
