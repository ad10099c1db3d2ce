//! Delivers what hosts must hear: the outbox in the store is the truth, and it is tried until the host has
//! answered or the grant has ended. Any order is right: a host joins what it gets, and the end of a grant
//! that it has never seen holds, too.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::{Agent, CallError};
use jit_proto::{GrantId, v1};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{Id, JoinError, JoinSet},
};

use super::{
    FleetError, Shared,
    backoff::{Backoff, random},
    link::{Line, Link},
    outbox::answered,
    scribe::Note,
    signed::Signed,
};
use crate::{
    clock::now_ms,
    desk::{Heard, What},
    model::Answer,
    store::{Delivery, StoreError, Wanted},
};

/// Between attempts at one host.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(60) };
/// The longest time without a look at the outbox: another process may write it, too.
const LOOK: Duration = Duration::from_millis(500);
/// After a look that found only what is under way already, the next one waits for this many times as long.
const CROWDED: u32 = 4;
/// If fewer than one host of this number can be begun with, what is due is read for these hosts alone.
const FEW: usize = 8;
/// The most grants of one call, and the most bytes of them: an agent reads 4 MiB.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// The most rows of one kind that are looked at in one round.
const ROUND: u32 = 20_000;
/// The most hosts that wait for a place, or until their answer is written.
const UNDER_WAY: usize = 20_000;
/// The most hosts whose failure is written at the same time.
const FAILING: usize = 64;
/// Refusals that are about the host at this moment, and not about the grant: they are tried again.
const PASSING: [&str; 5] = ["capacity", "not_permitted", "stale", "storage", "throttled"];

/// What is under way for a host. One of each kind at most: a revocation does not wait for a slow push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Failing,
    Push,
    Revoke,
}

/// Delivers until the task is ended.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.outbox.changes();
    let mut under_way = UnderWay::new(shared);
    loop {
        let began = Instant::now();
        let next = match under_way.round().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read");
                LOOK
            }
        };
        // At most half of the time goes into looking, and less while there is nothing new.
        let part = if under_way.crowded && !under_way.began { CROWDED } else { 1 };
        tokio::time::sleep(began.elapsed() * part).await;
        let next = tokio::time::sleep(next.min(LOOK));
        tokio::pin!(next);
        loop {
            let look = tokio::select! {
                Some(done) = under_way.tasks.join_next() => under_way.ended(done),
                () = under_way.shared.wake.notified() => true,
                _ = changes.changed() => true,
                () = &mut next => true,
            };
            if look {
                break;
            }
        }
        while let Some(done) = under_way.tasks.try_join_next() {
            under_way.ended(done);
        }
    }
}

type Place = (Lane, String);

/// A delivery that has ended.
struct Done {
    place: Place,
    /// Something of it is to be tried again.
    again: bool,
}

/// What is under way.
struct UnderWay {
    shared: Arc<Shared>,
    tasks: JoinSet<Done>,
    /// The task of each.
    busy: BTreeMap<Place, Id>,
    /// Something that is due found no place in the last round: one is free when something ends.
    crowded: bool,
    /// The last round has begun something.
    began: bool,
    /// Calls at the same time.
    pushes: Arc<Semaphore>,
    revocations: Arc<Semaphore>,
    failures: Arc<Semaphore>,
}

impl UnderWay {
    fn new(shared: Arc<Shared>) -> Self {
        let most = shared.settings.hosts_at_once;
        Self {
            shared,
            tasks: JoinSet::new(),
            busy: BTreeMap::new(),
            crowded: false,
            began: false,
            pushes: Arc::new(Semaphore::new(most)),
            revocations: Arc::new(Semaphore::new(most)),
            failures: Arc::new(Semaphore::new(FAILING)),
        }
    }

    /// Takes note of an end. Returns whether something may be due now that was not begun.
    fn ended(&mut self, done: Result<Done, JoinError>) -> bool {
        match done {
            Ok(Done { place, again }) => {
                self.busy.remove(&place);
                again || self.crowded
            }
            Err(error) => {
                tracing::error!(%error, "a delivery ended by a defect; it is tried again");
                self.busy.retain(|_, task| *task != error.id());
                true
            }
        }
    }

