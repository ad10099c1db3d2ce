//! Inventories as files: CSV and TOML. All mistakes are found at once, each with its line. Reading is
//! pure; [`apply`] writes what [`plan`] says.
//!
//! ```text
//! id,address,server_name,labels,groups            [[host]]
//! web-1,192.0.2.10:7443,,env=prod;team=shop,web   id = "web-1"
//!                                                 address = "192.0.2.10:7443"
//!                                                 labels = { env = "prod", team = "shop" }
//!                                                 groups = ["web"]
//! ```
//!
//! A host without an address is reached by the connection that its agent makes to a hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jit_proto::{
    text,
    words::counted,
    wrong::{Place, Places, Wrongs},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::dial;
use crate::{
    audit::{self, Code, Record},
    model::Host,
    store::{StoreError, Tx, hosts},
};

/// The most hosts of one file.
pub const MAX_HOSTS: usize = 100_000;
/// The most labels, and the most groups, of one host.
const MAX_ITEMS: usize = 64;
/// The most mistakes that are named.
const MAX_MISTAKES: usize = 100;
/// The columns of CSV.
const COLUMNS: [&str; 5] = ["id", "address", "server_name", "labels", "groups"];

/// Something in a file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// One sentence.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// What an import would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Hosts that are new.
    pub added: Vec<Host>,
    /// Hosts that are described in another way: before, and after.
    pub changed: Vec<(Host, Host)>,
    /// Hosts that the file does not name.
    pub removed: Vec<Host>,
    /// Number of hosts that stay as they are.
    pub same: usize,
}

/// Checks one host.
///
/// # Errors
/// Each wrong value, by its name.
pub fn check(host: &Host) -> Result<(), Wrongs> {
    let mut wrongs = Wrongs::default();
    let name = |text: &str| text::check("", text, text::MAX_NAME_BYTES).is_ok();
    if !name(&host.id) || host.id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let text = format!("id: {:?} is empty, too long, or has spaces in it", host.id);
        wrongs.add("id", text);
    }
    if let Err(why) = reached(host) {
        let key = if host.server_name.is_empty() { "address" } else { "server_name" };
        let key = match host.address.as_str() {
            "" => "server_name",
            address if jit_client::target::split_address(address).is_err() => "address",
            _ => key,
        };
        wrongs.add(key, format!("{key}: {why}"));
    }
    if host.labels.len() > MAX_ITEMS || host.groups.len() > MAX_ITEMS {
        wrongs.add("labels", format!("labels: at most {MAX_ITEMS} labels and groups of a host"));
    }
    for (key, value) in &host.labels {
        if !name(key) || value.len() > text::MAX_NAME_BYTES {
            wrongs.add("labels", format!("labels: {key:?} = {value:?} is empty or too long"));
        }
    }
    if let Some(group) = host.groups.iter().find(|group| !name(group)) {
        wrongs.add("groups", format!("groups: {group:?} is empty or too long"));
    }
    wrongs.end(())
}

/// Checks address and server name. A host without an address dials a hub: its name may stand in its
/// certificate.
fn reached(host: &Host) -> Result<(), String> {
    match (host.address.as_str(), host.server_name.as_str()) {
        ("", "") => Ok(()),
        ("", name) => dial::check(name, name).map(drop),
        (address, name) => dial::check(address, name).map(drop),
    }
}

