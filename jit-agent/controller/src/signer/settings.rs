//! What the signer may do, and with which keys: the section `[signer]` of the configuration.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use jit_proto::{PortRange, dsse::MAX_SIGNATURES};
use serde::{Deserialize, Serialize};

use super::{
    authority::AuthoritySettings, duration_text, freshness::FreshnessSettings,
    key_settings::KeySettings,
};
use crate::model::{as_text, proposal};

/// The most signatures a minute that can be set.
const MAX_RATE: u32 = 100_000;

/// The section `[signer]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// File that says what was signed, so that nothing is signed twice with other bytes.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// The keys: each grant is signed by all of them.
    pub keys: Vec<KeySettings>,
    /// The keys that sign revocations, and nothing else: each revocation is signed by all of them. Without
    /// one none is signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocation_keys: Vec<KeySettings>,
    /// What is never signed, whoever has agreed.
    #[serde(default)]
    pub limits: Limits,
    /// Who issues certificates of hosts; without it none is issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthoritySettings>,
    /// What signs checkpoints; without it none are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<FreshnessSettings>,
}

/// What a process of the signer is for. Each has its own: a key that hangs or cannot be opened holds up
/// nothing of another purpose, and nothing that opens holds up what closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Revocations.
    Closes,
    /// Grants, policies, and certificates of hosts.
    Opens,
    /// Checkpoints.
    Stamps,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closes, Self::Opens, Self::Stamps];

    /// What it signs.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Closes => "revocations",
            Self::Opens => "grants",
            Self::Stamps => "checkpoints",
        }
    }
}

/// What is never signed, whoever has agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest time of a grant.
    #[serde(with = "duration_text")]
    pub longest: Duration,
    /// The ports that may be opened; empty: all.
    #[serde(with = "as_text::list")]
    pub ports: Vec<PortRange>,
    /// Ids of hosts, with `*` and `?`, that may be opened; empty: all.
    pub hosts: Vec<String>,
    /// The most hosts of a request.
    pub hosts_a_request: usize,
    /// Shortest prefix length of an IPv4 source.
    pub widest_ipv4: u8,
    /// Shortest prefix length of an IPv6 source.
    pub widest_ipv6: u8,
    /// The most grants and policies that are signed in a minute.
    pub signatures_a_minute: u32,
    /// Whether policies are signed.
    pub policies: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            longest: proposal::MAX_DURATION,
            ports: Vec::new(),
            hosts: Vec::new(),
            hosts_a_request: 1000,
            widest_ipv4: 16,
            widest_ipv6: 32,
            signatures_a_minute: 600,
            policies: false,
        }
    }
}

/// What is wrong with the settings: the field, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signer.{field}: {why}")]
pub struct SettingsError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Settings {
    /// The settings for a key in a file, as `init` writes them.
    pub fn of_pem(file: &Path) -> Self {
        let key = KeySettings::Pem { file: file.to_owned() };
        let (journal, limits) = (default_journal(), Limits::default());
        let revocation_keys = Vec::new();
        Self { journal, keys: vec![key], revocation_keys, limits, authority: None, freshness: None }
    }

    /// Makes relative paths begin in this directory.
    pub fn resolve(&mut self, directory: &Path) {
        let absolute = |path: &mut PathBuf| *path = directory.join(&*path);
        absolute(&mut self.journal);
        self.authority.iter_mut().for_each(|authority| authority.resolve(directory));
        self.freshness.iter_mut().for_each(|freshness| freshness.resolve(directory));
        let keys = self.keys.iter_mut().chain(&mut self.revocation_keys);
        keys.for_each(|key| key.resolve(directory));
    }

    /// What the process for this purpose gets; `None`: there is none.
    pub(super) fn part(&self, purpose: Purpose) -> Option<Self> {
        let mut part = self.clone();
        if purpose != Purpose::Opens {
            (part.keys, part.authority) = (Vec::new(), None);
        }
        if purpose != Purpose::Closes {
            part.revocation_keys = Vec::new();
        }
        if purpose != Purpose::Stamps {
            part.freshness = None;
        }
        match purpose {
            Purpose::Closes if part.revocation_keys.is_empty() => return None,
            Purpose::Closes => part.journal = self.journal.with_added_extension("closing"),
            Purpose::Stamps if part.freshness.is_none() => return None,
            Purpose::Opens | Purpose::Stamps => {}
        }
        Some(part)
    }

    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.keys.is_empty() {
            let why = format!("none of them; 1 to {MAX_SIGNATURES} can sign");
            return Err(SettingsError { field: "keys", why });
        }
        self.check_part()
    }

    /// The same of what one process gets.
    pub(super) fn check_part(&self) -> Result<(), SettingsError> {
        let wrong = |field, why: String| Err(SettingsError { field, why });
        let Limits { longest, hosts, hosts_a_request, widest_ipv4, widest_ipv6, .. } = &self.limits;
        if self.keys.len() > MAX_SIGNATURES {
            let why = format!("{} of them; 1 to {MAX_SIGNATURES} can sign", self.keys.len());
            return wrong("keys", why);
        }
        if self.revocation_keys.len() > MAX_SIGNATURES {
            let count = self.revocation_keys.len();
            return wrong("revocation_keys", format!("{count} of them; at most {MAX_SIGNATURES}"));
        }
        let is_empty = |key: &KeySettings| match key {
            KeySettings::Command { command, .. } => command.first().is_none_or(String::is_empty),
            _ => false,
        };
        let mut distinct = BTreeSet::new();
        for (field, keys) in [("keys", &self.keys), ("revocation_keys", &self.revocation_keys)] {
            if keys.iter().any(is_empty) {
                return wrong(field, "a command is empty; name the program".into());
            }
            if !keys.iter().all(|key| distinct.insert(format!("{key:?}"))) {
                let why = "the same key stands there twice; a key signs once, and either grants or \
                           revocations";
                return wrong(field, why.into());
            }
        }
        if !(Duration::from_secs(1)..=proposal::MAX_DURATION).contains(longest) {
            return wrong("limits.longest", "it is from 1s to 24h".into());
        }
        if hosts.iter().any(String::is_empty) {
            return wrong("limits.hosts", "one of them is empty; `*` is every host".into());
        }
        if !(1..=proposal::MAX_HOSTS).contains(hosts_a_request) {
            let why = format!("it is from 1 to {}", proposal::MAX_HOSTS);
            return wrong("limits.hosts_a_request", why);
        }
        if *widest_ipv4 > 32 {
            return wrong("limits.widest_ipv4", "a prefix length is from 0 to 32".into());
        }
        if *widest_ipv6 > 128 {
            return wrong("limits.widest_ipv6", "a prefix length is from 0 to 128".into());
        }
        if !(1..=MAX_RATE).contains(&self.limits.signatures_a_minute) {
            return wrong("limits.signatures_a_minute", format!("it is from 1 to {MAX_RATE}"));
        }
        let checked = self.authority.as_ref().map_or(Ok(()), AuthoritySettings::check);
        let freshness = self.freshness.as_ref().map_or(Ok(()), |one| one.check(&self.keys));
        checked.and(freshness).or_else(|(field, why)| wrong(field, why))
    }
}

