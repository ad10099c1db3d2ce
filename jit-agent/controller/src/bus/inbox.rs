//! Where answers come that have several parts. One subscription has them all: each one of its own for a
//! question would be work for every server of the cluster, twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Client, Message, SubscribeError};
use futures_util::StreamExt as _;
use tokio::{sync::mpsc, task::JoinSet};

/// Parts that wait for who has asked. More are lost, which is seen by their numbers.
const PARTS: usize = 2048;

/// The inboxes of one connection.
pub(super) struct Inboxes {
    base: String,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    _forwards: JoinSet<()>,
}

/// Who waits for answers, by number.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, mpsc::Sender<Message>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, part: Message) {
        let number = part.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let who = number.and_then(|number: u64| self.lock().get(&number).cloned());
        // Nobody waits any more, or for so much.
        let _given = who.map(|who| who.try_send(part).is_ok());
    }
}

/// Where the answer to one question comes, until it is dropped.
pub(super) struct Inbox {
    /// Its subject.
    pub(super) subject: String,
    parts: mpsc::Receiver<Message>,
    number: u64,
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
        Ok(Self { base, next: AtomicU64::new(0), waiting, _forwards: forwards })
    }

    /// One for a question.
    pub(super) fn one(&self) -> Inbox {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, parts) = mpsc::channel(PARTS);
        self.waiting.lock().insert(number, sender);
        let subject = format!("{}.{number}", self.base);
        Inbox { subject, parts, number, waiting: Arc::clone(&self.waiting) }
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
        self.waiting.lock().remove(&self.number);
    }
}
