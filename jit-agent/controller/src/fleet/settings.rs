//! `[agents]` of the controller's configuration: how agents are reached.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jit_proto::{toml_value::duration, wrong::Wrongs};
use serde::Deserialize;

use super::uplink::HubSettings;

/// Room for large answers: the lists of a million grants.
pub(super) const ANSWERS: usize = 256 * 1024 * 1024;

/// `[agents]` as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// CA of the agents' certificates, PEM.
    pub ca: PathBuf,
    /// The controller's certificate, as agents' `[[controller]]` sections name it, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// How often each agent is asked for its status: `30s`.
    pub follow_every: Option<String>,
    /// The longest wait for a connection or an answer: `10s`.
    pub timeout: Option<String>,
    /// Connections that are made at the same time.
    pub dials_at_once: Option<usize>,
    /// Hosts that get something delivered at the same time.
    pub hosts_at_once: Option<usize>,
}

/// How agents are reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// CA of the agents' certificates, PEM.
    pub ca: PathBuf,
    /// The controller's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// How often each agent is asked for its status.
    pub follow_every: Duration,
    /// The longest wait for a connection or an answer.
    pub timeout: Duration,
    /// Connections that are made at the same time.
    pub dials_at_once: usize,
    /// Hosts that get something delivered at the same time.
    pub hosts_at_once: usize,
    /// Bytes of large answers of all hosts that are held at the same time.
    pub answers: usize,
    /// Where agents dial in; `None`: nowhere.
    pub hub: Option<HubSettings>,
}

impl Settings {
    /// With these files, and what is good for ten thousand hosts.
    pub const fn new(ca: PathBuf, certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            ca,
            certificate,
            key,
            follow_every: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            dials_at_once: 128,
            hosts_at_once: 1024,
            answers: ANSWERS,
            hub: None,
        }
    }
}

impl RawSettings {
    /// The settings; paths are below `directory`.
    ///
    /// # Errors
    /// Every wrong value, by its path below the section.
    pub fn check(self, directory: &Path) -> Result<Settings, Wrongs> {
        let Self { ca, certificate, key, follow_every, timeout, dials_at_once, hosts_at_once } =
            self;
        let mut wrongs = Wrongs::default();
        let files = [ca, certificate, key].map(|file| directory.join(file));
        let [ca, certificate, key] = files;
        let mut settings = Settings::new(ca, certificate, key);
        let mut time = |name: &str, text: Option<String>, value: &mut Duration| {
            if let Some(text) = text {
                *value = wrongs.or(name, duration(name, &text), *value);
            }
        };
        time("follow_every", follow_every, &mut settings.follow_every);
        time("timeout", timeout, &mut settings.timeout);
        for (name, given, value) in [
            ("dials_at_once", dials_at_once, &mut settings.dials_at_once),
            ("hosts_at_once", hosts_at_once, &mut settings.hosts_at_once),
        ] {
            match given {
                Some(number @ 1..=4096) => *value = number,
                Some(number) => wrongs.add(name, format!("{name}: {number} is not 1 to 4096")),
                None => {}
            }
        }
        wrongs.end(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_value_is_named() {
        let raw = |more: &str| -> RawSettings {
            toml::from_str(&format!("ca = 'ca.pem'\ncertificate = 'c.pem'\nkey = 'c.key'\n{more}"))
                .unwrap()
        };
        let settings = raw("follow_every = '1m'").check(Path::new("/etc/x")).unwrap();
        assert_eq!(settings.ca, Path::new("/etc/x/ca.pem"));
        assert_eq!(settings.follow_every, Duration::from_secs(60));
        let wrong = raw("timeout = 'soon'\nhosts_at_once = 0").check(Path::new("/")).unwrap_err();
        let paths: Vec<_> = wrong.into_iter().map(|wrong| wrong.path).collect();
        assert_eq!(paths, ["timeout", "hosts_at_once"]);
    }
}
