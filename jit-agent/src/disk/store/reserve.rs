//! Room for revocations on a full disk: a file of a fixed size beside the database, with every
//! block written. When the disk is full, revocations are written here in place, and go to the
//! database with its next transaction. So a revocation is on the disk when it is answered, also on
//! a full disk.
//!
//! The alternative, to delete a file when the disk is full, would give its room to whoever writes
//! next. On a file system that writes each block anew (btrfs, zfs) the reserve may fail like the
//! database; the answer to the revocation then says that it is not durable. A revocation of
//! everything is one number: there is always room for it.
//!
//! A head (a SHA-256, the length of the records, and what is revoked of everybody) says which
//! records count. The records are written and synced first, then the head: 64 bytes, which are
//! either the old ones or the new ones. Records with another SHA-256 than the head's are damage, and
//! open nothing.
//!
//! A record is a revoked id, or the floor of a requester, whose name follows in records of its own.
//! A floor that finds no room becomes the floor of everybody, which stands in the head.

mod records;

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jit_proto::{GrantId, WallTime};
use records::{RECORD, Record};
use sha2::{Digest as _, Sha256};

use crate::{
    rules::{
        clock::BootNanos,
        ledger::{Floor, Floors, Tombstone},
    },
    system::sys,
};

/// Name of the file beside the database.
pub(super) const FILE: &str = "grants.reserve";
/// Size of the file, bytes.
const BYTES: usize = 256 * 1024;
/// Offset of the records, bytes: the head has a page of its own.
const RECORDS: usize = 4096;
const DIGEST: usize = 32;
/// Length of the head, bytes: digest, length of the records, the tombstone of everything, the floor
/// of everybody.
const HEAD: usize = DIGEST + 32;
/// Length of the head before there were floors.
const OLD_HEAD: usize = DIGEST + 24;

/// The reserve, with the content of its file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// Whether the file exists with all of its blocks; if not, why.
    ready: Result<(), String>,
    closed: HashMap<GrantId, Tombstone>,
    /// Everything that the database has is revoked.
    all: Option<Tombstone>,
    floors: Floors,
    /// The records as in the file.
    records: Vec<u8>,
}

/// Revocations for the reserve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing<'a> {
    /// Ids, and until when they stay refused.
    pub(super) ids: &'a [(GrantId, Tombstone)],
    /// Everything that the database has is revoked.
    pub(super) all: bool,
    /// What was signed until then is refused.
    pub(super) floors: &'a Floors,
}

