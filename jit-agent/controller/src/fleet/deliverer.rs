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
};
use crate::{
    clock::now_ms,
    model::Answer,
    store::{Delivery, Wanted},
};

/// Between attempts at one host.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(60) };
/// The longest time without a look at the outbox: another process may write it, too.
const LOOK: Duration = Duration::from_secs(2);
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
        let (mut sent, mut envelopes, mut bytes) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            let grant = self.shared.outbox.store().grant(&row.grant_id).await?;
            let Some((part, envelope)) =
                grant.and_then(|grant| Some((grant.part, grant.envelope?)))
            else {
                self.failed(&[row], "its grant is not signed").await?;
                continue;
            };
            bytes += envelope.encoded_len();
            if bytes > BATCH_BYTES && !envelopes.is_empty() {
                break;
            }
            envelopes.push(envelope);
            sent.push((row, part.not_before_ms));
        }
        if envelopes.is_empty() {
            return Ok(());
        }
        let outcomes = match agent.push_batch(envelopes).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let rows: Vec<_> = sent.into_iter().map(|(row, _)| row).collect();
                return self.unanswered(&rows, &error).await;
            }
        };
        let mut outcomes = outcomes.into_iter();
        for (row, not_before_ms) in sent {
            let Some(outcome) = outcomes.next() else {
                self.failed(&[row], "the agent's answer says nothing of this grant").await?;
                continue;
            };
            let now = now_ms();
            let outbox = &self.shared.outbox;
            let v1::Outcome { reason, accepted, detail, warning, .. } = outcome;
            if accepted {
                // A grant that the host has known before may not have begun yet.
                let scheduled = reason == "scheduled" || (reason == "known" && not_before_ms > now);
                let answer = if scheduled { Answer::Scheduled } else { Answer::Open };
                outbox.answered(&row, answer, &reason, &warning).await?;
            } else if PASSING.contains(&reason.as_str()) {
                let refused = CallError::refused(&reason, &detail);
                self.failed(&[row], &refused.to_string()).await?;
            } else {
                outbox.answered(&row, Answer::Refused, &reason, &detail).await?;
            }
        }
        Ok(())
    }

    async fn revoke(&self, mut agent: Agent, rows: &[Delivery]) -> Result<(), FleetError> {
        for (number, row) in rows.iter().enumerate() {
            let id: Option<GrantId> = row.grant_id.parse().ok();
            let Some(id) = id else {
                self.failed(std::slice::from_ref(row), "its id is none of a grant").await?;
                continue;
            };
            let request = v1::RevokeRequest {
                what: Some(v1::revoke_request::What::GrantId(id.0.to_vec().into())),
                reason: format!("the controller ended request {}", row.request),
                cut: false,
            };
            match agent.revoke(request).await {
                Ok(answer) => {
                    let outbox = &self.shared.outbox;
                    outbox.answered(row, Answer::Closed, "ok", &answer.warning).await?;
                }
                Err(error) => {
                    let rest = rows.get(number..).unwrap_or_default();
                    return self.unanswered(rest, &error).await;
                }
            }
        }
        Ok(())
    }

    /// A call did not succeed as a whole.
    async fn unanswered(&self, rows: &[Delivery], error: &CallError) -> Result<(), FleetError> {
        if let (CallError::Unavailable(_), Some(link)) = (error, &self.link) {
            link.doubt();
        }
        self.failed(rows, &error.to_string()).await
    }

    async fn failed(&self, rows: &[Delivery], trouble: &str) -> Result<(), FleetError> {
        let trouble = jit_proto::printable::clean(trouble, 1000);
        for row in rows {
            let now = now_ms();
            let failed = u32::try_from(row.attempts).unwrap_or(u32::MAX).saturating_add(1);
            let pause = AGAIN.pause(failed, random()).as_millis();
            let next = now.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
            self.shared.outbox.failed(row, &trouble, next).await?;
        }
        Ok(())
    }
}
