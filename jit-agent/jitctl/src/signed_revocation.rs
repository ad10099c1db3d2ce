//! `jitctl revoke --sign`: makes a signed revocation, and pushes it or writes it to a file.

use jiff::Timestamp;
use jit_client::{
    Agent,
    exit::Exit,
    keys::{KeySpec, seal},
    revocation,
    revocation_order::{KEEP, RevocationOrder, Whose},
};
use jit_proto::{
    dsse::MAX_ENVELOPE_BYTES,
    payload_type::REVOCATION_TYPE,
    v1::{self, revoke_request::What},
    words::counted,
};
use prost::Message as _;

use crate::{
    agent_args::{RevokeArgs, RevokeWhat},
    agents, connect,
    failure::{self, Failure},
    files::{self, PUBLIC},
    many,
    requester::default_requester,
    signing::signing_keys,
    target::AgentArgs,
    text,
};

/// Signs a revocation, then pushes it or writes it to a file.
pub(crate) fn run(
    agent_args: &AgentArgs,
    args: &RevokeArgs,
    key: &KeySpec,
) -> Result<Exit, Failure> {
    let order = order(args, Timestamp::now(), default_requester)?;
    let keys = signing_keys(std::slice::from_ref(key))?;
    let envelope = seal(REVOCATION_TYPE, order.message().encode_to_vec(), &keys)?;
    if envelope.encoded_len() > MAX_ENVELOPE_BYTES {
        return Err(Failure::usage(format!(
            "the revocation is larger than the {MAX_ENVELOPE_BYTES} bytes that agents accept; name \
             fewer hosts, or --every-host"
        )));
    }
    if let Some(path) = &args.signed.out {
        files::write_new(path, &envelope.encode_to_vec(), PUBLIC)?;
        let path = path.display();
        text::print(&format!("written to {path}; send it with: jitctl push {path}\n"))?;
        return Ok(Exit::Success);
    }
    if let Some(agents) = agents::of(agent_args)? {
        return many::revoke(&agents, &What::Signed(envelope), "", false, args.json);
    }
    let (answer, agent) = connect::with(agent_args, async |agent| {
        Ok((agent.revoke(request(envelope)).await?, agent.name()))
    })?;
    if !answer.warning.is_empty() {
        failure::warn(&format!("{agent}: {}", text::printable(&answer.warning)));
    }
    if args.json {
        let mut value = revocation::json(&answer);
        value.insert("agent".into(), agent.as_str().into());
        value.insert("reason".into(), answer.reason.as_str().into());
        text::print_json(&value.into())?;
    } else {
        text::print(&revocation::text(&answer, "grant that it names", &agent, args.cut))?;
        text::print(&floor_line(&order, &answer.reason))?;
    }
    let changed = answer.reason != "known" || revocation::found_something(&answer);
    Ok(if changed { Exit::Success } else { Exit::Degraded })
}

/// Delivers a revocation from a file, and reads its answer like that to a grant.
pub(crate) async fn outcome(
    agent: &mut Agent,
    envelope: v1::Envelope,
) -> Result<v1::Outcome, Failure> {
    let v1::RevokeResponse { revoked, warning, reason, .. } =
        agent.revoke(request(envelope)).await?;
    let detail = format!("{} ended", counted(revoked, "grant"));
    Ok(v1::Outcome { reason, accepted: true, detail, warning, ..v1::Outcome::default() })
}

fn request(envelope: v1::Envelope) -> v1::RevokeRequest {
    v1::RevokeRequest { what: Some(What::Signed(envelope)), ..v1::RevokeRequest::default() }
}

/// What the arguments order. The time and the default author are arguments.
fn order(
    args: &RevokeArgs,
    now: Timestamp,
    default_author: impl Fn() -> Option<String>,
) -> Result<RevocationOrder, Failure> {
    let signed = &args.signed;
    let hosts = match (signed.for_host.is_empty(), signed.every_host) {
        (true, false) => {
            return Err(Failure::usage(
                "say for which hosts it is signed: --for-host ID..., or --every-host",
            ));
        }
        (_, true) => None,
        (false, false) => Some(signed.for_host.clone()),
    };
    if signed.for_host.iter().any(|host| host.trim().is_empty()) {
        return Err(Failure::usage("--for-host is empty; give it the id of a host"));
    }
    let author = signed.author.clone().or_else(default_author).filter(|name| !name.is_empty());
    let author = author.ok_or_else(|| {
        Failure::usage("cannot find out who you are; add --author NAME: the audit records it")
    })?;
    let keep = signed.keep.unwrap_or(KEEP);
    if keep.as_millis() == 0 {
        return Err(Failure::usage("--keep is zero; nobody would deliver it"));
    }
    Ok(RevocationOrder {
        hosts,
        whose: whose(&args.what)?,
        issued_before_ms: signed.issued_before.unwrap_or(now).as_millisecond(),
        cut: args.cut,
        author,
        reason: args.reason.clone(),
        keep,
    })
}

