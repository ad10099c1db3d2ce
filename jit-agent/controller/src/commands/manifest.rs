//! `manifest.json` of a backup: what is in it, and the hash of each file.

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};

use super::{Failure, files};
use crate::{
    audit::{head::SignedHead, verify::Chain},
    store::dump::{self, Written},
};

/// Its name in the backup.
pub(super) const MANIFEST: &str = "manifest.json";
/// All rows.
pub(super) const DATABASE: &str = "database.jsonl";
/// Where the controller's files are.
pub(super) const FILES: &str = "files";
/// What such a directory is.
const FORMAT: &str = "jit-controller-backup";
/// Version of the format. It rises when an older program could not restore it.
const VERSION: u32 = 1;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    format_version: u32,
    /// Version of the program that made it.
    pub(super) program: String,
    /// When, milliseconds since the Unix epoch, and as text.
    pub(super) made_ms: i64,
    pub(super) made: String,
    /// Which database it was.
    pub(super) database: String,
    /// Versions and rows of the tables.
    pub(super) tables: Written,
    /// The last record of the audit: its number and hash.
    pub(super) audit_seq: i64,
    pub(super) audit_hash: String,
    /// The last signed head.
    pub(super) audit_head: Option<SignedHead>,
    /// Private keys are in it.
    pub(super) keys: bool,
    /// Files that the configuration names and that are not in it.
    pub(super) left_out: Vec<String>,
    /// The files, by their path in the backup.
    pub(super) files: BTreeMap<String, Entry>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Only what says whether the rest can be read.
#[derive(Deserialize)]
struct Kind {
    format: String,
    format_version: u32,
}

impl Manifest {
    pub(super) fn new(made_ms: i64, database: String, tables: Written, chain: Chain) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made_ms,
            made: super::output::moment(made_ms),
            database,
            tables,
            audit_seq: chain.seq,
            audit_hash: chain.hash,
            audit_head: None,
            keys: false,
            left_out: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    /// Adds a file that is in the backup.
    pub(super) fn add(&mut self, backup: &Path, name: &str) -> Result<(), Failure> {
        let path = backup.join(name);
        let (sha256, bytes) = files::digest(&path)
            .map_err(|error| Failure::files(format!("cannot read {}: {error}", path.display())))?;
        self.files.insert(name.to_owned(), Entry { sha256, bytes });
        Ok(())
    }

    /// Reads it, and checks every file.
    pub(super) fn read(backup: &Path) -> Result<Self, Failure> {
        let path = backup.join(MANIFEST);
        let wrong = |why: String| Failure::files(format!("{}: {why}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| {
            wrong(format!("cannot be read: {error}; a backup is a directory with this file in it"))
        })?;
        let kind: Kind = serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
        if kind.format != FORMAT {
            return Err(wrong(format!("{:?} is no backup of a controller", kind.format)));
        }
        if kind.format_version != VERSION {
            let other = if kind.format_version > VERSION { "a later" } else { "an earlier" };
            return Err(wrong(format!(
                "{other} jit-controller made it: its format is {}, this program knows {VERSION}; \
                 restore it with that one",
                kind.format_version
            )));
        }
        let manifest: Self = serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
        if !manifest.files.contains_key(DATABASE) {
            return Err(wrong(format!("it does not name {DATABASE}")));
        }
        for (name, entry) in &manifest.files {
            let plain = Path::new(name).components().all(|one| matches!(one, Component::Normal(_)));
            if !plain {
                return Err(wrong(format!("{name:?} is no path in a backup")));
            }
            let path = backup.join(name);
            let found = files::digest(&path).map_err(|error| {
                Failure::files(format!("{} of the backup: {error}", path.display()))
            })?;
            if found != (entry.sha256.clone(), entry.bytes) {
                return Err(Failure::files(format!(
                    "{} was changed since the backup was made: it has not the SHA-256 of \
                     {MANIFEST}",
                    path.display()
                )));
            }
        }
        Ok(manifest)
    }
}

/// Reads all rows of a dump, and checks the chain of the audit in it. Returns its end.
pub(super) fn check_rows(file: &Path, mut each: impl FnMut(u64)) -> Result<Chain, Failure> {
    let open = fs::File::open(file)
        .map_err(|error| Failure::files(format!("cannot read {}: {error}", file.display())))?;
    let mut chain = Chain::default();
    let read = dump::read(&mut BufReader::new(open), |number, row| {
        each(number);
        if row.table != "audit" {
            return Ok(());
        }
        let line = row.audit_line().ok_or("it is no record of the audit")?;
        chain.follow(&line).map_err(|broken| format!("the audit is broken: {broken}"))
    });
    read.map_err(|error| Failure::files(format!("{}: {error}", file.display())))?;
    Ok(chain)
}
