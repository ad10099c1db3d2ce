//! Publishes what is due in the outbox.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jit_proto::{
    WallTime,
    mailbox::{Piece, Revokes, item},
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1,
};
use prost::Message as _;
use tokio::{task::JoinSet, time::timeout};

use super::{
    super::{
        FleetError,
        backoff::{Backoff, random},
        deliverer::{failure, failure_after},
    },
    Office,
};
use crate::{
    bus::{
        Letter,
        subject::{HostTag, To},
    },
    clock::now_ms,
    desk::{CONTROLLER, Heard, What},
    store::{Delivery, StoredGrant, Wanted},
};

/// The longest time without a look at the outbox: another process may write it, too.
const LOOK: Duration = Duration::from_millis(500);
/// Hosts for which something is published at the same time, of each kind.
const AT_ONCE: usize = 256;
/// Hubs get a letter as it goes out. An acknowledgement that is later than this is not waited for: what comes
/// after it, for the same host, must not wait while the servers choose a leader.
const PROMPT: Duration = Duration::from_millis(200);
/// Until a letter goes out again that was not acknowledged.
const UNACKNOWLEDGED: Backoff =
    Backoff { first: Duration::from_millis(400), most: Duration::from_secs(10) };
/// The most letters of one host at the same time.
const BATCH: u32 = 64;
/// The most hosts that are looked at in one round.
const ROUND: u32 = 20_000;
/// Until something is published again, without an answer. It stands in the mailbox, and a host gets it when
/// it connects: this is for a bus that has lost it.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(10), most: Duration::from_secs(900) };
/// Letters that are known to have gone out.
const LATELY: usize = 65_536;
/// Published so often without an answer, it is shown as trouble.
const SHOWN: i64 = 1;

