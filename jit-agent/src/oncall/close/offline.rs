//! `close` while the agent is dead or hangs: the entries go from the kernel's tables now, and a file
//! has the agent carry the closing on when it goes on, or at its next start.
//!
//! The file comes first. Without it, the next start would open the grant again.

use std::{io, path::Path, process::ExitCode};

use jit_client::{exit::Exit, status::IdBegin};
use jit_proto::{GrantId, words::counted};
use serde::Deserialize;
use serde_json::json;

use super::{CloseArgs, CloseWhat};
use crate::{
    config::{Glimpse, Paths},
    disk::{
        audit::{directory, read::Reader},
        closings::{Closing, What},
        openings::{self, Opening},
    },
    kernel::datapath::{
        boot_clock,
        closed::{self, Closed, Places},
    },
    oncall::{
        failure::Failure,
        output::{complain, print, print_json},
    },
    rules::grant::break_glass::REQUESTER,
    system::sys,
};

/// Closes in the kernel. `agent`: why the agent was not asked.
pub(super) fn close(config: &Path, args: &CloseArgs, agent: &str) -> Result<ExitCode, Failure> {
    sys::check_capabilities()?;
    let mut glimpse = Glimpse::of(config);
    if let Some(why) = glimpse.unreadable.take() {
        return Err(Failure::UnknownPins(why));
    }
    let (what, places) = plan(&args.what, &glimpse.paths)?;
    let (by, why) = (sys::caller(), args.reason.clone());
    // The deadlines in the tables are by the programs' boot clock.
    if let Err(error) = boot_clock::align() {
        complain(&format!("warning: the programs' boot clock cannot be read ({error})"));
    }
    let (boot_id, made) = (sys::boot_id().unwrap_or_default(), sys::now().boot.0);
    let closing = Closing { what, cut: args.cut, by, why, boot_id, made, sessions_ended: 0 };
    let name = format!("{}-{}", sys::now().wall.0, std::process::id());
    let kept = keep(&closing, &name, &glimpse);
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
    let closed = closed::close(&glimpse.paths.pins, &places, args.cut, now)?;
    let found = closed.as_ref().is_some_and(|closed| closed.live > 0 || closed.sessions_ended > 0);
    if let Some(ended @ 1..) = closed.as_ref().map(|closed| closed.sessions_ended) {
        // The audit is to have it. If it cannot be kept any more, the closing itself is.
        let _late = keep(&Closing { sessions_ended: ended, ..closing }, &name, &glimpse);
    }
    if let Some(warning) = closed.as_ref().and_then(|closed| closed.warning.as_ref()) {
        complain(&format!("warning: {warning}"));
    }
    if args.json {
        let Closed { live, exempt, sessions_ended, sessions_open, warning } =
            closed.unwrap_or_default();
        print_json(&json!({
            "agent": agent,
            "entries_closed": live,
            "exemptions": exempt,
            "kept": kept.is_ok(),
            "sessions_ended": sessions_ended,
            "sessions_open": sessions_open,
            "warning": warning.unwrap_or_default(),
        }))?;
    } else {
        print(&text(closed, agent, args.cut, kept.is_ok()))?;
    }
    Ok(if found { Exit::Success } else { Exit::Degraded }.into())
}

/// What was done and what was not, on lines.
fn text(closed: Option<Closed>, agent: &str, cut: bool, kept: bool) -> String {
    let Some(Closed { live, exempt, sessions_ended, sessions_open, warning }) = closed else {
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
    let sessions = |number: u32| counted(number, "session");
    if sessions_ended > 0 || cut && warning.is_none() {
        out += &format!("ended {}\n", sessions(sessions_ended));
    }
    if sessions_open > 0 {
        let stay = if sessions_open == 1 { "stays" } else { "stay" };
        let hint = if cut { "" } else { " (drain); --cut ends it" };
        out += &format!("{} {stay} open{hint}\n", sessions(sessions_open));
    }
    if kept {
        out += "the agent carries the closing into its database and audit when it runs again\n";
    }
    out
}

/// Keeps the closing for the next start, and for an agent that hangs; as the agent's user.
fn keep(closing: &Closing, name: &str, glimpse: &Glimpse) -> io::Result<()> {
    let keep = || {
        // An agent that hangs must find it before its entry is gone.
        let _no_agent = closing.keep(&glimpse.paths.runtime, name);
        closing.keep(&glimpse.paths.state, name)
    };
    match glimpse.paths.owner() {
        Some(owner) => owner.act(keep)?,
        None => keep(),
    }
}

/// What the agent will have to close, and the places to close now. The tables do not say whose an
/// entry is; the audit does.
fn plan(what: &CloseWhat, paths: &Paths) -> Result<(What, Vec<Places>), Failure> {
    Ok(match what {
        CloseWhat { source: Some(source), .. } => {
            let places = Places { sources: Some(vec![*source]), ports: None };
            (What::Source(source.to_string()), vec![places])
        }
        CloseWhat { user: Some(name), .. } => {
            let opened = opened(paths, &|line| line.requester == *name)?;
            (What::User(name.clone()), opened.into_iter().map(|(_, places)| places).collect())
        }
        CloseWhat { grant: Some(id), .. } => {
            let opened = opened(paths, &|line| id.begins(&line.grant))?;
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

/// The grants of the audit that `wants` names, and what they opened. What root opened past the agent
/// is not in the audit yet.
fn opened(paths: &Paths, wants: &dyn Fn(&Line) -> bool) -> Result<Vec<(GrantId, Places)>, Failure> {
    let mut reader = Reader::from_the_start(&directory(&paths.state))?;
    let mut opened: Vec<(GrantId, Places)> = Vec::new();
    let mut add = |line: Line| {
        let Ok(id) = line.grant.parse() else { return };
        if line.sources.is_empty() || !wants(&line) {
            return;
        }
        let sources = line.sources.iter().filter_map(|text| text.parse().ok()).collect();
        let ports = line.ports.iter().filter_map(|text| text.parse().ok()).collect();
        opened.retain(|(other, _)| *other != id);
        opened.push((id, Places { sources: Some(sources), ports: Some(ports) }));
    };
    while let Some(line) = reader.next_line()? {
        if let Ok(line) = serde_json::from_slice(&line) {
            add(line);
        }
    }
    for parent in [&paths.state, &paths.runtime] {
        for Opening { id, source, ports, .. } in openings::pending(parent).0 {
            add(Line {
                grant: id.to_string(),
                requester: REQUESTER.into(),
                sources: vec![source.to_string()],
                ports: vec![ports.to_string()],
            });
        }
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_did_and_what_it_did_not_do() {
        let closed = Closed { live: 1, sessions_ended: 1, ..Closed::default() };
        let said = text(Some(closed), "no agent answers", true, true);
        let expected = "no agent answers; closed 1 entry of the kernel's tables\nended 1 session\n\
                        the agent carries the closing into its database and audit when it runs again\n";
        assert_eq!(said, expected);
        let open = Closed { live: 2, sessions_open: 3, ..Closed::default() };
        let said = text(Some(open), "the agent hangs", false, false);
        assert!(said.contains("3 sessions stay open (drain); --cut ends"), "{said}");
        assert!(!said.contains("when it runs again"), "{said}");
        let unsure = Closed { live: 1, warning: Some("x".into()), ..Closed::default() };
        assert!(!text(Some(unsure), "the agent hangs", true, true).contains("ended"));
    }
}
