//! The current file of the audit: begins it, appends to it, and removes a half-written end.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jit_proto::WallTime;

use crate::{
    disk::{
        audit::{
            chain::{LineHash, Tip},
            code::EventCode,
            error::{AuditError, io},
            files::{CURRENT, Ends, MAX_LINE, full_name},
            head::Head,
            place::Place,
            record::Record,
        },
        host_key::HostSigningKey,
    },
    rules::clock::Now,
    system::sys,
};

/// The current file of the audit.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: File,
    /// The file's own number, and that of the oldest file that is kept.
    pub(super) number: u64,
    pub(super) oldest: u64,
    /// Length of the complete records, bytes.
    pub(super) length: u64,
    pub(super) tip: Tip,
}

impl Segment {
    /// Begins the file after the last full one. Also returns the last record of the chain before
    /// it.
    pub(super) fn begin(
        place: &Place,
        key: &HostSigningKey,
        full: &BTreeMap<u64, PathBuf>,
        now: Now,
    ) -> Result<(Self, Tip), AuditError> {
        let Some((last, last_path)) = full.last_key_value() else {
            let first = Record::new(EventCode::AuditBegun)
                .with("file", 1)
                .with("oldest", 1)
                .with("host", place.settings.host.as_str())
                .with("key", key.id());
            return Ok((create(place, &first, Tip::START, (1, 1), now)?, Tip::START));
        };
        let mut file = File::open(last_path).map_err(io("open", last_path))?;
        let ends = Ends::read(&mut file).map_err(io("read", last_path))?;
        let ended = ends.tip.unwrap_or(Tip::START);
        let oldest = ends.oldest.unwrap_or(1);
        Ok((Self::follow(place, key, *last, oldest, ended, now)?, ended))
    }

    /// Begins the file after number `last`, which ended with `tip`.
    pub(super) fn follow(
        place: &Place,
        key: &HostSigningKey,
        last: u64,
        oldest: u64,
        tip: Tip,
        now: Now,
    ) -> Result<Self, AuditError> {
        let number = last.saturating_add(1);
        // Files that were once recorded as removed are never expected again.
        let oldest = oldest.max(number.saturating_sub(place.settings.keep.into())).max(1);
        let head = Head { host: place.settings.host.clone(), file: last, tip, time: now.wall };
        let head = serde_json::to_value(head.sign(key)).unwrap_or_default();
        let first = Record::new(EventCode::AuditRotated)
            .with("file", number)
            .with("oldest", oldest)
            .with("previous", full_name(last))
            .with("head", head);
        create(place, &first, tip, (number, oldest), now)
    }

    /// Writes all of it or nothing: a half-written end is removed. `tip` is the last of these
    /// lines.
    pub(super) fn append(
        &mut self,
        bytes: &[u8],
        tip: Tip,
        directory: &Path,
    ) -> Result<(), AuditError> {
        let failed = io("write to", &directory.join(CURRENT));
        if self.file.metadata().is_ok_and(|metadata| metadata.len() > self.length) {
            // An earlier failure left bytes after the end and could not remove them.
            self.file.set_len(self.length).map_err(&failed)?;
        }
        if let Err(error) = self.file.write_all(bytes) {
            drop(self.file.set_len(self.length));
            return Err(failed(error));
        }
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.tip = tip;
        Ok(())
    }
}

fn create(
    place: &Place,
    first: &Record,
    ended: Tip,
    (number, oldest): (u64, u64),
    now: Now,
) -> Result<Segment, AuditError> {
    let path = &place.directory.join(CURRENT);
    let mut bytes = Vec::new();
    let tip = push_line(&mut bytes, first, ended, now.wall);
    let create = || -> io::Result<File> {
        // The bytes contain no complete line.
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
    Ok(Segment { file, number, oldest, length, tip })
}

/// Appends a record's line. Returns the new tip.
pub(super) fn push_line(bytes: &mut Vec<u8>, record: &Record, tip: Tip, time: WallTime) -> Tip {
    let line = record.line(tip, time);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    Tip { seq: tip.seq.saturating_add(1), hash: LineHash::of(line.as_bytes()) }
}

/// Copies a half-written last line to a file of its own, and removes it.
pub(super) fn keep_torn(
    directory: &Path,
    file: &mut File,
    ends: &Ends,
    now: Now,
) -> Result<Record, AuditError> {
    let name = format!("audit.torn-{}", now.wall.0);
    let aside = directory.join(&name);
    let size = usize::try_from(ends.length.saturating_sub(ends.whole)).unwrap_or(0);
    let mut torn = vec![0; size.min(MAX_LINE)];
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
