//! A database that cannot be opened: the gate is in force without it, and it is tried again.
//!
//! Nobody knows then which grants are stored and which ids were revoked. So nothing that is stored is
//! open, nothing new is accepted, and revocations are remembered until the database knows them. It is
//! opened on a thread of its own: a disk that hangs must not hold up the gate.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    thread,
    time::Duration,
};

use crate::{
    disk::store::{Store, StoreError, Stored},
    gate::{Gate, Target, trusted_clock::TrustedClock},
    kernel::datapath::Datapath,
    rules::{
        clock::{BootNanos, Now},
        problem::ProblemKind,
    },
};

/// Time from a failure to the next try.
const RETRY: Duration = Duration::from_secs(2);
/// Name of the fault.
const FAULT: ProblemKind = ProblemKind::DatabaseClosed;
/// The most revocations that are remembered; after that, all grants count as revoked.
const REMEMBERED: usize = 4096;

type Opened = Result<(Store, Stored), StoreError>;

/// A database that is not open yet.
#[derive(Debug)]
pub struct Waiting {
    state: PathBuf,
    /// Why it is not open.
    why: String,
    /// The try that has not ended.
    opening: Option<Receiver<Opened>>,
    next: BootNanos,
    /// Revocations since the start: what, by whom, why.
    revoked: Vec<(Target, String, String)>,
}

impl Waiting {
    /// Opens the database in a state directory, but waits no longer than this for the disk.
    ///
    /// # Errors
    /// It is not open; it is tried again when the gate has it ([`Gate::await_database`]).
    pub fn open(state: &Path, limit: Duration) -> Result<(Store, Stored), Self> {
        let opening = begin(state);
        let (why, opening) = match opening.recv_timeout(limit) {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => (error.to_string(), None),
            Err(RecvTimeoutError::Timeout) => {
                let path = state.display();
                (format!("the disk of {path} does not answer within {limit:?}"), Some(opening))
            }
            Err(RecvTimeoutError::Disconnected) => ("the thread that opened it ended".into(), None),
        };
        let (state, next) = (state.to_owned(), BootNanos(0));
        Err(Self { state, why, opening, next, revoked: Vec::new() })
    }

    /// The store that stands for the database until it is open.
    pub fn stand_in(&self) -> (Store, Stored) {
        Store::closed(&self.state, &self.why)
    }

    /// The database, if it is open now. Begins another try when one is due.
    fn poll(&mut self, now: Now) -> Option<(Store, Stored)> {
        let Some(opening) = &self.opening else {
            if now.boot >= self.next {
                self.opening = Some(begin(&self.state));
            }
            return None;
        };
        match opening.try_recv() {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(error)) => self.why = error.to_string(),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {}
        }
        self.opening = None;
        self.next = now.boot + RETRY;
        None
    }

    fn problem(&self) -> String {
        format!(
            "{}: stored grants stay closed and new ones are refused until it can be opened; it is \
             tried again every 2 s",
            self.why
        )
    }

    /// A revocation that the database does not know.
    fn remember(&mut self, target: &Target, by: &str, why: &str) {
        // A signed one may come again and again, each time with a later floor, and must not use up
        // the places.
        if self.revoked.iter_mut().any(|(known, _, _)| known.takes_in(target)) {
            return;
        }
        let full = self.revoked.len() >= REMEMBERED;
        if full {
            self.revoked.clear();
        }
        let target = if full { Target::All } else { target.clone() };
        self.revoked.push((target, by.to_owned(), why.to_owned()));
    }
}

fn begin(state: &Path) -> Receiver<Opened> {
    let (sender, receiver) = channel();
    let state = state.to_owned();
    thread::spawn(move || {
        let _gone = sender.send(Store::open(&state, crate::system::sys::now().wall));
    });
    receiver
}

impl<D: Datapath> Gate<D> {
    /// The gate started with the stand-in of this database.
    pub fn await_database(&mut self, waiting: Waiting, now: Now) {
        let problem = waiting.problem();
        tracing::error!("{problem}");
        self.faults.set(FAULT, Some(problem));
        self.awaited = Some(waiting);
        self.record_alarms(now);
    }

    /// Remembers a revocation until the database knows it.
    pub(super) fn remember_revocation(&mut self, target: &Target, by: &str, why: &str) {
        if let Some(awaited) = &mut self.awaited {
            awaited.remember(target, by, why);
        }
    }

