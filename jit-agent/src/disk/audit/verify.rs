//! Reads an audit and finds records that were changed, left out, added or moved.
//!
//! It needs no agent, and changes nothing. Root on the host can write the whole chain anew and sign
//! it with the host's key. Only a head or a public key that was kept elsewhere shows that
//! ([`Options::against`], [`Options::keys`]).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::disk::{
    audit::{
        chain::{LineHash, Tip},
        code::EventCode,
        files::{CURRENT, HEAD, Link, MAX_LINE, directory, full_files, full_name},
        head::{Head, SignedHead},
        judge::{End, Entry, Judgement},
    },
    host_key::HostPublicKey,
};

/// The most times that the files are read again because the agent began another file.
const ATTEMPTS: usize = 5;

/// What the audit is compared with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Public keys in PEM that heads may be signed with; those in the state directory when empty.
    pub keys: Vec<PathBuf>,
    /// Heads that were kept elsewhere.
    pub against: Vec<Tip>,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names of the files that were read, in order.
    pub files: Vec<String>,
    /// Number of records in them.
    pub records: u64,
    /// The last record.
    pub tip: Option<Tip>,
    /// The signed head, when its signature is good.
    pub head: Option<Head>,
    /// What is wrong. The audit is good when this is empty.
    pub findings: Vec<Finding>,
    /// What a person should know although nothing is wrong.
    pub notes: Vec<Finding>,
}

/// One thing that is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the file.
    pub file: String,
    /// The number of the line; the first is 1. `None`: the file as a whole.
    pub line: Option<usize>,
    /// A sentence for a person.
    pub what: String,
}

/// Reads and judges the audit in a state directory.
///
/// # Errors
/// The directory or a file in it cannot be read, so there is no result.
pub fn verify(state: &Path, options: &Options) -> io::Result<Report> {
    let directory = directory(state);
    let mut attempt = 1;
    loop {
        let listed = list(&directory)?;
        let result = read(state, &directory, &listed, options);
        // The agent may have begun a new file, or removed an old one, while they were read.
        if attempt < ATTEMPTS && list(&directory)? != listed {
            attempt += 1;
            continue;
        }
        return result;
    }
}

/// The full files by number, and the inode of the current file if there is one.
type Listing = (BTreeMap<u64, PathBuf>, Option<u64>);

fn list(directory: &Path) -> io::Result<Listing> {
    let full = full_files(directory)?;
    let current = match std::fs::metadata(directory.join(CURRENT)) {
        Ok(metadata) => Some(std::os::unix::fs::MetadataExt::ino(&metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok((full, current))
}

fn read(
    state: &Path,
    directory: &Path,
    (full, current): &Listing,
    options: &Options,
) -> io::Result<Report> {
    let mut report = Report::default();
    let keys = keys(state, options, &mut report)?;
    // The head is read before the files, so the record that it names must be in them.
    let head = read_head(directory, &keys, &mut report)?;
    let mut files = Vec::new();
    for (number, path) in full {
        files.push(Content::read(full_name(*number), Some(*number), path)?);
    }
    if current.is_some() {
        files.push(Content::read(CURRENT.to_owned(), None, &directory.join(CURRENT))?);
    }
    if files.is_empty() {
        report.find(CURRENT, None, format!("there is no audit in {}", directory.display()));
        return Ok(report);
    }
    check_set(&files, head.as_ref(), &mut report);
    let mut judged = BTreeMap::new();
    let mut before: Option<Tip> = None;
    for (index, content) in files.iter().enumerate() {
        let next = files.get(index + 1);
        let follows = index > 0 && content.follows(files.get(index - 1));
        let before_this = if follows { before } else { content.signed_before(&keys) };
        let end = content.end(next, head.as_ref(), &keys);
        let judgement = Judgement::new(&content.entries, before_this, end);
        for fault in &judgement.faults {
            report.find(&content.name, Some(fault.line), fault.what.clone());
        }
        check_first(content, judgement.first_seq(), before_this, &keys, &mut report);
        before = judgement.tip;
        report.files.push(content.name.clone());
        report.records += u64::try_from(content.entries.len()).unwrap_or(u64::MAX);
        report.tip = judgement.tip.or(report.tip);
        report.findings.extend(content.findings.iter().cloned());
        report.notes.extend(content.notes.iter().cloned());
        if content.torn {
            // The agent may be writing to the newest file; its head says which records count.
            let torn = Finding {
                file: content.name.clone(),
                line: Some(content.entries.len() + 1),
                what: "the last line is half written".to_owned(),
            };
            if next.is_some() { &mut report.findings } else { &mut report.notes }.push(torn);
        }
        judged.insert(judgement.first_seq().unwrap_or_default(), (content.name.clone(), judgement));
    }
    for kept in &options.against {
        check_against(*kept, &judged, &mut report);
    }
    report.head = head;
    Ok(report)
}

impl Report {
    /// Whether nothing is wrong.
    pub const fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, file: &str, line: Option<usize>, what: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), line, what: what.into() });
    }
}

