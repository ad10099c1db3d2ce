//! Files and their modes: a key that others can read is everybody's.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::{
    config::{Config, Database},
    health::Findings,
};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    directory(&config.directory, findings);
    let mut secrets = config.secret_files();
    // It is made at the first start.
    secrets.retain(|(file, _)| *file != config.api.webhook_key || file.exists());
    if let Database::Sqlite(file) = &config.store
        && file.exists()
    {
        secrets.push((file.clone(), "the database"));
    }
    let before = findings.all().len();
    for (file, what) in secrets {
        secret(&file, what, findings);
    }
    // The authority need not be on this machine at all.
    let authority = config.directory.join("pki/ca.key");
    if authority.exists() {
        secret(&authority, "the authority's private key", findings);
    }
    if findings.all().len() == before {
        findings.good("files", "keys and database are for their owner only");
    }
}

fn directory(directory: &Path, findings: &mut Findings) {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.mode() & 0o022 != 0 => findings.error(
            directory.display().to_string(),
            format!(
                "others may change it (mode {:04o}): they could put their own keys there; run \
                 chmod go-w on it",
                metadata.mode() & 0o7777
            ),
        ),
        Ok(_) => {}
        Err(error) => findings.error(directory.display().to_string(), error.to_string()),
    }
}

fn secret(file: &Path, what: &str, findings: &mut Findings) {
    let about = file.display().to_string();
    match fs::metadata(file) {
        Ok(metadata) if metadata.mode() & 0o007 != 0 => findings.error(
            about,
            format!(
                "{what} is accessible to everybody (mode {:04o}); run chmod 600 on it, and think of \
                 a new one",
                metadata.mode() & 0o7777
            ),
        ),
        Ok(metadata) if metadata.mode() & 0o070 != 0 => findings.warn(
            about,
            format!(
                "{what} is accessible to its group (mode {:04o}); run chmod 600 on it",
                metadata.mode() & 0o7777
            ),
        ),
        Ok(_) => {}
        Err(error) => findings.error(about, format!("{what}: {error}")),
    }
}
