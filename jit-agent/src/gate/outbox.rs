//! Collects what has to be written to the disk until a transaction takes it. Keeps it if the
//! transaction fails. Knows when the next one is due.
//!
//! The database has a thread of its own. A transaction that the disk does not answer in time counts
//! as failed. While it hangs, so does the reserve, which lies on the same disk.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use jit_proto::{GrantId, WallTime, v1};

use crate::{
    disk::{
        own_thread::{Begun, OwnThread, Unanswered},
        store::{Permit, Store, StoreError, StoredPolicies, StoredProgress, Transaction},
    },
    gate::patience::{Patience, REVOCATION},
    rules::{
        clock::{BootNanos, Now},
        ledger::{Floor, Floors, Tombstone},
    },
};

/// How often the floor is written to the disk: after a reboot with a clock that was set back, a
/// grant may not last longer than its time left.
const FLOOR: Duration = Duration::from_secs(60);
/// Time from an error to the next try.
const RETRY: Duration = Duration::from_secs(2);

/// The database, and the data that it does not have yet.
#[derive(Debug)]
pub(super) struct Outbox {
    store: OwnThread<Store>,
    patience: Patience,
    /// It never contains grants to put: a grant that the disk does not take is not accepted.
    owed: Transaction,
    /// Grants whose progress is not on the disk yet.
    progress: BTreeSet<GrantId>,
    /// Revocations that are neither in the database nor in the reserve.
    unkept: Vec<(GrantId, Tombstone)>,
    /// Floors that are in neither of them.
    unkept_floors: Floors,
    next: BootNanos,
    /// Why the last transaction failed.
    problem: Option<String>,
    /// Why the reserve would take nothing.
    reserve_problem: Option<String>,
    /// The disk had room after the last transaction.
    has_room: bool,
    /// The database is not open: a stand-in takes its place.
    closed: bool,
}

/// A transaction on its way to the disk.
#[must_use = "nothing else is done with the database before it has ended"]
pub(super) struct Storing {
    whole: Arc<Transaction>,
    fresh: BTreeSet<GrantId>,
    begun: Result<Begun<Committed>, Unanswered>,
}

/// The result of a transaction, why the reserve would take nothing, and whether the disk has room.
type Committed = (Result<(), StoreError>, Option<String>, bool);

impl Outbox {
    /// Moves the database to a thread.
    ///
    /// # Errors
    /// The kernel starts no thread.
    pub(super) fn new(store: Store, now: Now) -> io::Result<Self> {
        let reserve_problem = store.reserve_problem().map(str::to_owned);
        let closed = store.is_closed();
        Ok(Self {
            store: OwnThread::new("database", store)?,
            patience: Patience::default(),
            owed: Transaction::default(),
            progress: BTreeSet::new(),
            unkept: Vec::new(),
            unkept_floors: Floors::default(),
            next: now.boot,
            problem: None,
            reserve_problem,
            has_room: true,
            closed,
        })
    }

    /// From now on a wait for the disk is as long as this says.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// The database can be opened now. What it is owed waits for the next transaction.
    pub(super) fn open(&mut self, store: Store, now: Now) {
        self.reserve_problem = store.reserve_problem().map(str::to_owned);
        // The stand-in touches no disk, so its thread is free.
        let replaced =
            self.store.call(|waited| waited >= RETRY, |stand_in| *stand_in = store, |_, ()| {});
        self.closed = replaced.is_err();
        self.problem = replaced.err().map(|error| error.to_string());
        self.write_soon(now);
    }

    /// Nobody knows what is stored.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Why the database takes nothing, and why the reserve would not.
    pub(super) fn problems(&self) -> [Option<&str>; 2] {
        // A database that is closed is a fault of its own.
        let problem = self.problem.as_deref().filter(|_| !self.closed);
        [problem, self.reserve_problem.as_deref()]
    }

    /// The stored times are of an earlier boot.
    pub(super) fn boot(
        &mut self,
        boot_id: String,
        tombstones: impl Iterator<Item = (GrantId, Tombstone)>,
    ) {
        self.owed.boot_id = Some(boot_id);
        self.owed.tombstones.extend(tombstones);
    }

    pub(super) fn remove(&mut self, id: GrantId) {
        self.owed.remove.push(id);
    }

    pub(super) fn refuse(&mut self, tombstones: impl IntoIterator<Item = (GrantId, Tombstone)>) {
        self.owed.tombstones.extend(tombstones);
    }

    /// Tombstones that have ended.
    pub(super) fn forget(&mut self, id: GrantId) {
        self.owed.forget.push(id);
    }

    pub(super) fn policies(&mut self, policies: StoredPolicies) {
        self.owed.policies = Some(policies);
    }

