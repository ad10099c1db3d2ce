//! What all simulated agents together have seen, and when.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use jit_proto::GrantId;

/// Refusals that are kept, at most.
const REFUSALS: usize = 10;

/// What an agent did with a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Opened,
    Closed,
    /// It had it already: nothing changed.
    Again,
}

/// An answer of one agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) agent: usize,
    pub(crate) grant: GrantId,
    pub(crate) kind: Kind,
    /// Microseconds since the Unix epoch.
    pub(crate) at_us: u64,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Board {
    up: AtomicUsize,
    spares: AtomicUsize,
    answers: Mutex<Answers>,
    refusals: Mutex<Vec<String>>,
    failures: Mutex<BTreeMap<String, usize>>,
}

/// Answers, and which agents have given one of each kind: who waits asks for that all the time.
#[derive(Default)]
struct Answers {
    all: Vec<Answer>,
    agents: HashMap<Kind, HashSet<usize>>,
}

impl Board {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn up(&self) {
        self.up.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn down(&self) {
        self.up.fetch_sub(1, Ordering::SeqCst);
    }

    /// Agents whose events a hub reads: it delivers to them.
    pub(crate) fn count_up(&self) -> usize {
        self.up.load(Ordering::SeqCst)
    }

    pub(super) fn spare_up(&self) {
        self.spares.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn spare_down(&self) {
        self.spares.fetch_sub(1, Ordering::SeqCst);
    }

    /// Agents with a spare connection that waits.
    pub(crate) fn count_spares(&self) -> usize {
        self.spares.load(Ordering::SeqCst)
    }

    pub(crate) fn answered(&self, agent: usize, grant: GrantId, kind: Kind) {
        let answer = Answer { agent, grant, kind, at_us: now_us() };
        let mut answers = self.answers();
        answers.all.push(answer);
        answers.agents.entry(kind).or_default().insert(agent);
    }

    /// All answers since this was last asked.
    pub(crate) fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers()).all
    }

    /// Number of answers since they were taken last.
    pub(crate) fn count(&self) -> usize {
        self.answers().all.len()
    }

    /// Number of such answers since they were taken last.
    pub(crate) fn count_of(&self, kind: Kind) -> usize {
        self.answers().all.iter().filter(|answer| answer.kind == kind).count()
    }

    /// Number of agents with such an answer since they were taken last.
    pub(crate) fn agents_with(&self, kind: Kind) -> usize {
        self.answers().agents.get(&kind).map_or(0, HashSet::len)
    }

    pub(crate) fn refused(&self, why: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < REFUSALS {
            refusals.push(why.to_owned());
        }
    }

    /// Counts an attempt to connect that failed.
    pub(crate) fn failed(&self, why: String) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(why).or_default() += 1;
    }

    /// Attempts that failed since this was last asked, by reason.
    pub(crate) fn failures(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, within: Duration, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone();
            assert!(
                began.elapsed() < within && refusals.is_empty(),
                "not {what}: {} up, {} answers, refused: {refusals:?}, not connected: {:?}",
                self.count_up(),
                self.count(),
                self.failures(),
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap()
}
