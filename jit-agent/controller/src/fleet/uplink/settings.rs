//! `[hub]` of the controller's configuration: where agents dial in.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use jit_client::HostUri;
use jit_proto::{printable::clean, wrong::Wrongs};
use serde::Deserialize;

use super::super::Settings;

/// Longest name of a hub, characters.
const LONGEST_NAME: usize = 64;

/// `[hub]` as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHubSettings {
    /// Where agents connect: `0.0.0.0:7444`.
    pub listen: String,
    /// The hub's name among several.
    pub name: Option<String>,
    /// The hub's certificate, PEM; otherwise that of `[agents]`.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// CA of the agents' certificates, PEM; otherwise that of `[agents]`.
    pub client_ca: Option<PathBuf>,
    /// The trust domain of its hosts: `example.org`; otherwise that of whoever the CA vouches for.
    pub trust_domain: Option<String>,
    /// Where a hub without a database says over plain HTTP how it is: `127.0.0.1:7445`.
    pub health: Option<String>,
    /// Connections that are held at the same time.
    pub connections: Option<usize>,
    /// Handshakes that are made at the same time; one network gets half of them.
    pub handshakes: Option<usize>,
}

/// Where agents dial in.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Its name among several; empty: it is the only one.
    pub name: String,
    /// The hub's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// CA of the agents' certificates, PEM.
    pub client_ca: PathBuf,
    /// The trust domain of its hosts; `None`: that of whoever the CA vouches for.
    pub trust_domain: Option<String>,
    /// Where it says over plain HTTP how it is; `None`: nowhere.
    pub health: Option<SocketAddr>,
    /// Connections that are held at the same time.
    pub connections: usize,
    /// Handshakes that are made at the same time.
    pub handshakes: usize,
}

impl HubSettings {
    /// With the files by which agents are dialled.
    pub fn new(listen: SocketAddr, agents: &Settings) -> Self {
        Self {
            listen,
            name: String::new(),
            certificate: agents.certificate.clone(),
            key: agents.key.clone(),
            client_ca: agents.ca.clone(),
            trust_domain: None,
            health: None,
            connections: 12_000,
            handshakes: 256,
        }
    }
}

impl RawHubSettings {
    /// The settings of a hub that has no `[agents]` beside it: it names all its files.
    ///
    /// # Errors
    /// Every wrong value, by its path below the section.
    pub fn check_alone(mut self, directory: &Path) -> Result<HubSettings, Wrongs> {
        let health = self.health.take();
        let Self { name, certificate, key, client_ca, .. } = &self;
        let mut wrongs = Wrongs::default();
        if name.is_none() {
            wrongs
                .add("name", "name is missing: the controller shows by it which hub a host is at");
        }
        for (name, file) in [("certificate", certificate), ("key", key), ("client_ca", client_ca)] {
            if file.is_none() {
                wrongs.add(
                    name,
                    format!("{name} is missing: a hub without [agents] names all its files"),
                );
            }
        }
        let health = health.and_then(|text| {
            let parsed = text.parse().map_err(|_| {
                let why = format!("health: {text:?} is no ADDRESS:PORT such as 127.0.0.1:7445");
                wrongs.add("health", why);
            });
            parsed.ok()
        });
        let none = PathBuf::new;
        let checked = self.check(&Settings::new(none(), none(), none()), directory);
        let checked = checked.map(|settings| HubSettings { health, ..settings });
        match checked {
            Ok(settings) => wrongs.end(settings),
            Err(more) => {
                more.into_iter().for_each(|wrong| wrongs.add(wrong.path, wrong.text));
                Err(wrongs)
            }
        }
    }

    /// The settings; paths are below `directory`.
    ///
    /// # Errors
    /// Every wrong value, by its path below the section.
    pub fn check(self, agents: &Settings, directory: &Path) -> Result<HubSettings, Wrongs> {
        let Self { listen, name, certificate, key, client_ca, .. } = self;
        let Self { trust_domain, health, connections, handshakes, .. } = self;
        let mut wrongs = Wrongs::default();
        if health.is_some() {
            let why =
                "health: it is for a hub without a database; here `/readyz` of the API says it";
            wrongs.add("health", why);
        }
        let parsed = listen.parse().map_err(|_| {
            let why = format!("listen: {listen:?} is no ADDRESS:PORT such as 0.0.0.0:7444");
            wrongs.add("listen", why);
        });
        let mut settings =
            HubSettings::new(parsed.unwrap_or_else(|()| ([0, 0, 0, 0], 0).into()), agents);
        if let Some(name) = name {
            if name.is_empty() || clean(&name, LONGEST_NAME) != name {
                let why = format!("name: {name:?} is not 1 to {LONGEST_NAME} printable characters");
                wrongs.add("name", why);
            }
            settings.name = name;
        }
        if let Some(why) = trust_domain.as_ref().and_then(|text| HostUri::new(text, "x").err()) {
            wrongs.add("trust_domain", format!("trust_domain: {why}"));
        }
        settings.trust_domain = trust_domain;
        if certificate.is_some() != key.is_some() {
            let name = if key.is_some() { "key" } else { "certificate" };
            wrongs.add(name, "certificate and key belong together: name both, or neither");
        }
        for (given, value) in [
            (certificate, &mut settings.certificate),
            (key, &mut settings.key),
            (client_ca, &mut settings.client_ca),
        ] {
            if let Some(file) = given {
                *value = directory.join(file);
            }
        }
        for (name, given, most, value) in [
            ("connections", connections, 1_000_000, &mut settings.connections),
            ("handshakes", handshakes, 4096, &mut settings.handshakes),
        ] {
            match given {
                Some(number) if (2..=most).contains(&number) => *value = number,
                Some(number) => wrongs.add(name, format!("{name}: {number} is not 2 to {most}")),
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
    fn the_files_of_agents_are_taken_and_every_wrong_value_is_named() {
        let agents = Settings::new("/c/ca.pem".into(), "/c/c.pem".into(), "/c/c.key".into());
        let check = |text: &str| {
            let raw: RawHubSettings = toml::from_str(text).unwrap();
            raw.check(&agents, Path::new("/etc/x"))
        };
        let settings = check("listen = '0.0.0.0:7444'\nclient_ca = 'hosts.pem'").unwrap();
        assert_eq!(settings.certificate, Path::new("/c/c.pem"));
        assert_eq!(settings.client_ca, Path::new("/etc/x/hosts.pem"));
        let wrong = "listen = '7444'\nkey = 'k'\nconnections = 0\ntrust_domain = 'a b'";
        let paths: Vec<_> = check(wrong).unwrap_err().into_iter().map(|one| one.path).collect();
        assert_eq!(paths, ["listen", "trust_domain", "key", "connections"]);
    }
}
