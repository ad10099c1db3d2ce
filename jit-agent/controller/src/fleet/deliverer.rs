//! Delivers what hosts must hear: the outbox in the store is the truth, and it is tried until the host has
//! answered or the grant has ended. Any order is right: a host joins what it gets, and the end of a grant
//! that it has never seen holds, too.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::{Agent, CallError};
use jit_proto::{GrantId, v1};
use prost::Message as _;
use tokio::task::{Id, JoinError, JoinSet};

use super::{
    FleetError, Shared,
    backoff::{Backoff, random},
    link::{Line, Link},
    outbox::answered,
};
use crate::{
    clock::now_ms,
    desk::{Heard, What},
    model::Answer,
    store::{Delivery, Wanted},
};

/// Between attempts at one host.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(60) };
/// The longest time without a look at the outbox: another process may write it, too.
const LOOK: Duration = Duration::from_millis(500);
/// The most grants of one call, and the most bytes of them: an agent reads 4 MiB.
const BATCH: u32 = 64;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// The most hosts that are looked at in one round.
const ROUND: u32 = 20_000;
/// The most hosts whose failure is written at the same time.
const FAILING: usize = 4;
/// Refusals that are about the host at this moment, and not about the grant: they are tried again.
const PASSING: [&str; 4] = ["capacity", "not_permitted", "storage", "throttled"];

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
    let mut busy = Busy::new();
    let mut calls = JoinSet::new();
    loop {
        let began = Instant::now();
        let next = match round(&shared, &mut busy, &mut calls).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read");
                LOOK
            }
        };
        // At most half of the time goes into looking.
        tokio::time::sleep(began.elapsed()).await;
        tokio::select! {
            Some(done) = calls.join_next() => ended(&mut busy, done),
            () = shared.wake.notified() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(next.min(LOOK)) => {}
        }
        while let Some(done) = calls.try_join_next() {
            ended(&mut busy, done);
        }
    }
}

/// What is under way, and the task that does it.
type Busy = BTreeMap<Place, Id>;
type Place = (Lane, String);

fn ended(busy: &mut Busy, done: Result<Place, JoinError>) {
    match done {
        Ok(place) => drop(busy.remove(&place)),
        Err(error) => {
            tracing::error!(%error, "a delivery ended by a defect; it is tried again");
            busy.retain(|_, task| *task != error.id());
        }
    }
}

/// Begins what is due and has a place. Returns when more is due.
async fn round(
    shared: &Arc<Shared>,
    busy: &mut Busy,
    calls: &mut JoinSet<Place>,
) -> Result<Duration, FleetError> {
    let store = shared.outbox.store();
    let now = now_ms();
    for wanted in [Wanted::Revoke, Wanted::Grant] {
        let lane = match wanted {
            Wanted::Grant => Lane::Push,
            Wanted::Revoke => Lane::Revoke,
        };
        let most = shared.settings.hosts_at_once;
        let taken = |busy: &Busy, lane| busy.keys().filter(|(other, _)| *other == lane).count();
        let (mut free, mut failing) = (
            most.saturating_sub(taken(busy, lane)),
            FAILING.saturating_sub(taken(busy, Lane::Failing)),
        );
        for host in store.hosts_due(wanted, now, ROUND).await? {
            let found = shared.roster.find(&host).map(|(_, link)| link);
            let (lane, way) = match found.as_ref().map(|link| link.line()) {
                Some(Line::Connecting) => continue,
                Some(Line::Up(agent)) => (lane, Ok(agent)),
                Some(Line::Down(why)) => (Lane::Failing, Err(why)),
                None if !shared.roster.is_read() => continue,
                None => (Lane::Failing, Err("it is not in the inventory any more".to_owned())),
            };
            let places = if lane == Lane::Failing { &mut failing } else { &mut free };
            let place = (lane, host);
            if *places == 0 || busy.contains_key(&place) {
                continue;
            }
            *places -= 1;
            let taken = place.clone();
            let task =
                Task { shared: Arc::clone(shared), host: place.1.clone(), wanted, link: found };
            let call = calls.spawn(async move {
                task.run(way).await;
                place
            });
            busy.insert(taken, call.id());
        }
    }
    let next = store.next_due(now).await?;
    let wait = |next: i64| u64::try_from(next.saturating_sub(now_ms())).unwrap_or(0);
    Ok(next.map_or(LOOK, |next| Duration::from_millis(wait(next))))
}

