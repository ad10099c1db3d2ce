//! The part of a configuration that the on-call commands need, also when the file is broken: each
//! key that can be read, and the default of every other. Nothing here is checked; the agent itself
//! runs only with a [`Config`](crate::config::Config).

use std::{
    fs,
    io::ErrorKind,
    iter,
    path::{Path, PathBuf},
};

use jit_proto::wrong::Wrongs;
use toml::{Table, Value};

use crate::config::{interfaces::InterfaceFilter, paths::Paths};

/// The most paths in a text that are looked at as state directories.
const MOST_STATES: usize = 64;

/// A configuration as far as it can be read.
#[derive(Clone, Debug)]
pub struct Glimpse {
    /// The directories of the agent.
    pub paths: Paths,
    /// The id that grants name; empty when the file has none.
    pub host: String,
    /// The interfaces to gate; all when the file names none.
    pub interfaces: InterfaceFilter,
    /// The paths of the file itself, and of the key and certificate files that it names.
    pub files: Vec<PathBuf>,
    /// The paths of what is secret among them: private keys, and credentials for a proxy.
    pub secrets: Vec<PathBuf>,
    /// Why `paths` may be wrong: the file exists, but cannot be read or is not TOML.
    pub unreadable: Option<String>,
    /// The directories in which this file's agent may have its state, likeliest first.
    pub states: Vec<PathBuf>,
}

impl Glimpse {
    /// Reads a file. A file that does not exist gives the defaults.
    pub fn of(path: &Path) -> Self {
        let (text, lost) = match fs::read(path) {
            Ok(bytes) => (String::from_utf8_lossy(&bytes).into_owned(), None),
            Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        let (table, cause) = match text.parse() {
            Ok(table) => (table, lost),
            Err(error) => {
                let error: toml::de::Error = error;
                (scanned(&text), Some(error.message().to_owned()))
            }
        };
        let unreadable = cause.map(|cause| {
            format!(
                "{} cannot be read ({cause}); the paths are those that a line of it sets, else the \
                 default ones",
                path.display()
            )
        });
        let host = table.get("host").and_then(|host| host.get("id")).and_then(Value::as_str);
        let paths = paths(&table);
        Self {
            states: states(&paths.state, &text),
            paths,
            host: host.unwrap_or_default().to_owned(),
            interfaces: interfaces(&table),
            secrets: secrets(&table).map(|name| beside(path, name)).collect(),
            files: iter::once(path.to_owned()).chain(named_files(&table, path)).collect(),
            unreadable,
        }
    }
}

/// The paths in a text that is not TOML: each line that sets one, wherever it is. No other section
/// has keys of these names.
fn scanned(text: &str) -> Table {
    let mut paths = Table::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, mut quoted) = (key.trim(), value.split(['"', '\'']).skip(1));
        if let ("state" | "runtime" | "pins", Some(path)) = (key, quoted.next())
            && path.starts_with('/')
        {
            paths.insert(key.to_owned(), Value::String(path.to_owned()));
        }
    }
    iter::once(("paths".to_owned(), Value::Table(paths))).collect()
}

/// Where the state may be: where the file says, where the service manager says, where it is by
/// default, and every absolute path in the text. So a typo in the name of the section or the key
/// hides nothing. (A typo in the path itself does, unless the directory is one of the first three.)
fn states(state: &Path, text: &str) -> Vec<PathBuf> {
    let given = std::env::var_os("STATE_DIRECTORY");
    let given = given.iter().flat_map(std::env::split_paths);
    let quoted = text.lines().flat_map(|line| line.split(['"', '\'']).skip(1).step_by(2));
    let quoted = quoted.filter(|path| path.starts_with('/')).map(PathBuf::from).take(MOST_STATES);
    let mut states = vec![state.to_owned()];
    for path in given.chain([Paths::default().state]).chain(quoted) {
        if !states.contains(&path) {
            states.push(path);
        }
    }
    states
}

fn paths(table: &Table) -> Paths {
    let path = |key: &str, default: PathBuf| {
        let path = table.get("paths").and_then(|paths| paths.get(key)).and_then(Value::as_str);
        path.map_or(default, PathBuf::from)
    };
    let Paths { state, runtime, pins } = Paths::default();
    Paths {
        state: path("state", state),
        runtime: path("runtime", runtime),
        pins: path("pins", pins),
    }
}

fn interfaces(table: &Table) -> InterfaceFilter {
    let list = |key: &str| table.get("gate").and_then(|gate| gate.get(key))?.as_array();
    let globs = list("interfaces")
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let exclude = list("exclude").into_iter().flatten();
    let exclude = exclude.filter_map(|entry| entry.clone().try_into().ok());
    let mut wrongs = Wrongs::default();
    let filter = InterfaceFilter::new(globs, exclude.collect(), &mut wrongs);
    if wrongs.is_empty() { filter } else { InterfaceFilter::default() }
}

