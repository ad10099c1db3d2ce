//! Taking hubs' reports. Each one comes in two ways: directly, as the hub sends it, and out of the stream,
//! where it stays until the store has it. The direct way needs no server that leads: while the servers
//! choose a leader, answers come all the same.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::jetstream::{AckKind, Message, consumer::pull};
use bytes::Bytes;
use futures_util::StreamExt as _;
use jit_proto::merkle::Hash;
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{
    Bus, BusError, Report,
    nats::share,
    report::read,
    stream::{LONGEST_REPORT, REPORTS_GROUP},
    subject::REPORTS,
};

/// The most reports that wait here for the store.
const BATCH: usize = 256;
/// Between attempts to take reports.
const AGAIN: Duration = Duration::from_secs(2);
/// For this time a report that comes the other way, too, is known to be stored.
const KNOWN: Duration = Duration::from_secs(8);
/// The most reports that are known so.
const MOST: usize = 32_768;

/// A report that stays in the stream until [`Received::stored`].
pub struct Received {
    /// What the hub says.
    pub report: Report,
    /// `None` when it was stored.
    item: Option<Hash>,
    lately: Lately,
}

/// Reports, as they come.
pub struct Reports {
    coming: mpsc::Receiver<Came>,
    lately: Lately,
    _ways: JoinSet<()>,
}

/// A report, before it is read.
struct Came {
    subject: String,
    body: Bytes,
    /// That of the stream.
    message: Option<Message>,
}

impl Bus {
    /// Takes reports from now on. Each one goes to one of all that take them, and again to one of
    /// them if it was not [stored](Received::stored) in time.
    pub fn reports(&self) -> Reports {
        let (sender, coming) = mpsc::channel(BATCH);
        let mut ways = JoinSet::new();
        ways.spawn(directly(self.clone(), sender.clone()));
        ways.spawn(out_of_the_stream(self.clone(), sender));
        Reports { coming, lately: Lately::default(), _ways: ways }
    }
}

impl Reports {
    /// The next one. It waits while no server answers.
    pub async fn next(&mut self) -> Received {
        loop {
            let Some(came) = self.coming.recv().await else {
                // Both ways have ended by a defect.
                return std::future::pending().await;
            };
            let report = match read(&came.subject, &came.body) {
                Ok(report) => report,
                Err(error) => {
                    tracing::warn!(subject = came.subject, error, "a report that is none");
                    if let Some(message) = came.message {
                        drop(message.ack_with(AckKind::Term).await);
                    }
                    continue;
                }
            };
            let item: Hash = Sha256::digest(&came.body).into();
            let begun = self.lately.known().begin(item, came.message, Instant::now());
            match begun {
                Begun::New => {
                    return Received { report, item: Some(item), lately: self.lately.clone() };
                }
                Begun::Stored(Some(message)) => acknowledge(&message).await,
                Begun::Stored(None) | Begun::UnderWay => {}
            }
        }
    }
}

impl Received {
    /// The store has it: no one gets it any more. If this fails it comes again, which changes
    /// nothing.
    pub async fn stored(mut self) {
        let Some(item) = self.item.take() else { return };
        let message = self.lately.known().stored(item, Instant::now());
        if let Some(message) = message {
            acknowledge(&message).await;
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.lately.known().given_up(&item);
        }
    }
}

async fn acknowledge(message: &Message) {
    if let Err(error) = message.ack().await {
        tracing::info!(%error, "a report will come again");
    }
}

/// What has come lately, shared by all that store it.
#[derive(Clone, Default)]
struct Lately(Arc<Mutex<Known<Message>>>);

impl Lately {
    fn known(&self) -> MutexGuard<'_, Known<Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has come lately, by the SHA-256 of its bytes.
struct Known<M> {
    all: HashMap<Hash, Course<M>>,
    /// Those that are stored, the oldest first.
    stored: VecDeque<(Instant, Hash)>,
}

/// How far one is.
enum Course<M> {
    /// Somebody stores it. The message, once it has come out of the stream.
    UnderWay(Option<M>),
    Stored,
}

/// What to do with one.
#[derive(Debug, PartialEq, Eq)]
enum Begun<M> {
    New,
    UnderWay,
    /// And this message is no longer needed.
    Stored(Option<M>),
}

impl<M> Default for Known<M> {
    fn default() -> Self {
        Self { all: HashMap::new(), stored: VecDeque::new() }
    }
}

impl<M> Known<M> {
    fn begin(&mut self, item: Hash, message: Option<M>, now: Instant) -> Begun<M> {
        self.forget(now);
        match self.all.get_mut(&item) {
            Some(Course::Stored) => Begun::Stored(message),
            Some(Course::UnderWay(before)) => {
                if message.is_some() {
                    *before = message;
                }
                Begun::UnderWay
            }
            None => {
                self.all.insert(item, Course::UnderWay(message));
                Begun::New
            }
        }
    }

