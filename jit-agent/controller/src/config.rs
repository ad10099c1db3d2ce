//! `controller.toml`, read once and checked as a whole: a [`Config`] is never half right, and a file that
//! is refused names every mistake with its line.
//!
//! Each module owns its section (`RawSettings` as it is written, `Settings` as it is used); they are put
//! together here. Relative paths begin in the directory of the file.

mod audit;
mod database;
mod hub;
mod read;
mod secret_files;
mod syslog;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use jit_proto::wrong::{Place, Places, Wrong, Wrongs};

pub use self::{
    audit::AuditConfig,
    database::Database,
    hub::{File, HubConfig},
    syslog::{Syslog, SyslogError},
};
use crate::{api, bus, enrol::settings as enrolment, fleet, messages, people::oidc, signer};

/// Name of the file in the controller's directory.
pub const FILE: &str = "controller.toml";
/// The controller's directory, where nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/jit-controller";
/// Why `[bus]` and `[hub]` do not go together where there is a database.
const BUS_AND_HUB: &str = "[hub]: with [bus], agents dial hubs that are processes of their own, whose \
                           file has only [bus] and [hub] (docs/bus.md): take [hub] out here";
/// The hub would refuse what the signer issues.
const OTHER_DOMAIN: &str = "[hub] trust_domain: it is another one than in [signer.authority], whose certificates \
                            this hub would then refuse; name the same in both";
/// Why `[bus]` needs keys for revocations.
const NOTHING_CLOSES: &str = "[bus]: over the bus grants are ended by signed revocations, and no key \
                              signs them: add [[signer.revocation_keys]] (docs/controller-signers.md)";
/// Largest file that is read, bytes.
const LONGEST: u64 = 1024 * 1024;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    pub file: PathBuf,
    /// Its directory.
    pub directory: PathBuf,
    /// Where the database is.
    pub store: Database,
    /// Where the API listens.
    pub api: api::Settings,
    /// How agents are reached.
    pub agents: fleet::Settings,
    /// The bus to hubs that are processes of their own; `None`: there are none.
    pub bus: Option<bus::Settings>,
    /// With what is signed, and what never is.
    pub signer: signer::Settings,
    /// The key of the audit.
    pub audit: AuditConfig,
    /// Receivers of the audit.
    pub syslog: Vec<Syslog>,
    /// Chats and mail.
    pub messages: messages::Settings,
    /// Where people sign in; `None`: only here.
    pub oidc: Option<oidc::Settings>,
    /// Which clouds say who a machine is.
    pub enrolment: enrolment::Settings,
}

/// A mistake, where it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where; `None`: it is about the file as a whole.
    pub place: Option<Place>,
    /// One sentence.
    pub text: String,
}

/// Why a file is refused: all mistakes, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Mistake { place, text }) in self.mistakes.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            match place {
                Some(Place { line, .. }) => write!(f, "{}:{line}: {text}", self.file.display())?,
                None => write!(f, "{}: {text}", self.file.display())?,
            }
        }
        Ok(())
    }
}

impl Config {
    /// Reads and checks a file. Files that it names are not opened.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text_of(file)?, file)
    }

    /// Checks a text as if it were the content of this file.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let (raw, mistakes) = read::sections(text);
        let mut wrongs = Wrongs::default();
        let config = check(raw, file, &directory_of(file), &mut wrongs);
        whole(config, wrongs, mistakes, text, file)
    }
}

/// What was read, if nothing in it is wrong.
fn whole<T>(
    read: Option<T>,
    wrongs: Wrongs,
    mut mistakes: Vec<Mistake>,
    text: &str,
    file: &Path,
) -> Result<T, ConfigError> {
    let places = Places::of(text);
    mistakes.extend(
        wrongs.into_iter().map(|Wrong { path, text }| Mistake { place: places.at(&path), text }),
    );
    mistakes.sort();
    mistakes.dedup();
    match read {
        Some(read) if mistakes.is_empty() => Ok(read),
        _ => Err(ConfigError { file: file.to_owned(), mistakes }),
    }
}

/// The content of a file.
fn text_of(file: &Path) -> Result<String, ConfigError> {
    let whole = |text: String| ConfigError {
        file: file.to_owned(),
        mistakes: vec![Mistake { place: None, text }],
    };
    let unread = |error: std::io::Error| {
        let next = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "; `jit-controller init` makes it, `--config FILE` names another one"
            }
            _ => "",
        };
        whole(format!("it cannot be read: {error}{next}"))
    };
    let size = fs::metadata(file).map_err(unread)?.len();
    if size > LONGEST {
        return Err(whole(format!("it has {size} bytes; no configuration is so long")));
    }
    fs::read_to_string(file).map_err(unread)
}