fn named_files(table: &Table, path: &Path) -> Vec<PathBuf> {
    let of_control = ["certificate", "key", "client_ca"];
    let control = of_control.into_iter().filter_map(|key| control_file(table, key));
    let of_uplink = ["certificate", "key", "ca", "proxy_credentials"];
    let uplink = table.get("uplink");
    let uplink = of_uplink.into_iter().filter_map(|key| uplink?.get(key)?.as_str());
    let sections = ["signer", "approver"].into_iter().filter_map(|list| table.get(list));
    let sections = sections.filter_map(Value::as_array).flatten();
    let keys = sections.filter_map(|section| section.get("public_key")?.as_str());
    control.chain(uplink).chain(keys).map(|name| beside(path, name)).collect()
}

/// The secrets that a file names.
fn secrets(table: &Table) -> impl Iterator<Item = &str> {
    let named = |section: &str, key: &str| table.get(section)?.get(key)?.as_str();
    [("control", "key"), ("uplink", "key"), ("uplink", "proxy_credentials")]
        .into_iter()
        .filter_map(move |(section, key)| named(section, key))
}

/// A file that `[control]` names.
fn control_file<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get("control")?.get(key)?.as_str()
}

/// A file that a configuration names.
fn beside(configuration: &Path, name: &str) -> PathBuf {
    configuration.parent().unwrap_or(Path::new(".")).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Glimpse {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Glimpse::of(&path)
    }

    #[test]
    fn a_file_that_is_refused_still_says_what_can_be_read() {
        let glimpse = of("[host]\nid = \"web-1\"\nunknown = 1\n\
                          [gate]\ninterfaces = [\"eth*\"]\nexclude = [\"eth9\", {name = \"mgmt*\", reason = \"own network\"}]\n\
                          [control]\nkey = \"agent.key\"\n\
                          [[signer]]\npublic_key = \"/keys/prod.pem\"\n\
                          [[approver]]\npublic_key = \"ana.pem\"\n\
                          [paths]\npins = \"/sys/fs/bpf/other\"\nstate = 1\n");
        assert_eq!((glimpse.host.as_str(), glimpse.unreadable), ("web-1", None));
        let matches = |name| glimpse.interfaces.matches(name);
        assert!(matches("eth0") && !matches("eth9") && !matches("lo"));
        let reason = |name| glimpse.interfaces.reason(name);
        assert_eq!([reason("mgmt0"), reason("eth9"), reason("lo")], ["own network", "", ""]);
        assert_eq!(glimpse.paths, Paths { pins: "/sys/fs/bpf/other".into(), ..Paths::default() });
        let names: Vec<_> = glimpse.files.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["config.toml", "agent.key", "prod.pem", "ana.pem"]);
        assert!(matches!(&glimpse.secrets[..], [key] if key.ends_with("agent.key")));
    }

    #[test]
    fn a_file_that_is_no_toml_is_reported_and_one_that_is_missing_is_not() {
        let broken = of("[host\n");
        let why = broken.unreadable.unwrap();
        assert!(why.contains("config.toml cannot be read ("), "{why}");
        assert_eq!((broken.paths, broken.host.as_str()), (Paths::default(), ""));
        assert!(broken.interfaces.is_all());
        let missing = Glimpse::of(Path::new("/nowhere/config.toml"));
        assert_eq!((missing.unreadable, missing.paths), (None, Paths::default()));
    }

    #[test]
    fn what_is_no_toml_or_has_a_typo_still_leads_to_the_state() {
        let state = Path::new("/srv/jit/state");
        for text in [
            "[paths\nstate = \"/srv/jit/state\"\n",
            "[host]\nid = web-1\n[paths]\n  state='/srv/jit/state' # ours\n",
            "[paths]\nstate = \"/srv/jit/state\npins = \"/sys/fs/bpf/x\"\n",
        ] {
            let glimpse = of(text);
            assert!(glimpse.unreadable.is_some(), "{text}");
            assert_eq!(glimpse.paths.state, state, "{text}");
        }
        for text in ["[path]\nstate = \"/srv/jit/state\"\n", "[paths]\nstat = \"/srv/jit/state\"\n"]
        {
            let glimpse = of(text);
            assert_eq!(glimpse.paths, Paths::default(), "{text}");
            assert!(glimpse.states.iter().any(|path| path == state), "{text}");
        }
        let many = "x = \"/y\"\n".repeat(1000);
        assert!(of(&many).states.len() < 5, "each once");
    }
}