fn default_journal() -> PathBuf {
    "signer.journal".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [[keys]]
        kind = "pem"
        file = "signer.key"
        [[keys]]
        kind = "command"
        command = ["./kms.py", "--key", "x"]
        [[revocation_keys]]
        kind = "pem"
        file = "closing.key"
        [limits]
        longest = "8h"
        ports = ["22", "3389/tcp"]
        hosts = ["web-*"]
        [authority]
        certificate = "hosts/ca.pem"
        key = "hosts/ca.key"
        trust_domain = "example.org"
    "#;

    #[test]
    fn a_section_is_read_with_defaults_and_survives_json() {
        let mut settings: Settings = toml::from_str(TEXT).unwrap();
        settings.check().unwrap();
        assert_eq!(settings.limits.longest, Duration::from_secs(8 * 3600));
        assert_eq!(settings.limits.signatures_a_minute, 600);
        settings.resolve(Path::new("/etc/c"));
        assert_eq!(settings.journal, Path::new("/etc/c/signer.journal"));
        let closing = KeySettings::Pem { file: "/etc/c/closing.key".into() };
        assert_eq!(settings.revocation_keys, [closing]);
        let KeySettings::Command { command, .. } = &settings.keys[1] else { panic!() };
        assert_eq!(command[0], "/etc/c/./kms.py");
        let authority = settings.authority.as_ref().unwrap();
        assert_eq!(authority.key, Path::new("/etc/c/hosts/ca.key"));
        assert_eq!(authority.lifetime, Duration::from_secs(7 * 24 * 3600));
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut Settings);
        fn authority(s: &mut Settings) -> &mut AuthoritySettings {
            s.authority.as_mut().unwrap()
        }
        let changes: [(&str, Change); 16] = [
            ("authority.trust_domain", |s| authority(s).trust_domain.push('/')),
            ("authority.lifetime", |s| authority(s).lifetime = Duration::from_secs(59)),
            ("authority.certificates_a_minute", |s| authority(s).certificates_a_minute = 0),
            ("keys", |s| s.keys.clear()),
            ("keys", |s| s.keys.push(s.keys[0].clone())),
            ("revocation_keys", |s| s.revocation_keys.push(s.keys[0].clone())),
            ("revocation_keys", |s| s.revocation_keys.push(s.revocation_keys[0].clone())),
            ("revocation_keys", |s| {
                let file = |number: usize| KeySettings::Pem { file: number.to_string().into() };
                s.revocation_keys.extend((0..MAX_SIGNATURES).map(file));
            }),
            ("revocation_keys", |s| {
                let (command, timeout) = (Vec::new(), Duration::from_secs(1));
                s.revocation_keys.push(KeySettings::Command { command, public_key: None, timeout });
            }),
            ("limits.longest", |s| s.limits.longest = Duration::ZERO),
            ("limits.longest", |s| s.limits.longest = Duration::from_secs(90_000)),
            ("limits.hosts", |s| s.limits.hosts.push(String::new())),
            ("limits.hosts_a_request", |s| s.limits.hosts_a_request = 0),
            ("limits.widest_ipv4", |s| s.limits.widest_ipv4 = 33),
            ("limits.widest_ipv6", |s| s.limits.widest_ipv6 = 129),
            ("limits.signatures_a_minute", |s| s.limits.signatures_a_minute = 0),
        ];
        for (field, change) in changes {
            let mut settings: Settings = toml::from_str(TEXT).unwrap();
            change(&mut settings);
            assert_eq!(settings.check().unwrap_err().field, field);
        }
        assert!(toml::from_str::<Settings>("keys = []\nx = 1").is_err());
        assert!(toml::from_str::<Settings>("[[keys]]\nkind = \"pem\"\nfiel = \"x\"").is_err());
    }
}
