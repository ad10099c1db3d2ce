//! `close` while the agent is dead or hangs: the entries go from the kernel's tables now, and a file
//! has the agent carry the closing on when it goes on, or at its next start.
//!
//! The file comes first. Without it, the next start would open the grant again.

use std::{io, path::Path, process::ExitCode};

use jit_client::{exit::Exit, status::IdBegin};
use jit_proto::{GrantId, PortRange, SourcePrefix};
use serde::Deserialize;
use serde_json::json;

use super::{CloseArgs, CloseWhat};
use crate::{
    config::Glimpse,
    disk::{
        audit::{directory, read::Reader},
        closings::{Closing, What},
    },
    kernel::datapath::closed::{self, Closed},
    oncall::{
        failure::Failure,
        output::{complain, print, print_json},
    },
    rules::reconcile::EntryKey,
    system::sys,
};

/// Closes in the kernel. `agent`: why the agent was not asked.
pub(super) fn close(config: &Path, args: &CloseArgs, agent: &str) -> Result<ExitCode, Failure> {
    sys::check_capabilities()?;
    let mut glimpse = Glimpse::of(config);
    if let Some(why) = glimpse.unreadable.take() {
        return Err(Failure::UnknownPins(why));
    }
    let (what, entries) = plan(&args.what, &glimpse.paths.state)?;
    let (by, why) = (sys::caller(), args.reason.clone());
    let kept = keep(&Closing { what, cut: args.cut, by, why }, &glimpse);
    if let Err(error) = &kept {
        complain(&format!(
            "warning: the closing cannot be kept in {}: {error}: the next start of the agent may \
             open these grants again; close them once more then",
            glimpse.paths.state.display()
        ));
    }
    // An agent that starts now waits, or has the file to read. One that hangs has the lock.
    let _lock = sys::lock_directory(&glimpse.paths.pins).ok().flatten();
    let now = sys::now().boot;
    let wants = |key: &EntryKey| entries.iter().any(|one| one.meets(key));
    let closed = closed::close(&glimpse.paths.pins, &wants, now)?;
    let found = closed.is_some_and(|closed| closed.live > 0);
    if args.json {
        let Closed { live, exempt } = closed.unwrap_or_default();
        print_json(&json!({
            "agent": agent,
            "entries_closed": live,
            "exemptions": exempt,
            "kept": kept.is_ok(),
            "sessions_ended": 0,
        }))?;
    } else {
        print(&text(closed, agent, args.cut, kept.is_ok()))?;
    }
    Ok(if found { Exit::Success } else { Exit::Degraded }.into())
}

/// What was done and what was not, on lines.
fn text(closed: Option<Closed>, agent: &str, cut: bool, kept: bool) -> String {
    let Some(Closed { live, exempt }) = closed else {
        return format!("{agent}, and nothing is pinned: there is no gate to close\n");
    };
    let mut out = match live {
        0 => format!("{agent}; nothing matched in the kernel's tables\n"),
        1 => format!("{agent}; closed 1 entry of the kernel's tables\n"),
        live => format!("{agent}; closed {live} entries of the kernel's tables\n"),
    };
    if exempt > 0 {
        out += "an exemption still lets in what it names; only the configuration ends it\n";
    }
    out += "open sessions were not ended";
    out += if cut && kept { ": the agent ends them when it runs again\n" } else { "\n" };
    if kept {
        out += "the agent carries the closing into its database and audit when it runs again\n";
    }
    out
}

/// Keeps the closing for the next start, and for an agent that hangs; as the agent's user.
fn keep(closing: &Closing, glimpse: &Glimpse) -> io::Result<()> {
    let name = format!("{}-{}", sys::now().wall.0, std::process::id());
    let keep = || {
        // An agent that hangs must find it before its entry is gone.
        let _no_agent = closing.keep(&glimpse.paths.runtime, &name);
        closing.keep(&glimpse.paths.state, &name)
    };
    match glimpse.paths.owner() {
        Some(owner) => owner.act(keep)?,
        None => keep(),
    }
}

