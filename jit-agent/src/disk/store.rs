//! What survives a restart: grants as received, revoked ids, and the latest wall time.
//!
//! It is an embedded transactional database (redb), with one synced transaction for each answer.
//! The gate verifies again what is read back. A file that cannot be read, or that is older than the
//! last revocation, is kept aside for a person, and the gate starts closed. The revoked ids are
//! then unknown, so grants issued before are refused ([`Stored::lost_before`]). When the disk is
//! full, a revocation is kept in the reserve beside the database ([`Store::keep`]).

mod content;
mod copy;
mod database;
mod reserve;
mod trusted;
mod witness;

use std::{
    collections::HashMap,
    fmt, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Instant,
};

pub use content::{Damage, Stored, StoredGrant, StoredPolicies, StoredProgress, Transaction};
pub use database::Opener;
use database::{OpenError, begin, close, open_and_read, read_in_memory, write};
use jit_proto::{GrantId, WallTime};
use redb::Database;
use reserve::{Closing, Reserve};
use witness::Witness;

use crate::{
    disk::{own_thread::Unanswered, room::has_room},
    rules::{
        clock::SKEW,
        ledger::{Floors, Tombstone},
    },
    system::{meters::meters, sys::FileError},
};

pub(crate) const FILE: &str = "grants.redb";
/// The largest file that is read into memory for people, bytes.
const MOST_PEEKED: u64 = 256 * 1024 * 1024;

/// The open database.
pub struct Store {
    /// `None` after an I/O error, until the database could be opened again.
    database: Option<Database>,
    path: PathBuf,
    opener: Opener,
    /// What the database has reached; a file with less is an older one.
    reached: Witness,
    /// What the witness beside it says; `None`: unknown.
    witnessed: Option<Witness>,
    reserve: Reserve,
    /// Revocations that wait in the reserve for the database.
    unsettled: Transaction,
    /// Why nobody knows what is stored; nothing is written then. `None`: it was read.
    closed: Option<String>,
}

/// Says whether a transaction may be committed. Clones are the same permit. What is said first
/// counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permit(Arc<OnceLock<bool>>);

impl Permit {
    pub(crate) fn granted() -> Self {
        let permit = Self::default();
        permit.grant();
        permit
    }

    pub(crate) fn grant(&self) {
        let _said_before = self.0.set(true);
    }

    /// Refuses when what is returned is dropped, also by a panic: nobody must wait for ever.
    pub(crate) fn refused_at_last(&self) -> RefusedAtLast {
        RefusedAtLast(self.clone())
    }

    /// Waits until something was said.
    pub(super) fn wait(&self) -> bool {
        *self.0.wait()
    }
}

/// Refuses a permit at its end, unless it was granted before.
#[derive(Debug)]
pub(crate) struct RefusedAtLast(Permit);

impl Drop for RefusedAtLast {
    fn drop(&mut self) {
        let _said_before = self.0.0.set(false);
    }
}

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not open, for this reason.
    #[error("{0}")]
    Closed(String),
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database cannot be opened.
    #[error("cannot {verb} the database {}: {cause}", path.display())]
    Database {
        /// What was tried: "open".
        verb: &'static str,
        /// The database's file.
        path: PathBuf,
        /// Why it failed.
        cause: String,
    },
    /// The disk has not answered yet. The transaction may be on it all the same.
    #[error("cannot write to the database: {0}")]
    Unanswered(#[from] Unanswered),
    /// The transaction was not permitted.
    #[error("nothing was written to the database: the audit does not have the records")]
    NotPermitted,
    /// A transaction failed.
    #[error("cannot write to the database: {0}")]
    Write(#[from] Box<redb::Error>),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, path, opener: _, reached, witnessed, reserve: _, unsettled, closed } =
            self;
        let mut shown = f.debug_struct("Store");
        shown.field("open", &database.is_some()).field("path", path);
        shown.field("reached", reached).field("witnessed", witnessed);
        shown.field("unsettled", unsettled).field("closed", closed);
        shown.finish_non_exhaustive()
    }
}

