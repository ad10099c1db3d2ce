//! Checkpoints for hosts at hubs: each host hears of each one by its hub, and says what has not arrived. That
//! is published again. A hub or a broker that withholds something is named by the host itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_proto::{WallTime, merkle::Hash, v1};
use prost::Message as _;
use tokio::{sync::watch, time::sleep};

use super::{
    super::{FleetError, SignCheckpoint, checkpoints, scribe::Note},
    Office, letters,
};
use crate::{
    bus::Comparison,
    checkpoint::mailboxes::{Snapshot, item},
    clock::now_ms,
    model::host::Alarm,
    store::Wanted,
};

/// How checkpoints are made.
#[derive(Clone)]
pub struct Freshness {
    /// How often.
    pub every: Duration,
    /// Who signs them.
    pub sign: SignCheckpoint,
}

/// Hosts that hear of one without a pause between.
const TOGETHER: usize = 100;
/// A host is asked so often about one checkpoint, at most.
const TIMES: u32 = 4;
/// So often it can be that what is missing is on its way: once it is asked for the list, and once it compares.
const PATIENT: u32 = 2;
/// What was published again gets this time before the host is asked again.
const ARRIVES: Duration = Duration::from_secs(1);

/// The last checkpoint, and which hosts were asked about it once more.
pub(super) struct Checkpoints {
    last: watch::Sender<Option<Arc<Snapshot>>>,
    /// Number of the checkpoint, how often the host was asked about it, and its last contradiction.
    asked: Mutex<BTreeMap<String, Asked>>,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    number: u64,
    times: u32,
    contradiction: String,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { last: watch::channel(None).0, asked: Mutex::default() }
    }
}

/// Makes them until the task is ended.
pub(super) async fn make(office: Arc<Office>, freshness: Freshness) {
    let Freshness { every, sign } = freshness;
    checkpoints::run(&office.outbox, &office.checkpoints.last, every, None, sign).await;
}

/// Has each host hear of each one, until the task is ended.
pub(super) async fn bring(office: Arc<Office>) {
    let mut last = office.checkpoints.last.subscribe();
    while last.changed().await.is_ok() {
        let Some(snapshot) = last.borrow_and_update().clone() else { continue };
        let hosts: Vec<_> = snapshot.hosts().map(str::to_owned).collect();
        let parts = u32::try_from(hosts.len().div_ceil(TOGETHER)).unwrap_or(u32::MAX);
        for some in hosts.chunks(TOGETHER) {
            for host in some {
                ask(&office, &snapshot, host, false).await;
            }
            sleep(snapshot.spread / parts.max(1)).await;
        }
    }
}

async fn ask(office: &Office, snapshot: &Snapshot, host: &str, listed: bool) {
    let Some(request) = snapshot.request(host, listed) else { return };
    if let Err(error) = office.bus.compare(host, &request).await {
        tracing::info!(%error, host, "a checkpoint does not go out");
    }
}

/// The number of a checkpoint; `None`: it is none.
fn number(envelope: &v1::Envelope) -> Option<u64> {
    let checkpoint = v1::Checkpoint::decode(envelope.payload.clone()).ok()?;
    Some(checkpoint.number)
}

impl Asked {
    /// How often the host has answered about the checkpoint with this number that something is missing; `None`:
    /// often enough, it is not asked once more.
    fn again(&mut self, number: u64) -> Option<u32> {
        if self.number != number {
            (self.number, self.times) = (number, 0);
        }
        self.times = self.times.saturating_add(1);
        Some(self.times).filter(|times| *times < TIMES)
    }
}

/// Keeps what a host says of the last one. A hub can say what is not true: then something is published once
/// more, or there is an alarm.
pub(super) async fn compared(office: &Arc<Office>, said: &Comparison) -> Result<(), FleetError> {
    let snapshot = office.checkpoints.last.borrow().clone();
    let Some(snapshot) = snapshot else { return Ok(()) };
    let host = said.host.as_str();
    if number(&snapshot.envelope) != Some(said.number) || snapshot.request(host, false).is_none() {
        return Ok(());
    }
    let asked = || office.checkpoints.asked.lock().unwrap_or_else(PoisonError::into_inner);
    match said.standing.as_str() {
        word @ ("forked" | "rolled_back") => {
            {
                let mut asked = asked();
                let before = &mut asked.entry(host.to_owned()).or_default().contradiction;
                if *before == word {
                    return Ok(());
                }
                word.clone_into(before);
            }
            let text = format!(
                "a checkpoint that was brought to this host contradicts one that it has seen ({word}): \
                 another controller signs with the same freshness key, or plays old ones"
            );
            let alarm = Alarm { word: word.to_owned(), text, at_ms: now_ms(), holds: false };
            let note = Note { host: host.to_owned(), alarms: vec![alarm], ..Note::default() };
            let gone = |_| FleetError::Conflict("the fleet has ended".into());
            office.notes.send(note).await.map_err(gone)
        }
        "list_wanted" | "missing" => {
            let times = asked().entry(host.to_owned()).or_default().again(said.number);
            let Some(times) = times else { return Ok(()) };
            if said.standing == "missing" {
                again(office, host, &said.missing, times > PATIENT).await?;
                sleep(ARRIVES).await;
            }
            ask(office, &snapshot, host, true).await;
            Ok(())
        }
        _ => {
            asked().remove(host);
            Ok(())
        }
    }
}

/// Publishes what has not arrived. Unless it is `all` of it, what has no answer yet is left out: it is on its
/// way.
async fn again(office: &Office, host: &str, missing: &str, all: bool) -> Result<(), FleetError> {
    let missing = STANDARD.decode(missing).unwrap_or_default();
    let (missing, _) = missing.as_chunks();
    let missing: BTreeSet<&Hash> = missing.iter().collect();
    let store = office.outbox.store();
    let known = store.host(host).await?;
    let held = known.is_some_and(|known| known.observed.alarms.iter().any(|one| one.holds));
    for mail in store.mail_of(host, now_ms()).await? {
        if !missing.contains(&item(&mail)) {
            continue;
        }
        let Some(row) = store.delivery(&mail.grant_id.to_string(), host).await? else { continue };
        if (held && row.wanted == Wanted::Grant) || (row.pending && !all) {
            continue;
        }
        let published = match letters::letter(office, &row).await {
            Ok(letter) => office.bus.publish(&letter, WallTime(now_ms())).await.map(drop),
            Err(why) => {
                tracing::warn!(why, host, "what has not arrived there is not published again");
                continue;
            }
        };
        if let Err(error) = published {
            tracing::warn!(%error, host, "what has not arrived there is not published again");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_asked_some_times_about_each_checkpoint() {
        let mut asked = Asked::default();
        let first: Vec<_> = (0..TIMES).map(|_| asked.again(7)).collect();
        assert_eq!(first, [Some(1), Some(2), Some(3), None]);
        assert_eq!(asked.again(8), Some(1), "another one");
    }
}
