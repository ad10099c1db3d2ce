//! Brings signed revocations to hosts: one envelope, shared by all, goes to every host that is connected, at
//! once and side by side, and to the others as soon as they come. Nothing is read or written for a host
//! before it is sent; what hosts answer is written many at a time.
//!
//! A host has heard it when its agent has answered. To hear it twice, late, or in another order than
//! others changes nothing there.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jit_client::CallError;
use jit_proto::{printable::clean, v1};
use tokio::{
    sync::{
        Notify, Semaphore,
        mpsc::{Receiver, Sender, channel},
    },
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Shared,
    backoff::{Backoff, random},
    link::{Line, Link},
};
use crate::{
    clock::now_ms,
    desk::Desk,
    store::{Closing, ClosingAnswer, Store, StoreError, closings::Heard},
};

/// Between attempts at one host.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(60) };
/// Before hosts that have refused are asked again: somebody may have given them the key meanwhile.
const REFUSED_AGAIN: Duration = Duration::from_secs(600);
/// The longest time without a look: another process may have made one.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of payloads that are under way at once, KiB.
const ROOM_KIB: usize = 64 * 1024;
/// Payloads that need no room, KiB. One of everything is such a one: it waits for no larger one.
const SMALL_KIB: u32 = 4;
/// Answers that wait to be written, those that are taken together, and the most of one transaction.
const WAITING: usize = 4096;
const TOGETHER: usize = 16_384;
const BATCH: usize = 1024;
/// Answers are written when none has come for this time, and after this time at the latest: while a fleet
/// hears that something ends, nothing else takes the processor.
const QUIET: Duration = Duration::from_millis(50);
const WRITTEN: Duration = Duration::from_secs(2);
/// Longest sentence of a host that is kept, characters.
const MAX_TEXT: usize = 500;
/// Refusals that are about the host at this moment: it is asked again soon.
pub(super) const PASSING: [&str; 4] = ["capacity", "not_yet_valid", "storage", "throttled"];

/// Hosts that have come since the last look.
#[derive(Default)]
pub(super) struct Arrived {
    hosts: Mutex<BTreeSet<String>>,
    /// Hosts that have refused something.
    refused: Mutex<BTreeSet<String>>,
    some: Notify,
}