/// The files beside a database, which show whether it is the one that was written last.
struct Surroundings {
    /// The database's file existed.
    existed: bool,
    /// What is wrong with the reserve; `None`: nothing.
    spoilt: Option<String>,
    witness: Witness,
}

impl Surroundings {
    /// Why a database with this content must not be used; `None`: no answered revocation is
    /// missing.
    fn objection(&self, stored: &Stored) -> Option<String> {
        if let Some(why) = &self.spoilt {
            return Some(format!("revocations that were answered are not known: {why}"));
        }
        // Every transaction writes the time, and the first one the witness.
        let empty = stored.floor.is_none() && self.witness.floor > WallTime(0);
        let older = stored.closings < self.witness.closings;
        let why = match (self.existed, empty, older) {
            (_, false, false) => return None,
            (false, ..) => "it is gone",
            (true, true, _) => "it is empty",
            (true, false, true) => {
                "it is an older one: revocations that were answered are not in it"
            }
        };
        Some(why.to_owned())
    }

    /// The content of a store whose database was lost.
    fn after(&self, damage: Damage, now: WallTime) -> Stored {
        // With a clock that is too early, past grants must not become valid again.
        let floor = now.max(self.witness.floor);
        Stored {
            floor: Some(floor),
            lost_before: Some(floor + SKEW),
            damaged: Some(damage),
            closings: self.witness.closings.saturating_add(1),
            ..Stored::default()
        }
    }

    /// Moves damaged files aside, for a person.
    fn move_aside(
        &self,
        directory: &Path,
        why: String,
        now: WallTime,
    ) -> Result<Damage, FileError> {
        let aside = |file: &str| directory.join(format!("{file}.damaged-{}", now.0));
        let kept = self.existed.then(|| aside(FILE));
        if let Some(kept) = &kept {
            move_aside(&directory.join(FILE), kept)?;
        }
        if self.spoilt.is_some() {
            move_aside(&directory.join(reserve::FILE), &aside(reserve::FILE))?;
        }
        Ok(Damage { kept, why })
    }
}

impl Store {
    /// Opens the database in a directory and reads everything. `now` is the time of a damage, if
    /// any.
    pub fn open(directory: &Path, now: WallTime) -> Result<(Self, Stored), StoreError> {
        Self::open_by(directory, now, Arc::new(|builder, path| builder.create(path)))
    }

    /// Reads what the file holds now, also while an agent has it open. Writes and makes nothing, and
    /// waits for no lock. For people: what the kernel enforces is not decided by it.
    ///
    /// # Errors
    /// The file cannot be read, is too large for a copy in memory, or makes no sense. A copy that
    /// was made while an agent wrote may make none.
    pub(crate) fn peek(directory: &Path) -> Result<Stored, StoreError> {
        let path = directory.join(FILE);
        let failed = |cause| StoreError::Database { verb: "read", path: path.clone(), cause };
        let size = fs::metadata(&path).map_err(|error| failed(error.to_string()))?.len();
        if size > MOST_PEEKED {
            return Err(failed(format!("{size} bytes are too many for a copy in memory")));
        }
        read_in_memory(&path).ok_or_else(|| failed("its content makes no sense".into()))
    }

    /// As [`Store::open`], with another way to open the file.
    pub fn open_by(
        directory: &Path,
        now: WallTime,
        opener: Opener,
    ) -> Result<(Self, Stored), StoreError> {
        trusted::check(directory)?;
        let path = directory.join(FILE);
        let witnessed = witness::read(directory);
        let existed = path.exists();
        let (reserve, spoilt) = match Reserve::read(directory) {
            Ok(reserve) => (reserve, None),
            Err(why) => (Reserve::new(directory), Some(why)),
        };
        let beside = Surroundings { existed, spoilt, witness: witnessed.unwrap_or_default() };
        let failed = |verb, cause| StoreError::Database { verb, path: path.clone(), cause };
        let (database, stored) = match open_and_read(&path, &opener) {
            Ok((database, stored)) => match beside.objection(&stored) {
                None => (Some(database), stored),
                Some(why) => {
                    close(Some(database));
                    Self::begin_anew(directory, &opener, &beside, why, now)?
                }
            },
            Err(OpenError::Busy(cause)) => return Err(failed("open", cause)),
            Err(OpenError::Disk(cause)) => {
                // The disk cannot be written now, perhaps later. What is on it counts all the same.
                let stored = read_in_memory(&path);
                let stored = stored.filter(|stored| beside.objection(stored).is_none());
                (None, stored.ok_or_else(|| failed("open", cause))?)
            }
            Err(OpenError::Damaged(why)) => {
                Self::begin_anew(directory, &opener, &beside, why, now)?
            }
        };
        Ok(Self::with(database, stored, path, opener, witnessed, reserve))
    }

