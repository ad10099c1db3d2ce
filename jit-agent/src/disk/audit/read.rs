//! Reads the lines of an audit in order, across all of its files, and then new lines as they are
//! written.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use memchr::memmem;
use serde_json::{Map, Value};

use crate::disk::audit::{
    code::EventCode,
    files::{CURRENT, Link, MAX_LINE, full_files, full_name},
};

/// A reader, and its place in the audit.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    /// Full files that are still to be read, the next one last.
    ahead: Vec<PathBuf>,
    open: Option<Opened>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

#[derive(Debug)]
struct Opened {
    file: BufReader<File>,
    inode: u64,
    current: bool,
    number: Option<u64>,
}

impl Reader {
    /// A reader that begins with the first line of the oldest file.
    pub fn from_the_start(directory: &Path) -> io::Result<Self> {
        let ahead = full_files(directory)?.into_values().rev().collect();
        Ok(Self { directory: directory.to_owned(), ahead, open: None, begun: Vec::new() })
    }

    /// A reader that begins with the first line of the current file.
    pub fn from_the_newest(directory: &Path) -> io::Result<Self> {
        // Fails here when this user may not read the directory.
        full_files(directory)?;
        let ahead = Vec::new();
        Ok(Self { directory: directory.to_owned(), ahead, open: None, begun: Vec::new() })
    }

    /// The next line without its newline; `None` when there is none yet. After a rotation it
    /// continues with the next file.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(open) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                return Ok(None);
            };
            let room = MAX_LINE.saturating_sub(self.begun.len()).max(1);
            let most = u64::try_from(room).unwrap_or(u64::MAX);
            let read = open.file.by_ref().take(most).read_until(b'\n', &mut self.begun)?;
            if self.begun.last() == Some(&b'\n') {
                self.begun.pop();
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if self.begun.len() >= MAX_LINE {
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if read > 0 {
                continue;
            }
            if open.current {
                if !is_renamed(&self.directory, open.inode)? {
                    return Ok(None);
                }
                // Read on to its end: a line may have been added before it was renamed.
                open.current = false;
                continue;
            }
            self.leave();
            if !self.begun.is_empty() {
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
        }
    }

    /// Closes a file; the next ones are those with a higher number.
    fn leave(&mut self) {
        let Some(left) = self.open.take() else { return };
        let Some(number) = left.number.filter(|_| self.ahead.is_empty()) else { return };
        let full = full_files(&self.directory).unwrap_or_default();
        self.ahead = full.into_iter().filter(|(n, _)| *n > number).map(|(_, path)| path).collect();
        self.ahead.reverse();
    }

    fn open_next(&mut self) -> io::Result<bool> {
        let (path, current) = match self.ahead.pop() {
            Some(path) => (path, false),
            None => (self.directory.join(CURRENT), true),
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            // It was removed as too old, or it is not begun yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(!current),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        let mut file = BufReader::with_capacity(1 << 16, file);
        let number = number_of(&mut file, &path)?;
        self.open = Some(Opened { file, inode, current, number });
        Ok(true)
    }
}

/// Whether the current file, or the one before it, has a record with this code, and with this number
/// in a field.
pub fn is_recorded(
    directory: &Path,
    code: EventCode,
    (field, number): (&str, i64),
) -> io::Result<bool> {
    let ahead = full_files(directory)?.into_values().next_back().into_iter().collect();
    let (directory, begun) = (directory.to_owned(), Vec::new());
    let mut reader = Reader { directory, ahead, open: None, begun };
    while let Some(line) = reader.next_line()? {
        // Most lines are others: they are not parsed.
        if memmem::find(&line, code.code().as_bytes()).is_none() {
            continue;
        }
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(&line) else { continue };
        let is_it = record.get("code").and_then(Value::as_str) == Some(code.code());
        if is_it && record.get(field).and_then(Value::as_i64) == Some(number) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether another file is the current one. While there is none, the next one is not begun yet.
fn is_renamed(directory: &Path, inode: u64) -> io::Result<bool> {
    match std::fs::metadata(directory.join(CURRENT)) {
        Ok(metadata) => Ok(metadata.ino() != inode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The number that a file's first line carries, or else its name; the reader stays where it is.
fn number_of(file: &mut BufReader<File>, path: &Path) -> io::Result<Option<u64>> {
    let start = file.fill_buf()?;
    let said = start.split(|byte| *byte == b'\n').next().and_then(Link::parse);
    let named = || {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        digits.parse().ok().filter(|number| full_name(*number) == name)
    };
    Ok(said.and_then(|link| link.file).or_else(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_in_the_current_file_and_in_the_one_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let line = |code: &str, begun: i64| {
            format!("{{\"seq\":1,\"code\":\"{code}\",\"begun_ms\":{begun},\"detail\":\"B004\"}}\n")
        };
        let files = [(full_name(1), 1), (full_name(2), 2), (CURRENT.to_owned(), 3)];
        for (name, begun) in files {
            let text = format!("{}torn\n{}", line("N003", begun + 10), line("B004", begun));
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let has = |code, begun| is_recorded(directory.path(), code, ("begun_ms", begun)).unwrap();
        let lapsed = [1, 2, 3, 4, 13].map(|begun| has(EventCode::TrialLapsed, begun));
        assert_eq!(lapsed, [false, true, true, false, false], "the oldest file is not read");
        assert!(has(EventCode::TrialConfirmed, 13) && !has(EventCode::TrialConfirmed, 3));
        assert!(is_recorded(Path::new("/nowhere"), EventCode::TrialLapsed, ("a", 1)).is_err());
    }
}
