//! The audit: what happened on this host, in a chain that shows what was changed or left out.
//!
//! [`Audit`] writes it; the gate, as the single writer, owns the one that a running agent has.
//! `append` never fails and never waits: a full disk must not hold up a revocation. Whoever must be
//! sure, because something is about to open, asks [`Audit::sync`]. What a reader does is in
//! [`verify`], which needs no agent.

mod chain;
mod code;
mod files;
mod head;
mod judge;
pub(crate) mod quota;
pub mod read;
mod record;
pub mod verify;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

pub use chain::{LineHash, Tip};
pub use code::EventCode;
pub use files::directory;
use files::{CURRENT, Ends, HEAD, full_files, full_name};
pub use head::{Head, SignedHead};
use jit_proto::WallTime;
pub use record::Record;

use crate::{
    disk::host_key::{HostPublicKey, HostSigningKey, Origin},
    rules::clock::{BootNanos, Now},
    system::sys::{self, DirectoryLock, FileError},
};

/// Records that wait in memory while the disk takes none; later ones are counted and lost.
const MAX_WAITING: usize = 8192;
/// Records that are written in one go.
const MAX_BATCH: usize = 2048;
/// How long a record may wait for the disk, boot nanoseconds.
const SYNC_NANOS: u64 = 1_000_000_000;
/// The head is padded to a multiple of this, so that a shorter one covers a longer one.
const HEAD_BYTES: usize = 512;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Host id, part of each head.
    pub host: String,
    /// Size at which a file is full, bytes.
    pub max_size: u64,
    /// Full files that are kept.
    pub keep: u32,
}

/// Why a record is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process writes it.
    #[error("another process writes the audit in {}", .0.display())]
    Busy(PathBuf),
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The audit itself.
    #[error("cannot {verb} the audit {}: {error}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

/// The audit as its one writer has it.
#[derive(Debug)]
pub struct Audit {
    state: PathBuf,
    directory: PathBuf,
    settings: Settings,
    /// `None` until everything could be opened.
    open: Option<Open>,
    waiting: VecDeque<(WallTime, Record)>,
    /// Records that found no place in `waiting`, and since when.
    lost: Option<(u64, WallTime)>,
    /// Why nothing is written.
    problem: Option<String>,
    /// What was wrong with the files that are there.
    damage: Option<String>,
    next_sync: BootNanos,
    signed: Option<SignedHead>,
}

/// What is there when it can be written.
#[derive(Debug)]
struct Open {
    file: File,
    key: HostSigningKey,
    number: u64,
    oldest: u64,
    length: u64,
    tip: Tip,
    synced: Tip,
    _lock: DirectoryLock,
}

impl Audit {
    /// Opens the audit in a state directory, or begins one. A disk that does not take it is no
    /// error: [`Audit::problem`] tells, and it is tried again.
    ///
    /// # Errors
    /// Files that somebody else could have written.
    pub fn open(state: &Path, settings: Settings, now: Now) -> Result<Self, FileError> {
        let mut audit = Self {
            state: state.to_owned(),
            directory: directory(state),
            settings,
            open: None,
            waiting: VecDeque::new(),
            lost: None,
            problem: None,
            damage: None,
            next_sync: now.boot,
            signed: None,
        };
        match audit.ensure_open(now) {
            Err(AuditError::File(error @ FileError::Untrusted { .. })) => return Err(error),
            Err(error) => audit.fail(&error),
            Ok(_) => {}
        }
        Ok(audit)
    }

    /// Takes other sizes; the host's id stays.
    pub fn resize(&mut self, max_size: u64, keep: u32) {
        self.settings.max_size = max_size;
        self.settings.keep = keep;
    }

