//! What survives the agent: grants as they were received, revoked ids, and the latest wall time.
//!
//! An embedded transactional database (redb), one synced transaction for each answer. What is read
//! back is verified again by the gate; a file that cannot be read, or that is older than the last
//! revocation, is kept aside for a person, and the gate starts closed. What was revoked is then not
//! known any more: grants issued before are refused ([`Stored::lost_before`]). A revocation that a full
//! disk does not let into the database is kept in the reserve beside it ([`Store::keep`]).

mod copy;
mod reserve;
mod witness;

use std::{
    collections::HashMap,
    fmt, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use jit_proto::v1;
use prost::Message;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _, TableDefinition,
    backends::InMemoryBackend,
};
use reserve::Reserve;
use witness::Witness;

use crate::{
    rules::{
        clock::{BootNanos, SKEW, WallTime},
        grant::GrantId,
        ledger::Tombstone,
    },
    system::sys::{self, FileError},
};

const GRANTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("grants");
const LIVES: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("lives");
const TOMBSTONES: TableDefinition<'_, [u8; 16], (i64, u64)> = TableDefinition::new("tombstones");
const BOOT: TableDefinition<'_, &str, &str> = TableDefinition::new("boot");
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");
const PUSHED: &str = "pushed";
const ID: &str = "id";
const FLOOR: &str = "floor";
const LOST_BEFORE: &str = "lost_before";
const CLOSINGS: &str = "closings";
const FILE: &str = "grants.redb";
/// The database's page cache, bytes: the ledger is in memory, so hardly anything is read twice.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Opens a database file, or makes it. The plain one is [`redb::Builder::create`].
pub type Opener =
    Arc<dyn Fn(&redb::Builder, &Path) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// The open database.
pub struct Store {
    /// `None` after an I/O error, until it could be opened again.
    database: Option<Database>,
    path: PathBuf,
    opener: Opener,
    /// What the database has; a file with less is an older one.
    reached: Witness,
    /// What the file beside it says; `None`: not known.
    witnessed: Option<Witness>,
    reserve: Reserve,
    /// What the reserve holds, for the database.
    unsettled: Transaction,
}

/// A stored grant.
#[derive(Clone, PartialEq, Message)]
pub struct StoredGrant {
    /// Exactly what was verified; verified again at start.
    #[prost(message, optional, tag = "1")]
    pub envelope: Option<v1::Envelope>,
}

impl From<&v1::Envelope> for StoredGrant {
    fn from(envelope: &v1::Envelope) -> Self {
        Self { envelope: Some(envelope.clone()) }
    }
}

/// Where a stored grant stands. Written anew whenever that changes; without it a grant is as if it
/// had just been pushed.
#[derive(Clone, PartialEq, Message)]
pub struct StoredProgress {
    /// Boot in which deadline, slot and generation mean something.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// CLOCK_BOOTTIME nanoseconds; zero until it begins.
    #[prost(uint64, tag = "2")]
    pub deadline: u64,
    /// Where the kernel counts its connections.
    #[prost(uint32, tag = "3")]
    pub slot: u32,
    /// Of that slot: it is still the same while this is.
    #[prost(uint32, tag = "4")]
    pub generation: u32,
    /// Connections that it had let in before the slot was opened for it.
    #[prost(uint64, tag = "5")]
    pub before: u64,
    /// All connections that it is known to have let in.
    #[prost(uint64, tag = "6")]
    pub hits: u64,
    /// It has begun, in this boot or an earlier one.
    #[prost(bool, tag = "7")]
    pub began: bool,
}

/// The policies that were pushed: what is in force for good, and what waits for a confirmation.
#[derive(Clone, PartialEq, Message)]
pub struct StoredPolicies {
    /// The highest version that was ever accepted.
    #[prost(uint64, tag = "1")]
    pub highest: u64,
    /// As received.
    #[prost(message, optional, tag = "2")]
    pub confirmed: Option<v1::Envelope>,
    /// As received.
    #[prost(message, optional, tag = "3")]
    pub pending: Option<v1::Envelope>,
    /// Boot in which `deadline` means something.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// When `pending` is over, CLOCK_BOOTTIME nanoseconds.
    #[prost(uint64, tag = "5")]
    pub deadline: u64,
}