    /// Begins what is due and has a place. Returns when more is due.
    async fn round(&mut self) -> Result<Duration, FleetError> {
        let shared = Arc::clone(&self.shared);
        let (store, now) = (shared.outbox.store(), now_ms());
        (self.crowded, self.began) = (false, false);
        for wanted in [Wanted::Revoke, Wanted::Grant] {
            let due = store.hosts_due(wanted, now, ROUND).await?;
            if wanted == Wanted::Revoke {
                shared.rush.begins(due.len());
            }
            let free: Vec<_> = due.iter().filter(|host| self.has_place(wanted, host)).collect();
            if free.len() * FEW < due.len() {
                for host in free {
                    let most = u32::try_from(BATCH).unwrap_or(u32::MAX);
                    let rows = store.due_for(host, wanted, now, most).await?;
                    self.crowded |= rows.len() == BATCH;
                    self.start(wanted, rows);
                }
                continue;
            }
            let mut of_host: Vec<Delivery> = Vec::new();
            let each = |row: Result<Delivery, StoreError>| {
                let row = match row {
                    Ok(row) => row,
                    Err(error) => {
                        tracing::error!(%error, "a row of the outbox cannot be read");
                        return;
                    }
                };
                if of_host.first().is_some_and(|first| first.host != row.host) {
                    self.start(wanted, mem::take(&mut of_host));
                }
                match of_host.len() < BATCH {
                    true => of_host.push(row),
                    false => self.crowded = true,
                }
            };
            store.each_due(wanted, now, ROUND, each).await?;
            self.start(wanted, of_host);
        }
        let next = store.next_due(now).await?;
        let wait = |next: i64| u64::try_from(next.saturating_sub(now_ms())).unwrap_or(0);
        Ok(next.map_or(LOOK, |next| Duration::from_millis(wait(next))))
    }

    /// Where something for a host with this connection is delivered; `None`: nowhere yet.
    fn lane(&self, wanted: Wanted, link: Option<&Link>) -> Option<Lane> {
        let fails = match link {
            Some(link) if link.is_up() => false,
            Some(link) if link.is_down() => true,
            None if self.shared.roster.is_read() => true,
            Some(_) | None => return None,
        };
        Some(match wanted {
            _ if fails => Lane::Failing,
            Wanted::Grant => Lane::Push,
            Wanted::Revoke => Lane::Revoke,
        })
    }

    /// Whether something for this host can be begun now.
    fn has_place(&mut self, wanted: Wanted, host: &str) -> bool {
        let link = self.shared.roster.find(host).map(|(_, link)| link);
        let Some(lane) = self.lane(wanted, link.as_deref()) else { return false };
        let place = (lane, host.to_owned());
        let taken = self.busy.len() >= UNDER_WAY || self.busy.contains_key(&place);
        self.crowded |= taken;
        !taken
    }

    /// Begins what one host has to hear, if it has a place.
    fn start(&mut self, wanted: Wanted, rows: Vec<Delivery>) {
        let Some(host) = rows.first().map(|row| row.host.clone()) else { return };
        if !self.has_place(wanted, &host) {
            return;
        }
        let link = self.shared.roster.find(&host).map(|(_, link)| link);
        let Some(lane) = self.lane(wanted, link.as_deref()) else { return };
        let places = Arc::clone(match lane {
            Lane::Failing => &self.failures,
            Lane::Push => &self.pushes,
            Lane::Revoke => &self.revocations,
        });
        let place = (lane, host);
        let taken = place.clone();
        let task = Task { shared: Arc::clone(&self.shared), host: place.1.clone(), link };
        self.began = true;
        let task = self.tasks.spawn(async move {
            let free = places.acquire_owned().await.expect("nobody closes it");
            let again = task.run(wanted, rows, free).await;
            Done { place, again }
        });
        self.busy.insert(taken, task.id());
    }
}

/// What is delivered to one host in one call.
struct Task {
    shared: Arc<Shared>,
    host: String,
    link: Option<Arc<Link>>,
}

