//! `jit-controller restore`: a backup into an empty place, also into the other kind of database.

use std::{
    collections::BTreeSet,
    fs,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::Args;
use jit_client::exit::Exit;
use serde_json::json;

use super::{
    Failure,
    files::{self, Draft, PRIVATE},
    manifest::{DATABASE, FILES, Manifest, check_rows},
    output::{person, print, print_json},
    progress::Progress,
};
use crate::{
    audit::{self, Code, Record, head::PublicKey},
    clock,
    config::{Config, Database, FILE},
    store::{Store, StoreError, dump, migrations},
};

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup: a directory that `backup` has written
    #[arg(value_name = "BACKUP")]
    pub backup: PathBuf,
    /// Put the rows into this database in place of the one that the configuration names; it becomes the
    /// configuration's
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Restores a backup into this directory.
///
/// # Errors
/// The place is not empty, the backup was changed or is of another format, or the database refuses.
pub async fn run(directory: &Path, args: &RestoreArgs) -> Result<Exit, Failure> {
    let RestoreArgs { backup, database, json } = args;
    if let Some(name) = files::names(directory)?.first() {
        return Err(Failure::files(format!(
            "{} is not empty ({} is there); restore into an empty directory",
            directory.display(),
            name.display()
        )));
    }
    let manifest = Manifest::read(backup)?;
    let known: BTreeSet<_> = migrations::versions().into_iter().collect();
    if let Some(newer) = manifest.tables.versions.difference(&known).next() {
        return Err(StoreError::Newer(*newer).into());
    }
    let rows = backup.join(DATABASE);
    let bar = Progress::begin("checking the backup", manifest.tables.total());
    let chain = check_rows(&rows, |row| bar.at(row))?;
    drop(bar);
    if (chain.seq, &chain.hash) != (manifest.audit_seq, &manifest.audit_hash) {
        return Err(Failure::files(format!(
            "the audit in {} ends with record {}, and not with {} as when the backup was made",
            rows.display(),
            chain.seq,
            manifest.audit_seq
        )));
    }
    let signed = check_head(backup, &manifest)?;
    let draft = Draft::begin(directory)?;
    let config = put_files(backup, &manifest, &draft, directory, database.as_deref())?;
    let total = put_rows(&config, &manifest, &rows).await?;
    draft.finish(FILE)?;
    let missing: Vec<_> =
        manifest.left_out.iter().filter(|name| !directory.join(name).exists()).collect();
    if *json {
        print_json(&json!({
            "schema_version": 1,
            "directory": directory,
            "database": config.store.to_string(),
            "of": manifest.made,
            "rows": total,
            "audit_head": format!("{}:{}", chain.seq, chain.hash),
            "audit_signed": signed,
            "missing": missing,
        }))?;
        return Ok(Exit::Success);
    }
    let mut text = format!(
        "restored the controller of {} into {}: {total} rows in {}\n\
         the audit is whole up to record {}{}\n",
        manifest.made,
        directory.display(),
        config.store,
        chain.seq,
        if signed { ", and its end is signed" } else { "" }
    );
    if !missing.is_empty() {
        text.push_str("Put these back before you start it; they were not in the backup:\n");
        for name in missing {
            text.push_str(&format!("  {}\n", directory.join(name).display()));
        }
    }
    text.push_str(
        "What happened after the backup is not known here. Tokens and accounts that were taken away \
         since then are good again: take them away again. Grants that were signed since then are on \
         their hosts until they end: `jitctl --agents FILE revoke` ends them.\n",
    );
    text.push_str(&format!("Next: jit-controller check --dir {}\n", directory.display()));
    print(&text)?;
    Ok(Exit::Success)
}

/// Whether the signed head in the manifest is good, by the public key in the backup.
fn check_head(backup: &Path, manifest: &Manifest) -> Result<bool, Failure> {
    let Some(head) = &manifest.audit_head else { return Ok(false) };
    let publics = manifest.files.keys().filter(|name| name.ends_with(".pub.pem"));
    let keys: Vec<_> = publics
        .filter_map(|name| fs::read_to_string(backup.join(name)).ok())
        .filter_map(|text| PublicKey::from_pem(&text).ok())
        .collect();
    if !keys.iter().any(|key| key.id() == head.key) {
        return Ok(false);
    }
    head.verify(&keys)
        .map(|_| true)
        .map_err(|why| Failure::files(format!("the end of the audit in the backup: {why}")))
}

/// Writes the files. Returns the configuration as it will be in the directory.
fn put_files(
    backup: &Path,
    manifest: &Manifest,
    draft: &Draft,
    directory: &Path,
    database: Option<&str>,
) -> Result<Config, Failure> {
    let mut config = None;
    let begin = format!("{FILES}/");
    for name in manifest.files.keys().filter_map(|name| name.strip_prefix(&begin)) {
        let from = backup.join(FILES).join(name);
        let mut bytes = fs::read(&from)
            .map_err(|error| Failure::files(format!("cannot read {}: {error}", from.display())))?;
        if name == FILE {
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some(url) = database {
                text = with_database(&text, url);
            }
            config = Some(Config::parse(&text, &directory.join(FILE))?);
            bytes = text.into_bytes();
        }
        let target = draft.path().join(name);
        if let Some(parent) = target.parent() {
            files::make_directory(parent)?;
        }
        files::write_new(&target, &bytes, PRIVATE)?;
    }
    config.ok_or_else(|| Failure::files(format!("the backup has no {FILE}")))
}

/// The configuration with another database. The lines before it stay, as a comment.
fn with_database(text: &str, url: &str) -> String {
    let mut out = String::new();
    let mut in_store = false;
    let value = toml::Value::String(url.to_owned());
    let section = format!("[store]\nurl = {value}\n");
    let mut done = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            in_store = trimmed == "[store]";
            if in_store {
                out.push_str(&section);
                done = true;
                continue;
            }
        }
        let key = trimmed.split(['=', ' ']).next().unwrap_or_default();
        if in_store && matches!(key, "url" | "password_file") {
            out.push_str("# Before a restore: ");
        }
        out.push_str(line);
        out.push('\n');
    }
    if !done {
        out = format!("{section}{out}");
    }
    out
}