/// One transaction.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Grants to write.
    pub put: Vec<(GrantId, StoredGrant)>,
    /// Where grants stand.
    pub lives: Vec<(GrantId, StoredProgress)>,
    /// Grants to take away.
    pub remove: Vec<GrantId>,
    /// Revoked ids, and until when they stay refused.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// Revoked ids that need not be refused any more.
    pub forget: Vec<GrantId>,
    /// The boot that boot times of tombstones mean, if it is another one.
    pub boot_id: Option<String>,
    /// The pushed policies, if they changed.
    pub policies: Option<StoredPolicies>,
    /// Wall time now; the floor only rises.
    pub floor: Option<WallTime>,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Stored {
    /// Grants, unverified.
    pub grants: Vec<(GrantId, StoredGrant)>,
    /// Where they stand.
    pub lives: HashMap<GrantId, StoredProgress>,
    /// Revoked ids.
    pub tombstones: Vec<(GrantId, Tombstone)>,
    /// The boot that their boot times mean.
    pub boot_id: Option<String>,
    /// The pushed policies, unverified; `None`: there were none.
    pub policies: Option<StoredPolicies>,
    /// There were pushed policies, and both copies of them are lost: why.
    pub policies_lost: Option<String>,
    /// The latest wall time ever seen.
    pub floor: Option<WallTime>,
    /// Revocations before this moment are lost, with a database that was damaged: a grant that was
    /// issued earlier may be a revoked one.
    pub lost_before: Option<WallTime>,
    /// A database was lost just now.
    pub damaged: Option<Damage>,
    closings: u64,
}

/// A database that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the file is kept for a person; `None`: there was none any more.
    pub kept: Option<PathBuf>,
    /// What is wrong with it.
    pub why: String,
}