    /// The history of denials.
    pub(super) fn denials(&mut self, blob: Vec<u8>) {
        self.owed.denials = Some(blob);
    }

    /// The last checkpoint.
    pub(super) fn checkpoint(&mut self, checkpoint: v1::Checkpoint) {
        self.owed.checkpoint = Some(checkpoint);
    }

    /// Whether the disk does not have the last checkpoint.
    pub(super) const fn owes_checkpoint(&self) -> bool {
        self.owed.checkpoint.is_some()
    }

    /// The progress of a grant has changed.
    pub(super) fn progress(&mut self, id: GrantId) {
        self.progress.insert(id);
    }

    /// Grants whose progress the next transaction is to write.
    pub(super) fn progressed(&self) -> impl Iterator<Item = GrantId> + '_ {
        self.progress.iter().copied()
    }

    /// These ids were revoked: that must be kept even if the database fails.
    pub(super) fn revoke(&mut self, tombstones: &[(GrantId, Tombstone)]) {
        self.owed.remove.extend(tombstones.iter().map(|(id, _)| *id));
        self.owed.tombstones.extend(tombstones);
        self.unkept.extend(tombstones);
    }

    /// The floor was raised: that must be kept even if the database fails.
    pub(super) fn raise_floor(&mut self, floor: &Floor) {
        self.owed.floors.raise(floor.clone());
        self.unkept_floors.raise(floor.clone());
    }

    /// What was revoked before this moment is not known.
    pub(super) const fn lose_before(&mut self, moment: WallTime) {
        self.owed.lost_before = Some(moment);
    }

    /// Whether grants are to be taken away.
    pub(super) const fn removes(&self) -> bool {
        !self.owed.remove.is_empty()
    }

    /// The next transaction is due at once.
    pub(super) const fn write_soon(&mut self, now: Now) {
        self.next = now.boot;
    }

    /// Whether a transaction is due. If so, the next one is due a minute later.
    pub(super) fn take_turn(&mut self, now: Now) -> bool {
        let due = now.boot >= self.next;
        if due {
            self.next = now.boot + FLOOR;
        }
        due
    }

    /// Commits new grants together with everything that waits. If the transaction fails, everything
    /// waits on, except new grants. These may be on the disk even so: the next transaction takes
    /// them back. Waits for the disk for at most `longest`.
    pub(super) fn commit(
        &mut self,
        put: &[(GrantId, v1::Envelope)],
        progress: Vec<(GrantId, StoredProgress)>,
        floor: WallTime,
        longest: Duration,
        now: Now,
    ) -> Result<(), StoreError> {
        let storing = self.begin(put.to_vec(), progress, floor, longest, Permit::granted());
        self.finish(storing, longest, now)
    }

    /// Begins to commit, and waits for the permit before the last step. [`Outbox::finish`] waits
    /// for the end, and nothing else is done with the database before.
    pub(super) fn begin(
        &mut self,
        put: Vec<(GrantId, v1::Envelope)>,
        progress: Vec<(GrantId, StoredProgress)>,
        floor: WallTime,
        longest: Duration,
        permit: Permit,
    ) -> Storing {
        let fresh: BTreeSet<GrantId> = put.iter().map(|(id, _)| *id).collect();
        // A grant that was taken back may have been pushed again.
        self.owed.remove.retain(|id| !fresh.contains(id));
        let put = put.into_iter().map(|(id, envelope)| (id, envelope.into())).collect();
        let owed = std::mem::take(&mut self.owed);
        let whole = Arc::new(Transaction { put, progress, floor: Some(floor), ..owed });
        let refused = Transaction { remove: fresh.iter().copied().collect(), ..Default::default() };
        let transaction = Arc::clone(&whole);
        let commit = move |store: &mut Store| {
            let result = store.commit_if(&transaction, &permit);
            (result, store.reserve_problem().map(str::to_owned), store.has_room())
        };
        // Their peer got the answer that they are refused: no restart may find them.
        let late = move |store: &mut Store, (result, _, _): Committed| {
            if result.is_ok() && !refused.remove.is_empty() {
                // If this fails, the next transaction does it.
                drop(store.commit(&refused));
            }
        };
        let patience = &self.patience;
        let begun = self.store.begin(|waited| patience.ends(waited, longest), commit, late);
        Storing { whole, fresh, begun }
    }

    /// Waits with patience until what was begun is on the disk.
    pub(super) fn finish(
        &mut self,
        storing: Storing,
        longest: Duration,
        now: Now,
    ) -> Result<(), StoreError> {
        let Storing { whole, fresh, begun } = storing;
        let result = self.wait(begun, longest);
        match &result {
            Ok(()) => {
                // On a full disk a small transaction may still fit, and no grant does.
                if self.has_room || !fresh.is_empty() {
                    self.problem = None;
                } else if self.problem.is_some() {
                    self.next = now.boot + RETRY;
                }
                self.progress.clear();
                self.unkept.clear();
                self.unkept_floors = Floors::default();
            }
            Err(error) => {
                // Without a permit nothing was wrong with the database.
                if !matches!(error, StoreError::NotPermitted) {
                    self.problem = Some(error.to_string());
                }
                self.next = now.boot + RETRY;
                let whole = Arc::unwrap_or_clone(whole);
                self.owed = Transaction { put: Vec::new(), progress: Vec::new(), ..whole };
                self.owed.remove.extend(fresh);
            }
        }
        result
    }

    fn wait(
        &mut self,
        begun: Result<Begun<Committed>, Unanswered>,
        longest: Duration,
    ) -> Result<(), StoreError> {
        let patience = &self.patience;
        let (result, reserve_problem, has_room) =
            self.store.wait(begun?, |waited| patience.ends(waited, longest))?;
        self.reserve_problem = reserve_problem;
        self.has_room = has_room;
        result
    }

    /// Whether revocations or floors are neither in the database nor in the reserve.
    pub(super) fn owes_revocations(&self) -> bool {
        self.has_unkept() || !self.unkept_floors.is_empty()
    }

    /// Whether revocations are neither in the database nor in the reserve.
    pub(super) const fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
    }

    /// Writes revocations that the database did not take to the reserve. `all`: every grant in the
    /// database was revoked.
    pub(super) fn use_reserve(&mut self, all: bool) -> io::Result<()> {
        // It lies on the same disk.
        if self.store.is_stalled() {
            return Err(io::Error::other(Unanswered::Stalled));
        }
        let (unkept, floors) = (self.unkept.clone(), self.unkept_floors.clone());
        let keep = move |store: &mut Store| store.keep(&unkept, all, &floors);
        let patience = &self.patience;
        let gives_up = |waited| patience.ends(waited, REVOCATION);
        self.store.call(gives_up, keep, |_, _| {}).map_err(io::Error::other)??;
        self.unkept.clear();
        self.unkept_floors = Floors::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { wall: WallTime(1_000_000), boot: BootNanos(5_000_000_000) };

    fn id(byte: u8) -> GrantId {
        GrantId([byte; 16])
    }

    fn tombstone() -> Tombstone {
        Tombstone::new(NOW.wall + FLOOR, NOW)
    }

    /// The contents of the disk, as a start reads them.
    fn stored(directory: &std::path::Path) -> (Vec<GrantId>, Vec<(GrantId, Tombstone)>) {
        let (_store, stored) = Store::open(directory, NOW.wall).unwrap();
        (stored.grants.iter().map(|(id, _)| *id).collect(), stored.tombstones)
    }

    fn outbox(directory: &std::path::Path) -> Outbox {
        Outbox::new(Store::open(directory, NOW.wall).unwrap().0, NOW).unwrap()
    }

    #[test]
    fn what_is_owed_goes_with_the_next_transaction_whatever_that_is_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = outbox(directory.path());
        outbox.commit(&[(id(1), v1::Envelope::default())], vec![], NOW.wall, FLOOR, NOW).unwrap();
        outbox.remove(id(1));
        outbox.refuse([(id(1), tombstone())]);
        outbox.progress(id(2));
        outbox.commit(&[(id(2), v1::Envelope::default())], vec![], NOW.wall, FLOOR, NOW).unwrap();
        assert!(!outbox.removes() && outbox.progressed().next().is_none());
        drop(outbox);
        assert_eq!(stored(directory.path()), (vec![id(2)], vec![(id(1), tombstone())]));
    }

    #[test]
    fn a_grant_that_is_pushed_again_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = outbox(directory.path());
        outbox.remove(id(1));
        outbox.commit(&[(id(1), v1::Envelope::default())], vec![], NOW.wall, FLOOR, NOW).unwrap();
        drop(outbox);
        assert_eq!(stored(directory.path()).0, [id(1)]);
    }

    #[test]
    fn a_turn_comes_once_a_minute_or_when_something_must_not_wait() {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = outbox(directory.path());
        assert!(outbox.take_turn(NOW) && !outbox.take_turn(NOW));
        outbox.write_soon(NOW);
        assert!(outbox.take_turn(NOW) && !outbox.take_turn(NOW));
        assert!(outbox.take_turn(Now { boot: NOW.boot + FLOOR, ..NOW }));
    }
}