impl Arrived {
    /// A host is connected from now on.
    pub(super) fn add(&self, host: &str) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned());
        self.some.notify_one();
    }

    /// A host has refused something.
    fn refuses(&self, host: &str) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned());
    }

    /// Those that have refused something are asked again, as if they had come.
    fn ask_again(&self) {
        let refused =
            std::mem::take(&mut *self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).extend(refused);
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.hosts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A place for answers, and who writes them.
pub(super) fn open() -> (Sender<ClosingAnswer>, Receiver<ClosingAnswer>) {
    channel(WAITING)
}

/// Writes answers until nobody is left who could have one.
pub(super) async fn write(desk: Desk, mut answers: Receiver<ClosingAnswer>) {
    let mut together = Vec::new();
    while answers.recv_many(&mut together, TOGETHER).await > 0 {
        let latest = Instant::now() + WRITTEN;
        while together.len() < TOGETHER {
            let more = answers.recv_many(&mut together, TOGETHER);
            match timeout_at(latest.min(Instant::now() + QUIET), more).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        for batch in together.chunks(BATCH) {
            while let Err(error) = desk.closed(batch, now_ms()).await {
                let answers = batch.len();
                tracing::warn!(%error, answers, "answers to revocations are not stored yet");
                sleep(Duration::from_secs(1)).await;
            }
        }
        together.clear();
    }
}

/// Brings them until the task is ended.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.outbox.changes();
    let mut closer = Closer {
        shared: Arc::clone(&shared),
        known: None,
        calls: JoinSet::new(),
        busy: HashMap::new(),
        room: Arc::new(Semaphore::new(ROOM_KIB)),
        notices: Arc::default(),
    };
    let mut due = Instant::now();
    let mut again = due + REFUSED_AGAIN;
    loop {
        let looks = tokio::select! {
            () = sleep_until(due) => true,
            _ = changes.changed() => true,
            () = shared.arrived.some.notified() => true,
            Some(done) = closer.calls.join_next() => {
                closer.ended(done);
                false
            }
        };
        while let Some(done) = closer.calls.try_join_next() {
            closer.ended(done);
        }
        if looks {
            let began = Instant::now();
            if began >= again {
                shared.arrived.ask_again();
                again = began + REFUSED_AGAIN;
            }
            if let Err(error) = closer.look().await {
                tracing::warn!(%error, "revocations for hosts cannot be read");
            }
            due = Instant::now() + LOOK;
            // At most half of the time goes into looking.
            sleep(began.elapsed().min(LOOK)).await;
        }
    }
}

/// A revocation, as hosts get it.
struct Notice {
    id: String,
    request: v1::RevokeRequest,
    keep_until_ms: i64,
    /// Place that a call with it takes, KiB.
    room: u32,
}

impl Notice {
    /// `None`: it is not signed.
    fn of(closing: &Closing) -> Option<Arc<Self>> {
        let envelope = closing.envelope.clone()?;
        let room = u32::try_from(envelope.payload.len() / 1024).unwrap_or(u32::MAX);
        let signed = v1::revoke_request::What::Signed(envelope);
        Some(Arc::new(Self {
            id: closing.id.clone(),
            request: v1::RevokeRequest { what: Some(signed), ..v1::RevokeRequest::default() },
            keep_until_ms: closing.message.keep_until_ms,
            room: room.saturating_add(1),
        }))
    }
}

/// Revocations as hosts get them: all tasks share one.
#[derive(Default)]
struct Notices(Mutex<HashMap<String, Weak<Notice>>>);

impl Notices {
    /// The one with this id; `None`: it is not signed, or there is none.
    async fn one(&self, store: &Store, id: &str) -> Result<Option<Arc<Notice>>, StoreError> {
        if let Some(notice) = self.lock().get(id).and_then(Weak::upgrade) {
            return Ok(Some(notice));
        }
        Ok(store.closing(id).await?.and_then(|closing| self.add(&closing)))
    }

    /// Of a revocation that was read; the one that is there already, if there is one.
    fn add(&self, closing: &Closing) -> Option<Arc<Notice>> {
        let new = Notice::of(closing)?;
        let mut all = self.lock();
        if let Some(notice) = all.get(&closing.id).and_then(Weak::upgrade) {
            return Some(notice);
        }
        all.retain(|_, notice| notice.strong_count() > 0);
        all.insert(closing.id.clone(), Arc::downgrade(&new));
        Some(new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Notice>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is under way: a revocation, and a host.
type Place = (String, String);

struct Closer {
    shared: Arc<Shared>,
    /// Ids of those that the hosts that are connected have got or are getting; `None`: nothing was read yet.
    known: Option<BTreeSet<String>>,
    calls: JoinSet<Done>,
    busy: HashMap<Place, AbortHandle>,
    room: Arc<Semaphore>,
    notices: Arc<Notices>,
}

/// What a task has done.
enum Done {
    /// A host has answered, or is gone.
    Sent(Place),
    /// What a host must hear was read.
    Read(String, Result<Vec<Arc<Notice>>, StoreError>),
}

impl Closer {
    /// Begins what is new: revocations for hosts that are connected, and hosts that have come.
    async fn look(&mut self) -> Result<(), StoreError> {
        let store = self.shared.outbox.store().clone();
        let live: BTreeSet<_> = store.live_closings(now_ms()).await?.into_iter().collect();
        // At the first look nobody is asked twice: hosts that are there have come since then.
        let known = self.known.get_or_insert_with(|| live.clone());
        known.retain(|id| live.contains(id));
        let new: Vec<_> = live.difference(known).cloned().collect();
        for id in new {
            let Some(closing) = store.closing(&id).await? else { continue };
            if let Some(notice) = self.notices.add(&closing) {
                let hosts = match closing.message.every_host {
                    true => self.shared.roster.ids(),
                    false => closing.message.hosts,
                };
                self.shared.rush.begins(hosts.len());
                for host in hosts {
                    self.begin(&notice, host);
                }
            }
            self.known.get_or_insert_default().insert(id);
        }
        let arrived = self.shared.arrived.take();
        if !arrived.is_empty() && store.has_closings(now_ms()).await? {
            arrived.into_iter().for_each(|host| self.read(host));
        }
        Ok(())
    }

    /// Sends it to a host, if that is connected.
    fn begin(&mut self, notice: &Arc<Notice>, host: String) {
        let found = self.shared.roster.find(&host);
        let Some((_, link)) = found.filter(|(_, link)| link.is_up()) else { return };
        let place = (notice.id.clone(), host);
        let call = Call {
            shared: Arc::clone(&self.shared),
            notice: Arc::clone(notice),
            host: place.1.clone(),
            link,
            room: Arc::clone(&self.room),
        };
        let taken = place.clone();
        let task = self.calls.spawn(async move {
            call.run().await;
            Done::Sent(place)
        });
        if let Some(before) = self.busy.insert(taken, task) {
            before.abort();
        }
    }

    /// Reads what a host must hear.
    fn read(&mut self, host: String) {
        let store = self.shared.outbox.store().clone();
        let reads = Arc::clone(&self.shared.reads);
        let notices = Arc::clone(&self.notices);
        self.calls.spawn(async move {
            let _turn = reads.acquire_owned().await;
            let due = async {
                let mut due = Vec::new();
                for id in store.closings_due(&host, now_ms()).await? {
                    due.extend(notices.one(&store, &id).await?);
                }
                Ok(due)
            };
            let due = due.await;
            Done::Read(host, due)
        });
    }

    fn ended(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Sent(place)) => self.free(&place),
            Ok(Done::Read(host, Ok(due))) => {
                due.iter().for_each(|notice| self.begin(notice, host.clone()));
            }
            Ok(Done::Read(host, Err(error))) => {
                tracing::warn!(%error, host, "what it must hear cannot be read; it is read again");
                self.shared.arrived.add(&host);
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%error, "a revocation's way to a host ended by a defect");
                self.lost(error.id());
            }
        }
    }

    /// Another task may have taken its place meanwhile.
    fn free(&mut self, place: &Place) {
        if self.busy.get(place).is_some_and(AbortHandle::is_finished) {
            self.busy.remove(place);
        }
    }

    /// A task ended by a defect: its host hears it again.
    fn lost(&mut self, task: Id) {
        let place = self.busy.iter().find(|(_, call)| call.id() == task);
        if let Some((place, _)) = place {
            let place = place.clone();
            self.busy.remove(&place);
            self.shared.arrived.add(&place.1);
        }
    }
}

/// One revocation on its way to one host.
struct Call {
    shared: Arc<Shared>,
    notice: Arc<Notice>,
    host: String,
    link: Arc<Link>,
    room: Arc<Semaphore>,
}

impl Call {
    /// Until it is carried out or refused, or the host is gone: when it comes back, it is sent anew.
    async fn run(self) {
        let mut failed = 0_u32;
        while self.notice.keep_until_ms > now_ms() {
            let Line::Up(mut agent) = self.link.line() else { return };
            let room = match self.notice.room {
                ..=SMALL_KIB => None,
                kib => self.room.acquire_many(kib).await.ok(),
            };
            self.link.ends();
            let answered = agent.revoke(self.notice.request.clone()).await;
            drop(room);
            match judge(answered) {
                Verdict::Delivered(detail) => {
                    return self.heard(Heard::Delivered, "ok", &detail).await;
                }
                Verdict::Refused(word, detail) => {
                    self.shared.arrived.refuses(&self.host);
                    return self.heard(Heard::Refused, &word, &detail).await;
                }
                Verdict::Failed(why) => {
                    tracing::debug!(why, host = self.host, "a revocation was not answered");
                    self.link.doubt();
                    failed = failed.saturating_add(1);
                    sleep(AGAIN.pause(failed, random())).await;
                }
            }
        }
    }

    async fn heard(&self, heard: Heard, word: &str, detail: &str) {
        let answer = ClosingAnswer {
            closing: self.notice.id.clone(),
            host: self.host.clone(),
            heard,
            word: clean(word, MAX_TEXT),
            detail: clean(detail, MAX_TEXT),
            answered_ms: now_ms(),
        };
        // It ends only together with this task.
        let _written = self.shared.closed.send(answer).await;
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is carried out; the agent's warning.
    Delivered(String),
    /// It is asked again soon; why.
    Failed(String),
    /// The word, and the sentence.
    Refused(String, String),
}

fn judge(answered: Result<v1::RevokeResponse, CallError>) -> Verdict {
    match answered {
        Ok(answer) => Verdict::Delivered(answer.warning),
        Err(CallError::Refused { word, detail }) if !PASSING.contains(&word.as_str()) => {
            Verdict::Refused(word, detail)
        }
        Err(error) => Verdict::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_kept_unless_it_is_about_this_moment_only() {
        let refused = |word: &str| judge(Err(CallError::refused(word, "x")));
        assert_eq!(refused("unknown_key"), Verdict::Refused("unknown_key".into(), "x".into()));
        assert_eq!(refused("wrong_host"), Verdict::Refused("wrong_host".into(), "x".into()));
        for word in PASSING {
            assert!(matches!(refused(word), Verdict::Failed(_)), "{word}");
        }
        let gone = judge(Err(CallError::Unavailable("gone".into())));
        assert_eq!(gone, Verdict::Failed("gone".into()));
        let warned = v1::RevokeResponse { warning: "w".into(), ..v1::RevokeResponse::default() };
        assert_eq!(judge(Ok(warned)), Verdict::Delivered("w".into()));
    }

    #[test]
    fn all_hosts_share_the_bytes_of_a_revocation() {
        let closing = Closing {
            id: "C".into(),
            account: "max".into(),
            payload: vec![7; 2048],
            message: v1::Revocation { keep_until_ms: 9, ..v1::Revocation::default() },
            envelope: Some(v1::Envelope {
                payload: vec![7; 2048].into(),
                ..v1::Envelope::default()
            }),
            signed_ms: 1,
            trouble: String::new(),
            settled: false,
            complete_ms: 0,
        };
        let notices = Notices::default();
        let first = notices.add(&closing).unwrap();
        assert!(Arc::ptr_eq(&first, &notices.add(&closing).unwrap()));
        assert_eq!((first.room, first.keep_until_ms), (3, 9));
        drop(first);
        notices.add(&Closing { id: "D".into(), ..closing.clone() }).unwrap();
        assert_eq!(notices.lock().len(), 1, "nobody has it any more");
        assert!(notices.add(&Closing { envelope: None, ..closing }).is_none());
    }

    #[test]
    fn hosts_that_came_twice_are_one_and_are_taken_once() {
        let arrived = Arrived::default();
        arrived.add("web-1");
        arrived.add("web-1");
        assert_eq!(arrived.take(), ["web-1".to_owned()].into());
        assert!(arrived.take().is_empty());
        // A host is kept once, however much it has refused.
        arrived.refuses("web-2");
        arrived.refuses("web-2");
        assert!(arrived.take().is_empty(), "not yet");
        arrived.ask_again();
        assert_eq!(arrived.take(), ["web-2".to_owned()].into());
        arrived.ask_again();
        assert!(arrived.take().is_empty());
    }
}