    /// Begins an empty database in place of a lost one.
    fn begin_anew(
        directory: &Path,
        opener: &Opener,
        beside: &Surroundings,
        why: String,
        now: WallTime,
    ) -> Result<(Option<Database>, Stored), StoreError> {
        let damage = beside.move_aside(directory, why, now)?;
        let path = directory.join(FILE);
        let (database, _) = open_and_read(&path, opener).map_err(|error| StoreError::Database {
            verb: "create",
            path,
            cause: error.cause(),
        })?;
        let stored = beside.after(damage, now);
        begin(&database, &stored).map_err(|error| StoreError::Write(Box::new(error)))?;
        Ok((Some(database), stored))
    }

    fn with(
        database: Option<Database>,
        stored: Stored,
        path: PathBuf,
        opener: Opener,
        witnessed: Option<Witness>,
        mut reserve: Reserve,
    ) -> (Self, Stored) {
        // An older copy of the database may have an earlier time than the witness.
        let witness_floor = witnessed.unwrap_or_default().floor;
        let floor = stored.floor.unwrap_or(WallTime(0)).max(witness_floor);
        let stored = Stored { floor: (floor > WallTime(0)).then_some(floor), ..stored };
        let reached = Witness { closings: stored.closings, floor };
        let mut stored = match path.parent() {
            Some(directory) => with_copy(stored, directory),
            None => stored,
        };
        reserve.prepare();
        let unsettled = take_reserve(&mut stored, &reserve);
        let closed = None;
        (Self { database, path, opener, reached, witnessed, reserve, unsettled, closed }, stored)
    }

    /// Stands for a database that cannot be opened: it takes nothing. [`Store::open`] is the way to
    /// the database itself. What policy was pushed is then unknown.
    pub fn closed(directory: &Path, why: &str) -> (Self, Stored) {
        let store = Self {
            database: None,
            path: directory.join(FILE),
            opener: Arc::new(|builder, path| builder.create(path)),
            reached: Witness::default(),
            witnessed: None,
            reserve: Reserve::new(directory),
            unsettled: Transaction::default(),
            closed: Some(why.to_owned()),
        };
        let policies_lost = Some("the database cannot be opened".to_owned());
        (store, Stored { policies_lost, ..Stored::default() })
    }

