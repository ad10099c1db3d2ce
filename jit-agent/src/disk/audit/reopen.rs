//! Opens an existing audit, or begins the first one. Compares what is on the disk with what is
//! known.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    path::PathBuf,
};

use crate::{
    disk::{
        audit::{
            chain::Tip,
            code::EventCode,
            error::{AuditError, io},
            files::{CURRENT, Ends, full_files},
            head_file,
            place::Place,
            record::Record,
            segment::{Segment, keep_torn},
        },
        host_key::{HostPublicKey, HostSigningKey, Origin},
    },
    rules::clock::Now,
    system::sys::{self, DirectoryLock},
};

/// An audit that can be written.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) segment: Segment,
    pub(super) key: HostSigningKey,
    /// The last record that is synced and signed.
    pub(super) synced: Tip,
    _lock: DirectoryLock,
}

/// An opened audit, with what was found.
pub(super) struct Reopened {
    pub(super) open: Open,
    /// Records about it, to be appended.
    pub(super) notes: Vec<Record>,
    /// What is wrong with the audit.
    pub(super) damage: Vec<String>,
}

/// Opens key and files. `known` is the last record that this process has written. Without it the
/// signed head says how the chain must end.
pub(super) fn reopen(place: &Place, known: Option<Tip>, now: Now) -> Result<Reopened, AuditError> {
    sys::private_directory(&place.state, 0o700)?;
    sys::private_directory(&place.directory, 0o700)?;
    let lock = sys::lock_directory(&place.directory)?
        .ok_or_else(|| AuditError::Busy(place.directory.clone()))?;
    let (key, origin) = HostSigningKey::open(&place.state)?;
    let full = full_files(&place.directory).map_err(io("list", &place.directory))?;
    let Left { segment, torn, damage } = look(place, &full, now)?;
    let expected = expected(place, known)?;
    // Files are numbered from one: what has the number zero was put there by somebody.
    let gone = segment.is_none() && full.keys().all(|number| *number == 0);
    let (segment, ended) = match segment {
        Some(segment) => {
            let ended = segment.tip;
            (segment, ended)
        }
        None => Segment::begin(place, &key, &full, now)?,
    };
    let evidence = Evidence { ended, expected, gone, had_key: origin == Origin::Found };
    Ok(Reopened {
        damage: damage.into_iter().chain(evidence.damage()).collect(),
        notes: torn.into_iter().chain(key_record(&key, &origin)).collect(),
        // This is not the tip, so the next sync signs the tip.
        open: Open { segment, key, synced: Tip::START, _lock: lock },
    })
}

/// The current file as it was found.
#[derive(Default)]
struct Left {
    /// The current file; `None`: there is no file with a record.
    segment: Option<Segment>,
    /// The record about a half-written line that was kept aside.
    torn: Option<Record>,
    damage: Option<String>,
}

/// Reads the end of the current file. Moves a file without a record aside.
fn look(place: &Place, full: &BTreeMap<u64, PathBuf>, now: Now) -> Result<Left, AuditError> {
    let path = place.directory.join(CURRENT);
    let mut file = match OpenOptions::new().read(true).append(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Left::default()),
        Err(error) => return Err(io("open", &path)(error)),
    };
    let metadata = file.metadata().map_err(io("look at", &path))?;
    sys::check_trusted(&path, &metadata)?;
    // A link that somebody made leads to what somebody chose.
    sys::check_trusted_file(&path)?;
    let ends = Ends::read(&mut file).map_err(io("read", &path))?;
    let torn = (ends.whole < ends.length)
        .then(|| keep_torn(&place.directory, &mut file, &ends, now))
        .transpose()?;
    let mut damage = None;
    if ends.tip.is_none() && ends.whole > 0 {
        let aside = place.directory.join(format!("audit.damaged-{}", now.wall.0));
        fs::rename(&path, &aside).map_err(io("move aside", &path))?;
        damage = Some(format!("{CURRENT} had no record; it is {}", aside.display()));
    }
    Ok(Left { segment: segment(file, &ends, full), torn, damage })
}

