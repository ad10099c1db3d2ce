//! `jit-controller backup`: a consistent copy while the controller runs, that can be restored into
//! either kind of database.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::words::counted;
use serde_json::json;

use super::{
    Failure,
    files::{self, Draft, PRIVATE},
    manifest::{DATABASE, FILES, MANIFEST, Manifest, check_rows},
    output::{print, print_json},
    progress::Progress,
};
use crate::{
    audit::{head::HeadKey, sealing::sign_if_due},
    clock,
    config::{Config, Database, FILE},
    store::{Store, dump},
};

/// Largest file beside the database that is copied, bytes.
const LARGEST: u64 = 256 * 1024 * 1024;
/// How deep below the controller's directory files are looked for.
const DEPTH: usize = 3;

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Directory to write; it must not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Also copy the private keys: whoever reads this backup can sign
    #[arg(long)]
    pub with_keys: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Makes a backup.
///
/// # Errors
/// What cannot be read or written. Then nothing is left of it.
pub async fn run(config: &Config, args: &BackupArgs) -> Result<Exit, Failure> {
    let BackupArgs { to, with_keys, json } = args;
    if to.symlink_metadata().is_ok() {
        return Err(Failure::files(format!(
            "{} exists already and is not replaced; choose another name",
            to.display()
        )));
    }
    let url = config.store.url().map_err(Failure::files)?;
    let store = Store::connect(&url).await?;
    if store.versions().await?.is_empty() {
        return Err(Failure::files(format!(
            "{} has no tables of a controller; nothing to copy",
            config.store
        )));
    }
    let now_ms = clock::now_ms();
    // Newer tables than this program's have other names.
    let known: BTreeSet<_> = crate::store::migrations::versions().into_iter().collect();
    if let Some(newer) = store.versions().await?.difference(&known).next() {
        return Err(crate::store::StoreError::Newer(*newer).into());
    }
    let head = match fs::read_to_string(&config.audit.key).map(|text| HeadKey::from_pem(&text)) {
        Ok(Ok(key)) if store.versions().await?.len() == known.len() => {
            sign_if_due(&store, &key, now_ms, true).await?;
            store.last_signed_head().await?
        }
        _ => None,
    };
    let draft = Draft::begin(to).inspect_err(|_| drop(fs::remove_dir(to)))?;
    let made = write(config, &store, &draft, *with_keys, now_ms).await;
    store.close().await;
    let made = made.and_then(|mut manifest| {
        manifest.audit_head = head.filter(|head| head.seq <= manifest.audit_seq);
        let text = jit_proto::printable::json_pretty(&manifest);
        files::write_new(&draft.path().join(MANIFEST), text.as_bytes(), PRIVATE)?;
        draft.finish(MANIFEST)?;
        Ok(manifest)
    });
    let manifest = made.inspect_err(|_| drop(fs::remove_dir(to)))?;
    if *json {
        print_json(&json!({
            "schema_version": 1,
            "path": to,
            "made": manifest.made,
            "rows": manifest.tables.total(),
            "audit_head": format!("{}:{}", manifest.audit_seq, manifest.audit_hash),
            "keys": manifest.keys,
            "left_out": manifest.left_out,
            "files": manifest.files.keys().collect::<Vec<_>>(),
        }))?;
    } else {
        print(&shown(to, &manifest))?;
    }
    Ok(Exit::Success)
}

fn shown(to: &Path, manifest: &Manifest) -> String {
    let mut text = format!(
        "{}: {}, {}, read back and checked\nend of the audit  {}:{}\n",
        to.display(),
        counted(manifest.tables.total(), "row"),
        counted(manifest.files.len(), "file"),
        manifest.audit_seq,
        manifest.audit_hash
    );
    if manifest.keys {
        text.push_str("It holds the private keys: keep it as you keep them.\n");
    } else if !manifest.left_out.is_empty() {
        text.push_str("Not in it; keep them elsewhere, or add --with-keys for the first kind:\n");
        for name in &manifest.left_out {
            text.push_str(&format!("  {name}\n"));
        }
    }
    text
}