    /// Adds a record. It is written with the next [`Audit::flush`] or [`Audit::sync`].
    pub fn append(&mut self, record: Record, now: Now) {
        if self.waiting.len() >= MAX_BATCH && self.problem.is_none() {
            self.flush(now);
        }
        if self.waiting.len() >= MAX_WAITING {
            let (count, since) = self.lost.unwrap_or((0, now.wall));
            self.lost = Some((count.saturating_add(1), since));
            return;
        }
        self.waiting.push_back((now.wall, record));
    }

    /// Writes records that something depends on, and waits for the disk. When this fails they are
    /// not tried again: what they would tell must not happen.
    ///
    /// # Errors
    /// Why the disk does not take them. A sync that failed may leave them in the file all the same;
    /// the caller then adds what became of it.
    pub fn commit(&mut self, records: Vec<Record>, now: Now) -> Result<(), AuditError> {
        // What is older comes first; while it cannot be written, nothing new can.
        self.try_write(now).inspect_err(|error| self.fail(error))?;
        self.waiting.extend(records.into_iter().map(|record| (now.wall, record)));
        let result = self.sync(now);
        self.waiting.clear();
        result
    }

    /// Hands what waits to the kernel; after that only a crash of the machine can lose it. A failure
    /// is kept as the problem. Syncs when that is due.
    pub fn flush(&mut self, now: Now) {
        if now.boot >= self.next_sync {
            drop(self.sync(now));
        } else if let Err(error) = self.try_write(now) {
            self.fail(&error);
        }
    }

    /// Writes what waits, waits for the disk, and signs the new end.
    pub fn sync(&mut self, now: Now) -> Result<(), AuditError> {
        self.next_sync = BootNanos(now.boot.0.saturating_add(SYNC_NANOS));
        let result = self.try_write(now).and_then(|()| self.try_sync(now));
        match &result {
            Ok(()) => self.problem = None,
            Err(error) => self.fail(error),
        }
        result
    }

    /// Why nothing can be written now.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What was wrong with the files when they were opened or looked at.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The last signed head.
    pub const fn signed_head(&self) -> Option<&SignedHead> {
        self.signed.as_ref()
    }

    /// Looks whether the file that is written to is still the one of that name, and as long as it
    /// was left.
    pub fn check(&mut self, now: Now) {
        let Some(open) = &self.open else { return };
        let path = self.directory.join(CURRENT);
        let what = match (fs::symlink_metadata(&path), open.file.metadata()) {
            (Ok(named), Ok(ours)) if named.ino() == ours.ino() && named.dev() == ours.dev() => {
                (ours.len() != open.length)
                    .then(|| format!("{CURRENT} was changed by somebody else while it was written"))
            }
            (Ok(_), _) => Some(format!("{CURRENT} was replaced by another file")),
            (Err(error), _) => Some(format!("{CURRENT} is gone: {error}")),
        };
        let Some(what) = what else { return };
        let known = (open.number, open.tip);
        tracing::error!("audit: {what}");
        // Opened anew, the file that is there now is compared with what was known of it.
        self.open = None;
        self.report_damage(&what, now);
        if let Err(error) = self.reopen(Some(known), now) {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &AuditError) {
        let text = error.to_string();
        if self.problem.as_deref() != Some(&text) {
            tracing::error!("{text}: new grants are refused until it can be written");
        }
        self.problem = Some(text);
    }

    fn report_damage(&mut self, what: &str, now: Now) {
        tracing::error!("audit: {what}");
        self.damage = Some(format!("the audit was damaged: {what}; see `jit-agent audit verify`"));
        self.append(Record::new(EventCode::AuditDamaged).detail(what), now);
    }

    fn try_write(&mut self, now: Now) -> Result<(), AuditError> {
        while !self.waiting.is_empty() || self.open.is_none() || self.lost.is_some() {
            let full = self.ensure_open(now)?.length >= self.settings.max_size;
            if full {
                self.rotate(now)?;
            }
            if self.waiting.is_empty()
                && let Some((count, since)) = self.lost.take()
            {
                let gap = Record::new(EventCode::AuditGap)
                    .with("count", count)
                    .with("since", since.to_string())
                    .detail("records that could not be written are lost");
                self.waiting.push_back((now.wall, gap));
            }
            let Some(open) = &mut self.open else { continue };
            let mut tip = open.tip;
            let mut bytes = Vec::new();
            let batch = self.waiting.len().min(MAX_BATCH);
            for (time, record) in self.waiting.iter().take(batch) {
                tip = push_line(&mut bytes, record, tip, *time);
            }
            open.append(&bytes, &self.directory)?;
            open.tip = tip;
            self.waiting.drain(..batch);
        }
        Ok(())
    }

    fn try_sync(&mut self, now: Now) -> Result<(), AuditError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.synced == open.tip {
            return Ok(());
        }
        open.file.sync_data().map_err(io("sync", &self.directory.join(CURRENT)))?;
        open.synced = open.tip;
        let head = Head {
            host: self.settings.host.clone(),
            file: open.number,
            tip: open.tip,
            time: now.wall,
        };
        // Behind the sync: on the disk the head never names what the file does not have.
        let signed = head.sign(&open.key);
        write_head(&self.directory, &signed)?;
        self.signed = Some(signed);
        Ok(())
    }

