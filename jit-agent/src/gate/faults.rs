//! The board of faults: what is wrong around the gate, from whoever meets it. `status` and the audit
//! show each until it is mended.
//!
//! The log, the listener, the certificates and the configuration fail by themselves, and must not
//! wait for the gate to say so. So they write here, and the gate reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::rules::problem::ProblemName;

/// What is wrong, by a stable name. Clones share one board.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<ProblemName, String>>>);

impl Faults {
    /// Sets the present fault of one thing; `None`: it is mended. Returns whether that is news.
    pub fn set(&self, name: impl Into<ProblemName>, fault: Option<String>) -> bool {
        let (mut board, name) = (self.lock(), name.into());
        let before = match &fault {
            Some(text) => board.insert(name, text.clone()),
            None => board.remove(&name),
        };
        before != fault
    }

    /// All faults: name and text.
    pub fn all(&self) -> BTreeMap<ProblemName, String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProblemName, String>> {
        let Self(board) = self;
        // Held for a few instructions, never over a call that can wait.
        board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::problem::ProblemKind::Control;

    #[test]
    fn a_fault_stands_until_it_is_mended_and_is_news_once() {
        let faults = Faults::default();
        let elsewhere = faults.clone();
        assert!(elsewhere.set(Control, Some("port taken".into())));
        assert!(!elsewhere.set(Control, Some("port taken".into())));
        assert_eq!(faults.all(), [(Control.into(), "port taken".into())].into());
        assert!(faults.set(Control, None) && !faults.set(Control, None));
        assert!(elsewhere.all().is_empty());
    }
}
