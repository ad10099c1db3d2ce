//! What was signed: an append-only file in which each id has one hash for ever. A line is on disk before
//! its signature is made, so nothing is signed twice with other bytes, wherever the process is killed.
//!
//! A line is `KIND ID SHA256 TIME CHECK`: a letter (`g` grant, `r` request, `p` policy, `c` revocation,
//! which closes, `f` floor), 16 bytes as a ULID, 64 hex digits, milliseconds since the Unix epoch, and
//! 16 hex digits over the check of the line before and this line. A last line that is not whole was
//! never answered for, and is cut off; anything else that is wrong stops the signer.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jit_proto::GrantId;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::check::{MAX_AGE_MS, made_ms};

const HEAD: &str = "jit-signer-journal 1";
/// The longest line, bytes, with its end.
const MAX_LINE: usize = 140;
/// From this size on a start leaves out what is too old to be signed again, bytes.
const COMPACT_FROM: u64 = 16 * 1024 * 1024;
/// Requests that are older than this are left out, milliseconds.
const KEEP_MS: i64 = MAX_AGE_MS + 24 * 3_600_000;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Ids up to this time are forgotten, and refused.
    Floor,
    /// A grant: its payload.
    Grant,
    /// A policy: its payload, by a part of its own hash.
    Policy,
    /// A request: who agreed to it, and when.
    Request,
    /// A revocation: its payload, by a part of its own hash.
    Revocation,
}

/// One id and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) id: GrantId,
    pub(super) hash: [u8; 32],
}

/// Why an entry was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    /// The id stands there with another hash.
    #[error("{0} was signed with other bytes")]
    Otherwise(GrantId),
    /// The id is older than what the journal remembers.
    #[error("{0} is older than what the journal remembers")]
    TooOld(GrantId),
    /// The file cannot be written: what is in it now is known only after a new start.
    #[error("the journal cannot be written: {0}")]
    Write(io::Error),
}

/// The open journal. Only one process has it.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    known: HashMap<(Kind, GrantId), ([u8; 32], i64)>,
    check: [u8; 8],
    floor_ms: i64,
}

impl Kind {
    /// Whether its id has the time at which it was made.
    const fn has_time(self) -> bool {
        matches!(self, Self::Floor | Self::Grant | Self::Request)
    }

    const fn letter(self) -> char {
        match self {
            Self::Floor => 'f',
            Self::Grant => 'g',
            Self::Policy => 'p',
            Self::Request => 'r',
            Self::Revocation => 'c',
        }
    }

    fn of_letter(text: &str) -> Option<Self> {
        [Self::Floor, Self::Grant, Self::Policy, Self::Request, Self::Revocation]
            .into_iter()
            .find(|kind| text.chars().eq([kind.letter()]))
    }
}