/// The content of one file.
struct Content {
    name: String,
    /// The number in the file's name.
    named: Option<u64>,
    /// The file's first line as a record.
    first: Option<Link>,
    entries: Vec<Entry>,
    /// There are bytes after the last newline.
    torn: bool,
    findings: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Content {
    fn read(name: String, named: Option<u64>, path: &Path) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
        let mut content = Self {
            name,
            named,
            first: None,
            entries: Vec::new(),
            torn: false,
            findings: Vec::new(),
            notes: Vec::new(),
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
            if reader.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
                return Ok(content);
            }
            match line.split_last() {
                Some((b'\n', line)) => content.add(line),
                _ if line.len() < MAX_LINE => content.torn = true,
                // No record is this long. The rest of it counts as more lines.
                _ => content.add(&line),
            }
        }
    }

    fn add(&mut self, line: &[u8]) {
        let hash = LineHash::of(line);
        let Some(link) = Link::parse(line) else {
            self.entries.push(Entry::Garbage { hash });
            return;
        };
        self.entries.push(Entry::Record { seq: link.seq, prev: link.prev.parse().ok(), hash });
        let finding = |what: String| Finding {
            file: self.name.clone(),
            line: Some(self.entries.len()),
            what,
        };
        let detail = || link.detail.as_deref().unwrap_or("it does not say what");
        if link.code == EventCode::AuditDamaged.code() {
            self.findings.push(finding(format!("the agent found a damage: {}", detail())));
        } else if link.code == EventCode::AuditGap.code() {
            self.notes.push(finding(format!("the disk took no records for a time: {}", detail())));
        } else if EventCode::ALL.iter().all(|code| code.code() != link.code) {
            let text = format!("{:?} is a code that this version does not know", link.code);
            self.notes.push(finding(text));
        }
        if self.entries.len() == 1 {
            self.first = Some(link);
        }
    }

    /// The number in its first record.
    fn number(&self) -> Option<u64> {
        self.first.as_ref().and_then(|first| first.file)
    }

    /// Whether this file follows that one.
    fn follows(&self, before: Option<&Self>) -> bool {
        let number = self.number().or(self.named);
        let before = before.and_then(|before| before.named);
        before.is_some() && (number.is_none() || number == before.map(|before| before + 1))
    }

    /// The end of the file before, from the signed head in this file's first record.
    fn signed_before(&self, keys: &[HostPublicKey]) -> Option<Tip> {
        let first = self.first.as_ref()?;
        if first.code == EventCode::AuditBegun.code() {
            return Some(Tip::START);
        }
        first.head.as_ref()?.verify(keys).ok().map(|head| head.tip)
    }

    /// What the file after it, or the signed head, says about this file's end.
    fn end(&self, next: Option<&Self>, head: Option<&Head>, keys: &[HostPublicKey]) -> End {
        match next {
            Some(next) if next.follows(Some(self)) => {
                let signed = next.signed_before(keys);
                let said = || {
                    let first = next.first.as_ref()?;
                    Some(Tip { seq: first.seq.checked_sub(1)?, hash: first.prev.parse().ok()? })
                };
                signed.or_else(said).map_or(End::Unknown, End::At)
            }
            Some(_) => End::Unknown,
            None => match head {
                Some(head) if Some(head.file) == self.number().or(self.named) => {
                    End::AtLeast(head.tip)
                }
                // The file was begun, but no head was signed in it yet.
                Some(head) if self.number().is_some_and(|number| head.file < number) => {
                    End::Unknown
                }
                // The head names a later file, which is missing: its record should be here.
                Some(head) => End::AtLeast(head.tip),
                None => End::Unknown,
            },
        }
    }
}

