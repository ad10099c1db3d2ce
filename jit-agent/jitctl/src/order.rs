//! `jitctl push`, `revoke`, `list` and `status`: one call and its answer each.

use std::path::Path;

use jit_client::{
    Agent,
    exit::Exit,
    files::read,
    revocation,
    status::{self, GrantsJson, Page, ShortIds, StatusJson},
};
use jit_proto::{
    GrantId,
    payload_type::REVOCATION_TYPE,
    v1::{self, revoke_request::What},
};
use prost::Message as _;
use serde_json::json;

use crate::{
    agent_args::{ListArgs, PushArgs, RevokeArgs, RevokeWhat, StatusArgs},
    agents,
    colours::Colours,
    connect,
    failure::{self, Failure},
    live, many, signed_revocation,
    target::AgentArgs,
    text,
};

/// Pushes envelopes from files: one by itself, several as a batch. Prints a line for each.
pub(crate) fn push(agent_args: &AgentArgs, args: &PushArgs) -> Result<Exit, Failure> {
    let envelopes =
        args.files.iter().map(|path| read_envelope(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(agents) = agents::of(agent_args)? {
        let files: Vec<_> = args.files.iter().map(|path| path.display().to_string()).collect();
        return many::push(&agents, &envelopes, &files, args.json, Colours::default());
    }
    let outcomes =
        connect::with(agent_args, async |agent| match <[v1::Envelope; 1]>::try_from(envelopes) {
            Ok([one]) if one.payload_type == REVOCATION_TYPE => {
                Ok(vec![signed_revocation::outcome(agent, one).await?])
            }
            Ok([envelope]) => Ok(vec![agent.push(envelope).await?]),
            Err(envelopes) => Ok(agent.push_batch(envelopes).await?),
        })?;
    if outcomes.len() != args.files.len() {
        return Err(Failure::unavailable(format!(
            "the agent answered for {} of {} grants; check with `jitctl list` which it holds",
            outcomes.len(),
            args.files.len()
        )));
    }
    for (path, outcome) in args.files.iter().zip(&outcomes) {
        let id = GrantId::from_bytes(&outcome.grant_id).map(|id| id.to_string());
        if args.json {
            text::print_json(&json!({
                "file": path,
                "grant_id": id,
                "accepted": outcome.accepted,
                "reason": outcome.reason,
                "detail": outcome.detail,
                "not_after": many::end_of(outcome).map(text::moment),
                "not_after_ms": many::end_of(outcome),
                "warning": outcome.warning,
            }))?;
        } else {
            text::print(&outcome_line(path, id.as_deref(), outcome))?;
        }
    }
    let refused = outcomes.iter().any(|outcome| !outcome.accepted);
    Ok(if refused { Exit::Permission } else { Exit::Success })
}

/// Ends grants.
pub(crate) fn revoke(agent_args: &AgentArgs, args: &RevokeArgs) -> Result<Exit, Failure> {
    if args.what.all && !args.yes {
        return Err(Failure::usage("--all ends every grant on the agent; add --yes to confirm it"));
    }
    if args.yes && !args.what.all {
        return Err(Failure::usage("--yes confirms --all and nothing else; leave it out"));
    }
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty; say why: the agent's log records it"));
    }
    if let Some(key) = &args.signed.sign {
        return signed_revocation::run(agent_args, args, key);
    }
    if let Some(agents) = agents::of(agent_args)? {
        let what = many::revoke_what(&args.what)?;
        return many::revoke(&agents, &what, &args.reason, args.cut, args.json);
    }
    let (answer, floor, agent) = connect::with(agent_args, async |agent| {
        let what = asked(agent, &args.what).await?;
        let (target, reason, cut) = (what.clone(), args.reason.clone(), args.cut);
        let request = v1::RevokeRequest { what: Some(what), reason, cut };
        let answer = agent.revoke(request).await?;
        Ok((answer, floor_of(agent, &target).await, agent.name()))
    })?;
    // First: what was not done matters more than what was.
    if !answer.warning.is_empty() {
        failure::warn(&format!("{agent}: {}", text::printable(&answer.warning)));
    }
    if args.json {
        let mut value = revocation::json(&answer);
        value.insert("agent".into(), agent.as_str().into());
        value.insert("revoked_before".into(), floor.map(text::moment).into());
        text::print_json(&value.into())?;
    } else {
        text::print(&revocation::text(&answer, &words(&args.what), &agent, args.cut))?;
        text::print(&floor_line(&args.what, floor))?;
    }
    Ok(if revocation::found_something(&answer) { Exit::Success } else { Exit::Degraded })
}

/// What the agent is asked to revoke. A short id is looked up in the agent's list.
async fn asked(agent: &mut Agent, what: &RevokeWhat) -> Result<What, Failure> {
    let Some(id) = &what.id else { return what.but_id() };
    let listed = match id.whole() {
        Some(_) => Vec::new(),
        None => agent.list(true).await?,
    };
    let id = id.find(&listed).map_err(Failure::usage)?;
    Ok(What::GrantId(id.0.to_vec().into()))
}

/// The same for a person, after "no".
fn words(what: &RevokeWhat) -> String {
    match what {
        RevokeWhat { id: Some(_), .. } => "grant with this id".into(),
        RevokeWhat { requester: Some(name), .. } => format!("grant of {}", text::printable(name)),
        RevokeWhat { source: Some(source), .. } => format!("grant for {source}"),
        RevokeWhat { id: None, requester: None, source: None, request: _, all: _ } => {
            "grant".into()
        }
    }
}

/// Until when what was signed is refused from now on; `None`: the revocation named an id or a
/// source, or this peer may not read it.
async fn floor_of(agent: &mut Agent, what: &What) -> Option<i64> {
    let floors = match what {
        What::GrantId(_) | What::Signed(_) | What::Source(_) => return None,
        What::Requester(_) | What::All(_) => agent.status().await.ok()?.revoked_before?,
    };
    let v1::RevocationFloor { all_ms, by_requester } = floors;
    let floor = match what {
        What::Requester(name) => by_requester.get(name).copied().unwrap_or(all_ms),
        What::GrantId(_) | What::Signed(_) | What::Source(_) | What::All(_) => all_ms,
    };
    (floor != 0).then_some(floor)
}

fn floor_line(what: &RevokeWhat, floor: Option<i64>) -> String {
    let whose = match &what.requester {
        Some(name) => format!("grants of {}", text::printable(name)),
        None if what.all => "grants".to_owned(),
        None => return String::new(),
    };
    let until = floor.map_or_else(|| "the revocation".to_owned(), text::moment);
    format!("{whose} that were signed until {until} are refused; sign anew\n")
}

/// Shows the grants that the agent holds.
pub(crate) fn list(agent_args: &AgentArgs, args: &ListArgs) -> Result<Exit, Failure> {
    if let Some(agents) = agents::of(agent_args)? {
        return many::list(&agents, args.all, args.json, args.colours);
    }
    let grants = connect::with(agent_args, async |agent| Ok(agent.list(args.all).await?))?;
    if args.json {
        text::print_pretty(&GrantsJson(&grants))?;
    } else {
        let (ids, page) = (ShortIds::of(&grants), Page::of_stdout(args.colours.style()));
        text::print(&status::grants_text(&grants, &ids, page))?;
    }
    Ok(Exit::Success)
}

/// Shows what the agent enforces; the exit code is the agent's state.
pub(crate) fn status(agent_args: &AgentArgs, args: &StatusArgs) -> Result<Exit, Failure> {
    let style = args.colours.style();
    if args.watch {
        return live::run(agent_args, style);
    }
    if let Some(agents) = agents::of(agent_args)? {
        return many::status(&agents, args.json, args.colours);
    }
    let status = connect::with(agent_args, async |agent| Ok(agent.status().await?))?;
    if args.json {
        text::print_pretty(&StatusJson(&status))?;
    } else {
        text::print(&status::text(&status, Page::of_stdout(style)))?;
    }
    Ok(Exit::of_status(&status))
}

fn read_envelope(path: &Path) -> Result<v1::Envelope, Failure> {
    let bytes = read(path, "the envelope")?;
    match v1::Envelope::decode(bytes.as_slice()) {
        Ok(envelope) if !envelope.payload.is_empty() => Ok(envelope),
        _ => Err(Failure::files(format!(
            "{} is not an encoded jit.v1.Envelope; `jitctl grant --out FILE` writes one",
            path.display()
        ))),
    }
}

fn outcome_line(path: &Path, id: Option<&str>, outcome: &v1::Outcome) -> String {
    let reason = text::printable(&outcome.reason);
    let verdict = if outcome.accepted {
        let warning = match text::printable(&outcome.warning) {
            none if none.is_empty() => none,
            some => format!("; warning: {some}"),
        };
        match outcome.not_after_ms {
            // A revocation has no end.
            0 => format!("{reason}: {}{warning}", text::printable(&outcome.detail)),
            end => format!("{reason} until {}{warning}", text::moment(end)),
        }
    } else {
        format!("refused: {reason}: {}", text::printable(&outcome.detail))
    };
    format!("{}  {}  {verdict}\n", path.display(), id.unwrap_or("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_outcome_shows_word_and_detail() {
        let outcome = v1::Outcome {
            reason: "wrong_host".into(),
            detail: "for db-1\u{1b}".into(),
            ..v1::Outcome::default()
        };
        let line = outcome_line(Path::new("a.grant"), None, &outcome);
        assert_eq!(line, "a.grant  -  refused: wrong_host: for db-1\\u{1b}\n");
    }

    #[test]
    fn an_accepted_outcome_shows_its_warning() {
        let outcome = v1::Outcome {
            reason: "ok".into(),
            accepted: true,
            warning: "X, which it replaces, is not known on this host".into(),
            ..v1::Outcome::default()
        };
        let line = outcome_line(Path::new("a.grant"), None, &outcome);
        assert!(line.ends_with("; warning: X, which it replaces, is not known on this host\n"));
    }

    #[test]
    fn a_revocation_says_until_when_what_was_signed_is_refused() {
        let all = RevokeWhat { id: None, requester: None, source: None, request: None, all: true };
        let line = floor_line(&all, Some(1_780_272_000_000));
        assert_eq!(
            line,
            "grants that were signed until 2026-06-01T00:00:00Z are refused; sign anew\n"
        );
        let ana =
            RevokeWhat { requester: Some("ana@example.org".into()), all: false, ..all.clone() };
        let line = floor_line(&ana, None);
        assert!(
            line.starts_with("grants of ana@example.org that were signed until the revocation")
        );
        let id = Some(GrantId([1; 16]).into());
        let id = RevokeWhat { id, all: false, ..all };
        assert_eq!(floor_line(&id, None), "");
    }

    #[test]
    fn a_file_that_is_no_envelope_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for bytes in [&b""[..], b"-----BEGIN PUBLIC KEY-----", b"\x0a\x03abc"] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_envelope(&path).unwrap_err().exit, Exit::Configuration);
        }
    }
}
