//! The last events, for watchers, and a cursor from which a watcher goes on.
//!
//! Bounded: a watcher that is too slow or comes back too late gets a count of what it missed. Whoever
//! adds an event waits for no watcher, and wakes each only now and then.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jit_proto::v1::{Event, Gap, event::What};
use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Largest number of events that are held.
const HELD: usize = 8192;
/// Most events handed out at once: what a stream holds for a watcher that does not read.
const BATCH: usize = 64;
/// A watcher that has got everything is not woken again before this time: many watchers must not
/// take the gate's time with each event.
const REST: Duration = Duration::from_millis(20);

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
    events: Events,
}

/// Events, encoded in one block. As messages they are tens of thousands of small blocks, and between
/// those the allocator could give back little of what a long list took.
#[derive(Debug, Default)]
struct Events {
    bytes: VecDeque<u8>,
    /// Number of bytes that have left `bytes`.
    gone: u64,
    /// The end of each event, counted from the first byte that ever was in `bytes`.
    ends: VecDeque<u64>,
}

impl Events {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, event: &Event) {
        self.bytes.extend(event.encode_to_vec());
        self.ends.push_back(self.gone.saturating_add(number(self.bytes.len())));
    }

    fn remove_first(&mut self) {
        let Some(end) = self.ends.pop_front() else { return };
        self.bytes.drain(..self.place(end));
        self.gone = end;
    }

    /// Some events from this one on.
    fn some(&self, skip: usize, most: usize) -> impl Iterator<Item = Event> {
        let before = skip.checked_sub(1).and_then(|last| self.ends.get(last));
        let mut start = before.map_or(0, |end| self.place(*end));
        self.ends.iter().skip(skip).take(most).map(move |end| {
            let end = self.place(*end);
            let bytes: Vec<_> = self.bytes.range(start..end).copied().collect();
            start = end;
            Event::decode(&*bytes).expect("an event that was encoded here")
        })
    }

    /// The place in `bytes`, which is never longer than memory.
    fn place(&self, end: u64) -> usize {
        let place = usize::try_from(end.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        place.min(self.bytes.len())
    }
}

/// A place in the journal.
#[derive(Debug)]
pub struct Reader {
    next: u64,
    /// The cursor that this reader came with was of another run.
    lost: bool,
    /// When it may be woken again.
    rested: Instant,
}

impl Reader {
    fn at(next: u64, lost: bool) -> Self {
        Self { next, lost, rested: Instant::now() }
    }
}

impl Journal {
    /// An empty journal of a run with this name.
    pub fn new(run: String) -> Self {
        Self { run, inner: Mutex::default(), changed: Notify::new() }
    }

    /// Adds an event; its cursor is set here.
    pub fn add(&self, time_ms: i64, what: What) {
        let mut inner = self.lock();
        let next = inner.first.saturating_add(number(inner.events.len()));
        let cursor = format!("{}-{next}", self.run);
        inner.events.push(&Event { cursor, time_ms, what: Some(what) });
        if inner.events.len() > HELD {
            inner.events.remove_first();
            inner.first += 1;
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// A reader after this cursor; with an empty one, after everything so far.
    pub fn reader(&self, cursor: &str) -> Result<Reader, String> {
        if cursor.is_empty() {
            let inner = self.lock();
            return Ok(Reader::at(inner.first + number(inner.events.len()), false));
        }
        let number = cursor
            .rsplit_once('-')
            .and_then(|(run, number)| Some((run, number.parse::<u64>().ok()?)))
            .ok_or_else(|| format!("{cursor:?} is no cursor of an event"))?;
        match number {
            (run, number) if run == self.run => Ok(Reader::at(number.saturating_add(1), false)),
            _ => Ok(Reader::at(0, true)),
        }
    }

    /// The next events, at least one; waits for it.
    pub async fn next(&self, reader: &mut Reader) -> Vec<Event> {
        sleep_until(reader.rested).await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let events = self.take(reader);
            if !events.is_empty() {
                if events.len() < BATCH {
                    reader.rested = Instant::now() + REST;
                }
                return events;
            }
            changed.await;
        }
    }

    fn take(&self, reader: &mut Reader) -> Vec<Event> {
        let inner = self.lock();
        let end = inner.first + number(inner.events.len());
        let mut events = Vec::new();
        if reader.lost || reader.next < inner.first {
            let missed = if reader.lost { 0 } else { inner.first - reader.next };
            events.push(Event {
                cursor: format!("{}-{}", self.run, inner.first.wrapping_sub(1)),
                time_ms: inner.events.some(0, 1).next().map_or(0, |event| event.time_ms),
                what: Some(What::Gap(Gap { missed })),
            });
            (reader.next, reader.lost) = (inner.first, false);
        }
        // A cursor from the future of this run: go on with what is new.
        reader.next = reader.next.min(end);
        let skip = usize::try_from(reader.next - inner.first).unwrap_or(usize::MAX);
        let before = events.len();
        events.extend(inner.events.some(skip, BATCH));
        reader.next += number(events.len() - before);
        events
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // No code with this lock panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
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

    /// A stream holds one batch for a watcher that does not read: nothing else grows.
    #[tokio::test]
    async fn a_thousand_watchers_that_do_not_read_hold_a_batch_each() {
        let journal = Journal::new("r".into());
        let mut readers: Vec<_> = (0..1_000).map(|_| journal.reader("").unwrap()).collect();
        journal.add(0, what());
        for reader in &mut readers {
            assert_eq!(journal.next(reader).await.len(), 1);
        }
        let began = Instant::now();
        for time in 0..20_000 {
            journal.add(time, what());
        }
        println!("20,000 events in {:?}", began.elapsed());
        assert_eq!(journal.lock().events.len(), HELD);
        let events = journal.next(&mut readers[0]).await;
        assert_eq!(events.len(), BATCH + 1, "a batch, and the gap before it");
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