/// Why the disk did not take it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error("cannot {verb} the database {}: {cause}", path.display())]
    Database {
        /// What was tried.
        verb: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A transaction.
    #[error("cannot write to the database: {0}")]
    Write(#[from] Box<redb::Error>),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, path, opener: _, reached, witnessed, reserve: _, unsettled } = self;
        let mut shown = f.debug_struct("Store");
        shown.field("open", &database.is_some()).field("path", path);
        shown.field("reached", reached).field("witnessed", witnessed);
        shown.field("unsettled", unsettled).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database in a directory and reads everything. `now` is when a damage is found.
    pub fn open(directory: &Path, now: WallTime) -> Result<(Self, Stored), StoreError> {
        Self::open_by(directory, now, Arc::new(|builder, path| builder.create(path)))
    }

    /// The same with another way to open the file.
    pub fn open_by(
        directory: &Path,
        now: WallTime,
        opener: Opener,
    ) -> Result<(Self, Stored), StoreError> {
        sys::private_directory(directory, 0o700)?;
        let path = directory.join(FILE);
        let witnessed = witness::read(directory);
        let witness = witnessed.unwrap_or_default();
        let existed = path.exists();
        let (reserve, spoilt) = match Reserve::read(directory) {
            Ok(reserve) => (reserve, None),
            Err(why) => (Reserve::new(directory), Some(why)),
        };
        let why = match open_and_read(&path, &opener) {
            Ok((database, _)) if let Some(why) = &spoilt => {
                close(Some(database));
                format!("revocations that were answered are not known: {why}")
            }
            Ok((database, stored)) if stored.closings >= witness.closings => {
                return Ok(Self::with(database, stored, path, opener, witnessed, reserve));
            }
            Ok((database, _)) => {
                close(Some(database));
                let older = "it is an older one: revocations that were answered are not in it";
                if existed { older } else { "it is gone" }.to_owned()
            }
            Err(OpenError::Busy(cause)) => {
                return Err(StoreError::Database { verb: "open", path, cause });
            }
            Err(OpenError::Disk(cause)) => {
                // The disk takes nothing now, and may later: what is on it counts all the same.
                let stored = read_in_memory(&path)
                    .filter(|stored| stored.closings >= witness.closings && spoilt.is_none())
                    .ok_or(StoreError::Database { verb: "open", path: path.clone(), cause })?;
                return Ok(Self::with(None, stored, path, opener, witnessed, reserve));
            }
            Err(OpenError::Damaged(cause)) => cause,
        };
        let kept = existed.then(|| directory.join(format!("{FILE}.damaged-{}", now.0)));
        if let Some(kept) = &kept {
            move_aside(&path, kept)?;
        }
        if spoilt.is_some() {
            let file = reserve::FILE;
            move_aside(
                &directory.join(file),
                &directory.join(format!("{file}.damaged-{}", now.0)),
            )?;
        }
        let (database, _) = match open_and_read(&path, &opener) {
            Ok(opened) => opened,
            Err(OpenError::Busy(cause) | OpenError::Damaged(cause) | OpenError::Disk(cause)) => {
                return Err(StoreError::Database { verb: "create", path, cause });
            }
        };
        // A clock that is behind must not make grants of the past good again.
        let floor = now.max(witness.floor);
        let stored = Stored {
            floor: Some(floor),
            lost_before: Some(floor + SKEW),
            damaged: Some(Damage { kept, why }),
            closings: witness.closings.saturating_add(1),
            ..Stored::default()
        };
        let begun = begin(&database, &stored);
        begun.map_err(|error| StoreError::Write(Box::new(error)))?;
        Ok(Self::with(Some(database), stored, path, opener, witnessed, reserve))
    }

    fn with(
        database: impl Into<Option<Database>>,
        stored: Stored,
        path: PathBuf,
        opener: Opener,
        witnessed: Option<Witness>,
        mut reserve: Reserve,
    ) -> (Self, Stored) {
        // A copy of the database from before may know of an earlier time than the witness.
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
        let database = database.into();
        (Self { database, path, opener, reached, witnessed, reserve, unsettled }, stored)
    }

    /// Writes a transaction and syncs it to the disk, behind what the reserve holds.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), StoreError> {
        if !self.reserve.is_empty() {
            let unsettled = std::mem::take(&mut self.unsettled);
            let settled = self.commit_one(&unsettled);
            self.unsettled = unsettled;
            settled?;
            // Before anything new is in the database, of which it could say that it is revoked.
            let path = || self.path.with_file_name(reserve::FILE);
            let cleared = self.reserve.clear();
            cleared.map_err(|error| FileError::Io { verb: "write to", path: path(), error })?;
            self.unsettled = Transaction::default();
        }
        self.commit_one(transaction)?;
        self.reserve.prepare();
        Ok(())
    }

    /// Keeps revoked ids on the disk although the database does not take them: what it has of them is
    /// not stored any more. With `all`, they are all that the database has.
    ///
    /// # Errors
    /// Why that is not on the disk either.
    pub fn keep(&mut self, closed: &[(GrantId, Tombstone)], all: bool) -> io::Result<()> {
        self.reserve.keep(closed, all)?;
        self.unsettled.remove.extend(closed.iter().map(|(id, _)| *id));
        self.unsettled.tombstones.extend(closed);
        Ok(())
    }

    /// Why [`Store::keep`] would fail.
    pub fn reserve_problem(&self) -> Option<&str> {
        self.reserve.problem()
    }

    fn commit_one(&mut self, transaction: &Transaction) -> Result<(), StoreError> {
        if self.database.is_none() {
            // After an I/O error the library wants the file opened anew.
            self.database = match open_and_read(&self.path, &self.opener) {
                Ok((database, stored)) if stored.closings >= self.reached.closings => {
                    Some(database)
                }
                Ok((database, _)) => {
                    close(Some(database));
                    let cause = "it lost what it had; restart the agent".to_owned();
                    let path = self.path.clone();
                    return Err(StoreError::Database { verb: "open again", path, cause });
                }
                Err(
                    OpenError::Busy(cause) | OpenError::Damaged(cause) | OpenError::Disk(cause),
                ) => {
                    let path = self.path.clone();
                    return Err(StoreError::Database { verb: "open again", path, cause });
                }
            };
        }
        let mut reached = self.reached;
        reached.closings += u64::from(!transaction.tombstones.is_empty());
        reached.floor = reached.floor.max(transaction.floor.unwrap_or(reached.floor));
        let result = catch_unwind(AssertUnwindSafe(|| self.try_commit(transaction, reached)));
        let result = result.unwrap_or_else(|_| {
            Err(redb::Error::Corrupted("the database library panicked".into()))
        });
        if matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.close();
        }
        if result.is_ok() {
            self.reached = reached;
            self.write_beside(transaction);
        }
        result.map_err(|error| StoreError::Write(Box::new(error)))
    }

    /// What is kept beside the database, in case it is damaged one day.
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

    fn try_commit(&self, transaction: &Transaction, reached: Witness) -> Result<(), redb::Error> {
        let Transaction { put, lives, remove, tombstones, forget, boot_id, policies, floor: _ } =
            transaction;
        let database = self.database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let write = database.begin_write()?;
        {
            let mut grants = write.open_table(GRANTS)?;
            for (id, stored) in in_order(put, |(id, _)| *id) {
                grants.insert(id.0, stored.encode_to_vec().as_slice())?;
            }
            let mut table = write.open_table(LIVES)?;
            for (id, life) in in_order(lives, |(id, _)| *id) {
                table.insert(id.0, life.encode_to_vec().as_slice())?;
            }
            let remove = in_order(remove, |id| *id);
            for id in &remove {
                grants.remove(id.0)?;
            }
            for id in &remove {
                table.remove(id.0)?;
            }
            let mut table = write.open_table(TOMBSTONES)?;
            for id in forget {
                table.remove(id.0)?;
            }
            for (id, Tombstone { until, boot }) in in_order(tombstones, |(id, _)| *id) {
                table.insert(id.0, (until.0, boot.0))?;
            }
            if let Some(boot_id) = boot_id {
                write.open_table(BOOT)?.insert(ID, boot_id.as_str())?;
            }
            if let Some(policies) = policies {
                let bytes = policies.encode_to_vec();
                write.open_table(POLICIES)?.insert(PUSHED, bytes.as_slice())?;
            }
            let mut numbers = write.open_table(NUMBERS)?;
            numbers.insert(FLOOR, reached.floor.0)?;
            numbers.insert(CLOSINGS, i64::try_from(reached.closings).unwrap_or(i64::MAX))?;
        }
        write.commit()?;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

/// The same in the order of the tables, whose pages are then read and written once each; of two with
/// the same id the later one comes later.
fn in_order<T>(items: &[T], id: impl Fn(&T) -> GrantId) -> Vec<&T> {
    let mut sorted: Vec<&T> = items.iter().collect();
    sorted.sort_by_key(|item| id(item));
    sorted
}

/// Lets go of the file. The library writes while it closes, and may panic over damage that was not
/// seen until then: nothing that was answered depends on that.
fn close(database: Option<Database>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
}

/// The first content of a database in place of one that was lost.
fn begin(database: &Database, stored: &Stored) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut numbers = write.open_table(NUMBERS)?;
        for (name, time) in [(FLOOR, stored.floor), (LOST_BEFORE, stored.lost_before)] {
            if let Some(time) = time {
                numbers.insert(name, time.0)?;
            }
        }
        numbers.insert(CLOSINGS, i64::try_from(stored.closings).unwrap_or(i64::MAX))?;
    }
    write.commit()?;
    Ok(())
}