    /// Takes the database as soon as it can be opened.
    pub(super) fn look_for_database(&mut self, now: Now) {
        let Some(awaited) = &mut self.awaited else { return };
        let opened = awaited.poll(now);
        let problem = awaited.problem();
        let Some((store, stored)) = opened else {
            self.faults.set(FAULT, Some(problem));
            return;
        };
        let revoked = self.awaited.take().map(|awaited| awaited.revoked).unwrap_or_default();
        self.take_database(store, stored, revoked, now);
        self.faults.set(FAULT, None);
        tracing::info!("the database is open: stored grants are back");
        self.record_alarms(now);
    }

    /// As at a start, in the same order: nothing opens before all that closes is known.
    fn take_database(
        &mut self,
        store: Store,
        mut stored: Stored,
        revoked: Vec<(Target, String, String)>,
        now: Now,
    ) {
        self.outbox.open(store, now);
        self.restore_denials(stored.denials.take().as_deref());
        self.ledger.restore_floors(&stored.floors);
        let floor = stored.floor.unwrap_or_default().max(self.clock.floor());
        self.clock = TrustedClock::new(Some(floor), stored.lost_before, now);
        if let Some(damage) = stored.damaged.take() {
            self.report_damage(damage, now);
        }
        self.config.policy = self.policies.file_policy().clone();
        self.restore_policies(stored.policies.take(), stored.policies_lost.take(), now);
        if let Err(refused) = self.exempt(now) {
            tracing::error!("{refused}");
        }
        if let Err(error) = self.apply_policy() {
            // The self-test says so, and tries again.
            tracing::error!("{error}");
        }
        self.expect_checkpoints(stored.checkpoint.take().as_ref(), now);
        self.hold_back(stored, now);
        for (target, by, why) in revoked {
            self.revoke(&target, &by, &why, now);
        }
        self.restore_held_back(now);
        self.write_all();
        self.close_slots_of_the_past();
        self.settle_or_log(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let waiting = Waiting::open(directory.path(), Duration::ZERO);
        // A quick disk may have answered all the same.
        let Err(mut waiting) = waiting else { return };
        assert!(waiting.why.contains("does not answer"), "{}", waiting.why);
        let now = |boot| Now { wall: jit_proto::WallTime(1), boot: BootNanos(boot) };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while waiting.poll(now(1)).is_none() {
            assert!(std::time::Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn more_revocations_than_are_remembered_revoke_everything() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state"), "a file").unwrap();
        let state = directory.path().join("state");
        let mut waiting = Waiting::open(&state, Duration::from_secs(20)).unwrap_err();
        for _ in 0..REMEMBERED {
            waiting.remember(&Target::Requester("ana".into()), "root", "test");
        }
        assert_eq!(waiting.revoked.len(), REMEMBERED);
        waiting.remember(&Target::Requester("li".into()), "root", "test");
        assert_eq!(waiting.revoked, [(Target::All, "root".into(), "test".into())]);
    }

    #[test]
    fn what_a_key_orders_again_and_again_uses_up_one_place() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state"), "a file").unwrap();
        let state = directory.path().join("state");
        let mut waiting = Waiting::open(&state, Duration::from_secs(20)).unwrap_err();
        let issued = |name: Option<&str>, at, floor| Target::Issued {
            requester: name.map(str::to_owned),
            at: jit_proto::WallTime(at),
            floor: jit_proto::WallTime(floor),
        };
        let ids = Target::Ids(vec![jit_proto::GrantId([1; 16])]);
        // By a clock far ahead, so that its floor rises; and an older one that comes late.
        for floor in 0..i64::try_from(REMEMBERED).unwrap() + 1 {
            waiting.remember(&issued(Some("ana"), 100_000, floor), "x", "test");
            waiting.remember(&issued(None, 5, 5), "x", "test");
            waiting.remember(&ids, "x", "test");
        }
        waiting.remember(&issued(Some("ana"), 7, 7), "x", "test");
        let most = i64::try_from(REMEMBERED).unwrap();
        let targets: Vec<_> = waiting.revoked.into_iter().map(|(target, _, _)| target).collect();
        assert_eq!(targets, [issued(Some("ana"), 100_000, most), issued(None, 5, 5), ids]);
    }
}
