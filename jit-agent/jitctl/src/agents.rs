//! Many agents: a file of them (`--agents FILE`), and which of them are meant (`--select`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use jit_client::{Target, files::read_up_to, target::split_address};
use serde::Deserialize;

use crate::{
    failure::Failure,
    target::{self, AgentArgs},
    text,
};

/// The most agents of a file.
const MOST: usize = 10_000;
/// The largest file that is read, bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// The columns of CSV.
const COLUMNS: [&str; 6] = ["address", "server_name", "labels", "ca", "cert", "key"];

/// One agent of a file.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// As it stands in the file.
    pub(crate) address: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: Target,
}

/// A file of agents as TOML.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    #[serde(default)]
    defaults: Files,
    #[serde(default)]
    agent: Vec<Entry>,
}

/// Files of one agent, or of all that name none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: String,
    #[serde(default)]
    server_name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// The agents that are meant; `None`: the command line names no file of them.
pub(crate) fn of(args: &AgentArgs) -> Result<Option<Vec<Listed>>, Failure> {
    let Some(path) = &args.agents else {
        if args.select.is_empty() {
            return Ok(None);
        }
        return Err(Failure::usage("--select chooses from a file of agents: add --agents FILE"));
    };
    if args.agent.is_some() || args.socket.is_some() {
        return Err(Failure::usage("--agents, --agent or --socket: leave out all but one"));
    }
    let wrong = |why: String| Failure::files(format!("cannot use {}: {why}", path.display()));
    let text = String::from_utf8(read_up_to(path, "the file of agents", MAX_BYTES)?)
        .map_err(|_| wrong("it is not UTF-8".into()))?;
    let book = match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => from_csv(&text),
        Some("toml") => toml::from_str(&text).map_err(|error| error.to_string()),
        _ => Err("is it CSV or TOML? Give it the ending .csv or .toml".into()),
    };
    let book = book.map_err(wrong)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let env = |name: &str| -> Option<OsString> { std::env::var_os(name) };
    let all = listed(&book, directory, args, env).map_err(wrong)?;
    let chosen: Vec<_> = all.into_iter().filter(|one| one.has(&args.select)).collect();
    if chosen.is_empty() {
        return Err(wrong("no agent of it has the labels of --select".into()));
    }
    Ok(Some(chosen))
}