/// Fills in what the database does not have from the second copy.
fn with_copy(mut stored: Stored, directory: &Path) -> Stored {
    if stored.policies.is_none() {
        match copy::read(directory) {
            Ok(policies) => stored.policies = policies,
            Err(why) => stored.policies_lost = Some(why),
        }
    }
    stored
}

/// Takes out of what was stored whatever the reserve says is revoked; returns what the database is to
/// know of that.
fn take_reserve(stored: &mut Stored, reserve: &Reserve) -> Transaction {
    if reserve.is_empty() {
        return Transaction::default();
    }
    let closed: HashMap<_, _> = reserve.closed(stored.grants.iter().map(|(id, _)| *id)).collect();
    stored.grants.retain(|(id, _)| !closed.contains_key(id));
    stored.lives.retain(|id, _| !closed.contains_key(id));
    let mut tombstones: HashMap<_, _> =
        std::mem::take(&mut stored.tombstones).into_iter().collect();
    for (id, tombstone) in &closed {
        let kept = tombstones.entry(*id).or_insert(*tombstone);
        *kept = kept.later(*tombstone);
    }
    let remove = closed.keys().copied().collect();
    let settled = closed.keys().filter_map(|id| Some((*id, *tombstones.get(id)?))).collect();
    stored.tombstones = tombstones.into_iter().collect();
    Transaction { remove, tombstones: settled, ..Transaction::default() }
}

fn move_aside(path: &Path, aside: &Path) -> Result<(), FileError> {
    fs::rename(path, aside).map_err(|error| FileError::Io {
        verb: "move aside",
        path: path.to_owned(),
        error,
    })
}