    fn ensure_open(&mut self, now: Now) -> Result<&mut Open, AuditError> {
        if self.open.is_none() {
            self.reopen(None, now)?;
        }
        self.open.as_mut().ok_or_else(|| AuditError::Busy(self.directory.clone()))
    }

    /// Opens key and files, and compares how the chain ends with what is known: with what this
    /// process has written, or else with the signed head.
    fn reopen(&mut self, known: Option<(u64, Tip)>, now: Now) -> Result<(), AuditError> {
        sys::private_directory(&self.state, 0o700)?;
        sys::private_directory(&self.directory, 0o700)?;
        let lock = sys::lock_directory(&self.directory)?
            .ok_or_else(|| AuditError::Busy(self.directory.clone()))?;
        let (key, origin) = HostSigningKey::open(&self.state)?;
        let path = self.directory.join(CURRENT);
        let full = full_files(&self.directory).map_err(io("list", &self.directory))?;
        let mut notes = Vec::new();
        let mut damage = Vec::new();
        let found = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(mut file) => {
                let metadata = file.metadata().map_err(io("look at", &path))?;
                sys::check_trusted(&path, &metadata)?;
                let ends = Ends::read(&mut file).map_err(io("read", &path))?;
                if ends.whole < ends.length {
                    notes.push(keep_torn(&self.directory, &mut file, &ends, now)?);
                }
                if ends.tip.is_none() && ends.whole > 0 {
                    let aside = self.directory.join(format!("audit.damaged-{}", now.wall.0));
                    fs::rename(&path, &aside).map_err(io("move aside", &path))?;
                    damage.push(format!("{CURRENT} had no record; it is {}", aside.display()));
                }
                ends.tip.map(|tip| (file, ends, tip))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io("open", &path)(error)),
        };
        let expected = match known {
            Some(known) => Some(known),
            None => {
                let keys = HostPublicKey::all(&self.state)?;
                match read_head(&self.directory, &keys) {
                    Ok(head) => Some((head.file, head.tip)),
                    Err(why) => {
                        if found.is_some() || !full.is_empty() || origin == Origin::Found {
                            damage.push(why);
                        }
                        None
                    }
                }
            }
        };
        let (file, number, oldest, length, tip, ended) = match found {
            Some((file, ends, tip)) => {
                let after = full.last_key_value().map_or(0, |(number, _)| *number);
                let number = ends.number.unwrap_or_else(|| after.saturating_add(1));
                (file, number, ends.oldest.unwrap_or(1), ends.whole, tip, tip)
            }
            None => {
                let begun = self.begin(&key, &full, &path, now)?;
                if begun.number == 1 && (origin == Origin::Found || expected.is_some()) {
                    damage.push("all of its files are gone".to_owned());
                }
                let Begun { file, number, oldest, length, tip, ended } = begun;
                (file, number, oldest, length, tip, ended)
            }
        };
        if let Some((_, expected)) = expected {
            if expected.seq > ended.seq {
                let count = expected.seq - ended.seq;
                damage.push(format!(
                    "it should end with record {}, but ends with {}: {count} are missing",
                    expected.seq, ended.seq
                ));
            } else if expected.seq == ended.seq && expected.hash != ended.hash {
                damage.push(format!("its last record, {}, is not the one signed", ended.seq));
            }
        }
        match origin {
            Origin::Found => {}
            Origin::Made => notes.push(Record::new(EventCode::HostKeyMade).with("key", key.id())),
            Origin::Replaced(aside) => {
                let detail = format!("the one before could not be read, it is {}", aside.display());
                let made = Record::new(EventCode::HostKeyMade).with("key", key.id());
                notes.push(made.detail(&detail));
            }
        }
        // Not the tip: so the next sync signs it.
        let synced = Tip::START;
        self.open = Some(Open { file, key, number, oldest, length, tip, synced, _lock: lock });
        for note in notes.into_iter().rev() {
            self.waiting.push_front((now.wall, note));
        }
        for what in damage {
            self.report_damage(&what, now);
        }
        Ok(())
    }

    /// Begins `audit.jsonl` behind the full files that are there.
    fn begin(
        &self,
        key: &HostSigningKey,
        full: &std::collections::BTreeMap<u64, PathBuf>,
        path: &Path,
        now: Now,
    ) -> Result<Begun, AuditError> {
        let Some((last, last_path)) = full.last_key_value() else {
            let first = Record::new(EventCode::AuditBegun)
                .with("file", 1)
                .with("oldest", 1)
                .with("host", self.settings.host.as_str())
                .with("key", key.id());
            return create(path, &first, Tip::START, (1, 1), now);
        };
        let mut file = File::open(last_path).map_err(io("open", last_path))?;
        let ends = Ends::read(&mut file).map_err(io("read", last_path))?;
        let tip = ends.tip.unwrap_or(Tip::START);
        let oldest = ends.oldest.unwrap_or(1);
        self.follow(key, *last, oldest, tip, path, now)
    }

    /// Begins the file behind number `last`, which ends with `tip`.
    fn follow(
        &self,
        key: &HostSigningKey,
        last: u64,
        oldest: u64,
        tip: Tip,
        path: &Path,
        now: Now,
    ) -> Result<Begun, AuditError> {
        let number = last.saturating_add(1);
        // What was said to be gone once is never expected again.
        let oldest = oldest.max(number.saturating_sub(self.settings.keep.into())).max(1);
        let head = Head { host: self.settings.host.clone(), file: last, tip, time: now.wall };
        let head = serde_json::to_value(head.sign(key)).unwrap_or_default();
        let first = Record::new(EventCode::AuditRotated)
            .with("file", number)
            .with("oldest", oldest)
            .with("previous", full_name(last))
            .with("head", head);
        create(path, &first, tip, (number, oldest), now)
    }

    fn rotate(&mut self, now: Now) -> Result<(), AuditError> {
        self.try_sync(now)?;
        let path = self.directory.join(CURRENT);
        let Some(open) = &self.open else { return Ok(()) };
        let full = self.directory.join(full_name(open.number));
        fs::rename(&path, &full).map_err(io("rename", &path))?;
        let begun = self.follow(&open.key, open.number, open.oldest, open.tip, &path, now);
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // As it was; if that fails as well, the next start goes on behind the full file.
                drop(fs::rename(&full, &path));
                return Err(error);
            }
        };
        let Begun { file, number, oldest, length, tip, ended: _ } = begun;
        if let Some(open) = &mut self.open {
            (open.file, open.number, open.oldest) = (file, number, oldest);
            (open.length, open.tip) = (length, tip);
        }
        self.try_sync(now)?;
        for (number, path) in full_files(&self.directory).map_err(io("list", &self.directory))? {
            if number < oldest
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
        Ok(())
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let now = sys::now();
        drop(self.sync(now));
    }
}

