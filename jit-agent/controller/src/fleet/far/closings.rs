//! Publishes the signed revocations that many hosts must hear: one for every host is one letter, which all
//! hubs have at once, and which stands there for hosts that come later. It goes out again and again until
//! all have answered; to hear it twice changes nothing at a host.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use jit_proto::{
    WallTime,
    mailbox::{Piece, Revokes, item},
    merkle::Hash,
    payload_type::REVOCATION_TYPE,
    printable::clean,
};
use prost::Message as _;
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    super::{
        FleetError,
        backoff::{Backoff, random},
    },
    Office,
};
use crate::{
    bus::{
        Letter, Outcome,
        subject::{HostTag, To},
    },
    clock::now_ms,
    desk::Desk,
    model::Answer,
    store::{Closing, ClosingAnswer, StoreError, closings::Heard},
};

/// The longest time without a look: another process may have made one.
const LOOK: Duration = Duration::from_millis(500);
/// Until one goes out again that not all have answered.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(10), most: Duration::from_secs(900) };
/// Until one goes out again that the servers have not acknowledged.
const SOON: Duration = Duration::from_secs(1);
/// Hosts for which one is published at the same time.
const AT_ONCE: usize = 256;
/// Hosts of one page.
const PAGE: u32 = 1000;
/// Answers that wait to be written, and the most of one transaction.
const WAITING: usize = 4096;
const BATCH: usize = 1024;
/// Names of hosts are read again after this time; one that is missing, sooner.
const NAMES: Duration = Duration::from_secs(60);
const MISSING: Duration = Duration::from_secs(1);
/// Longest word and sentence of an answer that is kept, characters.
const MAX_TEXT: usize = 500;

/// What is on its way, and where answers go.
pub(super) struct Closings {
    /// By what the hosts' answers name.
    known: Mutex<HashMap<Hash, String>>,
    names: Mutex<Option<(Instant, BTreeSet<String>)>>,
    heard: Sender<Waiting>,
}

/// An answer, and who waits until it is written.
pub(super) struct Waiting {
    answer: ClosingAnswer,
    written: oneshot::Sender<()>,
}

impl Closings {
    /// With the other end, for [`write`].
    pub(super) fn open() -> (Self, Receiver<Waiting>) {
        let (heard, waiting) = channel(WAITING);
        (Self { known: Mutex::default(), names: Mutex::default(), heard }, waiting)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Hash, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer, if it is one to a revocation that is on its way. A hub cannot add hosts.
    pub(super) async fn hear(&self, office: &Office, outcome: &Outcome) -> Result<(), FleetError> {
        let mut of = Hash::default();
        if hex::decode_to_slice(&outcome.item, &mut of).is_err() {
            return Ok(());
        }
        let Some(closing) = self.known().get(&of).cloned() else { return Ok(()) };
        let heard = match Answer::of_word(&outcome.answer) {
            Some(Answer::Closed) => Heard::Delivered,
            Some(Answer::Refused) => Heard::Refused,
            // It is asked again.
            Some(_) | None => return Ok(()),
        };
        if !self.is_host(office, &outcome.host).await? {
            return Ok(());
        }
        let answer = ClosingAnswer {
            closing,
            host: outcome.host.clone(),
            heard,
            word: clean(&outcome.word, MAX_TEXT),
            detail: clean(&outcome.detail, MAX_TEXT),
            answered_ms: now_ms(),
        };
        let (written, wait) = oneshot::channel();
        let gone = || FleetError::Conflict("the fleet has ended".into());
        self.heard.send(Waiting { answer, written }).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())
    }

    async fn is_host(&self, office: &Office, host: &str) -> Result<bool, StoreError> {
        let names = || self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, names)) = names().as_ref() {
            let (age, found) = (read.elapsed(), names.contains(host));
            if (found && age < NAMES) || age < MISSING {
                return Ok(found);
            }
        }
        let read: BTreeSet<_> = office.outbox.store().addresses().await?.into_keys().collect();
        let found = read.contains(host);
        *names() = Some((Instant::now(), read));
        Ok(found)
    }
}

/// Writes answers until nobody is left who could have one.
pub(super) async fn write(desk: Desk, mut waiting: Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let answers: Vec<_> = batch.iter().map(|one| one.answer.clone()).collect();
        while let Err(error) = desk.closed(&answers, now_ms()).await {
            tracing::warn!(%error, answers = answers.len(), "answers to revocations are not stored yet");
            sleep(Duration::from_secs(1)).await;
        }
        for one in batch.drain(..) {
            // Who asked may have been ended meanwhile.
            let _gone = one.written.send(());
        }
    }
}

/// When one goes out again.
struct Plan {
    /// `None`: it is going out now.
    due: Option<Instant>,
    times: u32,
    item: Hash,
}

