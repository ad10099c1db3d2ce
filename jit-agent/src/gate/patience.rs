//! How long the gate waits for a disk: shorter while somebody waits for the gate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// The longest wait for the disk. A busy disk may need seconds for a sync; four such waits in a row
/// are shorter than the watchdog's time.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// The longest wait of a revocation, which is closed in the kernel by then.
pub(super) const REVOCATION: Duration = Duration::from_secs(2);
/// The longest wait while somebody asks a question.
const QUESTION: Duration = Duration::from_secs(2);
/// The longest wait while an interface may wait for its gate.
const LINKS: Duration = Duration::from_millis(500);
/// The longest wait while a revocation or another urgent command waits.
const URGENT: Duration = Duration::from_millis(100);

/// What waits for the gate. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience {
    pub(super) urgent: Waiting,
    pub(super) questions: Waiting,
    /// Links have changed, and the gate has not looked.
    links: Arc<AtomicBool>,
}

/// A number of commands that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

/// One command that waits, until it is served or its sender is gone.
#[derive(Debug)]
pub(super) struct Waits(Arc<AtomicUsize>);

impl Patience {
    /// Whether a wait has been long enough, at most `longest`.
    pub(super) fn ends(&self, waited: Duration, longest: Duration) -> bool {
        let most = if self.urgent.any() {
            URGENT
        } else if self.links.load(Ordering::Relaxed) {
            LINKS
        } else if self.questions.any() {
            QUESTION
        } else {
            LONGEST
        };
        waited >= most.min(longest)
    }

    /// Sets whether changed links wait.
    pub(super) fn links_wait(&self, wait: bool) {
        self.links.store(wait, Ordering::Relaxed);
    }
}

impl Waiting {
    /// One more waits.
    pub(super) fn one(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(&self.0))
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_urgent_what_waits_is_the_shorter_is_the_wait() {
        let patience = Patience::default();
        let longest = |patience: &Patience| {
            (0..).map(Duration::from_millis).find(|waited| patience.ends(*waited, LONGEST)).unwrap()
        };
        assert_eq!(longest(&patience), LONGEST);
        let question = patience.questions.one();
        assert_eq!(longest(&patience), QUESTION);
        patience.links_wait(true);
        assert_eq!(longest(&patience), LINKS);
        let urgent = patience.clone().urgent.one();
        assert_eq!(longest(&patience), URGENT);
        assert!(patience.ends(Duration::from_millis(7), Duration::from_millis(7)));
        drop((urgent, question));
        patience.links_wait(false);
        assert_eq!(longest(&patience), LONGEST);
    }
}