    /// It is stored. Returns its message, which the stream need not keep any more.
    fn stored(&mut self, item: Hash, now: Instant) -> Option<M> {
        self.stored.push_back((now, item));
        match self.all.insert(item, Course::Stored) {
            Some(Course::UnderWay(message)) => message,
            Some(Course::Stored) | None => None,
        }
    }

    /// It was not stored: it comes again.
    fn given_up(&mut self, item: &Hash) {
        self.all.remove(item);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, item)) = self.stored.front() {
            if now.saturating_duration_since(*at) < KNOWN && self.stored.len() <= MOST {
                return;
            }
            if matches!(self.all.get(item), Some(Course::Stored)) {
                self.all.remove(item);
            }
            self.stored.pop_front();
        }
    }
}

/// Takes what hubs send, as they send it. With servers that do not allow it nothing comes this way.
async fn directly(bus: Bus, coming: mpsc::Sender<Came>) {
    let longest = usize::try_from(LONGEST_REPORT).unwrap_or(0);
    loop {
        let group = REPORTS_GROUP.to_owned();
        match bus.client.queue_subscribe(format!("{REPORTS}>"), group).await {
            Ok(mut sent) => {
                while let Some(message) = sent.next().await {
                    if message.payload.len() > longest {
                        continue;
                    }
                    let (subject, body) = (message.subject.to_string(), message.payload);
                    if coming.send(Came { subject, body, message: None }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "reports of hubs do not come directly"),
        }
        sleep(AGAIN.mul_f64(share())).await;
    }
}

/// Takes what the stream keeps.
async fn out_of_the_stream(bus: Bus, coming: mpsc::Sender<Came>) {
    loop {
        match open(&bus).await {
            Ok(mut kept) => {
                while let Some(message) = kept.next().await {
                    let message = match message {
                        Ok(message) => message,
                        Err(error) => {
                            tracing::info!(%error, "reports of hubs are asked for again");
                            break;
                        }
                    };
                    let (subject, body) = (message.subject.to_string(), message.payload.clone());
                    if coming.send(Came { subject, body, message: Some(message) }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the stream gives no reports of hubs");
                sleep(AGAIN.mul_f64(share())).await;
            }
        }
    }
}

async fn open(bus: &Bus) -> Result<pull::Stream, BusError> {
    let consumer = bus.consumer().await?;
    let stream = consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .expires(Duration::from_secs(10))
        .heartbeat(Duration::from_secs(2));
    stream.messages().await.map_err(|error| BusError::api("take reports", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_both_ways_is_stored_once_and_then_leaves_the_stream() {
        let (mut known, now, item) = (Known::<u8>::default(), Instant::now(), [7; 32]);
        assert_eq!(known.begin(item, None, now), Begun::New);
        assert_eq!(known.begin(item, Some(1), now), Begun::UnderWay);
        assert_eq!(known.stored(item, now), Some(1), "the message of the other way");
        assert_eq!(known.begin(item, Some(2), now), Begun::Stored(Some(2)));
        assert_eq!(known.begin(item, None, now + KNOWN), Begun::New, "it is said again");
        known.given_up(&item);
        assert_eq!(known.begin(item, Some(3), now + KNOWN), Begun::New, "it was not stored");
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let (mut known, now) = (Known::<u8>::default(), Instant::now());
        for number in 0..u64::try_from(MOST).unwrap() + 10 {
            let item: Hash = Sha256::digest(number.to_be_bytes()).into();
            assert_eq!(known.begin(item, None, now), Begun::New);
            known.stored(item, now);
        }
        known.forget(now);
        assert_eq!((known.all.len(), known.stored.len()), (MOST, MOST));
    }
}