/// Hosts of a CSV file with a header.
///
/// # Errors
/// All mistakes, at most 100.
pub fn from_csv(text: &str) -> Result<Vec<Host>, Vec<Mistake>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .flexible(true)
        .from_reader(text.as_bytes());
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => return Err(vec![csv_mistake(&error)]),
    };
    let mut found = Found::default();
    let mut columns = BTreeMap::new();
    for (index, column) in header.iter().enumerate() {
        match COLUMNS.iter().find(|known| **known == column) {
            Some(known) if columns.insert(*known, index).is_none() => {}
            Some(known) => found.wrong(1, format!("the column {known} stands twice")),
            None => {
                found.wrong(1, format!("{column:?} is no column; there are {}", COLUMNS.join(", ")))
            }
        }
    }
    for needed in ["id", "address"] {
        if !columns.contains_key(needed) {
            found.wrong(1, format!("the first line names no column {needed}"));
        }
    }
    if !found.mistakes.is_empty() {
        return Err(found.mistakes);
    }
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                found.mistakes.push(csv_mistake(&error));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let line = usize::try_from(line).unwrap_or(usize::MAX);
        if record.len() > header.len() {
            let (has, most) = (counted(record.len(), "value"), header.len());
            found.wrong(line, format!("it has {has}, and the header names {most}"));
        }
        let cell =
            |name: &str| columns.get(name).and_then(|index| record.get(*index)).unwrap_or_default();
        let list = |name: &str| {
            cell(name).split(';').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
        };
        let mut labels = BTreeMap::new();
        for label in list("labels") {
            match label.split_once('=') {
                Some((key, value)) => {
                    let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                    if let Some(twice) = labels.insert(key, value) {
                        let text = format!("labels: one stands twice: {label:?} and {twice:?}");
                        found.wrong(line, text);
                    }
                }
                None => found.wrong(line, format!("labels: {label:?} is not KEY=VALUE")),
            }
        }
        let host = Host {
            id: cell("id").to_owned(),
            address: cell("address").to_owned(),
            server_name: cell("server_name").to_owned(),
            labels,
            groups: list("groups").collect(),
        };
        if let Err(wrongs) = check(&host) {
            for wrong in wrongs {
                found.wrong(line, wrong.text);
            }
        }
        found.host(host, line);
    }
    found.end()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlHosts {
    #[serde(default)]
    host: Vec<TomlHost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlHost {
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    server_name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    groups: BTreeSet<String>,
}

/// Hosts of a TOML file: a `[[host]]` each.
///
/// # Errors
/// All mistakes, at most 100. What is no TOML, or has a key of another name or type, is one.
pub fn from_toml(text: &str) -> Result<Vec<Host>, Vec<Mistake>> {
    let raw: TomlHosts = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| Place::of_byte(text, span.start).line);
        vec![Mistake { line, text: error.message().to_owned() }]
    })?;
    let places = Places::of(text);
    let mut found = Found::default();
    for (index, host) in raw.host.into_iter().enumerate() {
        let TomlHost { id, address, server_name, labels, groups } = host;
        let host = Host { id, address, server_name, labels, groups };
        let line = |path: &str| places.at(path).map_or(1, |place| place.line);
        if let Err(wrongs) = check(&host) {
            for wrong in wrongs {
                found.wrong(line(&format!("host.{index}.{}", wrong.path)), wrong.text);
            }
        }
        found.host(host, line(&format!("host.{index}.id")));
    }
    found.end()
}

/// What has to be done so that the inventory has these hosts; with `remove`, no others.
pub fn plan(known: &[Host], wanted: Vec<Host>, remove: bool) -> Plan {
    let mut before: BTreeMap<_, _> = known.iter().map(|host| (host.id.as_str(), host)).collect();
    let mut plan = Plan::default();
    for host in wanted {
        match before.remove(host.id.as_str()) {
            None => plan.added.push(host),
            Some(known) if *known == host => plan.same += 1,
            Some(known) => plan.changed.push((known.clone(), host)),
        }
    }
    if remove {
        plan.removed = before.into_values().cloned().collect();
    } else {
        plan.same += before.len();
    }
    plan
}

/// Does what a plan says, with an audit record for each host.
///
/// # Errors
/// Those of the database.
pub async fn apply(tx: &mut Tx, plan: &Plan, by: &str, now_ms: i64) -> Result<(), StoreError> {
    let changed = plan.changed.iter().map(|(_, after)| after);
    for host in plan.added.iter().chain(changed) {
        hosts::put(tx, host).await?;
        let record = Record::new(Code::HostChanged, "", by, json!({ "host": host }));
        audit::append(tx, now_ms, &record).await?;
    }
    for host in &plan.removed {
        hosts::remove(tx, &host.id).await?;
        let record = Record::new(Code::HostRemoved, "", by, json!({ "host": host.id }));
        audit::append(tx, now_ms, &record).await?;
    }
    Ok(())
}

/// What was read so far.
#[derive(Default)]
struct Found {
    hosts: Vec<Host>,
    lines: BTreeMap<String, usize>,
    mistakes: Vec<Mistake>,
}

impl Found {
    fn wrong(&mut self, line: usize, text: String) {
        if self.mistakes.len() < MAX_MISTAKES {
            self.mistakes.push(Mistake { line, text });
        }
    }