impl Reserve {
    /// The reserve of a directory, before it is read.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join(FILE),
            ready: Err(format!("{FILE} is not there in its full size")),
            closed: HashMap::new(),
            all: None,
            floors: Floors::default(),
            records: Vec::new(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The file is damaged, so the revoked ids in it are unknown.
    pub(super) fn read(directory: &Path) -> Result<Self, String> {
        let mut reserve = Self::new(directory);
        let bytes = match fs::read(&reserve.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(reserve),
            Err(error) => return Err(format!("cannot read {FILE}: {error}")),
        };
        let whole = bytes.len() >= BYTES;
        reserve.parse(&bytes).ok_or_else(|| format!("{FILE} is damaged"))?;
        if whole {
            reserve.ready = Ok(());
        }
        Ok(reserve)
    }

    fn parse(&mut self, bytes: &[u8]) -> Option<()> {
        let (digest, rest) = bytes.split_first_chunk::<DIGEST>()?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (until, rest) = rest.split_first_chunk::<8>()?;
        let (boot, rest) = rest.split_first_chunk::<8>()?;
        let floor = WallTime(i64::from_le_bytes(*rest.first_chunk::<8>()?));
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let records = bytes.get(RECORDS..)?.get(..length)?;
        let all = tombstone(*until, *boot);
        self.all = (all != NONE).then_some(all);
        self.records = records.to_vec();
        if head(records, self.all, floor).first_chunk() != Some(digest) {
            // Written before there were floors.
            let old = head(records, self.all, NO_FLOOR);
            let counts = old.get(DIGEST..OLD_HEAD)?;
            let old = Sha256::new().chain_update(counts).chain_update(records).finalize();
            return (old.as_slice() == digest).then(|| self.take_records(records))?;
        }
        if floor != NO_FLOOR {
            self.floors.raise(Floor { requester: None, at: floor });
        }
        self.take_records(records)
    }

    fn take_records(&mut self, bytes: &[u8]) -> Option<()> {
        for record in records::read(bytes)? {
            match record {
                Record::Closed(id, tombstone) => self.note(id, tombstone),
                Record::Floor(floor) => self.floors.raise(floor),
            }
        }
        Some(())
    }

    fn note(&mut self, id: GrantId, tombstone: Tombstone) {
        let kept = self.closed.entry(id).or_insert(tombstone);
        *kept = kept.later(tombstone);
    }

    /// Makes the file if it does not have its full size; only while it holds no records.
    pub(super) fn prepare(&mut self) {
        if self.ready.is_ok() || !self.is_empty() {
            return;
        }
        self.ready = self.make().map_err(|error| {
            format!(
                "cannot make {}: {error}: were the disk full, a revocation would not survive a \
                 restart",
                self.path.display()
            )
        });
    }

    fn make(&self) -> io::Result<()> {
        let fresh = self.path.with_extension("reserve.new");
        let make = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            let mut bytes = head(&[], None, NO_FLOOR);
            bytes.resize(BYTES, 0);
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            sys::sync_directory_of(&self.path)
        };
        make().inspect_err(|_| drop(fs::remove_file(&fresh)))
    }

    /// Why nothing can be kept; `None`: it can.
    pub(super) fn problem(&self) -> Option<&str> {
        self.ready.as_ref().err().map(String::as_str)
    }

    /// Whether no revocation waits for the database.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.all.is_none() && self.floors.is_empty()
    }

    /// Keeps revocations. All of it is on the disk when this succeeds.
    pub(super) fn keep(&mut self, closing: Closing<'_>) -> io::Result<()> {
        if let Err(why) = &self.ready {
            return Err(io::Error::other(why.clone()));
        }
        let Closing { ids, all, floors } = closing;
        let mut records = self.records.clone();
        let mut everything = self.all;
        if all {
            let latest = ids.iter().map(|(_, tombstone)| *tombstone).reduce(Tombstone::later);
            everything = latest.map_or(everything, |latest| {
                Some(everything.map_or(latest, |old| old.later(latest)))
            });
        } else {
            let fresh = ids.iter().filter(|(id, tombstone)| {
                self.closed.get(id).is_none_or(|kept| kept.later(*tombstone) != *kept)
            });
            fresh.for_each(|(id, tombstone)| records::add(&mut records, *id, *tombstone));
        }
        if records.len() > BYTES - RECORDS {
            let most = (BYTES - RECORDS) / RECORD;
            return Err(io::Error::other(format!("{FILE} has room for {most} revocations")));
        }
        let mut kept = self.floors.clone();
        let known = |floor: &Floor| match &floor.requester {
            Some(name) => self.floors.of(name) >= Some(floor.at),
            None => false,
        };
        for floor in floors.iter().filter(|floor| !known(floor)) {
            let fits = records::add_floor(&mut records, &floor, BYTES - RECORDS);
            kept.raise(if fits { floor } else { Floor { requester: None, ..floor } });
        }
        self.write(&records, everything, kept.all())?;
        self.all = everything;
        self.floors = kept;
        self.records = records;
        if !all {
            ids.iter().for_each(|(id, tombstone)| self.note(*id, *tombstone));
        }
        Ok(())
    }

    /// Empties the reserve, because the database has everything in it.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.write(&[], None, None)?;
        self.closed.clear();
        self.all = None;
        self.floors = Floors::default();
        self.records.clear();
        Ok(())
    }

    /// Writes the new records after the existing ones, and then the head that counts them.
    fn write(
        &self,
        records: &[u8],
        all: Option<Tombstone>,
        floor: Option<WallTime>,
    ) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        if let Some(fresh) = records.get(self.records.len()..).filter(|fresh| !fresh.is_empty()) {
            file.write_all_at(fresh, offset(RECORDS + self.records.len()))?;
            file.sync_data()?;
        }
        file.write_all_at(&head(records, all, floor.unwrap_or(NO_FLOOR)), 0)?;
        file.sync_data()
    }

    /// Ids that are refused, and until when. With `all` also those of all stored grants.
    pub(super) fn closed<'a>(
        &'a self,
        stored: impl Iterator<Item = GrantId> + 'a,
    ) -> impl Iterator<Item = (GrantId, Tombstone)> + 'a {
        let all = stored.filter_map(|id| Some((id, self.all?)));
        self.closed.iter().map(|(id, tombstone)| (*id, *tombstone)).chain(all)
    }
}