/// Checks the files: none is missing, none has another file's name.
fn check_set(files: &[Content], head: Option<&Head>, report: &mut Report) {
    let Some(newest) = files.last() else { return };
    let last_full = files.iter().filter_map(|content| content.named).max();
    let current = match newest.named {
        None => newest.number().or(last_full.map(|last| last + 1)),
        // The agent is between two files: the full one is renamed, the next one is not begun.
        Some(_) => None,
    };
    let expected = head.map_or(0, |head| head.file).max(current.unwrap_or(0));
    let oldest = newest.first.as_ref().and_then(|first| first.oldest).unwrap_or(1);
    for number in oldest..expected.max(last_full.map_or(0, |last| last + 1)) {
        if files.iter().all(|content| content.named != Some(number)) && Some(number) != current {
            report.find(&full_name(number), None, "this file is missing");
        }
    }
    if newest.named.is_some() && expected > last_full.unwrap_or(0) {
        report.find(CURRENT, None, "this file is missing");
    } else if newest.named.is_some() {
        report.notes.push(Finding {
            file: CURRENT.to_owned(),
            line: None,
            what: "the next file is not begun yet".to_owned(),
        });
    }
    for content in files {
        let Some(says) = content.number() else { continue };
        let named = content.named.unwrap_or_else(|| expected.max(says));
        if says != named {
            let what = format!("this file says that it is number {says}: it was put here");
            report.find(&content.name, None, what);
        }
        let twice = |other: &&Content| other.named == Some(says) && content.named.is_none();
        if let Some(other) = files.iter().find(twice) {
            let what = format!("this file says that it is number {says}, as {} is", other.name);
            report.find(&content.name, None, what);
        }
    }
}

/// Checks the first record of a file, which names the file's number and the end of the one before.
fn check_first(
    content: &Content,
    first_seq: Option<u64>,
    before: Option<Tip>,
    keys: &[HostPublicKey],
    report: &mut Report,
) {
    let Some(first) = &content.first else { return };
    if first.code == EventCode::AuditBegun.code() {
        if first_seq != Some(1) || first.file != Some(1) {
            report.find(&content.name, Some(1), "the audit does not begin here");
        }
        return;
    }
    let Some(signed) = first.head.as_ref().filter(|_| first.file.is_some()) else {
        let what = "a file begins with the signed head of the one before; this line has none";
        report.find(&content.name, Some(1), what);
        return;
    };
    let wrong = match signed.verify(keys) {
        Err(why) => Some(format!("the head of the file before: {why}")),
        Ok(head) if Some(head.file + 1) != first.file => {
            Some(format!("it carries the head of file {}, which is not the one before", head.file))
        }
        Ok(head) if before.is_some_and(|before| before != head.tip) => Some(format!(
            "the head of the file before names record {} with another hash",
            head.tip.seq
        )),
        Ok(_) => None,
    };
    if let Some(what) = wrong {
        report.find(&content.name, Some(1), what);
    }
}

fn check_against(kept: Tip, judged: &BTreeMap<u64, (String, Judgement)>, report: &mut Report) {
    let newest = report.tip.map_or(0, |tip| tip.seq);
    let found = judged
        .range(..=kept.seq)
        .next_back()
        .and_then(|(_, (name, judgement))| Some((name, judgement.hash_of(kept.seq)?)));
    match found {
        Some((_, hash)) if hash == kept.hash => {}
        Some((name, _)) => {
            let what = format!("record {} is not the one of the head that was kept", kept.seq);
            report.find(&name.clone(), None, what);
        }
        None if kept.seq > newest => {
            let what = format!(
                "the head that was kept names record {}, but the last one here is {newest}",
                kept.seq
            );
            report.find(CURRENT, None, what);
        }
        None => report.notes.push(Finding {
            file: CURRENT.to_owned(),
            line: None,
            what: format!("record {} of the head that was kept is not here any more", kept.seq),
        }),
    }
}

fn keys(state: &Path, options: &Options, report: &mut Report) -> io::Result<Vec<HostPublicKey>> {
    let other = |error: crate::system::sys::FileError| io::Error::other(error.to_string());
    if !options.keys.is_empty() {
        return options.keys.iter().map(|path| HostPublicKey::read(path).map_err(other)).collect();
    }
    match HostPublicKey::all(state) {
        Ok(keys) => Ok(keys),
        Err(error) => {
            report.find("host.pub.pem", None, format!("no head can be checked: {error}"));
            Ok(Vec::new())
        }
    }
}

fn read_head(
    directory: &Path,
    keys: &[HostPublicKey],
    report: &mut Report,
) -> io::Result<Option<Head>> {
    let path = directory.join(HEAD);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what =
                "this file is missing: it cannot be shown that nothing is cut off at the end";
            report.find(HEAD, None, what);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let verified = SignedHead::parse(&text)
        .ok_or_else(|| "this is no signed head: it was changed".to_owned())
        .and_then(|signed| signed.verify(keys));
    match verified {
        Ok(head) => Ok(Some(head)),
        Err(what) => {
            report.find(HEAD, Some(1), what);
            Ok(None)
        }
    }
}
