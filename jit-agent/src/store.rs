//! What survives the agent: grants as they were received, revoked ids, and the latest wall time.
//!
//! An embedded transactional database (redb), one synced transaction for each answer. What is read
//! back is verified again by the gate; a file that cannot be read is kept aside for a person, and
//! the gate starts closed.

mod copy;

use std::{
    collections::HashMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use jit_proto::v1;
use prost::Message;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::{
    clock::WallTime,
    grant::GrantId,
    sys::{self, FileError},
};

const GRANTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("grants");
const LIVES: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("lives");
const TOMBSTONES: TableDefinition<'_, [u8; 16], i64> = TableDefinition::new("tombstones");
const CLOCK: TableDefinition<'_, &str, i64> = TableDefinition::new("clock");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");
const PUSHED: &str = "pushed";
const FLOOR: &str = "floor";
const FILE: &str = "grants.redb";
/// The database's page cache, bytes: the ledger is in memory, so hardly anything is read twice.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The open database.
#[derive(Debug)]
pub struct Store {
    /// `None` after an I/O error, until it could be opened again.
    database: Option<Database>,
    path: PathBuf,
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
pub struct StoredLife {
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
    pub lives: Vec<(GrantId, StoredLife)>,
    /// Grants to take away.
    pub remove: Vec<GrantId>,
    /// Revoked ids, and until when they stay refused.
    pub tombstones: Vec<(GrantId, WallTime)>,
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
    pub lives: HashMap<GrantId, StoredLife>,
    /// Revoked ids.
    pub tombstones: Vec<(GrantId, WallTime)>,
    /// The pushed policies, unverified; `None`: there were none.
    pub policies: Option<StoredPolicies>,
    /// There were pushed policies, and both copies of them are lost: why.
    pub policies_lost: Option<String>,
    /// The latest wall time ever seen.
    pub floor: Option<WallTime>,
    /// A file that could not be read, where it was put, and why.
    pub damaged: Option<(PathBuf, String)>,
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

impl Store {
    /// Opens the database in a directory and reads everything.
    pub fn open(directory: &Path) -> Result<(Self, Stored), StoreError> {
        sys::private_directory(directory, 0o700)?;
        let path = directory.join(FILE);
        let first = match open_and_read(&path) {
            Ok((store, stored)) => return Ok((store, with_copy(stored, directory))),
            Err(OpenError::Busy(cause)) => {
                return Err(StoreError::Database { verb: "open", path, cause });
            }
            Err(OpenError::Damaged(cause)) => cause,
        };
        let aside = directory.join(format!("{FILE}.damaged-{}", sys::now().wall.0));
        let moved = fs::rename(&path, &aside);
        moved.map_err(|error| FileError::Io { verb: "move aside", path: path.clone(), error })?;
        match open_and_read(&path) {
            Ok((store, stored)) => {
                let stored = Stored { damaged: Some((aside, first)), ..stored };
                Ok((store, with_copy(stored, directory)))
            }
            Err(OpenError::Busy(cause) | OpenError::Damaged(cause)) => {
                Err(StoreError::Database { verb: "create", path, cause })
            }
        }
    }

    /// Writes a transaction and syncs it to the disk.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), StoreError> {
        if self.database.is_none() {
            // After an I/O error the library wants the file opened anew.
            self.database =
                open_and_read(&self.path).ok().and_then(|(mut store, _)| store.database.take());
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.try_commit(transaction)));
        let result = result.unwrap_or_else(|_| {
            Err(redb::Error::Corrupted("the database library panicked".into()))
        });
        if matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.close();
        }
        if let (Ok(()), Some(policies), Some(directory)) =
            (&result, &transaction.policies, self.path.parent())
            && let Err(error) = copy::write(directory, policies)
        {
            tracing::error!("cannot write the second copy of the policies: {error}");
        }
        result.map_err(|error| StoreError::Write(Box::new(error)))
    }

    /// Lets go of the file. The library writes while it closes, and may panic over damage that was
    /// not seen until then: nothing that was answered depends on that.
    fn close(&mut self) {
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    fn try_commit(&self, transaction: &Transaction) -> Result<(), redb::Error> {
        let Transaction { put, lives, remove, tombstones, policies, floor } = transaction;
        let database = self.database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let write = database.begin_write()?;
        {
            let mut grants = write.open_table(GRANTS)?;
            for (id, stored) in put {
                grants.insert(id.0, stored.encode_to_vec().as_slice())?;
            }
            let mut table = write.open_table(LIVES)?;
            for (id, life) in lives {
                table.insert(id.0, life.encode_to_vec().as_slice())?;
            }
            for id in remove {
                grants.remove(id.0)?;
                table.remove(id.0)?;
            }
            let mut table = write.open_table(TOMBSTONES)?;
            for (id, until) in tombstones {
                table.insert(id.0, until.0)?;
            }
            if let Some(policies) = policies {
                let bytes = policies.encode_to_vec();
                write.open_table(POLICIES)?.insert(PUSHED, bytes.as_slice())?;
            }
            if let Some(floor) = floor {
                let mut clock = write.open_table(CLOCK)?;
                let old = clock.get(FLOOR)?.map(|value| value.value());
                if old.is_none_or(|old| old < floor.0) {
                    clock.insert(FLOOR, floor.0)?;
                }
                table.retain(|_, until| until > floor.0)?;
            }
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

enum OpenError {
    /// Another process has it, or the disk does not answer: the file itself may be good.
    Busy(String),
    Damaged(String),
}

fn open_and_read(path: &Path) -> Result<(Store, Stored), OpenError> {
    let result = catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
        let stored = read(&database)?;
        Ok((Store { database: Some(database), path: path.to_owned() }, stored))
    }));
    match result {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error @ (redb::Error::DatabaseAlreadyOpen | redb::Error::LockPoisoned(_)))) => {
            Err(OpenError::Busy(error.to_string()))
        }
        Ok(Err(redb::Error::Io(error)))
            if !matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            Err(OpenError::Busy(error.to_string()))
        }
        Ok(Err(error)) => Err(OpenError::Damaged(error.to_string())),
        Err(_) => Err(OpenError::Damaged("its content makes no sense".into())),
    }
}

