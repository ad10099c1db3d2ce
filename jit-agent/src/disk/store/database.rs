//! The database's file and tables: opens, reads and writes them. `store` decides what a damage
//! means.

use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
};

use jit_proto::{GrantId, WallTime, v1};
use prost::Message as _;
use redb::{
    Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _,
    StorageBackend as _, Table, TableDefinition, backends::InMemoryBackend,
};

use crate::{
    disk::store::{
        Permit,
        content::{Stored, StoredGrant, StoredPolicies, StoredProgress, Transaction},
        witness::Witness,
    },
    rules::{
        clock::BootNanos,
        ledger::{Floor, Floors, Tombstone},
    },
};

// Two types of tables are enough. The library compiles its trees anew for each type: 60 KB of code.
type ById = TableDefinition<'static, [u8; 16], &'static [u8]>;
type ByName = TableDefinition<'static, &'static str, &'static [u8]>;

const GRANTS: ById = TableDefinition::new("grants");
const PROGRESS: ById = TableDefinition::new("lives");
/// Until when, and the boot clock then: two numbers.
const TOMBSTONES: ById = TableDefinition::new("tombstones");
/// Requester to floor, milliseconds since 1970; the empty name: everybody.
const FLOORS: ByName = TableDefinition::new("floors");
const BOOT: ByName = TableDefinition::new("boot");
const NUMBERS: ByName = TableDefinition::new("numbers");
const POLICIES: ByName = TableDefinition::new("policies");
const DENIALS: ByName = TableDefinition::new("denials");
const CHECKPOINTS: ByName = TableDefinition::new("checkpoints");
const LAST: &str = "last";
const HISTORY: &str = "history";
const PUSHED: &str = "pushed";
const ID: &str = "id";
const FLOOR: &str = "floor";
const LOST_BEFORE: &str = "lost_before";
const CLOSINGS: &str = "closings";
/// The database's page cache, bytes: the ledger is in memory, so little is read twice.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A way to open or make a database file, normally [`redb::Builder::create`].
pub type Opener =
    Arc<dyn Fn(&redb::Builder, &Path) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// Why a database cannot be opened.
pub(super) enum OpenError {
    /// Another process has the database open.
    Busy(String),
    Damaged(String),
    /// The disk cannot be read or written; the file itself may be good.
    Disk(String),
}

impl OpenError {
    /// What is wrong, as text.
    pub(super) fn cause(self) -> String {
        match self {
            Self::Busy(cause) | Self::Damaged(cause) | Self::Disk(cause) => cause,
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    // Checks every page's checksum: a byte that changed while no agent ran is damage, not content.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

pub(super) fn open_and_read(path: &Path, opener: &Opener) -> Result<(Database, Stored), OpenError> {
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

/// Reads a database that cannot be written at its place.
pub(super) fn read_in_memory(path: &Path) -> Option<Stored> {
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
    // Makes the tables, so that readers need not handle missing ones.
    let write = database.begin_write()?;
    write.open_table(GRANTS)?;
    write.open_table(PROGRESS)?;
    write.open_table(TOMBSTONES)?;
    write.open_table(FLOORS)?;
    write.open_table(BOOT)?;
    write.open_table(NUMBERS)?;
    write.open_table(POLICIES)?;
    write.open_table(DENIALS)?;
    write.open_table(CHECKPOINTS)?;
    write.commit()?;
    let read = database.begin_read()?;
    let mut stored = Stored::default();
    // Most of the time goes into these two.
    let progress = thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, || read_progress(database)).ok();
        stored.grants = read_grants(database)?;
        let other = other.and_then(|thread| thread.join().ok());
        other.unwrap_or_else(|| read_progress(database))
    });
    stored.progress = progress?;
    for item in read.open_table(TOMBSTONES)?.iter()? {
        let (id, tombstone) = item?;
        let [until, boot] = numbers(tombstone.value())?;
        let tombstone = Tombstone { until: WallTime(until), boot: BootNanos(boot.cast_unsigned()) };
        stored.tombstones.push((GrantId(id.value()), tombstone));
    }
    stored.floors = read_floors(&read.open_table(FLOORS)?)?;
    let boot_id = read.open_table(BOOT)?.get(ID)?;
    stored.boot_id = boot_id.map(|id| String::from_utf8_lossy(id.value()).into_owned());
    let policies = read.open_table(POLICIES)?.get(PUSHED)?;
    stored.policies = policies.and_then(|bytes| StoredPolicies::decode(bytes.value()).ok());
    let denials = read.open_table(DENIALS)?.get(HISTORY)?;
    stored.denials = denials.map(|blob| blob.value().to_vec());
    let checkpoint = read.open_table(CHECKPOINTS)?.get(LAST)?;
    stored.checkpoint = checkpoint.and_then(|one| v1::Checkpoint::decode(one.value()).ok());
    let table = read.open_table(NUMBERS)?;
    let number = |name: &str| table.get(name)?.map(|value| number(value.value())).transpose();
    stored.floor = number(FLOOR)?.map(WallTime);
    stored.lost_before = number(LOST_BEFORE)?.map(WallTime);
    stored.closings = number(CLOSINGS)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    Ok(stored)
}

fn read_grants(database: &Database) -> Result<Vec<(GrantId, StoredGrant)>, redb::Error> {
    let mut grants = Vec::new();
    for item in database.begin_read()?.open_table(GRANTS)?.iter()? {
        let (id, bytes) = item?;
        // An entry that does not decode opens nothing. It is left out, and overwritten later.
        if let Ok(grant) = StoredGrant::decode(bytes.value()) {
            grants.push((GrantId(id.value()), grant));
        }
    }
    Ok(grants)
}

fn read_progress(database: &Database) -> Result<HashMap<GrantId, StoredProgress>, redb::Error> {
    let table = database.begin_read()?.open_table(PROGRESS)?;
    let mut progress = HashMap::with_capacity(usize::try_from(table.len()?).unwrap_or_default());
    for item in table.iter()? {
        let (id, bytes) = item?;
        if let Ok(one) = StoredProgress::decode(bytes.value()) {
            progress.insert(GrantId(id.value()), one);
        }
    }
    Ok(progress)
}

/// The first content of a database in place of one that was lost.
pub(super) fn begin(database: &Database, stored: &Stored) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(NUMBERS)?;
        for (name, time) in [(FLOOR, stored.floor), (LOST_BEFORE, stored.lost_before)] {
            if let Some(time) = time {
                write_number(&mut table, name, time.0)?;
            }
        }
        write_number(&mut table, CLOSINGS, i64::try_from(stored.closings).unwrap_or(i64::MAX))?;
    }
    write.commit()?;
    Ok(())
}

