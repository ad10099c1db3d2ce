//! What is known of the front, for `status`. It decides nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jit_proto::{WallTime, v1};

/// The board. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FrontBoard(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Its process, and since when it has run.
    runs: Option<(u32, WallTime)>,
    /// Number of times that it ended by itself.
    ends: u64,
    last_end: Option<(WallTime, String)>,
    /// Controllers' connections.
    connections: usize,
    /// What the kernel did not take away from it; empty: nothing.
    keeps: String,
}

impl FrontBoard {
    /// It runs.
    pub fn started(&self, pid: u32, now: WallTime) {
        self.lock().runs = Some((pid, now));
    }

    /// It has ended, and why: by itself; `None`: it was ended.
    pub fn ended(&self, why: Option<String>, now: WallTime) {
        let mut state = self.lock();
        (state.runs, state.connections) = (None, 0);
        state.keeps.clear();
        if let Some(why) = why {
            state.ends = state.ends.saturating_add(1);
            state.last_end = Some((now, why));
        }
    }

    pub(super) fn set_connections(&self, connections: usize) {
        self.lock().connections = connections;
    }

    pub(super) fn set_keeps(&self, keeps: String) {
        self.lock().keeps = keeps;
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    /// What `status` shows; `None`: there has never been one.
    pub(super) fn shown(&self) -> Option<v1::Front> {
        let state = self.lock();
        let State { runs, ends, last_end, connections: _, keeps } = &*state;
        if runs.is_none() && last_end.is_none() {
            return None;
        }
        let (pid, since) = runs.unwrap_or_default();
        let (ended_at, why) = last_end.clone().unwrap_or_default();
        Some(v1::Front {
            pid,
            since_ms: since.0,
            ends: *ends,
            last_end_ms: ended_at.0,
            last_end: why,
            keeps: keeps.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let Self(state) = self;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_its_own_stays_to_be_seen_and_an_ordered_one_does_not_count() {
        let board = FrontBoard::default();
        assert_eq!(board.shown(), None);
        board.started(7, WallTime(1_000));
        board.set_connections(3);
        assert_eq!((board.shown().unwrap().pid, board.connections()), (7, 3));
        board.ended(None, WallTime(2_000));
        assert_eq!((board.shown(), board.connections()), (None, 0));
        board.started(8, WallTime(3_000));
        board.ended(Some("killed by signal 9".into()), WallTime(4_000));
        board.started(9, WallTime(5_000));
        let front = board.shown().unwrap();
        assert_eq!((front.pid, front.since_ms, front.ends), (9, 5_000, 1));
        assert_eq!((front.last_end_ms, front.last_end.as_str()), (4_000, "killed by signal 9"));
    }
}