    fn host(&mut self, host: Host, line: usize) {
        if let Some(first) = self.lines.get(&host.id) {
            self.wrong(line, format!("id: {:?} stands in line {first}, too", host.id));
        } else if self.hosts.len() >= MAX_HOSTS {
            self.wrong(line, format!("there are more than {MAX_HOSTS} hosts"));
        } else {
            self.lines.insert(host.id.clone(), line);
            self.hosts.push(host);
        }
    }

    fn end(self) -> Result<Vec<Host>, Vec<Mistake>> {
        if self.mistakes.is_empty() { Ok(self.hosts) } else { Err(self.mistakes) }
    }
}

fn csv_mistake(error: &csv::Error) -> Mistake {
    let line = error.position().map_or(1, csv::Position::line);
    Mistake { line: usize::try_from(line).unwrap_or(usize::MAX), text: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "\
# our hosts
id, address, labels, groups
web-1, 192.0.2.10:7443, env=prod;team=shop, web;all
web-2, web-2.example.org,,
";

    const TOML: &str = r#"
[[host]]
id = "web-1"
address = "192.0.2.10:7443"
labels = { env = "prod", team = "shop" }
groups = ["web", "all"]
[[host]]
id = "web-2"
address = "web-2.example.org"
"#;

    fn lines(mistakes: Result<Vec<Host>, Vec<Mistake>>) -> Vec<(usize, String)> {
        let word = |text: String| text.split([':', ' ']).next().unwrap_or_default().to_owned();
        mistakes.unwrap_err().into_iter().map(|wrong| (wrong.line, word(wrong.text))).collect()
    }

    #[test]
    fn csv_and_toml_say_the_same() {
        let hosts = from_csv(CSV).unwrap();
        assert_eq!(hosts, from_toml(TOML).unwrap());
        assert_eq!(hosts[0].labels["team"], "shop");
        assert_eq!(hosts[0].groups.len(), 2);
        assert_eq!(hosts[1].server_name, "");
    }

    #[test]
    fn every_mistake_of_csv_has_its_line() {
        let text = "id,address,labels\nweb-1,192.0.2.1:0,\n,192.0.2.2,env\nweb-3,192.0.2.3,,,\n\
                    web-3,192.0.2.4,a=1;a=2\n";
        let expected =
            [(2, "address"), (3, "labels"), (3, "id"), (4, "it"), (5, "labels"), (5, "id")];
        let expected = expected.map(|(line, word)| (line, word.to_owned()));
        assert_eq!(lines(from_csv(text)), expected);
        assert_eq!(lines(from_csv("id,adress\n")).len(), 2);
        assert_eq!(lines(from_csv("")).len(), 2);
    }

    #[test]
    fn every_mistake_of_toml_has_its_line() {
        let text = "[[host]]\nid = \"web 1\"\naddress = \"192.0.2.1\"\n[[host]]\nid = \"web-2\"\n\
                    address = \":1\"\n[[host]]\naddress = \"192.0.2.3\"\nid = \"web-2\"\n";
        let expected = [(2, "id"), (6, "address"), (9, "id")];
        assert_eq!(lines(from_toml(text)), expected.map(|(line, word)| (line, word.to_owned())));
        assert_eq!(lines(from_toml("[[host]]\nid = \"a\"\naddress = \"b\"\nlabel = 1\n"))[0].0, 4);
        assert_eq!(lines(from_toml("[[host")).len(), 1);
    }

    #[test]
    fn a_plan_says_what_is_added_changed_and_removed() {
        let known = from_csv(CSV).unwrap();
        let mut wanted = known.clone();
        wanted[0].address = "192.0.2.11:7443".into();
        wanted[1].id = "web-3".into();
        let new = plan(&known, wanted.clone(), true);
        assert_eq!((new.added.len(), new.changed.len(), new.removed.len()), (1, 1, 1));
        assert_eq!(new.removed[0].id, "web-2");
        assert_eq!(plan(&known, wanted, false).removed, []);
        let nothing = Plan { same: 2, ..Plan::default() };
        assert_eq!(plan(&known, known.clone(), true), nothing);
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(text in ".{0,200}")| {
            let _ = (from_csv(&text), from_toml(&text));
        });
    }
}