impl Reserve {
    /// Floors of revocations that wait for the database.
    pub(super) const fn floors(&self) -> &Floors {
        &self.floors
    }
}

/// No floor of everybody.
const NO_FLOOR: WallTime = WallTime(0);
/// A tombstone that has always ended: none.
const NONE: Tombstone = Tombstone { until: WallTime(0), boot: BootNanos(0) };

fn tombstone(until: [u8; 8], boot: [u8; 8]) -> Tombstone {
    let (until, boot) = (i64::from_le_bytes(until), u64::from_le_bytes(boot));
    Tombstone { until: WallTime(until), boot: BootNanos(boot) }
}

fn head(records: &[u8], all: Option<Tombstone>, floor: WallTime) -> Vec<u8> {
    let Tombstone { until, boot } = all.unwrap_or(NONE);
    let mut counts = Vec::with_capacity(HEAD);
    counts.extend(u64::try_from(records.len()).unwrap_or(u64::MAX).to_le_bytes());
    counts.extend(until.0.to_le_bytes());
    counts.extend(boot.0.to_le_bytes());
    counts.extend(floor.0.to_le_bytes());
    let mut head = Sha256::new().chain_update(&counts).chain_update(records).finalize().to_vec();
    head.extend(counts);
    head
}

fn offset(place: usize) -> u64 {
    u64::try_from(place).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Tombstone = Tombstone { until: WallTime(9_000), boot: BootNanos(9) };
    const EARLY: Tombstone = Tombstone { until: WallTime(5_000), boot: BootNanos(5) };

    fn id(byte: u8) -> GrantId {
        GrantId([byte; 16])
    }

    fn ready(directory: &Path) -> Reserve {
        let mut reserve = Reserve::read(directory).unwrap();
        reserve.prepare();
        assert_eq!(reserve.problem(), None);
        reserve
    }

    fn keep(reserve: &mut Reserve, ids: &[(GrantId, Tombstone)], all: bool) -> io::Result<()> {
        reserve.keep(Closing { ids, all, floors: &Floors::default() })
    }

    fn floors(floors: &[(Option<&str>, i64)]) -> Floors {
        let mut all = Floors::default();
        for (name, at) in floors {
            all.raise(Floor { requester: name.map(str::to_owned), at: WallTime(*at) });
        }
        all
    }

    /// What a start would find with a database that has grants 1 and 7.
    fn found(directory: &Path) -> Result<Vec<(GrantId, Tombstone)>, String> {
        let reserve = Reserve::read(directory)?;
        let mut found: Vec<_> = reserve.closed([id(1), id(7)].into_iter()).collect();
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }

    #[test]
    fn what_is_kept_is_found_again_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        assert!(reserve.is_empty());
        keep(&mut reserve, &[(id(1), EARLY), (id(2), LATE)], false).unwrap();
        keep(&mut reserve, &[(id(1), LATE)], false).unwrap();
        assert_eq!(found(directory.path()), Ok(vec![(id(1), LATE), (id(2), LATE)]));
        // By another process, which continues after the first.
        let mut reserve = Reserve::read(directory.path()).unwrap();
        assert!(!reserve.is_empty());
        keep(&mut reserve, &[(id(1), EARLY), (id(3), EARLY)], false).unwrap();
        let all = vec![(id(1), LATE), (id(2), LATE), (id(3), EARLY)];
        assert_eq!(found(directory.path()), Ok(all));
        assert_eq!(reserve.records.len(), 4 * RECORD, "what is known is not written again");
        reserve.clear().unwrap();
        assert_eq!(found(directory.path()), Ok(vec![]));
        assert_eq!(fs::metadata(&reserve.path).unwrap().len(), offset(BYTES));
    }

    #[test]
    fn floors_are_kept_with_names_of_any_length_until_the_reserve_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        let long = "x".repeat(jit_proto::text::MAX_NAME_BYTES);
        let exact = "y".repeat(RECORD);
        let first = floors(&[(Some("ana@example.org"), 7_000), (Some(&long), 7_001)]);
        let ids = [(id(1), EARLY)];
        reserve.keep(Closing { ids: &ids, all: false, floors: &first }).unwrap();
        let length = reserve.records.len();
        reserve.keep(Closing { ids: &ids, all: false, floors: &first }).unwrap();
        assert_eq!(reserve.records.len(), length, "what is known is not written again");
        let second = floors(&[(Some(&exact), 7_002)]);
        reserve.keep(Closing { ids: &[(id(2), LATE)], all: false, floors: &second }).unwrap();
        let mut all = first.clone();
        all.merge(&second);
        let read = Reserve::read(directory.path()).unwrap();
        assert_eq!(*read.floors(), all);
        assert_eq!(found(directory.path()), Ok(vec![(id(1), EARLY), (id(2), LATE)]));
        reserve.clear().unwrap();
        assert!(Reserve::read(directory.path()).unwrap().is_empty());
        // A floor alone is a reason to keep the reserve.
        reserve.keep(Closing { ids: &[], all: true, floors: &floors(&[(None, 8)]) }).unwrap();
        let read = Reserve::read(directory.path()).unwrap();
        assert!(!read.is_empty() && read.floors().all() == Some(WallTime(8)));
    }

    #[test]
    fn without_room_for_a_name_the_floor_is_that_of_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        let most = (BYTES - RECORDS) / RECORD;
        let ids: Vec<_> =
            (1..most).map(|n| (GrantId(u128::try_from(n).unwrap().to_le_bytes()), LATE)).collect();
        let floors = floors(&[(Some("ana@example.org"), 7_000)]);
        reserve.keep(Closing { ids: &ids, all: false, floors: &floors }).unwrap();
        let read = Reserve::read(directory.path()).unwrap();
        assert_eq!(read.floors().all(), Some(WallTime(7_000)), "wider, and not dropped");
    }

    #[test]
    fn a_reserve_from_before_there_were_floors_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = Vec::new();
        records::add(&mut records, id(1), EARLY);
        let new = head(&records, Some(LATE), NO_FLOOR);
        let counts = &new[DIGEST..OLD_HEAD];
        let digest = Sha256::new().chain_update(counts).chain_update(&records).finalize();
        let mut bytes = [digest.as_slice(), counts].concat();
        bytes.resize(RECORDS, 0);
        bytes.extend(&records);
        bytes.resize(BYTES, 0);
        fs::write(directory.path().join(FILE), bytes).unwrap();
        let reserve = Reserve::read(directory.path()).unwrap();
        assert!(reserve.floors().is_empty());
        assert_eq!(reserve.all, Some(LATE));
        assert_eq!(reserve.closed, HashMap::from([(id(1), EARLY)]));
    }

    #[test]
    fn there_is_always_room_to_revoke_everything() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        let number = |number: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_le_bytes());
            (GrantId(id), LATE)
        };
        let most = u32::try_from((BYTES - RECORDS) / RECORD).unwrap();
        keep(&mut reserve, &(0..most).map(number).collect::<Vec<_>>(), false).unwrap();
        let error = keep(&mut reserve, &[number(most)], false).unwrap_err();
        assert!(error.to_string().contains("room for 8064 revocations"), "{error}");
        keep(&mut reserve, &(0..100_000).map(number).collect::<Vec<_>>(), true).unwrap();
        let found = found(directory.path()).unwrap();
        assert!(found.contains(&(id(7), LATE)) && found.contains(&number(most - 1)));
        reserve.clear().unwrap();
        assert!(reserve.is_empty());
    }

    #[test]
    fn a_reserve_that_is_cut_or_flipped_is_damaged_or_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        keep(&mut reserve, &[(id(1), EARLY), (id(2), LATE)], false).unwrap();
        let good = found(directory.path()).unwrap();
        let path = &reserve.path;
        let whole = fs::read(path).unwrap();
        let used = RECORDS + 2 * RECORD;
        for at in (0..HEAD).chain(RECORDS - 8..used) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(path, flipped).unwrap();
            let counts = !(HEAD..RECORDS).contains(&at);
            assert_eq!(found(directory.path()).is_err(), counts, "flipped at {at}");
        }
        for length in (0..HEAD).chain(RECORDS - 8..used + 8) {
            fs::write(path, &whole[..length]).unwrap();
            match found(directory.path()) {
                Ok(found) => assert!(found == good && length >= used, "cut at {length}"),
                Err(_) => assert!(length < used, "cut at {length}"),
            }
        }
    }

    /// A crash between any two steps, with any part of the unsynced bytes on the disk.
    #[test]
    fn what_is_cut_short_is_as_before_or_done() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = ready(directory.path());
        let path = reserve.path.clone();
        let mut states = vec![(fs::read(&path).unwrap(), found(directory.path()).unwrap())];
        let mut next = |directory: &Path| {
            states.push((fs::read(&path).unwrap(), found(directory).unwrap()));
        };
        keep(&mut reserve, &[(id(1), EARLY)], false).unwrap();
        next(directory.path());
        keep(&mut reserve, &[(id(2), LATE), (id(3), LATE)], false).unwrap();
        next(directory.path());
        keep(&mut reserve, &[(id(7), LATE)], true).unwrap();
        next(directory.path());
        reserve.clear().unwrap();
        next(directory.path());
        for pair in states.windows(2) {
            let [(old, before), (new, after)] = pair else { unreachable!() };
            for written in 0..=2 * RECORD {
                // A part of the records is written, and the head is not.
                let mut bytes = old.clone();
                let end = new.len().min(RECORDS + 3 * RECORD);
                let cut = end - written;
                bytes[cut..end].copy_from_slice(&new[cut..end]);
                fs::write(&path, bytes).unwrap();
                assert_eq!(found(directory.path()).as_ref(), Ok(before));
            }
            let mut bytes = old.clone();
            bytes[RECORDS..].copy_from_slice(&new[RECORDS..]);
            bytes[..HEAD].copy_from_slice(&new[..HEAD]);
            fs::write(&path, bytes).unwrap();
            assert_eq!(found(directory.path()).as_ref(), Ok(after));
        }
    }

    #[test]
    fn without_room_it_says_so_and_is_made_when_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mut reserve = Reserve::read(&state).unwrap();
        reserve.prepare();
        let problem = reserve.problem().unwrap().to_owned();
        assert!(problem.contains("grants.reserve") && problem.contains("not survive"), "{problem}");
        let error = keep(&mut reserve, &[(id(1), LATE)], false).unwrap_err();
        assert_eq!(error.to_string(), problem);
        fs::create_dir(&state).unwrap();
        // A short file without records is made anew.
        fs::write(state.join(FILE), [head(&[], None, NO_FLOOR), vec![0; RECORDS]].concat())
            .unwrap();
        let mut reserve = Reserve::read(&state).unwrap();
        assert!(reserve.problem().is_some());
        reserve.prepare();
        keep(&mut reserve, &[(id(1), LATE)], false).unwrap();
        assert_eq!(fs::metadata(state.join(FILE)).unwrap().len(), offset(BYTES));
    }
}
