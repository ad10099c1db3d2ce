//! The board of faults: what is wrong around the gate, from whoever meets it. `status` and the audit
//! show each until it is mended.
//!
//! The log, the listener, the certificates and the configuration fail by themselves, and must not
//! wait for the gate to say so. So they write here, and the gate reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Name of the fault: no controller can connect.
pub const NOT_LISTENING: &str = "control";
/// Name of the fault: certificate, key or authorities of `[control]` cannot be used.
pub const CONTROL_FILES: &str = "control_files";

/// What is wrong, by a stable name. Clones share one board.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<String, String>>>);

impl Faults {
    /// Sets the present fault of one thing; `None`: it is mended. Returns whether that is news.
    pub fn set(&self, name: &str, fault: Option<String>) -> bool {
        let mut board = self.lock();
        let before = match &fault {
            Some(text) => board.insert(name.to_owned(), text.clone()),
            None => board.remove(name),
        };
        before != fault
    }

    /// All faults: name and text.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        let Self(board) = self;
        // Held for a few instructions, never over a call that can wait.
        board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_stands_until_it_is_mended_and_is_news_once() {
        let faults = Faults::default();
        let elsewhere = faults.clone();
        assert!(elsewhere.set("listener", Some("port taken".into())));
        assert!(!elsewhere.set("listener", Some("port taken".into())));
        assert_eq!(faults.all(), [("listener".into(), "port taken".into())].into());
        assert!(faults.set("listener", None) && !faults.set("listener", None));
        assert!(elsewhere.all().is_empty());
    }
}
