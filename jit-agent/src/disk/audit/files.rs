//! The files of an audit: their names, the list of them, and how one ends.
//!
//! `audit.jsonl` is the current file. Full files are `audit-000001.jsonl` and so on, with the
//! number in the file's first record. `audit.head` is the signed head.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::disk::audit::{
    chain::{LineHash, Tip},
    head::SignedHead,
};

/// The current file.
pub(super) const CURRENT: &str = "audit.jsonl";
/// The signed head.
pub(super) const HEAD: &str = "audit.head";
/// Longest line, bytes: five times that of a grant with the most sources and the longest texts.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// The audit's directory in a state directory.
pub fn directory(state: &Path) -> PathBuf {
    state.join("audit")
}

/// Name of a full file.
pub(super) fn full_name(number: u64) -> String {
    format!("audit-{number:06}.jsonl")
}

/// The full files of a directory, by number.
pub(super) fn full_files(directory: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("audit-"))
            .and_then(|name| name.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            files.insert(number, entry.path());
        }
    }
    Ok(files)
}

/// The fields of a line that the chain needs.
#[derive(Debug, Deserialize)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) code: String,
    /// Only in the first record of a file: the file's number.
    pub(super) file: Option<u64>,
    /// Only in the first record of a file: the number of the oldest file that is kept.
    pub(super) oldest: Option<u64>,
    /// Only in the first record of a file: the signed head of the file before.
    pub(super) head: Option<SignedHead>,
    /// A sentence; used only from records of damage.
    pub(super) detail: Option<String>,
}

impl Link {
    /// Reads a line; `None` when it is not a record.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// How a file begins and ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The number in the first record.
    pub(super) number: Option<u64>,
    /// The number of the oldest file, from the first record.
    pub(super) oldest: Option<u64>,
    /// The last record; `None` when there is no complete line.
    pub(super) tip: Option<Tip>,
    /// Length up to the last newline, bytes. The bytes after it were half written.
    pub(super) whole: u64,
    /// Length of the file, bytes.
    pub(super) length: u64,
}

impl Ends {
    /// Reads the first line and the last ones, and not those between.
    pub(super) fn read(file: &mut File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        file.seek(SeekFrom::Start(0))?;
        let mut start = Vec::new();
        file.by_ref().take(most).read_to_end(&mut start)?;
        let first = start.split(|byte| *byte == b'\n').next().and_then(Link::parse);
        let (number, oldest) = first.map_or((None, None), |link| (link.file, link.oldest));
        let from = length.saturating_sub(most);
        file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        file.take(most).read_to_end(&mut end)?;
        let torn = end.iter().rev().take_while(|byte| **byte != b'\n').count();
        let whole_lines = end.get(..end.len() - torn).unwrap_or_default();
        // A line that is not a record counts too: the chain continues with its hash.
        let mut lines = whole_lines.split(|byte| *byte == b'\n').rev().skip(1);
        let hash = lines.clone().next().map(LineHash::of);
        let last_link = (0..).zip(&mut lines).find_map(|(after, line): (u64, _)| {
            Link::parse(line).map(|link| link.seq.saturating_add(after))
        });
        let tip = last_link.zip(hash).map(|(seq, hash)| Tip { seq, hash });
        let torn = u64::try_from(torn).unwrap_or(u64::MAX);
        Ok(Self { number, oldest, tip, whole: length.saturating_sub(torn), length })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use jit_proto::WallTime;

    use super::*;
    use crate::disk::audit::{code::EventCode, record::Record};

    fn ends(content: &[u8]) -> Ends {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Ends::read(&mut file).unwrap()
    }

    #[test]
    fn the_end_of_a_file_is_its_last_whole_line() {
        let first = Record::new(EventCode::AuditBegun).with("file", 4).with("oldest", 2);
        let first = first.line(Tip { seq: 8, hash: LineHash::ZERO }, WallTime(0));
        let tip = Tip { seq: 9, hash: LineHash::of(first.as_bytes()) };
        let second = Record::new(EventCode::AgentStarted).line(tip, WallTime(0));
        let whole = format!("{first}\n{second}\n");
        let length = u64::try_from(whole.len()).unwrap();
        let tip = Some(Tip { seq: 10, hash: LineHash::of(second.as_bytes()) });
        let good = Ends { number: Some(4), oldest: Some(2), tip, whole: length, length };
        assert_eq!(ends(whole.as_bytes()), good);
        for torn in [&b"{\"seq\":11"[..], b"x", b"\0\0\0"] {
            let length = length + u64::try_from(torn.len()).unwrap();
            assert_eq!(ends(&[whole.as_bytes(), torn].concat()), Ends { length, ..good });
        }
    }

    #[test]
    fn lines_that_are_no_records_are_counted() {
        let first = Record::new(EventCode::AuditBegun).line(Tip::START, WallTime(0));
        let content = format!("{first}\ngarbage\nmore\n");
        let tip = Tip { seq: 3, hash: LineHash::of(b"more") };
        assert_eq!(ends(content.as_bytes()).tip, Some(tip));
        assert_eq!(ends(b"garbage\n").tip, None);
        assert_eq!(ends(b"").tip, None);
    }

    #[test]
    fn only_names_of_full_files_count() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["audit-000007.jsonl", "audit-12345678.jsonl", "audit-1.jsonl", CURRENT, HEAD] {
            File::create(directory.path().join(name)).unwrap();
        }
        let numbers: Vec<_> = full_files(directory.path()).unwrap().into_keys().collect();
        assert_eq!(numbers, [7, 12_345_678]);
    }
}