impl Journal {
    /// Opens the file, makes it if it is not there, and reads it.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or another signer has it; in words.
    pub(super) fn open(path: &Path, now_ms: i64) -> Result<Self, String> {
        let failed = |what: &str, why: String| {
            format!("cannot {what} the signer's journal {}: {why}", path.display())
        };
        let open =
            || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = open().map_err(|error| failed("open", error.to_string()))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| failed("lock", "another signer has it; two must never share it".into()))?;
        let length = file.metadata().map_err(|error| failed("read", error.to_string()))?.len();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| failed("read", error.to_string()))?;
        let Read { known, check, floor_ms, good } = read(&bytes)
            .map_err(|why| failed("read", format!("{why}; see docs/controller-signers.md")))?;
        let mut journal = Self { file, known, check, floor_ms };
        let mut cut = || -> io::Result<()> {
            if good < bytes.len() {
                journal.file.set_len(u64::try_from(good).unwrap_or(0))?;
            }
            if good == 0 {
                (&journal.file).write_all(&line(&mut journal.check, HEAD))?;
            }
            journal.file.sync_all()?;
            sync_directory(path)
        };
        cut().map_err(|error| failed("write", error.to_string()))?;
        if length > COMPACT_FROM {
            journal = journal
                .compacted(path, now_ms)
                .map_err(|error| failed("shorten", error.to_string()))?;
        }
        Ok(journal)
    }

    /// The times of the last signatures of these kinds, at most this many, oldest first.
    pub(super) fn last_times(&self, kinds: &[Kind], most: usize) -> Vec<i64> {
        let mut times: Vec<_> = self
            .known
            .iter()
            .filter(|((kind, _), _)| kinds.contains(kind))
            .map(|(_, (_, time))| *time)
            .collect();
        times.sort_unstable();
        times.split_off(times.len().saturating_sub(most))
    }

    /// Whether this very entry stands there.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.known.get(&(entry.kind, entry.id)).is_some_and(|(hash, _)| *hash == entry.hash)
    }

    /// Keeps the entries on disk. After that they never change. None is kept if one of them stands there
    /// with another hash.
    ///
    /// # Errors
    /// One stands there with another hash, or the file cannot be written.
    pub(super) fn keep(&mut self, entries: &[Entry], now_ms: i64) -> Result<(), JournalError> {
        let (mut bytes, mut check, mut new) = (Vec::new(), self.check, Vec::new());
        for entry in entries {
            let Entry { kind, id, hash } = *entry;
            match self.known.get(&(kind, id)) {
                Some((same, _)) if *same == hash => {}
                Some(_) => return Err(JournalError::Otherwise(id)),
                None if kind.has_time() && made_ms(id) <= self.floor_ms => {
                    return Err(JournalError::TooOld(id));
                }
                None => {
                    bytes.extend(line(&mut check, &text(kind, id, &hash, now_ms)));
                    new.push((kind, id, hash));
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.file.write_all(&bytes).map_err(JournalError::Write)?;
        self.file.sync_data().map_err(JournalError::Write)?;
        self.check = check;
        for (kind, id, hash) in new {
            self.known.insert((kind, id), (hash, now_ms));
        }
        Ok(())
    }

    /// Writes a new file without what is too old to be signed again, and a line that says up to when.
    fn compacted(mut self, path: &Path, now_ms: i64) -> io::Result<Self> {
        self.floor_ms = self.floor_ms.max(now_ms.saturating_sub(KEEP_MS));
        let floor = self.floor_ms;
        self.known.retain(|(kind, id), (_, time)| match kind.has_time() {
            true => made_ms(*id) > floor,
            false => *time > floor,
        });
        let beside = PathBuf::from(format!("{}.new", path.display()));
        let options = || OpenOptions::new();
        let mut file = options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut check = [0; 8];
        let mut bytes = line(&mut check, HEAD);
        let none = GrantId([0; 16]);
        bytes.extend(line(&mut check, &text(Kind::Floor, none, &[0; 32], floor)));
        for ((kind, id), (hash, time)) in &self.known {
            bytes.extend(line(&mut check, &text(*kind, *id, hash, *time)));
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_directory(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, known: self.known, check, floor_ms: floor })
    }
}

/// What a file says.
struct Read {
    known: HashMap<(Kind, GrantId), ([u8; 32], i64)>,
    check: [u8; 8],
    floor_ms: i64,
    /// Length of its whole lines, bytes.
    good: usize,
}

fn read(bytes: &[u8]) -> Result<Read, String> {
    let mut found = Read { known: HashMap::new(), check: [0; 8], floor_ms: 0, good: 0 };
    for (number, raw) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let rest = bytes.len() - found.good;
        match whole(found.check, raw) {
            Some((said, check)) if number == 0 => {
                if said != HEAD {
                    return Err(format!("it begins with {said:?}: it is of another version"));
                }
                found.check = check;
            }
            Some((said, check)) => {
                let (kind, id, hash, time) =
                    parsed(said).ok_or_else(|| format!("line {} is unknown", number + 1))?;
                match kind {
                    Kind::Floor => found.floor_ms = found.floor_ms.max(time),
                    _ => {
                        found.known.insert((kind, id), (hash, time));
                    }
                }
                found.check = check;
            }
            // Two lines are written together at most. Nothing was signed for them.
            None if rest <= 2 * MAX_LINE
                && !goes_on(found.check, bytes.get(found.good..).unwrap_or_default()) =>
            {
                break;
            }
            None => {
                return Err(format!(
                    "line {} is damaged, and {rest} bytes follow from there",
                    number + 1
                ));
            }
        }
        found.good += raw.len();
    }
    Ok(found)
}

/// Whether a line that is not whole has a whole one after it: then it was whole once.
fn goes_on(before: [u8; 8], rest: &[u8]) -> bool {
    let mut lines = rest.split_inclusive(|byte| *byte == b'\n');
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return false };
    let Some((said, stated)) =
        std::str::from_utf8(first).ok().and_then(|text| text.strip_suffix('\n')?.rsplit_once(' '))
    else {
        return false;
    };
    let mut check = [0; 8];
    let stated = hex::decode_to_slice(stated, &mut check).is_ok().then_some(check);
    let either = [Some(checked(before, said)), stated];
    either.into_iter().flatten().any(|check| whole(check, second).is_some())
}