type Place = (&'static str, String);

/// What this process has published lately. A report about anything else is no answer: a hub that says that a
/// host has it already would keep it from ever going out.
#[derive(Default)]
pub(super) struct Published(Mutex<(BTreeSet<Out>, VecDeque<Out>)>);

/// A grant, a host, and whether the grant ends.
type Out = (String, String, bool);

impl Published {
    fn add(&self, row: &Delivery) {
        let out = (row.grant_id.clone(), row.host.clone(), row.wanted == Wanted::Revoke);
        let (known, order) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(out.clone()) {
            order.push_back(out);
        }
        while order.len() > LATELY {
            let oldest = order.pop_front();
            oldest.map(|oldest| known.remove(&oldest));
        }
    }

    /// Whether this has gone out.
    pub(super) fn has(&self, row: &Delivery) -> bool {
        // Before that a process that is gone, or another one, has published it.
        row.attempts > 0
            || self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(&(
                row.grant_id.clone(),
                row.host.clone(),
                row.wanted == Wanted::Revoke,
            ))
    }
}

/// Publishes until the task is ended.
pub(super) async fn run(office: Arc<Office>) {
    let mut changes = office.outbox.changes();
    let mut busy = BTreeSet::new();
    let mut calls = JoinSet::new();
    loop {
        let began = Instant::now();
        let next = match round(&office, &mut busy, &mut calls).await {
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
            _ = changes.changed() => {}
            () = tokio::time::sleep(next.min(LOOK)) => {}
        }
        while let Some(done) = calls.try_join_next() {
            ended(&mut busy, done);
        }
        if calls.is_empty() {
            // Also after a defect in one of them.
            busy.clear();
        }
    }
}

fn ended(busy: &mut BTreeSet<Place>, done: Result<Place, tokio::task::JoinError>) {
    match done {
        Ok(place) => drop(busy.remove(&place)),
        Err(error) => tracing::error!(%error, "publishing ended by a defect; it is tried again"),
    }
}

async fn round(
    office: &Arc<Office>,
    busy: &mut BTreeSet<Place>,
    calls: &mut JoinSet<Place>,
) -> Result<Duration, FleetError> {
    let (store, now) = (office.outbox.store(), now_ms());
    for wanted in [Wanted::Revoke, Wanted::Grant] {
        let mut free =
            AT_ONCE.saturating_sub(busy.iter().filter(|(kind, _)| *kind == wanted.word()).count());
        for host in store.hosts_due(wanted, now, ROUND).await? {
            let place = (wanted.word(), host);
            if free == 0 {
                break;
            }
            if busy.contains(&place) {
                continue;
            }
            free -= 1;
            busy.insert(place.clone());
            let office = Arc::clone(office);
            calls.spawn(async move {
                if let Err(error) = publish(&office, &place.1, wanted).await {
                    tracing::warn!(%error, host = place.1, "what was published was not kept");
                    // The rows stay due: not without a pause.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                place
            });
        }
    }
    let next = store.next_due(now).await?;
    let wait = |next: i64| u64::try_from(next.saturating_sub(now_ms())).unwrap_or(0);
    Ok(next.map_or(LOOK, |next| Duration::from_millis(wait(next))))
}

/// Publishes what is due for a host.
async fn publish(office: &Office, host: &str, wanted: Wanted) -> Result<(), FleetError> {
    let store = office.outbox.store();
    let rows = store.due_for(host, wanted, now_ms(), BATCH).await?;
    let known = store.host(host).await?;
    let held =
        known.as_ref().is_some_and(|known| known.observed.alarms.iter().any(|one| one.holds));
    let hub = known.map(|known| known.observed.uplink).unwrap_or_default();
    let mut each = Vec::with_capacity(rows.len());
    for row in &rows {
        each.push(one(office, row, held && wanted == Wanted::Grant, &hub));
    }
    office.outbox.hear(join_all(each).await).await
}

/// Publishes a row. `held`: nothing is opened on its host. `hub`: where it is, or was.
async fn one(office: &Office, row: &Delivery, held: bool, hub: &str) -> Heard {
    if held {
        let why = "two machines are connected as this host: nothing is opened there until somebody has \
                   looked, and cleared the alarm on the page of the host";
        return failure(row, why);
    }
    let letter = match letter(office, row).await {
        Ok(letter) => letter,
        Err(why) => return failure(row, &why),
    };
    office.published.add(row);
    match timeout(PROMPT, office.bus.publish(&letter, WallTime(now_ms()))).await {
        Ok(Ok(_)) => published(row, hub),
        Ok(Err(error)) => failure(row, &error.to_string()),
        Err(_) => unacknowledged(row),
    }
}

/// What is kept of a row that went out, and of which no server has said that it is stored.
fn unacknowledged(row: &Delivery) -> Heard {
    if row.attempts >= SHOWN {
        let why = "the servers of the bus have not acknowledged it yet; it is published again";
        return failure_after(row, why, UNACKNOWLEDGED);
    }
    let pause = UNACKNOWLEDGED.pause(1, random()).as_millis();
    let next_ms = now_ms().saturating_add(i64::try_from(pause).unwrap_or(400));
    Heard { of: row.clone(), what: What::Sent { next_ms } }
}

/// What is kept of a row that was published.
fn published(row: &Delivery, hub: &str) -> Heard {
    let times = row.attempts.saturating_add(1);
    if row.attempts >= SHOWN {
        let why = match hub {
            "" => "no hub of the bus has it connected".to_owned(),
            hub => format!("it was connected last from {hub}, and its hub reports no answer"),
        };
        return failure_after(row, &format!("published {times} times: {why}"), AGAIN);
    }
    let next_ms = now_ms().saturating_add(i64::try_from(AGAIN.first.as_millis()).unwrap_or(10_000));
    // Not all at the same moment.
    let next_ms = next_ms.saturating_add(i64::from(random() % 5000));
    Heard { of: row.clone(), what: What::Sent { next_ms } }
}

pub(super) async fn letter(office: &Office, row: &Delivery) -> Result<Letter, String> {
    let grant = office.outbox.store().grant(&row.grant_id).await;
    let grant = grant.map_err(|error| error.to_string())?.ok_or("its grant is gone")?;
    let to = To::Host(HostTag::of(&row.host));
    match row.wanted {
        Wanted::Grant => of_grant(to, grant),
        Wanted::Revoke => of_revocation(office, to, row, &grant).await,
    }
}

fn of_grant(to: To, grant: StoredGrant) -> Result<Letter, String> {
    let StoredGrant { part, envelope, .. } = grant;
    let envelope = envelope.ok_or("its grant is not signed")?;
    let signed = v1::Grant::decode(part.payload.as_slice()).map_err(|error| error.to_string())?;
    let piece = Piece::Grant {
        id: part.id,
        requester: signed.requester.into(),
        issued_at: WallTime(signed.issued_at_ms),
        not_after: WallTime(part.not_after_ms),
    };
    let item = item(GRANT_TYPE, &part.payload);
    Ok(Letter { to, item, piece, envelope: envelope.encode_to_vec().into() })
}

/// The signed revocation of one grant at one host. It has the same bytes each time, so it takes up one place
/// in the mailbox.
async fn of_revocation(
    office: &Office,
    to: To,
    row: &Delivery,
    grant: &StoredGrant,
) -> Result<Letter, String> {
    let part = &grant.part;
    let signed = v1::Grant::decode(part.payload.as_slice()).map_err(|error| error.to_string())?;
    let revocation = v1::Revocation {
        hosts: vec![row.host.clone()],
        grant_ids: vec![part.id.0.to_vec().into()],
        issued_before_ms: signed.issued_at_ms,
        author: CONTROLLER.to_owned(),
        reason: format!("the controller ended request {}", row.request),
        keep_until_ms: part.not_after_ms,
        ..v1::Revocation::default()
    };
    let payload = revocation.encode_to_vec();
    let signatures = office.signer.sign_revocation(payload.clone()).await;
    let signatures = signatures.map_err(|error| error.to_string())?;
    let item = item(REVOCATION_TYPE, &payload);
    let payload_type = REVOCATION_TYPE.to_owned();
    let envelope = v1::Envelope { payload_type, payload: payload.into(), signatures };
    let piece = Piece::Revocation {
        of: Revokes::Ids(vec![part.id]),
        keep_until: WallTime(part.not_after_ms),
    };
    Ok(Letter { to, item, piece, envelope: envelope.encode_to_vec().into() })
}