/// The directory in which a file's relative paths begin.
fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Checks what could be read. `None`: a section could not.
fn check(raw: read::Raw, file: &Path, directory: &Path, wrongs: &mut Wrongs) -> Option<Config> {
    let read::Raw {
        store,
        api,
        agents,
        bus,
        hub,
        signer,
        audit,
        syslog,
        messages,
        oidc,
        enrolment,
    } = raw;
    let store = store.and_then(|raw| Database::of(raw, directory, wrongs));
    let api = api.and_then(|raw| {
        let checked = api::Settings::of(raw, directory);
        checked.map_err(|text| wrongs.add("api", text)).ok()
    });
    let agents = agents.and_then(|raw| {
        let checked = raw.check(directory);
        checked.map_err(|part| wrongs.add_below("agents", named("agents", part))).ok()
    });
    let agents = agents.and_then(|mut agents| {
        if let Some(raw) = hub {
            if bus.is_some() {
                wrongs.add("hub", BUS_AND_HUB);
            }
            let checked = raw.check(&agents, directory);
            let checked =
                checked.map_err(|part| wrongs.add_below("hub", named("hub", part))).ok()?;
            agents.hub = Some(checked);
        }
        Some(agents)
    });
    let signer = signer.and_then(|mut settings: signer::Settings| {
        settings.resolve(directory);
        let checked = settings.check();
        checked
            .map_err(|error| wrongs.add(format!("signer.{}", error.field), error.to_string()))
            .ok()?;
        Some(settings)
    });
    let bus = hub::bus_of(bus, directory, wrongs);
    let closes = signer.as_ref().is_none_or(|signer| !signer.revocation_keys.is_empty());
    if matches!(bus, Some(Some(_))) && !closes {
        wrongs.add("bus", NOTHING_CLOSES);
    }
    let audit = audit.map(|raw| AuditConfig::of(raw, directory));
    let syslog: Vec<_> = syslog
        .into_iter()
        .enumerate()
        .filter_map(|(number, raw)| Syslog::of(raw, number, directory, wrongs))
        .collect();
    let messages = messages.and_then(|raw| {
        let checked = messages::Settings::of(raw, directory);
        checked.map_err(|text| wrongs.add("messages", text)).ok()
    });
    let enrolment = enrolment.and_then(|raw| {
        let checked = raw.check(directory);
        checked.map_err(|part| wrongs.add_below("enrolment", named("enrolment", part))).ok()
    });
    if let (Some(enrolment), Some(signer)) = (&enrolment, &signer)
        && enrolment.hub_ca.is_some()
        && signer.authority.is_none()
    {
        wrongs.add(
            "enrolment.hub_ca",
            "[enrolment] hub_ca: hosts cannot enrol without [signer.authority], which issues their \
             certificates",
        );
    }
    let hub = agents.as_ref().and_then(|agents| agents.hub.as_ref());
    let authority = signer.as_ref().and_then(|signer| signer.authority.as_ref());
    if let (Some(wanted), Some(authority)) =
        (hub.and_then(|hub| hub.trust_domain.as_ref()), authority)
        && *wanted != authority.trust_domain
    {
        wrongs.add("hub.trust_domain", OTHER_DOMAIN);
    }
    let public_url = api.as_ref().and_then(|api| api.public_url.clone());
    let oidc = oidc.map(|raw| {
        let checked = oidc::Settings::of(raw, public_url.as_deref(), directory);
        checked.map_err(|text| wrongs.add("oidc", text)).ok()
    });
    Some(Config {
        file: file.to_owned(),
        directory: directory.to_owned(),
        store: store?,
        api: api?,
        agents: agents?,
        bus: bus?,
        signer: signer?,
        audit: audit?,
        syslog,
        messages: messages?,
        oidc: match oidc {
            Some(checked) => Some(checked?),
            None => None,
        },
        enrolment: enrolment?,
    })
}

