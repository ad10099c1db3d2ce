//! The part of a configuration that the on-call commands need, also when the file is broken: each
//! key that can be read, and the default of every other. Nothing here is checked; the agent itself
//! runs only with a [`Config`](crate::config::Config).

use std::{
    fs,
    io::ErrorKind,
    iter,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use crate::config::{interfaces::InterfaceFilter, paths::Paths};

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
    /// Why `paths` may be wrong: the file exists, but cannot be read or is not TOML.
    pub unreadable: Option<String>,
}

impl Glimpse {
    /// Reads a file. A file that does not exist gives the defaults.
    pub fn of(path: &Path) -> Self {
        let (table, unreadable) = match read(path) {
            Ok(table) => (table, None),
            Err(cause) => {
                let path = path.display();
                let why = format!("{path} cannot be read ({cause}); the default paths are used");
                (Table::new(), Some(why))
            }
        };
        let host = table.get("host").and_then(|host| host.get("id")).and_then(Value::as_str);
        Self {
            paths: paths(&table),
            host: host.unwrap_or_default().to_owned(),
            interfaces: interfaces(&table),
            files: iter::once(path.to_owned()).chain(named_files(&table, path)).collect(),
            unreadable,
        }
    }
}

fn read(path: &Path) -> Result<Table, String> {
    match fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|error: toml::de::Error| error.message().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(error.to_string()),
    }
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
    InterfaceFilter::new(globs, exclude.collect()).unwrap_or_default()
}

fn named_files(table: &Table, path: &Path) -> Vec<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let control = table.get("control").into_iter();
    let of_control = ["certificate", "key", "client_ca"];
    let control = control.flat_map(|control| of_control.map(|key| control.get(key)));
    let signers = table.get("signer").and_then(Value::as_array).into_iter().flatten();
    let named = control.chain(signers.map(|signer| signer.get("public_key"))).flatten();
    named.filter_map(Value::as_str).map(|name| directory.join(name)).collect()
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
                          [paths]\npins = \"/sys/fs/bpf/other\"\nstate = 1\n");
        assert_eq!((glimpse.host.as_str(), glimpse.unreadable), ("web-1", None));
        let matches = |name| glimpse.interfaces.matches(name);
        assert!(matches("eth0") && !matches("eth9") && !matches("lo"));
        let reason = |name| glimpse.interfaces.reason(name);
        assert_eq!([reason("mgmt0"), reason("eth9"), reason("lo")], ["own network", "", ""]);
        assert_eq!(glimpse.paths, Paths { pins: "/sys/fs/bpf/other".into(), ..Paths::default() });
        let names: Vec<_> = glimpse.files.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["config.toml", "agent.key", "prod.pem"]);
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
}