/// What is delivered to one host in one call.
struct Task {
    shared: Arc<Shared>,
    host: String,
    wanted: Wanted,
    link: Option<Arc<Link>>,
}

impl Task {
    async fn run(self, way: Result<Agent, String>) {
        let done = async {
            let rows = self.shared.outbox.store();
            let rows = rows.due_for(&self.host, self.wanted, now_ms(), BATCH).await?;
            match (way, self.wanted) {
                (Err(why), _) => {
                    if let Some(link) = &self.link {
                        link.want();
                    }
                    self.failed(&rows, &why).await
                }
                (Ok(agent), Wanted::Grant) => self.push(agent, rows).await,
                (Ok(agent), Wanted::Revoke) => self.revoke(agent, &rows).await,
            }
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, host = self.host, "an answer was not stored; it is asked again");
            // The rows stay due: not without a pause.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn push(&self, mut agent: Agent, rows: Vec<Delivery>) -> Result<(), FleetError> {
        if self.is_disputed().await? {
            let why = "two machines are connected as this host: nothing is opened there until somebody has \
                       looked, and cleared the alarm on the page of the host";
            return self.failed(&rows, why).await;
        }
        let (mut sent, mut envelopes, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut heard = Vec::new();
        for row in rows {
            let grant = self.shared.outbox.store().grant(&row.grant_id).await?;
            let signed = grant.and_then(|grant| Some((grant.part, grant.envelope?)));
            let Some((part, envelope)) = signed else {
                heard.push(failure(&row, "its grant is not signed"));
                continue;
            };
            bytes += envelope.encoded_len();
            if bytes > BATCH_BYTES && !envelopes.is_empty() {
                break;
            }
            envelopes.push(envelope);
            sent.push((row, part.not_before_ms));
        }
        if !envelopes.is_empty() {
            match agent.push_batch(envelopes).await {
                Ok(outcomes) => {
                    let mut outcomes = outcomes.into_iter();
                    let all = sent.iter().map(|(row, begins)| judge(row, *begins, outcomes.next()));
                    heard.extend(all);
                }
                Err(error) => {
                    let why = self.unanswered(&error);
                    heard.extend(sent.iter().map(|(row, _)| failure(row, &why)));
                }
            }
        }
        self.shared.outbox.hear(heard).await
    }

    async fn revoke(&self, mut agent: Agent, rows: &[Delivery]) -> Result<(), FleetError> {
        let mut heard = Vec::new();
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
        self.shared.outbox.hear(heard).await
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

    async fn failed(&self, rows: &[Delivery], trouble: &str) -> Result<(), FleetError> {
        let heard = rows.iter().map(|row| failure(row, trouble)).collect();
        self.shared.outbox.hear(heard).await
    }
}

/// What a host's outcome for one grant means. `begins_ms`: when the grant begins.
fn judge(row: &Delivery, begins_ms: i64, outcome: Option<v1::Outcome>) -> Heard {
    let Some(v1::Outcome { reason, accepted, detail, warning, .. }) = outcome else {
        return failure(row, "the agent's answer says nothing of this grant");
    };
    if accepted {
        // A grant that the host has known before may not have begun yet.
        let scheduled = reason == "scheduled" || (reason == "known" && begins_ms > now_ms());
        let answer = if scheduled { Answer::Scheduled } else { Answer::Open };
        answered(row, answer, &reason, &warning)
    } else if PASSING.contains(&reason.as_str()) {
        failure(row, &CallError::refused(&reason, &detail).to_string())
    } else {
        answered(row, Answer::Refused, &reason, &detail)
    }
}

/// That a host did not answer, and when it is tried again.
fn failure(row: &Delivery, trouble: &str) -> Heard {
    let failed = u32::try_from(row.attempts).unwrap_or(u32::MAX).saturating_add(1);
    let pause = AGAIN.pause(failed, random()).as_millis();
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