/// Places of the tables that are to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    /// `None`: every source.
    sources: Option<Vec<SourcePrefix>>,
    /// `None`: every port.
    ports: Option<Vec<PortRange>>,
}

impl Places {
    fn meets(&self, key: &EntryKey) -> bool {
        let sources = self.sources.as_ref();
        let ports = self.ports.as_ref();
        sources.is_none_or(|all| all.iter().any(|source| source.overlaps(&key.source)))
            && ports.is_none_or(|all| all.iter().any(|range| range.has(key.port)))
    }
}

/// What the agent will have to close, and the places to close now. The tables do not say whose an
/// entry is; the audit does.
fn plan(what: &CloseWhat, state: &Path) -> Result<(What, Vec<Places>), Failure> {
    Ok(match what {
        CloseWhat { source: Some(source), .. } => {
            let places = Places { sources: Some(vec![*source]), ports: None };
            (What::Source(source.to_string()), vec![places])
        }
        CloseWhat { user: Some(name), .. } => {
            let opened = opened(state, &|line| line.requester == *name)?;
            (What::User(name.clone()), opened.into_iter().map(|(_, places)| places).collect())
        }
        CloseWhat { grant: Some(id), .. } => {
            let opened = opened(state, &|line| id.begins(&line.grant))?;
            let id = one_of(id, opened.iter().map(|(id, _)| *id))?;
            let of_it = opened.into_iter().filter(|(other, _)| *other == id);
            (What::Grant(id.to_string()), of_it.map(|(_, places)| places).collect())
        }
        CloseWhat { source: None, user: None, grant: None, all: _ } => {
            (What::All, vec![Places { sources: None, ports: None }])
        }
    })
}

fn one_of(id: &IdBegin, found: impl Iterator<Item = GrantId>) -> Result<GrantId, Failure> {
    id.among(found).map_err(Failure::Usage)
}

/// A record of the audit about a grant that opened.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    grant: String,
    #[serde(default)]
    requester: String,
    #[serde(default)]
    sources: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
}

/// The grants of the audit that `wants` names, and what they opened.
fn opened(state: &Path, wants: &dyn Fn(&Line) -> bool) -> Result<Vec<(GrantId, Places)>, Failure> {
    let mut reader = Reader::from_the_start(&directory(state))?;
    let mut opened: Vec<(GrantId, Places)> = Vec::new();
    while let Some(line) = reader.next_line()? {
        let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
        if line.sources.is_empty() || !wants(&line) {
            continue;
        }
        let Ok(id) = line.grant.parse() else { continue };
        let sources = line.sources.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = line.ports.iter().filter_map(|text| text.parse().ok()).collect();
        opened.retain(|(other, _)| *other != id);
        opened.push((id, Places { sources: Some(sources), ports: Some(ports) }));
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    #[test]
    fn a_source_meets_what_covers_it_and_what_lies_inside_it() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let key = |source: &str| EntryKey { port, source: source.parse().unwrap() };
        let ports = Some(vec!["22/tcp".parse().unwrap()]);
        let places = Places { sources: Some(vec!["192.0.2.0/28".parse().unwrap()]), ports };
        for (source, meets) in
            [("192.0.2.7", true), ("192.0.2.0/24", true), ("192.0.2.16", false), ("::/0", false)]
        {
            assert_eq!(places.meets(&key(source)), meets, "{source}");
        }
        let all = Places { sources: None, ports: None };
        assert!(all.meets(&key("::/0")));
        let other = Places { ports: Some(vec!["23/tcp".parse().unwrap()]), ..all };
        assert!(!other.meets(&key("192.0.2.7")));
    }

    #[test]
    fn it_says_what_it_did_not_do() {
        let closed = Some(Closed { live: 1, exempt: 0 });
        let said = text(closed, "no agent answers", true, true);
        assert!(said.starts_with("no agent answers; closed 1 entry of"), "{said}");
        assert!(said.contains("not ended: the agent ends them when it runs again"), "{said}");
        let said = text(closed, "no agent answers", true, false);
        assert!(!said.contains("when it runs again"), "{said}");
    }
}