impl Listed {
    fn has(&self, labels: &[(String, String)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// The agents of a file, each with what is needed to reach it. Paths are relative to the file.
fn listed(
    book: &Book,
    directory: &Path,
    args: &AgentArgs,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Listed>, String> {
    if book.agent.is_empty() {
        return Err("it names no agent".into());
    }
    if book.agent.len() > MOST {
        return Err(format!("it names more than {MOST} agents"));
    }
    let mut seen = BTreeSet::new();
    let mut all = Vec::with_capacity(book.agent.len());
    for (number, entry) in book.agent.iter().enumerate() {
        let wrong = |why: String| format!("agent {} ({}): {why}", number + 1, entry.address);
        let (host, port) = split_address(&entry.address).map_err(wrong)?;
        if !seen.insert((host.clone(), port)) {
            return Err(wrong("it is there twice".into()));
        }
        let file = |own: &Option<PathBuf>, all: &Option<PathBuf>, option: &Option<PathBuf>| {
            let named = own.as_ref().or(all.as_ref()).map(|path| directory.join(path));
            named.or_else(|| option.clone())
        };
        let name = if entry.server_name.is_empty() { &host } else { &entry.server_name };
        let of_agent = AgentArgs {
            agent: Some(entry.address.clone()),
            ca: file(&entry.ca, &book.defaults.ca, &args.ca),
            cert: file(&entry.cert, &book.defaults.cert, &args.cert),
            key: file(&entry.key, &book.defaults.key, &args.key),
            server_name: Some(name.clone()),
            timeout: args.timeout,
            ..AgentArgs::default()
        };
        let target =
            target::target(&of_agent, &env).map_err(|failure| wrong(failure.to_string()))?;
        all.push(Listed { address: entry.address.clone(), labels: entry.labels.clone(), target });
    }
    Ok(all)
}

/// Columns in any order; `labels` as `env=prod;role=web`.
fn from_csv(text: &str) -> Result<Book, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let titles = reader.headers().map_err(|error| error.to_string())?.clone();
    if let Some(unknown) = titles.iter().find(|title| !COLUMNS.contains(title)) {
        return Err(format!("`{unknown}` is no column; there are {}", COLUMNS.join(", ")));
    }
    if !titles.iter().any(|title| title == "address") {
        return Err(format!("its first line names the columns: {}", COLUMNS.join(",")));
    }
    let mut book = Book::default();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |name: &str| {
            let at = titles.iter().position(|title| title == name);
            at.and_then(|at| record.get(at)).unwrap_or_default()
        };
        let path = |name: &str| Some(cell(name)).filter(|cell| !cell.is_empty()).map(Into::into);
        let mut labels = BTreeMap::new();
        for label in cell("labels").split(';').map(str::trim).filter(|label| !label.is_empty()) {
            let (name, value) =
                text::parse_label(label).map_err(|why| format!("line {line}: {why}"))?;
            labels.insert(name, value);
        }
        book.agent.push(Entry {
            address: cell("address").to_owned(),
            server_name: cell("server_name").to_owned(),
            labels,
            ca: path("ca"),
            cert: path("cert"),
            key: path("key"),
        });
    }
    Ok(book)
}

#[cfg(test)]
mod tests {
    use jit_client::{exit::Exit, target::Way};

    use super::*;

    const TOML: &str = r#"
[defaults]
ca = "ca.pem"
cert = "/keys/c.pem"
[[agent]]
address = "web-1.example.org"
labels = { env = "prod", role = "web" }
[[agent]]
address = "192.0.2.10:7444"
server_name = "web-2"
labels = { env = "test" }
key = "own.key"
"#;
    const CSV: &str = "address,labels,server_name,key\n\
                       # a comment\n\
                       web-1.example.org,env=prod;role=web,,\n\
                       192.0.2.10:7444,env=test,web-2,own.key\n";

    fn file(name: &str, text: &str) -> (tempfile::TempDir, AgentArgs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let args = AgentArgs {
            agents: Some(path),
            ca: Some("option-ca.pem".into()),
            cert: Some("option.pem".into()),
            key: Some("option.key".into()),
            ..AgentArgs::default()
        };
        (dir, args)
    }

    #[test]
    fn both_forms_say_the_same_and_options_are_defaults() {
        for (name, text) in [("agents.toml", TOML), ("agents.csv", CSV)] {
            let (dir, args) = file(name, text);
            let all = of(&args).unwrap().unwrap();
            assert_eq!(all.len(), 2, "{name}");
            assert_eq!(all[0].labels["role"], "web");
            let Way::Tls(second) = &all[1].target.way else { panic!("TLS") };
            assert_eq!((second.host.as_str(), second.port), ("192.0.2.10", 7444));
            assert_eq!(second.name.to_str(), "web-2");
            assert_eq!(second.key, dir.path().join("own.key"));
            let Way::Tls(first) = &all[0].target.way else { panic!("TLS") };
            assert_eq!(first.name.to_str(), "web-1.example.org");
            assert_eq!(first.key, Path::new("option.key"));
            let (ca, cert) = match name {
                "agents.toml" => (dir.path().join("ca.pem"), PathBuf::from("/keys/c.pem")),
                _ => ("option-ca.pem".into(), "option.pem".into()),
            };
            assert_eq!((&first.ca, &first.cert), (&ca, &cert));
        }
    }

    #[test]
    fn only_agents_with_all_labels_are_meant() {
        let (_dir, mut args) = file("agents.toml", TOML);
        let select = |labels: &[(&str, &str)]| {
            labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
        };
        args.select = select(&[("env", "prod"), ("role", "web")]);
        assert_eq!(of(&args).unwrap().unwrap().len(), 1);
        args.select = select(&[("env", "test"), ("role", "web")]);
        assert_eq!(of(&args).unwrap_err().exit, Exit::Configuration);
        args.agents = None;
        assert_eq!(of(&args).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let wrong = |name: &str, text: &str| {
            let (_dir, args) = file(name, text);
            of(&args).unwrap_err().to_string()
        };
        for (name, text, said) in [
            ("a.toml", "", "names no agent"),
            ("a.toml", "[[agent]]\naddress = \"a b\"", "agent 1 (a b): "),
            ("a.toml", "[[agent]]\nadress = \"a\"", "adress"),
            ("a.toml", "[[agent]]\naddress = \"a\"\n[[agent]]\naddress = \"a:7443\"", "twice"),
            ("a.csv", "address,colour\na,red\n", "`colour` is no column"),
            ("a.csv", "labels\nx=y\n", "names the columns"),
            ("a.csv", "address,labels\na,prod\n", "line 2: `prod` is not NAME=VALUE"),
            ("a.csv", "address,labels\na\n", "2"),
            ("a.txt", "a", ".csv or .toml"),
        ] {
            let failure = wrong(name, text);
            assert!(failure.contains(said), "{said}: {failure}");
        }
    }
}
