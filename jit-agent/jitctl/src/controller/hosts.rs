//! `jitctl hosts`: the hosts that the controller knows.

use std::{collections::BTreeSet, path::PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{HostInput, HostView},
    },
    exit::Exit,
    status::Page,
    target::split_address,
};

use super::{
    Output, ask, inventory,
    requests::age,
    session::{Session, To},
};
use crate::{
    failure::Failure,
    table::{Cell, Table, line, word_line},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl hosts --label env=prod --state unreachable
    jitctl hosts add web-1 --address web-1.example.org:7443 --label env=prod --group web
    jitctl hosts set web-1 --label role=db --label old-     changes one label, removes another
    jitctl hosts import hosts.csv --dry-run

A file is CSV with the columns id, address, server_name, labels (a=b;c=d), groups (x;y), or TOML
with [[host]] sections of the same names.";

/// Arguments of `hosts`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
    /// Only hosts with this label; repeated: with all of them
    #[arg(long, value_name = "NAME=VALUE", value_parser = text::parse_label)]
    label: Vec<(String, String)>,
    /// Only in this state: enforcing, degraded, not_enforcing, unreachable, unknown
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum HostsCommand {
    /// Show a host: what its agent says, what it protects, alarms
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Add a host
    Add {
        /// Exact id, as its agent's status shows it
        id: String,
        /// Where its agent listens; the port defaults to 7443. Without it: the agent dials a hub
        #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
        address: Option<String>,
        #[command(flatten)]
        said: Said,
    },
    /// Change what is said of a host; what is not named stays
    Set {
        /// Its id
        id: String,
        /// Where its agent listens; empty: nowhere, it dials a hub
        #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
        address: Option<String>,
        #[command(flatten)]
        said: Said,
    },
    /// Forget a host; what is open there stays open until its end
    Remove {
        /// Its id
        id: String,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
    },
    /// Add and change many hosts from a file; with a mistake nothing is changed
    Import {
        /// CSV or TOML: jitctl hosts --help
        file: PathBuf,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        /// Also forget the hosts that the file does not name
        #[arg(long)]
        remove: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Clear the alarms of a host, once somebody has looked at them
    ClearAlarms {
        /// Its id
        id: String,
    },
}

/// What administrators say of a host.
#[derive(Args, Clone, Debug, Default)]
struct Said {
    /// A label, NAME=VALUE; NAME- removes it; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// A group of hosts; NAME- removes the host from it; may be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
}

fn parse_address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let (host, port) = split_address(text)?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The hosts with all of these labels.
pub(super) fn with_labels(labels: &[(String, String)]) -> Call {
    labels.iter().fold(Call::get(["hosts"]).query("limit", 200), |call, (name, value)| {
        call.query("label", format!("{name}={value}"))
    })
}

/// Whether it has all of these labels. Asked again here: a port must not open on a host that was not
/// meant.
pub(super) fn has_labels(host: &HostView, labels: &[(String, String)]) -> bool {
    labels.iter().all(|(name, value)| host.labels.get(name) == Some(value))
}

/// Lists hosts, or changes them.
pub(super) fn run(to: To<'_>, args: &HostsArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => list(to, args),
        Some(HostsCommand::Show { id, output }) => {
            let view: HostView =
                to.call(async |session| session.fetch(Call::get(["hosts", id])).await)?;
            if output.json {
                text::print_pretty(&view)?;
            } else {
                text::print(&shown(&view, Page::of_stdout(output.colours.style())))?;
            }
            Ok(Exit::Success)
        }
        Some(HostsCommand::Add { id, address, said }) => to.call(async |session| {
            if session.find::<HostView>(Call::get(["hosts", id])).await?.is_some() {
                return Err(Failure::refused(format!(
                    "refused: exists: there is a host {} already; change it: jitctl hosts set",
                    text::printable(id)
                )));
            }
            let server_name = to.agent.server_name.clone().unwrap_or_default();
            let address = address.clone().unwrap_or_default();
            let none = HostInput { address, server_name, ..HostInput::default() };
            put(session, id, said.applied(none)?).await?;
            text::print(&format!("added {}\n", text::printable(id)))?;
            Ok(Exit::Success)
        }),
        Some(HostsCommand::Set { id, address, said }) => to.call(async |session| {
            let view: HostView = session.fetch(Call::get(["hosts", id])).await?;
            let before = HostInput {
                address: address.clone().unwrap_or(view.address),
                server_name: to.agent.server_name.clone().unwrap_or(view.server_name),
                labels: view.labels,
                groups: view.groups,
            };
            put(session, id, said.applied(before)?).await?;
            text::print(&format!("changed {}\n", text::printable(id)))?;
            Ok(Exit::Success)
        }),
        Some(HostsCommand::Remove { id, yes }) => {
            if !*yes && !ask::confirm(&format!("Forget the host {id}?"), "--yes")? {
                return Err(Failure::refused("nothing was removed"));
            }
            done(to, Call::delete(["hosts", id]), &format!("removed {id}"))
        }
        Some(HostsCommand::Import { file, dry_run, remove, output }) => {
            inventory::import(to, file, *dry_run, *remove, *output)
        }
        Some(HostsCommand::ClearAlarms { id }) => {
            done(to, Call::delete(["hosts", id, "alarms"]), &format!("cleared the alarms of {id}"))
        }
    }
}

impl Said {
    /// With these changes.
    fn applied(&self, mut input: HostInput) -> Result<HostInput, Failure> {
        for label in &self.label {
            match label.strip_suffix('-').filter(|name| !name.contains('=')) {
                Some(name) => {
                    input.labels.remove(name);
                }
                None => {
                    let (name, value) = text::parse_label(label).map_err(Failure::usage)?;
                    input.labels.insert(name, value);
                }
            }
        }
        for group in &self.group {
            match group.strip_suffix('-') {
                Some(name) => input.groups.remove(name),
                None => input.groups.insert(group.clone()),
            };
        }
        Ok(input)
    }
}

async fn put(session: &Session, id: &str, input: HostInput) -> Result<(), Failure> {
    session.send(Call::put(["hosts", id]).json(&input)).await.map(|_| ())
}

/// A call without an answer of interest.
pub(super) fn done(to: To<'_>, call: Call, said: &str) -> Result<Exit, Failure> {
    to.call(async |session| session.send(call).await)?;
    text::print(&format!("{}\n", text::printable(said)))?;
    Ok(Exit::Success)
}

fn list(to: To<'_>, args: &HostsArgs) -> Result<Exit, Failure> {
    let call =
        with_labels(&args.label).query("condition", args.state.as_deref().unwrap_or_default());
    let mut found: Vec<HostView> = to.call(async |session| session.list(call, None).await)?;
    found.retain(|host| has_labels(host, &args.label));
    if let Some(state) = &args.state {
        found.retain(|host| host.condition == *state);
    }
    if args.output.json {
        text::print_pretty(&found)?;
        return Ok(Exit::Success);
    }
    if found.is_empty() {
        text::print("no such hosts\n")?;
        return Ok(Exit::Success);
    }
    let page = Page::of_stdout(args.output.colours.style());
    text::print(&table(&found, Timestamp::now().as_millisecond()).text(page))?;
    Ok(Exit::Success)
}

fn table(hosts: &[HostView], now_ms: i64) -> Table {
    let mut table = Table::new(&["ID", "STATE", "SEEN", "PROTECTS", "LABELS", "VERSION", "NOTE"]);
    for host in hosts {
        let ports: Vec<_> = host.ports.iter().map(|port| port.port.as_str()).collect();
        let note = match (host.alarms.first(), host.problems.first()) {
            (Some(alarm), _) => format!("ALARM {}: {}", alarm.word, alarm.text),
            (None, _) if !host.trouble.is_empty() => host.trouble.clone(),
            (None, Some(problem)) => problem.clone(),
            (None, None) => String::new(),
        };
        table.row([
            host.id.as_str().into(),
            Cell::word(&host.condition),
            host.seen_ms.map(|seen| age(now_ms, seen)).unwrap_or_default().into(),
            ports.join(", ").into(),
            labels(host).into(),
            host.version.as_str().into(),
            note.into(),
        ]);
    }
    table
}

fn labels(host: &HostView) -> String {
    let each = host.labels.iter().map(|(name, value)| format!("{name}={value}"));
    each.collect::<Vec<_>>().join(" ")
}

/// By which connection it is reached, and since when.
fn reached(host: &HostView) -> String {
    let Some(since) = &host.connected else { return String::new() };
    match host.uplink.as_str() {
        "" => format!("dialled, since {since}"),
        peer => format!("uplink from {peer}, since {since}"),
    }
}

fn shown(host: &HostView, page: Page) -> String {
    let groups: Vec<_> = host.groups.iter().map(String::as_str).collect();
    let since = host.since.as_ref().map(|since| format!("since {since}")).unwrap_or_default();
    let mut out = [
        line(page, "host", &host.id),
        word_line(page.style, "state", &host.condition, &since),
        line(page, "trouble", &host.trouble),
        line(page, "address", &host.address),
        line(page, "reached", &reached(host)),
        line(page, "server name", &host.server_name),
        line(page, "labels", &labels(host)),
        line(page, "groups", &groups.join(", ")),
        line(page, "version", &host.version),
        line(page, "seen", host.seen.as_deref().unwrap_or("never")),
        line(page, "audit", &host.audit_head),
    ]
    .concat();
    for problem in &host.problems {
        out += &line(page, "problem", problem);
    }
    for alarm in &host.alarms {
        out += &line(page, "ALARM", &format!("{} at {}: {}", alarm.word, alarm.at, alarm.text));
    }
    if !host.ports.is_empty() {
        let mut table = Table::new(&["PORT", "MODE", "LONGEST", "SIGNATURES"]);
        for port in &host.ports {
            let approvals =
                if port.approvals == 0 { "?".to_owned() } else { port.approvals.to_string() };
            table.row([
                port.port.as_str().into(),
                port.mode.as_str().into(),
                port.max_duration.as_str().into(),
                approvals.into(),
            ]);
        }
        out += &format!("\n{}", table.text(page));
    }
    out
}

/// Groups and such as a set.
pub(super) fn set(words: &[String]) -> BTreeSet<String> {
    words.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let before = HostInput {
            address: "web-1:7443".into(),
            server_name: "web-1".into(),
            labels: [("env".into(), "prod".into()), ("old".into(), "1".into())].into(),
            groups: set(&["web".into(), "gone".into()]),
        };
        let said = Said {
            label: vec!["role=db".into(), "old-".into(), "note=a-".into()],
            group: vec!["db".into(), "gone-".into()],
        };
        let after = said.applied(before.clone()).unwrap();
        let labels = [("env", "prod"), ("note", "a-"), ("role", "db")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(after.labels, labels.into());
        assert_eq!(after.groups, set(&["web".into(), "db".into()]));
        assert_eq!((&after.address, &after.server_name), (&before.address, &before.server_name));
        assert!(Said { label: vec!["x".into()], ..Said::default() }.applied(before).is_err());
    }

    #[test]
    fn addresses_get_the_usual_port() {
        assert_eq!(parse_address("web-1").unwrap(), "web-1:7443");
        assert_eq!(parse_address("2001:db8::1").unwrap(), "[2001:db8::1]:7443");
        assert_eq!(parse_address("").unwrap(), "");
        assert!(parse_address("a b").is_err());
    }
}