    /// Nobody knows what is stored.
    pub const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Writes the reserve's revocations and then a transaction, and syncs them to the disk.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), StoreError> {
        self.commit_if(transaction, &Permit::granted())
    }

    /// The same, and waits for the permit before the transaction's last step.
    ///
    /// # Errors
    /// Also [`StoreError::NotPermitted`]: nothing of the transaction is on the disk.
    pub(crate) fn commit_if(
        &mut self,
        transaction: &Transaction,
        permit: &Permit,
    ) -> Result<(), StoreError> {
        if let Some(cause) = self.closed.clone() {
            return Err(StoreError::Closed(cause));
        }
        if !self.reserve.is_empty() {
            let unsettled = std::mem::take(&mut self.unsettled);
            let settled = self.commit_one(&unsettled, &Permit::granted());
            self.unsettled = unsettled;
            settled?;
            // Cleared before the database has new grants, which the reserve would show as revoked.
            let path = || self.path.with_file_name(reserve::FILE);
            let cleared = self.reserve.clear();
            cleared.map_err(|error| FileError::Io { verb: "write to", path: path(), error })?;
            self.unsettled = Transaction::default();
        }
        let began = Instant::now();
        self.commit_one(transaction, permit)?;
        meters().commit.since(began);
        self.reserve.prepare();
        Ok(())
    }

    /// Keeps revoked ids and floors in the reserve, because the database cannot be written: grants
    /// with these ids count as removed. With `all`, every grant in the database is revoked.
    ///
    /// # Errors
    /// Why they could not be written to the reserve either.
    pub fn keep(
        &mut self,
        closed: &[(GrantId, Tombstone)],
        all: bool,
        floors: &Floors,
    ) -> io::Result<()> {
        if let Some(why) = &self.closed {
            return Err(io::Error::other(why.clone()));
        }
        self.reserve.keep(Closing { ids: closed, all, floors })?;
        self.unsettled.remove.extend(closed.iter().map(|(id, _)| *id));
        self.unsettled.tombstones.extend(closed);
        self.unsettled.floors.merge(self.reserve.floors());
        Ok(())
    }

    /// Whether the disk has room for grants. What is not known counts as room.
    pub(crate) fn has_room(&self) -> bool {
        has_room(&self.path)
    }

    /// Why [`Store::keep`] would fail; `None`: it would not.
    pub fn reserve_problem(&self) -> Option<&str> {
        self.reserve.problem()
    }

    fn commit_one(&mut self, transaction: &Transaction, permit: &Permit) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.database = Some(self.reopen()?);
        }
        let mut reached = self.reached;
        reached.closings += u64::from(transaction.closes());
        reached.floor = reached.floor.max(transaction.floor.unwrap_or(reached.floor));
        let written = catch_unwind(AssertUnwindSafe(|| match &self.database {
            Some(database) => write(database, transaction, reached, permit),
            None => Err(redb::Error::PreviousIo),
        }));
        let result = written.unwrap_or_else(|_| {
            Err(redb::Error::Corrupted("the database library panicked".into()))
        });
        if matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.close();
        }
        match result {
            Ok(true) => {
                self.reached = reached;
                self.write_beside(transaction);
                Ok(())
            }
            Ok(false) => Err(StoreError::NotPermitted),
            Err(error) => Err(StoreError::Write(Box::new(error))),
        }
    }

    /// Opens the file again: after an I/O error the library requires it.
    fn reopen(&self) -> Result<Database, StoreError> {
        let cause = match open_and_read(&self.path, &self.opener) {
            Ok((database, stored)) if stored.closings >= self.reached.closings => {
                return Ok(database);
            }
            Ok((database, _)) => {
                close(Some(database));
                "it lost what it had; restart the agent".to_owned()
            }
            Err(error) => error.cause(),
        };
        Err(StoreError::Database { verb: "open again", path: self.path.clone(), cause })
    }

    /// Writes the files beside the database, for the case that the database is damaged.
    fn write_beside(&mut self, transaction: &Transaction) {
        let Some(directory) = self.path.parent() else { return };
        if let Some(policies) = &transaction.policies
            && let Err(error) = copy::write(directory, policies)
        {
            tracing::error!("cannot write the second copy of the policies: {error}");
        }
        if self.reached.is_due(self.witnessed) {
            match witness::write(directory, self.reached) {
                Ok(()) => self.witnessed = Some(self.reached),
                Err(error) => {
                    self.witnessed = None;
                    tracing::error!(
                        "cannot write the witness of the database: {error}: an older copy of the \
                         database in its place would not be noticed"
                    );
                }
            }
        }
    }

    fn close(&mut self) {
        close(self.database.take());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes what the database does not have from the second copy.
fn with_copy(mut stored: Stored, directory: &Path) -> Stored {
    if stored.policies.is_none() {
        match copy::read(directory) {
            Ok(policies) => stored.policies = policies,
            Err(why) => stored.policies_lost = Some(why),
        }
    }
    stored
}

/// Removes the grants that the reserve has as revoked. Returns the transaction that the database
/// still needs.
fn take_reserve(stored: &mut Stored, reserve: &Reserve) -> Transaction {
    if reserve.is_empty() {
        return Transaction::default();
    }
    let closed: HashMap<_, _> = reserve.closed(stored.grants.iter().map(|(id, _)| *id)).collect();
    stored.grants.retain(|(id, _)| !closed.contains_key(id));
    stored.progress.retain(|id, _| !closed.contains_key(id));
    let mut tombstones: HashMap<_, _> =
        std::mem::take(&mut stored.tombstones).into_iter().collect();
    for (id, tombstone) in &closed {
        let kept = tombstones.entry(*id).or_insert(*tombstone);
        *kept = kept.later(*tombstone);
    }
    let remove = closed.keys().copied().collect();
    let settled = closed.keys().filter_map(|id| Some((*id, *tombstones.get(id)?))).collect();
    stored.tombstones = tombstones.into_iter().collect();
    let floors = reserve.floors().clone();
    stored.floors.merge(&floors);
    Transaction { remove, tombstones: settled, floors, ..Transaction::default() }
}

fn move_aside(path: &Path, aside: &Path) -> Result<(), FileError> {
    fs::rename(path, aside).map_err(|error| FileError::Io {
        verb: "move aside",
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {

    use jit_proto::v1;

    use super::*;
    use crate::rules::clock::BootNanos;

    const NOW: WallTime = WallTime(1_000);
    const TOMBSTONE: Tombstone = Tombstone { until: WallTime(5_000), boot: BootNanos(7) };

    fn id(byte: u8) -> GrantId {
        GrantId([byte; 16])
    }

    #[test]
    fn a_permit_that_nobody_granted_is_refused_at_last_also_by_a_panic() {
        let (permit, granted) = (Permit::default(), Permit::granted());
        let (waits, begins) = (permit.clone(), permit.clone());
        let waiting = std::thread::spawn(move || waits.wait());
        let panics = std::thread::spawn(move || {
            let _refused_at_last = begins.refused_at_last();
            panic!("between the beginning and the end");
        });
        assert!(panics.join().is_err());
        assert!(!waiting.join().unwrap());
        drop(granted.refused_at_last());
        assert!(granted.wait());
    }

    #[test]
    fn what_was_committed_is_there_again_and_the_floor_only_rises() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (mut store, stored) = Store::open(&state, NOW).unwrap();
        assert!(stored.grants.is_empty() && stored.floor.is_none());
        let grant = StoredGrant { envelope: Some(v1::Envelope::default()) };
        let begun =
            StoredProgress { boot_id: "b".into(), deadline: 7, ..StoredProgress::default() };
        let floor = Some(WallTime(1000));
        let put = vec![(id(1), grant.clone()), (id(2), grant.clone())];
        let progress = vec![(id(1), begun.clone()), (id(2), begun.clone())];
        store.commit(&Transaction { put, progress, floor, ..Transaction::default() }).unwrap();
        let transaction = Transaction {
            remove: vec![id(2)],
            tombstones: vec![(id(2), TOMBSTONE)],
            floor: Some(WallTime(900)),
            ..Transaction::default()
        };
        store.commit(&transaction).unwrap();
        drop(store);
        let (_, stored) = Store::open(&state, NOW).unwrap();
        assert_eq!(stored.grants, [(id(1), grant)]);
        assert_eq!(stored.progress, [(id(1), begun)].into());
        assert_eq!(stored.tombstones, [(id(2), TOMBSTONE)]);
        assert_eq!(stored.floor, floor);
    }

    #[test]
    fn a_second_owner_is_refused_and_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (_store, _) = Store::open(&state, NOW).unwrap();
        let error = Store::open(&state, NOW).unwrap_err();
        assert!(matches!(error, StoreError::Database { verb: "open", .. }), "{error}");
        assert!(state.join(FILE).exists());
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_the_store_starts_empty() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        fs::create_dir(&state).unwrap();
        for garbage in [&b"not a database"[..], &[0; 8192]] {
            fs::write(state.join(FILE), garbage).unwrap();
            let (_store, stored) = Store::open(&state, NOW).unwrap();
            let aside = stored.damaged.unwrap().kept.unwrap();
            assert_eq!(fs::read(&aside).unwrap(), garbage);
            assert!(stored.grants.is_empty());
            fs::remove_file(aside).unwrap();
        }
    }
}