fn read(database: &Database) -> Result<Stored, redb::Error> {
    // The tables exist from here on, so that reading needs no cases.
    let write = database.begin_write()?;
    write.open_table(GRANTS)?;
    write.open_table(LIVES)?;
    write.open_table(TOMBSTONES)?;
    write.open_table(CLOCK)?;
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
        if let Ok(life) = StoredLife::decode(bytes.value()) {
            stored.lives.insert(GrantId(id.value()), life);
        }
    }
    for item in read.open_table(TOMBSTONES)?.iter()? {
        let (id, until) = item?;
        stored.tombstones.push((GrantId(id.value()), WallTime(until.value())));
    }
    let policies = read.open_table(POLICIES)?.get(PUSHED)?;
    stored.policies = policies.and_then(|bytes| StoredPolicies::decode(bytes.value()).ok());
    stored.floor = read.open_table(CLOCK)?.get(FLOOR)?.map(|value| WallTime(value.value()));
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> GrantId {
        GrantId([byte; 16])
    }

    #[test]
    fn what_was_committed_is_there_again_and_the_floor_only_rises() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (mut store, stored) = Store::open(&state).unwrap();
        assert!(stored.grants.is_empty() && stored.floor.is_none());
        let grant = StoredGrant { envelope: Some(v1::Envelope::default()) };
        let life = StoredLife { boot_id: "b".into(), deadline: 7, ..StoredLife::default() };
        let floor = Some(WallTime(1000));
        let put = vec![(id(1), grant.clone()), (id(2), grant.clone())];
        let lives = vec![(id(1), life.clone()), (id(2), life.clone())];
        store.commit(&Transaction { put, lives, floor, ..Transaction::default() }).unwrap();
        let transaction = Transaction {
            remove: vec![id(2)],
            tombstones: vec![(id(2), WallTime(5000))],
            floor: Some(WallTime(900)),
            ..Transaction::default()
        };
        store.commit(&transaction).unwrap();
        drop(store);
        let (_, stored) = Store::open(&state).unwrap();
        assert_eq!(stored.grants, [(id(1), grant)]);
        assert_eq!(stored.lives, [(id(1), life)].into());
        assert_eq!(stored.tombstones, [(id(2), WallTime(5000))]);
        assert_eq!(stored.floor, floor);
    }

    #[test]
    fn a_second_owner_is_refused_and_the_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let (_store, _) = Store::open(&state).unwrap();
        let error = Store::open(&state).unwrap_err();
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
            let (_store, stored) = Store::open(&state).unwrap();
            let (aside, _) = stored.damaged.unwrap();
            assert_eq!(fs::read(&aside).unwrap(), garbage);
            assert!(stored.grants.is_empty());
            fs::remove_file(aside).unwrap();
        }
    }
}
