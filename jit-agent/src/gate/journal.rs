//! The last events, for watchers, and a cursor from which a watcher goes on.
//!
//! Bounded: a watcher that is too slow or comes back too late gets a count of what it missed.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use jit_proto::v1::{Event, Gap, event::What};
use tokio::sync::Notify;

/// Largest number of events that are held.
const HELD: usize = 8192;
/// Most events handed out at once.
const BATCH: usize = 256;

/// The journal.
#[derive(Debug)]
pub struct Journal {
    /// Distinguishes runs of the agent: a cursor of another run says nothing about this one.
    run: String,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of the first event held.
    first: u64,
    events: VecDeque<Event>,
}

/// A place in the journal.
#[derive(Debug)]
pub struct Reader {
    next: u64,
    /// The cursor that this reader came with was of another run.
    lost: bool,
}

impl Journal {
    /// An empty journal of a run with this name.
    pub fn new(run: String) -> Self {
        Self { run, inner: Mutex::default(), changed: Notify::new() }
    }

    /// Adds an event; its cursor is set here.
    pub fn add(&self, time_ms: i64, what: What) {
        let mut inner = self.lock();
        let number = inner.first.saturating_add(len(&inner.events));
        let cursor = format!("{}-{number}", self.run);
        inner.events.push_back(Event { cursor, time_ms, what: Some(what) });
        if inner.events.len() > HELD {
            inner.events.pop_front();
            inner.first += 1;
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A reader after this cursor; with an empty one, after everything so far.
    pub fn reader(&self, cursor: &str) -> Result<Reader, String> {
        if cursor.is_empty() {
            let inner = self.lock();
            return Ok(Reader { next: inner.first + len(&inner.events), lost: false });
        }
        let number = cursor
            .rsplit_once('-')
            .and_then(|(run, number)| Some((run, number.parse::<u64>().ok()?)))
            .ok_or_else(|| format!("{cursor:?} is no cursor of an event"))?;
        match number {
            (run, number) if run == self.run => {
                Ok(Reader { next: number.saturating_add(1), lost: false })
            }
            _ => Ok(Reader { next: 0, lost: true }),
        }
    }

    /// The next events, at least one; waits for it.
    pub async fn next(&self, reader: &mut Reader) -> Vec<Event> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let events = self.take(reader);
            if !events.is_empty() {
                return events;
            }
            changed.await;
        }
    }

    fn take(&self, reader: &mut Reader) -> Vec<Event> {
        let inner = self.lock();
        let end = inner.first + len(&inner.events);
        let mut events = Vec::new();
        if reader.lost || reader.next < inner.first {
            let missed = if reader.lost { 0 } else { inner.first - reader.next };
            events.push(Event {
                cursor: format!("{}-{}", self.run, inner.first.wrapping_sub(1)),
                time_ms: inner.events.front().map_or(0, |event| event.time_ms),
                what: Some(What::Gap(Gap { missed })),
            });
            *reader = Reader { next: inner.first, lost: false };
        }
        // A cursor from the future of this run: go on with what is new.
        reader.next = reader.next.min(end);
        let skip = usize::try_from(reader.next - inner.first).unwrap_or(usize::MAX);
        let before = events.len();
        events.extend(inner.events.iter().skip(skip).take(BATCH).cloned());
        reader.next += u64::try_from(events.len() - before).unwrap_or(0);
        events
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // No code with this lock panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn len(events: &VecDeque<Event>) -> u64 {
    u64::try_from(events.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {

    use jit_proto::v1::GateEvent;

    use super::*;

    fn what() -> What {
        What::Gate(GateEvent::default())
    }

    #[tokio::test]
    async fn a_reader_goes_on_after_its_cursor() {
        let journal = Journal::new("r".into());
        for time in 0..5 {
            journal.add(time, what());
        }
        let mut reader = journal.reader("r-1").unwrap();
        let times: Vec<_> = journal.next(&mut reader).await.iter().map(|e| e.time_ms).collect();
        assert_eq!(times, [2, 3, 4]);
        journal.add(5, what());
        assert_eq!(journal.next(&mut reader).await[0].cursor, "r-5");
    }

    #[tokio::test]
    async fn what_is_no_longer_held_is_a_gap() {
        let journal = Journal::new("r".into());
        for _ in 0..HELD + 10 {
            journal.add(0, what());
        }
        let mut reader = journal.reader("r-3").unwrap();
        let events = journal.next(&mut reader).await;
        assert_eq!(events[0].what, Some(What::Gap(Gap { missed: 6 })));
        assert_eq!(events[1].cursor, "r-10");
        let mut reader = journal.reader("other-7").unwrap();
        assert_eq!(journal.next(&mut reader).await[0].what, Some(What::Gap(Gap { missed: 0 })));
        assert!(journal.reader("nonsense").is_err());
    }
}
