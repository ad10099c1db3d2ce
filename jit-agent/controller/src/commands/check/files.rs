//! Files and their modes: a key that others can read is everybody's.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::{
    config::{Config, Database},
    health::Findings,
    signer::KeySettings,
};

pub(super) fn check(config: &Config, findings: &mut Findings) {
    directory(&config.directory, findings);
    let mut secrets = vec![
        (&config.api.key, "the API's private key"),
        (&config.agents.key, "the private key for agents"),
        (&config.audit.key, "the audit's private key"),
    ];
    let hub = config.agents.hub.iter().filter(|hub| hub.key != config.agents.key);
    secrets.extend(hub.map(|hub| (&hub.key, "the hub's private key")));
    let freshness = config.signer.freshness.iter().map(|one| &one.key);
    for key in config.signer.keys.iter().chain(&config.signer.revocation_keys).chain(freshness) {
        if let KeySettings::Pem { file } = key {
            secrets.push((file, "the key that signs"));
        }
    }
    let authority = config.signer.authority.as_ref();
    secrets.extend(authority.map(|one| (&one.key, "the private key of the hosts' authority")));
    secrets.extend(config.syslog.iter().filter_map(|one| {
        one.own.as_ref().map(|(_, key)| (key, "the private key for a receiver of the audit"))
    }));
    let bots = &config.messages.slack;
    secrets.extend(bots.iter().map(|bot| (&bot.token_file, "the token of a bot")));
    let mail = config.messages.mail.as_ref().and_then(|mail| mail.password_file());
    secrets.extend(mail.map(|file| (file, "the password for mail")));
    let provider = config.oidc.as_ref().and_then(|oidc| oidc.client_secret_file.as_ref());
    secrets.extend(provider.map(|file| (file, "the secret at the provider of sign-ins")));
    match &config.store {
        Database::Sqlite(file) if file.exists() => secrets.push((file, "the database")),
        Database::Postgres { password_file: Some(file), .. } => {
            secrets.push((file, "the database's password"));
        }
        Database::Postgres { .. } | Database::Sqlite(_) => {}
    }
    let before = findings.all().len();
    for (file, what) in secrets {
        secret(file, what, findings);
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
