//! Writes what followers see: many hosts in one transaction, so that a fleet that wakes up does not hold
//! up who asks for access. What a person must know is an audit record in the same transaction.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    observe::{self, HeadVerdict, SignedHead},
    outbox::Outbox,
};
use crate::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::host::{Alarm, Observed},
    store::{StoreError, Tx, deliveries, heads, hosts, uses},
};

/// The most notes that wait; followers wait for room.
const WAITING: usize = 1024;
/// The most notes of one transaction.
const BATCH: usize = 64;
/// Between attempts while the database does not answer.
const AGAIN: Duration = Duration::from_secs(1);
const DAY_MS: i64 = 24 * 3600 * 1000;
const BY: &str = "controller";

/// What was seen of a host.
#[derive(Clone, Debug, Default)]
pub(super) struct Note {
    pub(super) host: String,
    /// What its agent answered, without alarms and audit; `None`: nothing new.
    pub(super) observed: Option<Observed>,
    pub(super) alarms: Vec<Alarm>,
    /// It answers again: what it waits for is due now.
    pub(super) back: bool,
    /// Connections that grants have let in, by their ids.
    pub(super) uses: BTreeMap<String, u64>,
    /// The end of its audit.
    pub(super) head: Option<SignedHead>,
}

/// A place for notes, and who writes them.
pub(super) fn open() -> (Sender<Note>, Receiver<Note>) {
    channel(WAITING)
}

/// Writes until nobody is left who could have a note.
pub(super) async fn run(outbox: Outbox, mut notes: Receiver<Note>) {
    let mut batch = Vec::with_capacity(BATCH);
    while notes.recv_many(&mut batch, BATCH).await > 0 {
        batch = together(batch);
        while let Err(error) = write_all(&outbox, &batch).await {
            tracing::warn!(%error, hosts = batch.len(), "what hosts answered could not be stored");
            if matches!(error, StoreError::Corrupt { .. }) {
                // The row of one host cannot be read: it must not hold up the others.
                for note in &batch {
                    let _said_above = write_all(&outbox, std::slice::from_ref(note)).await;
                }
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        batch.clear();
    }
}

/// The same notes: those of one host that go into one are one.
fn together(notes: Vec<Note>) -> Vec<Note> {
    let mut left: Vec<Note> = Vec::with_capacity(BATCH);
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for note in notes {
        let before = places.get(&note.host).and_then(|place| left.get_mut(*place));
        match before {
            Some(before) if before.takes(&note) => before.take(note),
            _ => {
                places.insert(note.host.clone(), left.len());
                left.push(note);
            }
        }
    }
    left
}

impl Note {
    /// Whether both are one: nothing of the first is lost by what the second one says.
    const fn takes(&self, next: &Self) -> bool {
        (self.observed.is_none() || next.observed.is_none())
            && (self.head.is_none() || next.head.is_none())
    }

    fn take(&mut self, next: Self) {
        self.observed = self.observed.take().or(next.observed);
        self.head = self.head.take().or(next.head);
        self.alarms.extend(next.alarms);
        self.uses.extend(next.uses);
        self.back |= next.back;
    }
}

async fn write_all(outbox: &Outbox, notes: &[Note]) -> Result<(), StoreError> {
    let mut turn = outbox.begin().await?;
    for note in notes {
        write(&mut turn.tx, note).await?;
    }
    turn.commit().await
}

async fn write(tx: &mut Tx, note: &Note) -> Result<(), StoreError> {
    // A host that was removed meanwhile has no row any more.
    let Some(before) = hosts::lock_observed(tx, &note.host).await? else { return Ok(()) };
    let mut stored = before.clone();
    let now_ms = now_ms();
    if note.back {
        deliveries::host_is_back(tx, &note.host, now_ms).await?;
    }
    for (grant, hits) in &note.uses {
        uses::saw(tx, grant, &note.host, *hits, now_ms).await?;
    }
    if let Some(seen) = &note.observed {
        if seen.condition != stored.condition {
            let record = json!({
                "host": note.host, "condition": seen.condition.word(),
                "before": stored.condition.word(), "trouble": seen.trouble,
                "problems": seen.problems,
            });
            let record = Record::new(Code::HostCondition, "", BY, record);
            audit::append(tx, now_ms, &record).await?;
        }
        let Observed { alarms, audit_head, audit_key, .. } = stored;
        stored = Observed { alarms, audit_head, audit_key, ..seen.clone() };
    }
    let mut alarms = note.alarms.clone();
    if let Some(new) = &note.head {
        let alarm = keep_head(tx, &note.host, new, &mut stored, now_ms).await?;
        alarms.extend(alarm);
    }
    for alarm in &alarms {
        if observe::add_alarm(&mut stored, alarm) {
            let record = json!({ "host": note.host, "alarm": alarm.word, "text": alarm.text });
            audit::append(tx, now_ms, &Record::new(Code::HostAlarm, "", BY, record)).await?;
        }
    }
    if stored != before {
        hosts::set_observed(tx, &note.host, &stored).await?;
    }
    Ok(())
}

async fn keep_head(
    tx: &mut Tx,
    host: &str,
    new: &SignedHead,
    stored: &mut Observed,
    now_ms: i64,
) -> Result<Option<Alarm>, StoreError> {
    let kept = heads::newest(tx, host).await?.and_then(SignedHead::of);
    let verdict = kept.as_ref().map(|kept| observe::judge(kept, new));
    let alarm = match verdict {
        Some(HeadVerdict::Old) => return Ok(None),
        Some(HeadVerdict::Alarm(word, text)) => {
            Some(Alarm { word: word.into(), text, at_ms: now_ms, holds: false })
        }
        Some(HeadVerdict::Good) | None => None,
    };
    heads::keep(tx, host, &new.head).await?;
    let day = |head: &SignedHead| head.head.at_ms.div_euclid(DAY_MS);
    // One a day is enough in the controller's own audit; all of them are in the table.
    if alarm.is_some() || kept.is_none_or(|kept| day(&kept) != day(new)) {
        let record = json!({
            "host": host, "audit_seq": new.head.seq, "audit_hash": new.head.hash,
            "key": new.key, "signed": new.head.signed,
        });
        audit::append(tx, now_ms, &Record::new(Code::HostAuditHead, "", BY, record)).await?;
    }
    stored.audit_head = format!("{}:{}", new.head.seq, new.head.hash);
    stored.audit_key.clone_from(&new.key);
    Ok(alarm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_one_host_are_one_unless_something_of_them_would_be_lost() {
        let note = |host: &str| Note { host: host.into(), ..Note::default() };
        let seen = |host: &str, seen_ms| {
            let observed = Some(Observed { seen_ms, ..Observed::default() });
            Note { observed, ..note(host) }
        };
        let notes = vec![
            seen("a", 1),
            seen("b", 2),
            Note { back: true, ..note("a") },
            Note { uses: [("g".to_owned(), 3)].into(), ..note("a") },
            seen("a", 4),
            Note { back: true, ..note("b") },
        ];
        let left = together(notes);
        let shown: Vec<_> = left
            .iter()
            .map(|note| {
                let seen_ms = note.observed.as_ref().map(|seen| seen.seen_ms);
                (note.host.as_str(), seen_ms, note.back, note.uses.len())
            })
            .collect();
        assert_eq!(
            shown,
            [("a", Some(1), true, 1), ("b", Some(2), true, 0), ("a", Some(4), false, 0)]
        );
    }
}