impl Task {
    /// Delivers, and has the answers written. `call`: the place of the call, which others get as soon as
    /// the host has answered. Returns whether something is to be tried again.
    async fn run(self, wanted: Wanted, rows: Vec<Delivery>, call: OwnedSemaphorePermit) -> bool {
        let made = self.link.as_ref().map(|link| link.made());
        // It may have waited for its place.
        let way = match self.link.as_ref().map(|link| link.line()) {
            Some(Line::Connecting) => return true,
            Some(Line::Up(agent)) => Ok(*agent),
            Some(Line::Down(why)) => Err(why),
            None => Err("it is not in the inventory any more".to_owned()),
        };
        let done = async {
            let heard = match (way, wanted) {
                (Err(why), _) => {
                    if let Some(link) = &self.link {
                        link.want();
                    }
                    self.shared.outbox.hear(failures(&rows, &why)).await?;
                    self.hurry_if_back_since(made).await;
                    return Ok(true);
                }
                (Ok(agent), Wanted::Grant) => self.push(agent, rows).await?,
                (Ok(agent), Wanted::Revoke) => self.revoke(agent, &rows).await,
            };
            drop(call);
            let again = heard.iter().any(|one| matches!(one.what, What::Failed { .. }));
            self.shared.outbox.hear(heard).await?;
            if again {
                self.hurry_if_back_since(made).await;
            }
            Ok::<_, FleetError>(again)
        };
        match done.await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(%error, host = self.host, "an answer was not stored; it is asked again");
                // The rows stay due: not without a pause.
                tokio::time::sleep(Duration::from_secs(1)).await;
                true
            }
        }
    }

    /// What was written as failed now is due if the host has come back since it had this number of
    /// connections: else it would wait for its pause.
    async fn hurry_if_back_since(&self, made: Option<u64>) {
        let Some(link) = self.link.as_ref().filter(|link| link.is_up()) else { return };
        if Some(link.made()) != made {
            let back = Note { host: self.host.clone(), back: true, ..Note::default() };
            // Who writes it ends only together with this task.
            let _written = self.shared.notes.send(back).await;
        }
    }

    async fn push(&self, mut agent: Agent, rows: Vec<Delivery>) -> Result<Vec<Heard>, FleetError> {
        if self.is_disputed().await? {
            let why = "two machines are connected as this host: nothing is opened there until somebody has \
                       looked, and cleared the alarm on the page of the host";
            return Ok(failures(&rows, why));
        }
        let (mut sent, mut envelopes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut heard = Vec::new();
        for row in rows {
            let store = self.shared.outbox.store();
            let Some(signed) = self.shared.signed.find(store, &row.grant_id).await? else {
                heard.push(failure(&row, "its grant is not signed"));
                continue;
            };
            let Signed { envelope, begins_ms } = signed;
            bytes += envelope.encoded_len();
            if bytes > BATCH_BYTES && !envelopes.is_empty() {
                break;
            }
            envelopes.push(envelope);
            sent.push((row, begins_ms));
        }
        if !envelopes.is_empty() {
            match agent.push_batch(envelopes).await {
                Ok(outcomes) => {
                    let mut outcomes = outcomes.into_iter();
                    let all = sent.iter().map(|(row, begins)| judge(row, *begins, outcomes.next()));
                    heard.extend(all);
                    if let Some(link) = &self.link
                        && heard.iter().any(is_scheduled)
                    {
                        link.schedules();
                    }
                }
                Err(error) => {
                    let why = self.unanswered(&error);
                    heard.extend(sent.iter().map(|(row, _)| failure(row, &why)));
                }
            }
        }
        Ok(heard)
    }

    async fn revoke(&self, mut agent: Agent, rows: &[Delivery]) -> Vec<Heard> {
        let mut heard = Vec::new();
        if let Some(link) = &self.link {
            link.ends();
        }
        for (number, row) in rows.iter().enumerate() {
            let id: Option<GrantId> = row.grant_id.parse().ok();
            let Some(id) = id else {
                heard.push(failure(row, "its id is none of a grant"));
                continue;
            };
            let request = v1::RevokeRequest {
                what: Some(v1::revoke_request::What::GrantId(id.0.to_vec().into())),
                reason: format!("the controller ended request {}", row.request),
                cut: false,
            };
            match agent.revoke(request).await {
                Ok(answer) => heard.push(answered(row, Answer::Closed, "ok", &answer.warning)),
                Err(error) => {
                    let why = self.unanswered(&error);
                    let rest = rows.get(number..).unwrap_or_default();
                    heard.extend(rest.iter().map(|row| failure(row, &why)));
                    break;
                }
            }
        }
        heard
    }

    /// Whether two machines are this host, and nobody has looked yet.
    async fn is_disputed(&self) -> Result<bool, FleetError> {
        let Some(link) = self.link.as_ref().filter(|link| link.may_be_disputed()) else {
            return Ok(false);
        };
        let known = self.shared.outbox.store().host(&self.host).await?;
        let alarmed =
            known.is_some_and(|known| known.observed.alarms.iter().any(|alarm| alarm.holds));
        Ok(link.is_disputed(alarmed))
    }

    /// Why a call did not succeed as a whole.
    fn unanswered(&self, error: &CallError) -> String {
        if let (CallError::Unavailable(_), Some(link)) = (error, &self.link) {
            link.doubt();
        }
        error.to_string()
    }
}

/// Whether the host says that it has not begun.
const fn is_scheduled(heard: &Heard) -> bool {
    matches!(heard.what, What::Answered { answer: Answer::Scheduled, .. })
}

