//! The audit: what happened on this host, in a chain that shows what was changed or left out.
//!
//! [`Audit`] writes it, as the single writer. In a running agent it has a thread of its own
//! (`queue`), and the gate adds records there. `append` never fails and never waits: a disk that is
//! full or hangs must not delay a revocation. Before something opens, the gate commits its records.
//! [`verify`] reads the audit, and needs no agent.

mod chain;
mod code;
mod error;
mod files;
mod head;
mod head_file;
mod judge;
mod place;
pub(crate) mod queue;
pub(crate) mod quota;
pub mod read;
mod record;
mod reopen;
mod segment;
pub mod verify;

use std::{collections::VecDeque, fs, os::unix::fs::MetadataExt as _, path::Path};

pub use chain::{LineHash, Tip};
pub use code::EventCode;
pub use error::AuditError;
use error::io;
pub use files::directory;
use files::{CURRENT, full_files, full_name};
pub use head::{Head, SignedHead};
use jit_proto::WallTime;
use place::Place;
pub use place::Settings;
pub use record::Record;
use reopen::{Open, Reopened, reopen};
use segment::{Segment, push_line};

use crate::{
    disk::room::has_room,
    rules::clock::{BootNanos, Now},
    system::sys::{self, FileError},
};

/// The most records that wait in memory while the disk takes none; later ones are counted and lost.
const MAX_WAITING: usize = 8192;
/// The most records of one write.
const MAX_BATCH: usize = 2048;
/// The longest time before a record is synced, boot nanoseconds.
const SYNC_NANOS: u64 = 1_000_000_000;

/// The audit, for its single writer.
#[derive(Debug)]
pub struct Audit {
    place: Place,
    /// `None` until key and files could be opened.
    open: Option<Open>,
    waiting: VecDeque<(WallTime, Record)>,
    /// Number of records that had no room in `waiting`, and when that began.
    lost: Option<(u64, WallTime)>,
    /// Why nothing is written; `None`: all is well.
    problem: Option<String>,
    /// What was wrong with the files.
    damage: Option<String>,
    next_sync: BootNanos,
    signed: Option<SignedHead>,
}

impl Audit {
    /// Opens the audit in a state directory, or begins one. A disk that cannot be written is not an
    /// error: [`Audit::problem`] says why, and it is tried again.
    ///
    /// # Errors
    /// Somebody else could have written the files.
    pub fn open(state: &Path, settings: Settings, now: Now) -> Result<Self, FileError> {
        let mut audit = Self::closed(state, settings, now);
        match audit.ensure_open(now) {
            Err(AuditError::File(error @ FileError::Untrusted { .. })) => return Err(error),
            Err(error) => audit.fail(&error),
            Ok(_) => {}
        }
        Ok(audit)
    }

    /// The same for the agent, whose gate needs no audit and waits for no disk: key and files are
    /// opened with the first write. Whatever is wrong with them, it is tried again.
    pub fn closed(state: &Path, settings: Settings, now: Now) -> Self {
        Self {
            place: Place::new(state, settings),
            open: None,
            waiting: VecDeque::new(),
            lost: None,
            problem: None,
            damage: None,
            next_sync: now.boot,
            signed: None,
        }
    }

    /// From now on heads and files name this host.
    pub fn rename(&mut self, host: &str) {
        host.clone_into(&mut self.place.settings.host);
    }

