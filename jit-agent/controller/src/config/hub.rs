//! The file of a hub that has neither a database nor a key: `[bus]` and `[hub]`, and nothing else.

use std::path::{Path, PathBuf};

use jit_proto::wrong::Wrongs;

use super::{Config, ConfigError, directory_of, named, read, text_of, whole};
use crate::{bus, fleet};

/// What a file is.
#[derive(Clone, Debug)]
pub enum File {
    /// That of a controller.
    Controller(Box<Config>),
    /// That of a hub.
    Hub(Box<HubConfig>),
}

/// The configuration of a hub without a database.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// The file.
    pub file: PathBuf,
    /// The bus.
    pub bus: bus::Settings,
    /// Where agents connect.
    pub hub: fleet::HubSettings,
}

impl File {
    /// Reads and checks a file, whichever it is.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = text_of(file)?;
        match HubConfig::parse(&text, file) {
            Some(hub) => Ok(Self::Hub(Box::new(hub?))),
            None => Ok(Self::Controller(Box::new(Config::parse(&text, file)?))),
        }
    }
}

impl HubConfig {
    /// Checks a text as if it were the content of this file. `None`: it is not that of a hub.
    pub fn parse(text: &str, file: &Path) -> Option<Result<Self, ConfigError>> {
        let (raw, mistakes) = read::hub(text)?;
        let mut wrongs = Wrongs::default();
        let directory = directory_of(file);
        let bus = bus_of(raw.bus, &directory, &mut wrongs);
        let hub = raw.hub.and_then(|raw| {
            let checked = raw.check_alone(&directory);
            checked.map_err(|part| wrongs.add_below("hub", named("hub", part))).ok()
        });
        let config =
            bus.flatten().zip(hub).map(|(bus, hub)| Self { file: file.to_owned(), bus, hub });
        Some(whole(config, wrongs, mistakes, text, file))
    }
}

/// Checks `[bus]`, where it is. `None`: something in it is wrong.
pub(super) fn bus_of(
    raw: Option<bus::RawSettings>,
    directory: &Path,
    wrongs: &mut Wrongs,
) -> Option<Option<bus::Settings>> {
    let Some(raw) = raw else { return Some(None) };
    if cfg!(not(feature = "nats")) {
        wrongs.add("bus", "[bus]: this jit-controller was built without the feature `nats`");
        return None;
    }
    let checked = raw.check(directory);
    checked.map_err(|part| wrongs.add_below("bus", named("bus", part))).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[bus]
servers = ["tls://192.0.2.1:4222"]
nkey = "hub.nk"
ca = "ca.pem"
certificate = "bus.pem"
key = "bus.key"
[hub]
name = "hub-a"
listen = "0.0.0.0:7444"
certificate = "hub.pem"
key = "hub.key"
client_ca = "hosts.pem"
"#;

    fn parsed(text: &str) -> Option<Result<HubConfig, ConfigError>> {
        HubConfig::parse(text, Path::new("/etc/h/controller.toml"))
    }

    #[test]
    fn a_hub_has_a_bus_and_a_port_and_nothing_else() {
        let config = parsed(GOOD).unwrap().unwrap();
        assert_eq!(config.hub.name, "hub-a");
        assert_eq!(config.hub.client_ca, Path::new("/etc/h/hosts.pem"));
        assert_eq!(config.bus.nkey, Path::new("/etc/h/hub.nk"));
        let with = format!("{GOOD}[store]\nurl = 'sqlite:x.db'\n");
        let said = parsed(&with).unwrap().unwrap_err().to_string();
        assert!(said.contains(":14: [store] does not belong here"), "{said}");
        let bad = format!("{GOOD}health = 'everywhere'\n");
        let said = parsed(&bad).unwrap().unwrap_err().to_string();
        assert!(said.contains(":14:") && said.contains("\"everywhere\" is no"), "{said}");
        let without = GOOD.replace("client_ca = \"hosts.pem\"\n", "").replace("hub-a", "");
        let said = parsed(&without).unwrap().unwrap_err().to_string();
        assert!(said.contains("client_ca") && said.contains("[hub] name"), "{said}");
    }

    #[test]
    fn a_file_that_signs_or_has_no_bus_is_no_hubs() {
        assert!(parsed(&format!("{GOOD}[signer]\n")).is_none());
        assert!(parsed("[hub]\nlisten = '0.0.0.0:1'\n").is_none());
    }
}