enum OpenError {
    /// Another process has it.
    Busy(String),
    Damaged(String),
    /// The disk does not take or give it: the file itself may be good.
    Disk(String),
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    // Every page against its checksum: what was flipped while no agent ran is damage, not content.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn open_and_read(path: &Path, opener: &Opener) -> Result<(Database, Stored), OpenError> {
    let result = catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
        let database = opener(&builder(), path)?;
        let stored = read(&database)?;
        Ok((database, stored))
    }));
    match result {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error @ (redb::Error::DatabaseAlreadyOpen | redb::Error::LockPoisoned(_)))) => {
            Err(OpenError::Busy(error.to_string()))
        }
        Ok(Err(redb::Error::Io(error)))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Err(OpenError::Disk(error.to_string()))
        }
        Ok(Err(error)) => Err(OpenError::Damaged(error.to_string())),
        Err(_) => Err(OpenError::Damaged("its content makes no sense".into())),
    }
}

/// Reads a database that cannot be written where it is.
fn read_in_memory(path: &Path) -> Option<Stored> {
    let bytes = fs::read(path).ok()?;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let memory = InMemoryBackend::new();
        memory.set_len(u64::try_from(bytes.len()).ok()?).ok()?;
        memory.write(0, &bytes).ok()?;
        read(&builder().create_with_backend(memory).ok()?).ok()
    }));
    result.ok().flatten()
}

fn read(database: &Database) -> Result<Stored, redb::Error> {
    // The tables exist from here on, so that reading needs no cases.
    let write = database.begin_write()?;
    write.open_table(GRANTS)?;
    write.open_table(LIVES)?;
    write.open_table(TOMBSTONES)?;
    write.open_table(BOOT)?;
    write.open_table(NUMBERS)?;
    write.open_table(POLICIES)?;
    write.commit()?;
    let read = database.begin_read()?;
    let mut stored = Stored::default();
    for item in read.open_table(GRANTS)?.iter()? {
        let (id, bytes) = item?;
        // What does not decode opens nothing; it is left out and overwritten in time.
        if let Ok(grant) = StoredGrant::decode(bytes.value()) {
            stored.grants.push((GrantId(id.value()), grant));
        }
    }
    for item in read.open_table(LIVES)?.iter()? {
        let (id, bytes) = item?;
        if let Ok(life) = StoredProgress::decode(bytes.value()) {
            stored.lives.insert(GrantId(id.value()), life);
        }
    }
    for item in read.open_table(TOMBSTONES)?.iter()? {
        let (id, tombstone) = item?;
        let (until, boot) = tombstone.value();
        let tombstone = Tombstone { until: WallTime(until), boot: BootNanos(boot) };
        stored.tombstones.push((GrantId(id.value()), tombstone));
    }
    stored.boot_id = read.open_table(BOOT)?.get(ID)?.map(|id| id.value().to_owned());
    let policies = read.open_table(POLICIES)?.get(PUSHED)?;
    stored.policies = policies.and_then(|bytes| StoredPolicies::decode(bytes.value()).ok());
    let numbers = read.open_table(NUMBERS)?;
    let number = |name: &str| -> Result<_, redb::Error> {
        Ok(numbers.get(name)?.map(|value| value.value()))
    };
    stored.floor = number(FLOOR)?.map(WallTime);
    stored.lost_before = number(LOST_BEFORE)?.map(WallTime);
    stored.closings = number(CLOSINGS)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_000);
    const TOMBSTONE: Tombstone = Tombstone { until: WallTime(5_000), boot: BootNanos(7) };

    fn id(byte: u8) -> GrantId {
        GrantId([byte; 16])
    }

    #[test]
    fn what_was_committed_is_there_again_and_the_floor_only_rises() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (mut store, stored) = Store::open(&state, NOW).unwrap();
        assert!(stored.grants.is_empty() && stored.floor.is_none());
        let grant = StoredGrant { envelope: Some(v1::Envelope::default()) };
        let life = StoredProgress { boot_id: "b".into(), deadline: 7, ..StoredProgress::default() };
        let floor = Some(WallTime(1000));
        let put = vec![(id(1), grant.clone()), (id(2), grant.clone())];
        let lives = vec![(id(1), life.clone()), (id(2), life.clone())];
        store.commit(&Transaction { put, lives, floor, ..Transaction::default() }).unwrap();
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
        assert_eq!(stored.lives, [(id(1), life)].into());
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