/// The same mistakes with the name of their section.
fn named(section: &str, part: Wrongs) -> Wrongs {
    let mut all = Wrongs::default();
    for Wrong { path, text } in part {
        all.add(path, format!("[{section}] {text}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const GOOD: &str = r#"
[store]
url = "sqlite:controller.db"
[api]
listen = "127.0.0.1:8443"
certificate = "api.pem"
key = "api.key"
[agents]
ca = "ca.pem"
certificate = "controller.pem"
key = "controller.key"
[signer]
keys = [{ kind = "pem", file = "signer.key" }]
[audit]
key = "audit.key"
[[syslog]]
server = "siem.example.org:6514"
ca = "siem.pem"
format = "ocsf"
"#;

    fn mistakes(text: &str) -> Vec<String> {
        let error = Config::parse(text, Path::new("/etc/c/controller.toml")).unwrap_err();
        let place = |one: &Mistake| one.place.map_or(0, |place| place.line);
        error.mistakes.iter().map(|one| format!("{}: {}", place(one), one.text)).collect()
    }

    #[test]
    fn a_hub_does_not_refuse_the_certificates_that_are_issued_here() {
        let file = |domain: &str| {
            format!(
                "{GOOD}[signer.authority]\nkey = 'a.key'\ncertificate = 'a.pem'\n\
                 trust_domain = 'example.org'\n[hub]\nlisten = '0.0.0.0:7444'\ntrust_domain = '{domain}'\n"
            )
        };
        assert!(Config::parse(&file("example.org"), Path::new("/etc/c/controller.toml")).is_ok());
        let mistakes = mistakes(&file("example.com"));
        assert!(mistakes.len() == 1 && mistakes[0].contains(OTHER_DOMAIN), "{mistakes:?}");
    }

    #[test]
    fn a_good_file_is_read_and_its_paths_begin_beside_it() {
        let config = Config::parse(GOOD, Path::new("/etc/c/controller.toml")).unwrap();
        assert_eq!(config.store.url(), Ok("sqlite:///etc/c/controller.db".to_owned()));
        assert_eq!(config.agents.ca, Path::new("/etc/c/ca.pem"));
        assert_eq!(config.audit.key, Path::new("/etc/c/audit.key"));
        assert_eq!(config.syslog.len(), 1);
        assert!(config.enrolment.ec2.is_none());
        assert!(config.agents.hub.is_none());
    }

    #[test]
    fn a_hub_takes_the_files_of_the_agents_unless_it_names_its_own() {
        let text = format!("{GOOD}[hub]\nlisten = \"0.0.0.0:7444\"\nclient_ca = \"hosts.pem\"\n");
        let config = Config::parse(&text, Path::new("/etc/c/controller.toml")).unwrap();
        let hub = config.agents.hub.unwrap();
        assert_eq!(hub.certificate, Path::new("/etc/c/controller.pem"));
        assert_eq!(hub.client_ca, Path::new("/etc/c/hosts.pem"));
        let found = mistakes(&text.replace("0.0.0.0:7444", "7444"));
        assert!(found.iter().any(|one| one.contains("[hub] listen")), "{found:?}");
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let text = GOOD
            .replace("listen =", "listn =")
            .replace("[audit]", "[adit]")
            .replace("kind = \"pem\"", "kind = \"pen\"")
            .replace("key = \"controller.key\"\n", "key = 7\ntimeout = \"soon\"\n")
            .replace("format = \"ocsf\"", "format = \"xml\"");
        let found = mistakes(&text);
        for (line, words) in [
            (5, &["listn", "did you mean `listen`?"][..]),
            (11, &["key", "string"]),
            (14, &["pen"]),
            (15, &["adit", "did you mean `audit`?"]),
            (20, &["format", "xml"]),
        ] {
            let begin = format!("{line}: ");
            let one = found.iter().find(|one| one.starts_with(&begin));
            let one = one.unwrap_or_else(|| panic!("line {line}: {found:#?}"));
            assert!(words.iter().all(|word| one.contains(word)), "{one}");
        }
    }

    #[test]
    fn the_audience_of_a_clouds_own_api_is_refused_with_its_line() {
        let tenants = "tenants = ['72f988bf-0000-0000-0000-2d7cd011db47']";
        let with =
            |audience: &str| format!("{GOOD}[enrolment.arc]\naudience = '{audience}'\n{tenants}\n");
        let file = Path::new("/etc/c/controller.toml");
        assert!(Config::parse(&with("api://jit.example.org"), file).is_ok());
        let found = mistakes(&with("https://management.azure.com/"));
        let [one] = found.as_slice() else { panic!("{found:#?}") };
        assert!(
            one.starts_with("21: [enrolment] arc.audience") && one.contains("keys to it"),
            "{one}"
        );
    }

    #[test]
    fn a_section_that_must_be_there_is_missed() {
        let found = mistakes("[store]\nurl = \"mysql://x\"\n[agents]\nca = \"x\"\n");
        let all = found.join("\n");
        for words in ["[signer]", "[audit]", "missing field `certificate`", "mysql"] {
            assert!(all.contains(words), "{words}: {all}");
        }
        assert!(mistakes("[store]\nurl = \"x\n[api]\nlisten = x\n").len() > 1);
    }

    #[test]
    fn a_value_that_is_wrong_is_named_beside_one_of_another_section() {
        let text = GOOD
            .replace("127.0.0.1:8443", "8443")
            .replace("key = \"controller.key\"\n", "key = \"c\"\ntimeout = \"soon\"\n")
            .replace("siem.example.org:6514", "siem");
        let all = mistakes(&text).join("\n");
        for words in ["api.listen", "[agents] timeout", "server: \"siem\""] {
            assert!(all.contains(words), "{words}: {all}");
        }
    }
}