async fn put_rows(config: &Config, manifest: &Manifest, rows: &Path) -> Result<u64, Failure> {
    let url = config.store.url().map_err(|why| {
        Failure::files(format!("{why}; put the file there first, or say --database URL"))
    })?;
    match &config.store {
        Database::Sqlite(file) => {
            if file.symlink_metadata().is_ok() {
                return Err(Failure::files(format!(
                    "{} exists already; move it away: a copy is put into an empty database only",
                    file.display()
                )));
            }
            // Only its owner reads it, from the first byte on.
            files::write_new(file, b"", PRIVATE)?;
        }
        Database::Postgres { .. } => {
            let there = Store::connect(&url).await?;
            let versions = there.versions().await?;
            there.close().await;
            if !versions.is_empty() && versions != manifest.tables.versions {
                return Err(Failure::files(format!(
                    "{} has tables of a controller already; a copy is put into an empty database \
                     only",
                    config.store
                )));
            }
        }
    }
    let done = fill(&url, manifest, rows).await;
    if let (Err(_), Database::Sqlite(file)) = (&done, &config.store) {
        for end in ["", "-wal", "-shm"] {
            let _gone = fs::remove_file(format!("{}{end}", file.display()));
        }
    }
    done
}

async fn fill(url: &str, manifest: &Manifest, rows: &Path) -> Result<u64, Failure> {
    let bar = Progress::begin("writing rows", manifest.tables.total());
    let store = Store::open_at(url, &manifest.tables.versions).await?;
    let file = fs::File::open(rows)
        .map_err(|error| Failure::files(format!("cannot read {}: {error}", rows.display())))?;
    let total = dump::restore(&store, &mut BufReader::new(file), |row| bar.at(row)).await?;
    store.close().await;
    drop(bar);
    let store = Store::open(url).await?;
    let mut tx = store.begin().await?;
    let fields = json!({
        "backup_made": manifest.made,
        "program": manifest.program,
        "audit_seq": manifest.audit_seq,
    });
    let record = Record::new(Code::Restored, "", &person(), fields);
    audit::append(&mut tx, clock::now_ms(), &record).await?;
    tx.commit().await?;
    store.close().await;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn another_database_replaces_the_one_in_the_file() {
        let before =
            "[store]\nurl = \"sqlite:x.db\"\npassword_file = \"p\"\n[api]\nlisten = \"y\"\n";
        let after = with_database(before, "postgres://a@b/\"c");
        let read: toml::Table = toml::from_str(&after).unwrap();
        assert_eq!(read["store"]["url"].as_str(), Some("postgres://a@b/\"c"));
        assert!(read["store"].get("password_file").is_none());
        assert_eq!(read["api"]["listen"].as_str(), Some("y"));
        let read: toml::Table = toml::from_str(&with_database("[api]\n", "sqlite:z.db")).unwrap();
        assert_eq!(read["store"]["url"].as_str(), Some("sqlite:z.db"));
    }
}