    /// Changes the sizes; the host's id stays.
    pub fn resize(&mut self, max_size: u64, keep: u32) {
        self.place.settings.max_size = max_size;
        self.place.settings.keep = keep;
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
    /// not tried again: what they record must not happen. Calls `written` when the records are in
    /// the file and not synced yet: from then on only a crash of the machine can lose them.
    ///
    /// # Errors
    /// Why the records could not be written. A sync that failed may leave them in the file all the
    /// same; the caller then appends a record of what happened instead.
    pub fn commit(
        &mut self,
        records: Vec<Record>,
        now: Now,
        written: impl FnOnce(),
    ) -> Result<(), AuditError> {
        // Older records come first; while they cannot be written, new ones cannot either.
        self.try_write(now).inspect_err(|error| self.fail(error))?;
        self.waiting.extend(records.into_iter().map(|record| (now.wall, record)));
        let result = match self.try_write(now) {
            Ok(()) => {
                written();
                self.sync(now).inspect(|()| self.problem = None)
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        };
        self.waiting.clear();
        result
    }

    /// Writes waiting records to the file, without a sync: only a crash of the machine can then
    /// lose them. Syncs when that is due. [`Audit::problem`] has a failure.
    pub fn flush(&mut self, now: Now) {
        if now.boot >= self.next_sync {
            drop(self.sync(now));
        } else if let Err(error) = self.try_write(now) {
            self.fail(&error);
        }
    }

    /// Writes waiting records, syncs, and signs the new end.
    pub fn sync(&mut self, now: Now) -> Result<(), AuditError> {
        self.next_sync = BootNanos(now.boot.0.saturating_add(SYNC_NANOS));
        let result = self.try_write(now).and_then(|()| self.try_sync(now));
        match &result {
            // What could not be written is not tried again, so this may have written nothing.
            Ok(()) if has_room(&self.place.directory) => self.problem = None,
            Ok(()) => {}
            Err(error) => self.fail(error),
        }
        result
    }

    /// Notes records that were lost before they came here.
    pub(crate) fn lose(&mut self, count: u64, since: WallTime) {
        let (before, first) = self.lost.unwrap_or((0, since));
        self.lost = Some((before.saturating_add(count), first));
    }

    /// When there is something to sync, or to write that could not be written; `None`: all is done.
    pub(crate) fn due(&self) -> Option<BootNanos> {
        if self.problem.is_some() || !self.waiting.is_empty() || self.lost.is_some() {
            return Some(BootNanos(0));
        }
        let synced = self.open.as_ref().is_some_and(|open| open.synced == open.segment.tip);
        (!synced).then_some(self.next_sync)
    }

    /// Why nothing can be written now; `None`: all is well.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What was wrong with the files when they were opened or checked.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The last signed head.
    pub const fn signed_head(&self) -> Option<&SignedHead> {
        self.signed.as_ref()
    }

    /// Checks that the open file is still the one with the current file's name, and that its length
    /// is that after the last write.
    pub fn check(&mut self, now: Now) {
        let Some(open) = &self.open else { return };
        let path = self.place.directory.join(CURRENT);
        let segment = &open.segment;
        let what = match (fs::symlink_metadata(&path), segment.file.metadata()) {
            (Ok(named), Ok(ours)) if named.ino() == ours.ino() && named.dev() == ours.dev() => {
                (ours.len() != segment.length)
                    .then(|| format!("{CURRENT} was changed by somebody else while it was written"))
            }
            (Ok(_), _) => Some(format!("{CURRENT} was replaced by another file")),
            (Err(error), _) => Some(format!("{CURRENT} is gone: {error}")),
        };
        let Some(what) = what else { return };
        let known = segment.tip;
        tracing::error!("audit: {what}");
        // It is opened again, which compares the present file with what is known.
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
            let full = self.ensure_open(now)?.segment.length >= self.place.settings.max_size;
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
            let mut tip = open.segment.tip;
            let mut bytes = Vec::new();
            let room = self.place.settings.max_size.saturating_sub(open.segment.length);
            let mut written = 0;
            for (time, record) in self.waiting.iter().take(MAX_BATCH) {
                tip = push_line(&mut bytes, record, tip, *time);
                written += 1;
                if u64::try_from(bytes.len()).is_ok_and(|length| length >= room) {
                    break;
                }
            }
            open.segment.append(&bytes, tip, &self.place.directory)?;
            self.waiting.drain(..written);
        }
        Ok(())
    }

    fn try_sync(&mut self, now: Now) -> Result<(), AuditError> {
        let Some(Open { segment, key, synced, .. }) = &mut self.open else { return Ok(()) };
        if *synced == segment.tip {
            return Ok(());
        }
        let Place { directory, settings, .. } = &self.place;
        segment.file.sync_data().map_err(io("sync", &directory.join(CURRENT)))?;
        *synced = segment.tip;
        let Segment { number: file, tip, .. } = *segment;
        let head = Head { host: settings.host.clone(), file, tip, time: now.wall };
        // After the sync, so that the head on the disk names only records that are on the disk.
        let signed = head.sign(key);
        head_file::write(directory, &signed)?;
        self.signed = Some(signed);
        Ok(())
    }

    fn ensure_open(&mut self, now: Now) -> Result<&mut Open, AuditError> {
        if self.open.is_none() {
            self.reopen(None, now)?;
        }
        self.open.as_mut().ok_or_else(|| AuditError::Busy(self.place.directory.clone()))
    }

    /// Opens the audit, and records in it what was wrong.
    fn reopen(&mut self, known: Option<Tip>, now: Now) -> Result<(), AuditError> {
        let Reopened { open, notes, damage } = reopen(&self.place, known, now)?;
        self.open = Some(open);
        for note in notes.into_iter().rev() {
            self.waiting.push_front((now.wall, note));
        }
        for what in damage {
            self.report_damage(&what, now);
        }
        Ok(())
    }

    fn rotate(&mut self, now: Now) -> Result<(), AuditError> {
        self.try_sync(now)?;
        let Some(Open { segment, key, .. }) = &mut self.open else { return Ok(()) };
        let directory = &self.place.directory;
        let path = directory.join(CURRENT);
        let full = directory.join(full_name(segment.number));
        fs::rename(&path, &full).map_err(io("rename", &path))?;
        let Segment { number, oldest, tip, .. } = *segment;
        *segment = match Segment::follow(&self.place, key, number, oldest, tip, now) {
            Ok(next) => next,
            Err(error) => {
                // Rename it back. If that fails too, the next start continues after the full file.
                drop(fs::rename(&full, &path));
                return Err(error);
            }
        };
        let oldest = segment.oldest;
        self.try_sync(now)?;
        self.remove_before(oldest)
    }

    fn remove_before(&self, oldest: u64) -> Result<(), AuditError> {
        let directory = &self.place.directory;
        for (number, path) in full_files(directory).map_err(io("list", directory))? {
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