impl Open {
    /// All of it or nothing: what was half written is taken off again.
    fn append(&mut self, bytes: &[u8], directory: &Path) -> Result<(), AuditError> {
        let failed = io("write to", &directory.join(CURRENT));
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > self.length) {
            // An earlier failure left something behind and could not take it off.
            self.file.set_len(self.length).map_err(&failed)?;
        }
        if let Err(error) = self.file.write_all(bytes) {
            drop(self.file.set_len(self.length));
            return Err(failed(error));
        }
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// A file that was just begun.
struct Begun {
    file: File,
    number: u64,
    oldest: u64,
    length: u64,
    tip: Tip,
    /// How the chain ended before.
    ended: Tip,
}

fn create(
    path: &Path,
    first: &Record,
    ended: Tip,
    (number, oldest): (u64, u64),
    now: Now,
) -> Result<Begun, AuditError> {
    let mut bytes = Vec::new();
    let tip = push_line(&mut bytes, first, ended, now.wall);
    let create = || -> io::Result<File> {
        // What is there has not one whole line.
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)?;
        let written = file
            .write_all(&bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| sys::sync_directory_of(path));
        if let Err(error) = written {
            drop(fs::remove_file(path));
            return Err(error);
        }
        Ok(file)
    };
    let file = create().map_err(io("begin", path))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(Begun { file, number, oldest, length, tip, ended })
}