async fn write(
    config: &Config,
    store: &Store,
    draft: &Draft,
    with_keys: bool,
    now_ms: i64,
) -> Result<Manifest, Failure> {
    let total = store.row_count().await?;
    let rows = draft.path().join(DATABASE);
    let failed =
        |error: std::io::Error| Failure::files(format!("cannot write {}: {error}", rows.display()));
    let bar = Progress::begin("copying rows", total);
    let mut out = BufWriter::new(files::create_new(&rows, PRIVATE)?);
    let written = dump::write(store, &mut out, |row| bar.at(row)).await?;
    out.flush().map_err(failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    drop(bar);
    let bar = Progress::begin("reading them back", total);
    let chain = check_rows(&rows, |row| bar.at(row))?;
    drop(bar);
    let mut manifest = Manifest::new(now_ms, config.store.to_string(), written, chain);
    manifest.keys = with_keys;
    manifest.add(draft.path(), DATABASE)?;
    let secrets = secrets(config);
    let skipped = database_files(&config.store);
    let mut found = Vec::new();
    below(&config.directory, Path::new(""), DEPTH, &mut found)?;
    for name in found {
        let from = config.directory.join(&name);
        if skipped.contains(&from) {
            continue;
        }
        let shown = name.display().to_string();
        if is_secret(&from, &secrets) && !with_keys {
            manifest.left_out.push(shown);
            continue;
        }
        let target = draft.path().join(FILES).join(&name);
        if let Some(parent) = target.parent() {
            files::make_directory(parent)?;
        }
        let bytes = fs::read(&from)
            .map_err(|error| Failure::files(format!("cannot read {}: {error}", from.display())))?;
        files::write_new(&target, &bytes, PRIVATE)?;
        manifest.add(draft.path(), &format!("{FILES}/{shown}"))?;
    }
    let elsewhere = named(config).into_iter().filter(|file| !file.starts_with(&config.directory));
    manifest.left_out.extend(elsewhere.map(|file| file.display().to_string()));
    if !manifest.files.contains_key(&format!("{FILES}/{FILE}")) {
        let name = config.file.file_name().unwrap_or_default().to_string_lossy();
        return Err(Failure::files(format!(
            "the configuration is named {name}; a backup needs it as {FILE} in its directory"
        )));
    }
    Ok(manifest)
}

/// Plain files below a directory, by their path from it. Names with a dot in front are not the
/// controller's; nor are other backups.
fn below(root: &Path, at: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let names = files::names(&root.join(at))?;
    if names.iter().any(|name| name.as_os_str() == MANIFEST) {
        return Ok(());
    }
    for name in names.into_iter().filter(|name| !name.to_string_lossy().starts_with('.')) {
        let path = at.join(name);
        let Ok(metadata) = root.join(&path).symlink_metadata() else { continue };
        if metadata.is_dir() && depth > 1 {
            below(root, &path, depth - 1, found)?;
        } else if metadata.is_file() && metadata.len() <= LARGEST {
            found.push(path);
        }
    }
    Ok(())
}

fn database_files(database: &Database) -> BTreeSet<PathBuf> {
    match database {
        Database::Postgres { .. } => BTreeSet::new(),
        Database::Sqlite(file) => ["", "-wal", "-shm", "-journal"]
            .into_iter()
            .map(|end| {
                let mut name = file.as_os_str().to_owned();
                name.push(end);
                name.into()
            })
            .collect(),
    }
}

/// Files with secrets that the configuration names.
fn secrets(config: &Config) -> BTreeSet<PathBuf> {
    config.secret_files().into_iter().map(|(file, _)| file).collect()
}

/// All files that the configuration names.
fn named(config: &Config) -> BTreeSet<PathBuf> {
    let syslog = config.syslog.iter().flat_map(|one| {
        let own = one.own.iter().map(|(certificate, _)| certificate.clone());
        own.chain([one.ca.clone()])
    });
    let mut all = secrets(config);
    all.extend(config.audit.former_keys.iter().cloned());
    all.extend(
        [&config.agents.ca, &config.agents.certificate, &config.api.certificate].map(Clone::clone),
    );
    let hub = config.agents.hub.iter();
    all.extend(hub.flat_map(|hub| [hub.client_ca.clone(), hub.certificate.clone()]));
    all.extend(syslog);
    all
}

/// Whether a file must not be copied without being asked for.
fn is_secret(file: &Path, named: &BTreeSet<PathBuf>) -> bool {
    let holds_key = || {
        let bytes = fs::read(file).unwrap_or_default();
        bytes.windows(12).any(|window| window == b"PRIVATE KEY-")
    };
    named.contains(file) || file.extension().is_some_and(|end| end == "key") || holds_key()
}