/// Writes a transaction and syncs it to the disk, if that is permitted. `reached` is what the
/// database then holds.
pub(super) fn write(
    database: &Database,
    transaction: &Transaction,
    reached: Witness,
    permit: &Permit,
) -> Result<bool, redb::Error> {
    let Transaction {
        put,
        progress,
        remove,
        tombstones,
        forget,
        floors,
        lost_before,
        boot_id,
        policies,
        denials,
        checkpoint,
        floor: _,
    } = transaction;
    let write = database.begin_write()?;
    {
        let mut grants = write.open_table(GRANTS)?;
        let mut bytes = Vec::new();
        for (id, stored) in in_order(put, |(id, _)| *id) {
            bytes.clear();
            stored.encode_raw(&mut bytes);
            grants.insert(id.0, bytes.as_slice())?;
        }
        let mut table = write.open_table(PROGRESS)?;
        for (id, one) in in_order(progress, |(id, _)| *id) {
            bytes.clear();
            one.encode_raw(&mut bytes);
            table.insert(id.0, bytes.as_slice())?;
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
            let both = [until.0.to_be_bytes(), boot.0.to_be_bytes()];
            table.insert(id.0, both.as_flattened())?;
        }
        if !floors.is_empty() {
            write_floors(&mut write.open_table(FLOORS)?, floors)?;
        }
        if let Some(boot_id) = boot_id {
            write.open_table(BOOT)?.insert(ID, boot_id.as_bytes())?;
        }
        if let Some(policies) = policies {
            let bytes = policies.encode_to_vec();
            write.open_table(POLICIES)?.insert(PUSHED, bytes.as_slice())?;
        }
        if let Some(blob) = denials {
            write.open_table(DENIALS)?.insert(HISTORY, blob.as_slice())?;
        }
        if let Some(checkpoint) = checkpoint {
            let bytes = checkpoint.encode_to_vec();
            write.open_table(CHECKPOINTS)?.insert(LAST, bytes.as_slice())?;
        }
        let mut table = write.open_table(NUMBERS)?;
        if let Some(lost_before) = lost_before {
            write_number(&mut table, LOST_BEFORE, lost_before.0)?;
        }
        write_number(&mut table, FLOOR, reached.floor.0)?;
        write_number(&mut table, CLOSINGS, i64::try_from(reached.closings).unwrap_or(i64::MAX))?;
    }
    let permitted = permit.wait();
    if permitted {
        write.commit()?;
    } else {
        write.abort()?;
    }
    Ok(permitted)
}

/// A number as it is stored: 8 bytes, big endian.
fn number(bytes: &[u8]) -> Result<i64, redb::Error> {
    let [number] = numbers(bytes)?;
    Ok(number)
}

/// `N` numbers, one after the other.
fn numbers<const N: usize>(bytes: &[u8]) -> Result<[i64; N], redb::Error> {
    let (numbers, rest) = bytes.as_chunks();
    match <[[u8; 8]; N]>::try_from(numbers) {
        Ok(numbers) if rest.is_empty() => Ok(numbers.map(i64::from_be_bytes)),
        _ => Err(redb::Error::Corrupted(format!("{N} numbers in {} bytes", bytes.len()))),
    }
}

fn write_number(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    name: &str,
    number: i64,
) -> Result<(), redb::Error> {
    table.insert(name, number.to_be_bytes().as_slice())?;
    Ok(())
}

fn read_floors(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Floors, redb::Error> {
    let mut floors = Floors::default();
    for item in table.iter()? {
        let (name, at) = item?;
        let requester = Some(name.value().to_owned()).filter(|name| !name.is_empty());
        floors.raise(Floor { requester, at: WallTime(number(at.value())?) });
    }
    Ok(floors)
}

/// Adds floors to the stored ones.
fn write_floors(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    more: &Floors,
) -> Result<(), redb::Error> {
    let before = read_floors(table)?;
    let mut after = before.clone();
    after.merge(more);
    let kept = after.by_requester();
    for name in before.by_requester().keys().filter(|name| !kept.contains_key(*name)) {
        table.remove(name.as_str())?;
    }
    for Floor { requester, at } in after.iter() {
        write_number(table, requester.as_deref().unwrap_or_default(), at.0)?;
    }
    Ok(())
}

/// The entries in the order of their ids, so that each page of a table is read and written once. Of
/// two with the same id the later one comes later.
fn in_order<T>(items: &[T], id: impl Fn(&T) -> GrantId) -> Vec<&T> {
    let mut sorted: Vec<&T> = items.iter().collect();
    sorted.sort_by_key(|item| id(item));
    sorted
}

/// Closes the file. The library writes while it closes, and may panic over damage that was not
/// found before. Nothing that was answered depends on that write.
pub(super) fn close(database: Option<Database>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
}