fn whose(what: &RevokeWhat) -> Result<Whose, Failure> {
    match what {
        RevokeWhat { all: true, .. } => Ok(Whose::All),
        RevokeWhat { requester: Some(name), .. } => Ok(Whose::Requester(name.clone())),
        RevokeWhat { id: Some(begin), .. } => match begin.whole() {
            Some(id) => Ok(Whose::Ids(vec![id])),
            None => Err(Failure::usage("--sign needs the whole id: no agent is asked for it")),
        },
        RevokeWhat { id: None, requester: None, source: _, request: _, all: false } => Err(
            Failure::usage("a signed revocation is of --id, --requester or --all; nothing else"),
        ),
    }
}

fn floor_line(order: &RevocationOrder, word: &str) -> String {
    let whose = match &order.whose {
        Whose::All => "grants".to_owned(),
        Whose::Ids(_) => return String::new(),
        Whose::Requester(name) => format!("grants of {}", text::printable(name)),
    };
    let known = if word == "known" { " already" } else { "" };
    let until = text::moment(order.issued_before_ms);
    format!("{whose} that were signed until {until} are refused{known}; sign anew\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RevokeArgs,
    }

    const NOW: &str = "2027-03-01T08:00:00Z";

    fn parse(more: &str) -> Result<RevokeArgs, String> {
        let line = ["x", "--reason", "stolen key"].into_iter().chain(more.split_whitespace());
        Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
    }

    fn ordered(more: &str) -> Result<RevocationOrder, Failure> {
        order(&parse(more).unwrap(), NOW.parse().unwrap(), || Some("bo@build".into()))
    }

    #[test]
    fn a_signed_revocation_says_what_the_command_line_says() {
        let all = ordered("--all --yes --sign k --every-host --cut").unwrap();
        let now = NOW.parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!((all.hosts, all.whose, all.cut), (None, Whose::All, true));
        assert_eq!((all.issued_before_ms, all.author.as_str()), (now, "bo@build"));
        assert_eq!((all.reason.as_str(), all.keep), ("stolen key", KEEP));
        let ana = ordered(
            "--requester ana@example.org --sign k --for-host web-1 web-2 --keep 2h --author bo \
             --issued-before 2027-03-01T07:00:00Z",
        )
        .unwrap();
        assert_eq!(ana.hosts, Some(vec!["web-1".into(), "web-2".into()]));
        assert_eq!(ana.whose, Whose::Requester("ana@example.org".into()));
        assert_eq!(ana.issued_before_ms, now - 3_600_000);
        assert_eq!((ana.author.as_str(), ana.keep.as_secs()), ("bo", 7_200));
        let id = ordered("--id 01J9W7K3AAAAAAAAAAAAAAAAAA --sign k --every-host").unwrap();
        let expected = "01J9W7K3AAAAAAAAAAAAAAAAAA".parse().unwrap();
        assert_eq!(id.whose, Whose::Ids(vec![expected]));
    }

    #[test]
    fn what_cannot_be_signed_is_refused_with_what_to_do() {
        for (line, says) in [
            ("--all --yes --sign k", "--every-host"),
            ("--id 01J9W7 --sign k --every-host", "whole id"),
            ("--source 192.0.2.7 --sign k --every-host", "--id, --requester or --all"),
            ("--request x --sign k --every-host", "--id, --requester or --all"),
        ] {
            let failure = ordered(line).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{line}");
            assert!(failure.to_string().contains(says), "{line}: {failure}");
        }
        for line in ["--all --yes --every-host", "--all --yes --out x", "--all --yes --keep 1h"] {
            assert!(parse(line).is_err(), "{line}: without --sign");
        }
        assert!(parse("--all --yes --sign k --every-host --for-host web-1").is_err());
    }
}
