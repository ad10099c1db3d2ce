//! What happens on a connection: its calls, how far each is, and since when nothing has happened.
//! `places` decides by this which connection has to go.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Longest time until a new connection speaks HTTP/2.
const GREETING: Duration = Duration::from_secs(5);
/// A connection without a call is closed after this time. Keep-alives do not count.
const IDLE: Duration = Duration::from_secs(300);
/// Longest time for the peer to take an answer.
const ANSWER: Duration = Duration::from_secs(25);

/// Why a connection ended that never spoke HTTP/2.
const SILENT: &str = "it made no HTTP/2 connection within 5 s: is it a hub?";

/// How far a call is. The order is that of [`Activity::rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Its request arrives.
    Reading,
    /// It has an answer without an end, such as the events of `Watch`.
    Watching,
    /// The peer takes its answer.
    Answering,
    /// The gate works on it.
    Working,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It did not speak HTTP/2 in time.
    Silent,
    /// It had no call for a long time.
    Idle,
    /// An answer was not taken.
    Unread,
}

/// One connection's calls. Clones are of the same connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    greeted: bool,
    /// It is kept without a call, too.
    kept: bool,
    /// The first error of the connection.
    broke: Option<String>,
    /// Since when there has been no call.
    idle_since: Instant,
    /// The calls that have not ended. HTTP/2 limits their number.
    calls: Vec<Running>,
    next: u64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    stage: Stage,
    since: Instant,
}

impl Activity {
    /// Of a new connection.
    pub(super) fn new(now: Instant) -> Self {
        let state = State {
            greeted: false,
            kept: false,
            broke: None,
            idle_since: now,
            calls: Vec::new(),
            next: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Keeps the connection without a call, too.
    pub(super) fn keep(&self) {
        self.lock().kept = true;
    }

    /// The connection broke.
    pub(super) fn broke(&self, error: &io::Error) {
        self.lock().broke.get_or_insert_with(|| error.to_string());
    }

    /// Why the connection has ended, as far as this end knows.
    pub(super) fn end(&self) -> String {
        let state = self.lock();
        let silent = if state.greeted { "the hub closed the connection" } else { SILENT };
        state.broke.clone().unwrap_or_else(|| silent.to_owned())
    }

    /// The peer speaks HTTP/2.
    pub(super) fn greeted(&self) {
        self.lock().greeted = true;
    }

    /// A call begins. It ends when what is returned is dropped.
    pub(super) fn begin(&self, now: Instant) -> OpenCall {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.calls.push(Running { number, stage: Stage::Reading, since: now });
        OpenCall { activity: self.clone(), number }
    }

    /// How much is lost if the connection is closed; `None`: nothing, it has no call.
    pub(super) fn rank(&self) -> Option<Stage> {
        self.lock().calls.iter().map(|call| call.stage).max()
    }

    /// Whether it has to be closed.
    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let state = self.lock();
        let since = |at: Instant| now.saturating_duration_since(at);
        let unread = |call: &Running| call.stage == Stage::Answering && since(call.since) >= ANSWER;
        if !state.greeted && since(state.idle_since) >= GREETING {
            Some(Overdue::Silent)
        } else if !state.kept && state.calls.is_empty() && since(state.idle_since) >= IDLE {
            Some(Overdue::Idle)
        } else if state.calls.iter().any(unread) {
            Some(Overdue::Unread)
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let Self(state) = self;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has not ended.
#[derive(Debug)]
pub(super) struct OpenCall {
    activity: Activity,
    number: u64,
}

impl OpenCall {
    /// The call goes on to this stage.
    pub(super) fn enter(&self, stage: Stage, now: Instant) {
        let mut state = self.activity.lock();
        if let Some(call) = state.calls.iter_mut().find(|call| call.number == self.number) {
            (call.stage, call.since) = (stage, now);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.calls.retain(|call| call.number != self.number);
        if state.calls.is_empty() {
            state.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_says_nothing_or_does_nothing_is_closed() {
        let began = Instant::now();
        let activity = Activity::new(began);
        assert_eq!(activity.overdue(began), None);
        assert_eq!(activity.overdue(began + GREETING), Some(Overdue::Silent));
        activity.greeted();
        assert_eq!(activity.overdue(began + GREETING), None);
        assert_eq!(activity.overdue(began + IDLE), Some(Overdue::Idle));
        let call = activity.begin(began);
        call.enter(Stage::Watching, began);
        assert_eq!(activity.overdue(began + 100 * IDLE), None, "a watch has no end");
        drop(call);
        assert_eq!(activity.overdue(Instant::now()), None, "idle only since the call ended");
        assert_eq!(activity.overdue(Instant::now() + IDLE), Some(Overdue::Idle));
    }

    #[test]
    fn an_answer_must_be_taken() {
        let began = Instant::now();
        let activity = Activity::new(began);
        activity.greeted();
        let (one, _other) = (activity.begin(began), activity.begin(began));
        one.enter(Stage::Answering, began);
        assert_eq!(activity.overdue(began + ANSWER / 2), None);
        assert_eq!(activity.overdue(began + ANSWER), Some(Overdue::Unread));
        drop(one);
        assert_eq!(activity.overdue(began + ANSWER), None);
    }

    #[test]
    fn a_connection_counts_as_its_most_valuable_call() {
        let now = Instant::now();
        let activity = Activity::new(now);
        assert_eq!(activity.rank(), None);
        let (one, other) = (activity.begin(now), activity.begin(now));
        assert_eq!(activity.rank(), Some(Stage::Reading));
        one.enter(Stage::Working, now);
        other.enter(Stage::Watching, now);
        assert_eq!(activity.rank(), Some(Stage::Working));
        drop(one);
        assert_eq!(activity.rank(), Some(Stage::Watching));
    }
}
