//! The files with secrets that a configuration names. A backup leaves them out, and `check` looks who can
//! read them: a new section with a secret has its line here.

use std::path::PathBuf;

use super::{Config, Database};
use crate::signer::KeySettings;

impl Config {
    /// Each file, and what it holds.
    pub(crate) fn secret_files(&self) -> Vec<(PathBuf, &'static str)> {
        let mut all = vec![
            (self.api.key.clone(), "the API's private key"),
            (self.api.webhook_key.clone(), "the key of webhooks' secrets"),
            (self.agents.key.clone(), "the private key for agents"),
            (self.audit.key.clone(), "the audit's private key"),
        ];
        let hub = self.agents.hub.iter().filter(|hub| hub.key != self.agents.key);
        all.extend(hub.map(|hub| (hub.key.clone(), "the hub's private key")));
        let signer = &self.signer;
        let freshness = signer.freshness.iter().map(|one| &one.key);
        let keys = signer.keys.iter().chain(&signer.revocation_keys).chain(freshness);
        all.extend(keys.filter_map(|key| match key {
            KeySettings::Pem { file } => Some((file.clone(), "the key that signs")),
            KeySettings::Pkcs11 { pin_file, .. } => {
                Some((pin_file.clone()?, "the PIN of a key that signs"))
            }
            KeySettings::Command { .. } | KeySettings::SshAgent { .. } => None,
        }));
        let authority = signer.authority.iter();
        all.extend(
            authority.map(|one| (one.key.clone(), "the private key of the hosts' authority")),
        );
        let syslog = self.syslog.iter().filter_map(|one| one.own.as_ref());
        all.extend(
            syslog.map(|(_, key)| (key.clone(), "the private key for a receiver of the audit")),
        );
        let bots = self.messages.slack.iter();
        all.extend(bots.map(|bot| (bot.token_file.clone(), "the token of a bot")));
        let mail = self.messages.mail.iter().filter_map(|mail| mail.password_file());
        all.extend(mail.map(|file| (file.clone(), "the password for mail")));
        let provider = self.oidc.iter().filter_map(|oidc| oidc.client_secret_file.as_ref());
        all.extend(provider.map(|file| (file.clone(), "the secret at the provider of sign-ins")));
        if let Some(bus) = &self.bus {
            all.push((bus.nkey.clone(), "the seed of the bus's nkey"));
            all.push((bus.key.clone(), "the private key for the bus"));
        }
        if let Database::Postgres { password_file: Some(file), .. } = &self.store {
            all.push((file.clone(), "the database's password"));
        }
        all
    }
}