fn segment(file: File, ends: &Ends, full: &BTreeMap<u64, PathBuf>) -> Option<Segment> {
    let tip = ends.tip?;
    let last = full.last_key_value().map_or(0, |(number, _)| *number);
    let number = ends.number.unwrap_or_else(|| last.saturating_add(1));
    Some(Segment { file, number, oldest: ends.oldest.unwrap_or(1), length: ends.whole, tip })
}

/// The record that the chain must end with, or why it is unknown.
fn expected(place: &Place, known: Option<Tip>) -> Result<Result<Tip, String>, AuditError> {
    if let Some(known) = known {
        return Ok(Ok(known));
    }
    let keys = HostPublicKey::all(&place.state)?;
    Ok(head_file::read(&place.directory, &keys).map(|head| head.tip))
}

/// What is known about a chain, and what is on the disk.
struct Evidence {
    /// The record that the chain ends with.
    ended: Tip,
    /// The record that the chain must end with, or why it is unknown.
    expected: Result<Tip, String>,
    /// There is no file.
    gone: bool,
    /// The key existed, so there was an audit before.
    had_key: bool,
}

impl Evidence {
    /// What is wrong with the chain; empty when nothing is.
    fn damage(&self) -> Vec<String> {
        let Self { ended, expected, gone, had_key } = self;
        let mut damage = Vec::new();
        if let Err(why) = expected
            && (!gone || *had_key)
        {
            damage.push(why.clone());
        }
        if *gone && (*had_key || expected.is_ok()) {
            damage.push("all of its files are gone".to_owned());
        }
        let Ok(expected) = expected else { return damage };
        if expected.seq > ended.seq {
            let count = expected.seq - ended.seq;
            damage.push(format!(
                "it should end with record {}, but ends with {}: {count} are missing",
                expected.seq, ended.seq
            ));
        } else if expected.seq == ended.seq && expected.hash != ended.hash {
            damage.push(format!("its last record, {}, is not the one signed", ended.seq));
        }
        damage
    }
}

/// The record about a new key.
fn key_record(key: &HostSigningKey, origin: &Origin) -> Option<Record> {
    let made = || Record::new(EventCode::HostKeyMade).with("key", key.id());
    match origin {
        Origin::Found => None,
        Origin::Made => Some(made()),
        Origin::Replaced(aside) => {
            let detail = format!("the one before could not be read, it is {}", aside.display());
            Some(made().detail(&detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::audit::chain::LineHash;

    #[test]
    fn what_is_missing_is_damage_and_a_first_start_is_none() {
        let tip = |seq| Tip { seq, hash: LineHash::of(b"line") };
        let other = Tip { seq: 7, hash: LineHash::of(b"other") };
        let no_head = || Err("no head".to_owned());
        let gone = "all of its files are gone";
        for (ended, expected, nothing, had_key, damage) in [
            (Tip::START, no_head(), true, false, vec![]),
            (Tip::START, no_head(), true, true, vec!["no head", gone]),
            (tip(7), no_head(), false, false, vec!["no head"]),
            (tip(7), Ok(tip(7)), false, true, vec![]),
            (tip(8), Ok(tip(7)), false, true, vec![]),
            (tip(7), Ok(other), false, true, vec!["its last record, 7, is not the one signed"]),
            (
                tip(5),
                Ok(tip(7)),
                false,
                true,
                vec!["it should end with record 7, but ends with 5: 2 are missing"],
            ),
            (
                Tip::START,
                Ok(tip(7)),
                true,
                false,
                vec![gone, "it should end with record 7, but ends with 0: 7 are missing"],
            ),
        ] {
            let evidence = Evidence { ended, expected, gone: nothing, had_key };
            assert_eq!(evidence.damage(), damage);
        }
    }
}