/// Publishes them until the task is ended.
pub(super) async fn run(office: Arc<Office>) {
    let mut changes = office.outbox.changes();
    let mut plans: BTreeMap<String, Plan> = BTreeMap::new();
    let mut calls = JoinSet::new();
    loop {
        let began = Instant::now();
        if let Err(error) = look(&office, &mut plans, &mut calls).await {
            tracing::warn!(%error, "revocations for hosts cannot be read");
        }
        // At most half of the time goes into looking.
        sleep(began.elapsed().min(LOOK)).await;
        tokio::select! {
            Some(done) = calls.join_next() => ended(&mut plans, done),
            _ = changes.changed() => {}
            () = sleep(LOOK) => {}
        }
        while let Some(done) = calls.try_join_next() {
            ended(&mut plans, done);
        }
        if calls.is_empty() {
            // Also after a defect in one of them.
            let soon = Instant::now() + SOON;
            for plan in plans.values_mut() {
                plan.due = plan.due.or(Some(soon));
            }
        }
    }
}

/// Which one went out, and when it is due again.
type Done = (String, Duration);

fn ended(plans: &mut BTreeMap<String, Plan>, done: Result<Done, tokio::task::JoinError>) {
    match done {
        Ok((id, pause)) => {
            if let Some(plan) = plans.get_mut(&id) {
                plan.due = Some(Instant::now() + pause);
            }
        }
        Err(error) => tracing::error!(%error, "publishing ended by a defect; it is tried again"),
    }
}

/// Begins with those that are due.
async fn look(
    office: &Arc<Office>,
    plans: &mut BTreeMap<String, Plan>,
    calls: &mut JoinSet<Done>,
) -> Result<(), StoreError> {
    let store = office.outbox.store();
    let live: BTreeSet<_> = store.signed_closings(now_ms()).await?.into_iter().collect();
    plans.retain(|id, plan| {
        let lives = live.contains(id);
        if !lives {
            office.closings.known().remove(&plan.item);
        }
        lives
    });
    let now = Instant::now();
    for id in live {
        if plans.get(&id).is_some_and(|plan| plan.due.is_none_or(|due| due > now)) {
            continue;
        }
        let Some(closing) = store.closing(&id).await? else { continue };
        let of = item(REVOCATION_TYPE, &closing.payload);
        // Before it goes out: then its answers are known.
        office.closings.known().insert(of, id.clone());
        let plan = plans.entry(id).or_insert(Plan { due: None, times: 0, item: of });
        (plan.due, plan.times) = (None, plan.times.saturating_add(1));
        let (office, times) = (Arc::clone(office), plan.times);
        calls.spawn(async move {
            let pause = match publish(&office, &closing, of).await {
                // It stands there for whoever comes later; this is for a bus that has lost it.
                Ok(()) if closing.complete_ms > 0 => AGAIN.most,
                Ok(()) => AGAIN.first + AGAIN.pause(times, random()),
                Err(why) => {
                    tracing::warn!(revocation = closing.id, why, "it is published again");
                    SOON
                }
            };
            (closing.id, pause)
        });
    }
    Ok(())
}

/// Publishes one for whoever has not carried it out.
async fn publish(office: &Office, closing: &Closing, item: Hash) -> Result<(), String> {
    let Some(envelope) = &closing.envelope else { return Ok(()) };
    let (message, envelope) = (&closing.message, envelope.encode_to_vec());
    let letter = Letter {
        to: To::All,
        item,
        // It has a place of its own, and takes none of grants: those are closed one by one, too.
        piece: Piece::Revocation {
            of: Revokes::All(WallTime(message.issued_before_ms)),
            keep_until: WallTime(message.keep_until_ms),
        },
        envelope: envelope.into(),
    };
    if message.every_host {
        return one(office, letter).await;
    }
    let (store, mut after, mut troubles) = (office.outbox.store(), String::new(), Vec::new());
    loop {
        let page = store.closing_hosts(&closing.id, None, &after, PAGE).await;
        let page = page.map_err(|error| error.to_string())?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.host);
        let waiting = page.iter().filter(|host| host.heard != Heard::Delivered);
        let letters = waiting.map(|host| {
            let to = To::Host(HostTag::of(&host.host));
            one(office, Letter { to, ..letter.clone() })
        });
        let letters: Vec<_> = letters.collect();
        let mut published = stream::iter(letters).buffer_unordered(AT_ONCE);
        while let Some(done) = published.next().await {
            troubles.extend(done.err());
        }
    }
    troubles.pop().map_or(Ok(()), Err)
}

/// Hubs have it as soon as it goes out. While nobody acknowledges it, others do not wait for it.
async fn one(office: &Office, letter: Letter) -> Result<(), String> {
    match timeout(SOON, office.bus.publish(&letter, WallTime(now_ms()))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the servers of the bus have not acknowledged it".to_owned()),
    }
}