/// A line's text and its check, if the line is whole.
fn whole(before: [u8; 8], raw: &[u8]) -> Option<(&str, [u8; 8])> {
    let text = std::str::from_utf8(raw).ok()?.strip_suffix('\n')?;
    let (said, check) = text.rsplit_once(' ')?;
    let right = checked(before, said);
    (hex::encode(right) == check).then_some((said, right))
}

fn parsed(said: &str) -> Option<(Kind, GrantId, [u8; 32], i64)> {
    let mut fields = said.split(' ');
    let kind = Kind::of_letter(fields.next()?)?;
    let id = fields.next()?.parse().ok()?;
    let mut hash = [0; 32];
    hex::decode_to_slice(fields.next()?, &mut hash).ok()?;
    let time = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some((kind, id, hash, time))
}

fn text(kind: Kind, id: GrantId, hash: &[u8; 32], time: i64) -> String {
    format!("{} {id} {} {time}", kind.letter(), hex::encode(hash))
}

/// A whole line; `check` becomes that of this line.
fn line(check: &mut [u8; 8], said: &str) -> Vec<u8> {
    *check = checked(*check, said);
    format!("{said} {}\n", hex::encode(*check)).into_bytes()
}

fn checked(before: [u8; 8], said: &str) -> [u8; 8] {
    let digest = Sha256::new_with_prefix(before).chain_update(said).finalize();
    digest.first_chunk().copied().unwrap_or_default()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const NOW: i64 = 1_803_888_060_000;

    /// Opens one that may have been open just now. Another test may start a program meanwhile, which holds
    /// what this process has open until it has begun.
    fn open(path: &Path, now_ms: i64) -> Result<Journal, String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match Journal::open(path, now_ms) {
                Err(why) if why.contains("another signer") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return opened,
            }
        }
    }

    fn id(ms: i64, last: u8) -> GrantId {
        let [_, _, a, b, c, d, e, f] = ms.to_be_bytes();
        GrantId([a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    fn entry(last: u8, hash: u8) -> Entry {
        Entry { kind: Kind::Grant, id: id(NOW, last), hash: [hash; 32] }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        // In memory, where there is such a place: one test opens it thousands of times.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = directory.path().join("signer.journal");
        (directory, path)
    }

    #[test]
    fn an_id_has_one_hash_also_after_a_new_start() {
        let (_directory, path) = place();
        let mut journal = open(&path, NOW).unwrap();
        journal.keep(&[entry(1, 1), entry(2, 2)], NOW).unwrap();
        journal.keep(&[entry(1, 1)], NOW).unwrap();
        for _ in 0..2 {
            let error = journal.keep(&[entry(3, 3), entry(1, 9)], NOW).unwrap_err();
            assert!(matches!(error, JournalError::Otherwise(found) if found == entry(1, 1).id));
            // Nothing of what was refused was kept.
            assert!(!journal.has(&entry(3, 3)) && journal.has(&entry(2, 2)));
            drop(journal);
            journal = open(&path, NOW).unwrap();
        }
        assert_eq!(journal.last_times(&[Kind::Grant], 1), [NOW]);
        assert!(journal.last_times(&[Kind::Policy, Kind::Revocation], 1).is_empty());
        // A request and a grant may have the same id.
        journal.keep(&[Entry { kind: Kind::Request, ..entry(1, 9) }], NOW).unwrap();
    }

    #[test]
    fn wherever_the_file_is_cut_what_is_before_it_stays() {
        let (_directory, path) = place();
        let mut journal = open(&path, NOW).unwrap();
        let mut ends = vec![fs::metadata(&path).unwrap().len()];
        for number in 1..=4 {
            journal.keep(&[entry(number, number)], NOW).unwrap();
            ends.push(fs::metadata(&path).unwrap().len());
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            // Cut, and with rubbish at the end, as a file system may leave it.
            for rubbish in [&b""[..], &[0; 40], b"g x\n"] {
                fs::write(&path, [&whole[..length], rubbish].concat()).unwrap();
                let mut journal = open(&path, NOW).unwrap();
                let kept = ends[1..].iter().filter(|end| **end <= length as u64).count();
                for number in 1..=4_u8 {
                    let expected = usize::from(number) <= kept;
                    assert_eq!(journal.has(&entry(number, number)), expected, "{length}");
                }
                journal.keep(&[entry(7, 7)], NOW).unwrap();
                drop(journal);
                assert!(open(&path, NOW).unwrap().has(&entry(7, 7)));
            }
        }
    }

    #[test]
    fn damage_before_the_end_stops_the_signer() {
        let (_directory, path) = place();
        let mut journal = open(&path, NOW).unwrap();
        for number in 1..=6 {
            journal.keep(&[entry(number, number)], NOW).unwrap();
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len() - 3 * MAX_LINE).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = open(&path, NOW).unwrap_err();
            assert!(error.contains("damaged"), "{at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is repaired by guessing");
        }
        // In the text and in the check of the last line but one.
        let length = whole.split_inclusive(|byte| *byte == b'\n').next_back().unwrap().len();
        let last = whole.len() - length;
        for at in [last - 30, last - 5] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(open(&path, NOW).unwrap_err().contains("damaged"), "{at}");
        }
        // A line that was taken out.
        let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        fs::write(&path, [&lines[..2], &lines[3..]].concat().concat()).unwrap();
        assert!(open(&path, NOW).unwrap_err().contains("damaged"));
    }

    #[test]
    fn two_signers_never_share_it() {
        let (_directory, path) = place();
        let _first = Journal::open(&path, NOW).unwrap();
        assert!(Journal::open(&path, NOW).unwrap_err().contains("another signer"));
    }

    #[test]
    fn what_was_left_out_is_refused_whatever_the_clock_says() {
        let (_directory, path) = place();
        let mut journal = open(&path, NOW).unwrap();
        let old = Entry { id: id(NOW - KEEP_MS - 1, 1), ..entry(1, 1) };
        // The id of a revocation says nothing of its time.
        let closed = Entry { kind: Kind::Revocation, id: GrantId([0; 16]), hash: [5; 32] };
        journal.keep(&[old, entry(2, 2), closed], NOW).unwrap();
        let mut journal = journal.compacted(&path, NOW).unwrap();
        assert!(!journal.has(&old) && journal.has(&entry(2, 2)) && journal.has(&closed));
        let again = Entry { hash: [9; 32], ..old };
        assert!(matches!(journal.keep(&[again], NOW), Err(JournalError::TooOld(_))));
        journal.keep(&[entry(3, 3)], NOW).unwrap();
        drop(journal);
        let mut journal = open(&path, NOW - 10 * KEEP_MS).unwrap();
        assert!(journal.has(&entry(2, 2)) && journal.has(&entry(3, 3)));
        assert!(matches!(journal.keep(&[again], NOW), Err(JournalError::TooOld(_))));
    }
}