fn push_line(bytes: &mut Vec<u8>, record: &Record, tip: Tip, time: WallTime) -> Tip {
    let line = record.line(tip, time);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    Tip { seq: tip.seq.saturating_add(1), hash: LineHash::of(line.as_bytes()) }
}

/// Keeps a half-written last line in a file of its own and takes it off.
fn keep_torn(
    directory: &Path,
    file: &mut File,
    ends: &Ends,
    now: Now,
) -> Result<Record, AuditError> {
    let name = format!("audit.torn-{}", now.wall.0);
    let aside = directory.join(&name);
    let size = usize::try_from(ends.length.saturating_sub(ends.whole)).unwrap_or(0);
    let mut torn = vec![0; size.min(files::MAX_LINE)];
    let mut kept = || -> io::Result<()> {
        file.read_exact_at(&mut torn, ends.whole)?;
        let mut copy =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        copy.write_all(&torn)?;
        file.set_len(ends.whole)
    };
    kept().map_err(io("keep the torn end of", &directory.join(CURRENT)))?;
    tracing::warn!("the audit's last line was half written; it is kept as {}", aside.display());
    Ok(Record::new(EventCode::AuditResumed)
        .with("bytes", size)
        .with("kept_as", name)
        .detail("a last line that was half written was kept aside"))
}

fn write_head(directory: &Path, signed: &SignedHead) -> Result<(), AuditError> {
    let path = directory.join(HEAD);
    let mut text = signed.to_line();
    let padded = (text.len() + 1).next_multiple_of(HEAD_BYTES);
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    let write = || -> io::Result<()> {
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?
            }
            file => file?,
        };
        // In one piece and in place: it is there before and after, whatever happens.
        file.write_all_at(text.as_bytes(), 0)?;
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(())
    };
    write().map_err(io("write", &path))
}

/// The signed head that is there, or why there is none that counts.
fn read_head(directory: &Path, keys: &[HostPublicKey]) -> Result<Head, String> {
    let text = fs::read_to_string(directory.join(HEAD))
        .map_err(|error| format!("{HEAD}, the signed end of the audit, is not there: {error}"))?;
    let signed = SignedHead::parse(&text).ok_or_else(|| format!("{HEAD} is no signed head"))?;
    signed.verify(keys).map_err(|why| format!("{HEAD}: {why}"))
}

fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |error| AuditError::Io { verb, path: path.clone(), error }
}