fn failures(rows: &[Delivery], trouble: &str) -> Vec<Heard> {
    rows.iter().map(|row| failure(row, trouble)).collect()
}

/// What a host's outcome for one grant means.
pub(super) enum Judged {
    Answered {
        answer: Answer,
        word: String,
        detail: String,
    },
    /// It is about the host at this moment: it is tried again.
    Failed(String),
}

/// What a host's outcome for one grant means. `begins_ms`: when the grant begins.
pub(super) fn judged(begins_ms: i64, outcome: Option<v1::Outcome>) -> Judged {
    let Some(v1::Outcome { reason, accepted, detail, warning, .. }) = outcome else {
        return Judged::Failed("the agent's answer says nothing of this grant".to_owned());
    };
    if accepted {
        // A grant that the host has known before may not have begun yet.
        let scheduled = reason == "scheduled" || (reason == "known" && begins_ms > now_ms());
        let answer = if scheduled { Answer::Scheduled } else { Answer::Open };
        Judged::Answered { answer, word: reason, detail: warning }
    } else if PASSING.contains(&reason.as_str()) {
        Judged::Failed(CallError::refused(&reason, &detail).to_string())
    } else {
        Judged::Answered { answer: Answer::Refused, word: reason, detail }
    }
}

fn judge(row: &Delivery, begins_ms: i64, outcome: Option<v1::Outcome>) -> Heard {
    match judged(begins_ms, outcome) {
        Judged::Answered { answer, word, detail } => answered(row, answer, &word, &detail),
        Judged::Failed(why) => failure(row, &why),
    }
}

/// That a host did not answer, and when it is tried again.
pub(super) fn failure(row: &Delivery, trouble: &str) -> Heard {
    failure_after(row, trouble, AGAIN)
}

/// The same with other pauses.
pub(super) fn failure_after(row: &Delivery, trouble: &str, again: Backoff) -> Heard {
    let failed = u32::try_from(row.attempts).unwrap_or(u32::MAX).saturating_add(1);
    let pause = again.pause(failed, random()).as_millis();
    let next_ms = now_ms().saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
    let trouble = jit_proto::printable::clean(trouble, 1000);
    Heard { of: row.clone(), what: What::Failed { trouble, next_ms } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Delivery {
        Delivery {
            grant_id: "01J00000000000000000000000".into(),
            host: "web-1".into(),
            request: "01J00000000000000000000000".into(),
            wanted: Wanted::Grant,
            pending: true,
            answer: Answer::Waiting,
            word: String::new(),
            detail: String::new(),
            trouble: String::new(),
            trouble_since_ms: 0,
            attempts: 3,
            next_ms: 0,
            answered_ms: 0,
            until_ms: i64::MAX,
        }
    }

    #[test]
    fn an_outcome_is_final_unless_it_is_about_this_moment_only() {
        let heard = |reason: &str, begins_ms| {
            let accepted = ["ok", "known", "scheduled"].contains(&reason);
            let outcome = v1::Outcome {
                reason: reason.into(),
                accepted,
                detail: "x\u{1b}".into(),
                ..v1::Outcome::default()
            };
            match judge(&row(), begins_ms, Some(outcome)).what {
                What::Answered { answer, .. } => answer.word().to_owned(),
                What::Failed { trouble, .. } => trouble,
                What::Lost { detail } => detail,
                What::Sent { .. } => "sent".to_owned(),
            }
        };
        let later = now_ms() + 60_000;
        for (reason, begins_ms, expected) in [
            ("ok", 0, "open"),
            ("known", 0, "open"),
            ("known", later, "scheduled"),
            ("scheduled", later, "scheduled"),
            ("lifetime", 0, "refused"),
            ("not_yet_valid", 0, "refused"),
            ("wrong_host", 0, "refused"),
            ("stale", 0, "refused: stale: x\\u{1b}"),
            ("storage", 0, "refused: storage: x\\u{1b}"),
            ("throttled", 0, "refused: throttled: x\\u{1b}"),
        ] {
            assert_eq!(heard(reason, begins_ms), expected, "{reason}");
        }
        assert!(matches!(judge(&row(), 0, None).what, What::Failed { .. }));
    }

    #[test]
    fn a_host_that_does_not_answer_is_tried_again_within_the_doubled_time() {
        let What::Failed { next_ms, .. } = failure(&row(), "no").what else { panic!("a failure") };
        // The fourth failure: up to 200 ms doubled three times, and never at once.
        let pause = next_ms - now_ms();
        assert!((0..=1600).contains(&pause), "{pause}");
    }
}
