//! `jitctl grant`: makes a signed grant from the command line and pushes it. The checks here only
//! catch typing errors; the agent does its own.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jit_client::{
    exit::Exit,
    keys::{KeySpec, seal},
};
use jit_common::Protocol;
use jit_proto::{
    GrantId, PortRange, SourcePrefix, dsse::MAX_ENVELOPE_BYTES, payload_type::GRANT_TYPE, v1,
};
use prost::Message as _;
use serde_json::json;

use crate::{
    agents,
    colours::Colours,
    connect,
    failure::Failure,
    files::{self, PUBLIC},
    many,
    requester::default_requester,
    signing::signing_keys,
    target::AgentArgs,
    text,
};

/// Arguments of `grant`.
#[derive(Args, Clone, Debug)]
pub(crate) struct GrantArgs {
    /// Key that signs: a PKCS#8 PEM file, ssh-agent:COMMENT, or pkcs11:... (see `jitctl sign --help`);
    /// repeat for ports that need several approvals
    #[arg(long, required = true, value_name = "KEY")]
    signing_key: Vec<KeySpec>,
    /// Exact id of a host that the grant is for, as its agent's status shows it; may be repeated
    #[arg(long, required = true, value_name = "ID", num_args = 1..)]
    host: Vec<String>,
    /// Address or prefix that the grant lets in; may be repeated
    #[arg(long, required = true, value_name = "ADDR[/LEN]", num_args = 1..)]
    source: Vec<SourcePrefix>,
    /// Port or range, tcp unless it ends in /udp: 22, 5985-5986/tcp; may be repeated
    #[arg(long, required = true, value_name = "PORTS", num_args = 1..)]
    port: Vec<PortRange>,
    /// How long the grant lasts: 45s, 30m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
    lifetime: Duration,
    /// Start at this time instead of now: 2027-03-01T08:00:00Z
    #[arg(long, value_name = "RFC3339")]
    from: Option<Timestamp>,
    /// Who asks for the grant [default: user@hostname]
    #[arg(long, value_name = "NAME")]
    requester: Option<String>,
    /// Why the ports must open, in words
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Number of the ticket or change request
    #[arg(long, value_name = "TICKET", default_value = "", hide_default_value = true)]
    ticket: String,
    /// Who approved the grant; may be repeated
    #[arg(long, value_name = "NAME")]
    approver: Vec<String>,
    /// What happens to open sessions when the grant ends [default: the port's own rule]
    #[arg(long, value_enum)]
    sessions: Option<SessionsArg>,
    /// Let in at most N connections: 1 for a one-shot grant. TCP ports only
    /// [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_connections: Option<u32>,
    /// End this grant when the new one begins, to shorten or narrow it
    #[arg(long, value_name = "ULID")]
    replaces: Option<GrantId>,
    /// Id of the grant [default: a new one]
    #[arg(long, value_name = "ULID")]
    id: Option<GrantId>,
    /// Write the signed envelope to a new file instead of pushing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What happens to established sessions at the end.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SessionsArg {
    /// They end with the grant.
    Cut,
    /// They stay open; no new connection opens.
    Drain,
}

/// Builds and signs a grant, then pushes it or writes it to a file.
pub(crate) fn run(agent_args: &AgentArgs, args: &GrantArgs) -> Result<Exit, Failure> {
    let keys = signing_keys(&args.signing_key)?;
    let id = args.id.unwrap_or_else(|| GrantId(ulid::Ulid::generate().to_bytes()));
    let grant = build(args, id, Timestamp::now(), default_requester)?;
    let window = (grant.not_before_ms, grant.not_after_ms);
    let envelope = seal(GRANT_TYPE, grant.encode_to_vec(), &keys)?;
    if envelope.encoded_len() > MAX_ENVELOPE_BYTES {
        return Err(Failure::usage(format!(
            "the grant is larger than the {MAX_ENVELOPE_BYTES} bytes that agents accept; split it"
        )));
    }
    if let Some(path) = &args.out {
        files::write_new(path, &envelope.encode_to_vec(), PUBLIC)?;
        return report(args, &Done { id, window, outcome: None, written: Some(path) });
    }
    if let Some(agents) = agents::of(agent_args)? {
        let (from, until) = (text::moment(window.0), text::moment(window.1));
        if !args.json {
            text::print(&format!("grant    {id}\nwindow   {from} to {until}\n"))?;
        }
        let name = [id.to_string()];
        return many::push(&agents, &[envelope], &name, args.json, Colours::default());
    }
    let started = Instant::now();
    let (outcome, agent, push) = connect::with(agent_args, async |agent| {
        let connected = Instant::now();
        Ok((agent.push(envelope).await?, agent.name(), connected.elapsed()))
    })?;
    let outcome = Pushed { outcome, agent, total: started.elapsed(), push };
    report(args, &Done { id, window, outcome: Some(outcome), written: None })
}

/// The grant that the arguments describe. The time and the default requester are arguments.
fn build(
    args: &GrantArgs,
    id: GrantId,
    now: Timestamp,
    default_requester: impl Fn() -> Option<String>,
) -> Result<v1::Grant, Failure> {
    let required = |option: &str, text: &str| match text.trim().is_empty() {
        true => Err(Failure::usage(format!("{option} is empty; give it a text"))),
        false => Ok(text.to_owned()),
    };
    let issued_at_ms = now.as_millisecond();
    let not_before_ms = args.from.unwrap_or(now).as_millisecond();
    let not_after_ms = i64::try_from(args.lifetime.as_millis())
        .ok()
        .and_then(|lifetime| not_before_ms.checked_add(lifetime))
        .ok_or_else(|| Failure::usage("--for is too long: the end of the grant has no date"))?;
    if not_after_ms <= issued_at_ms {
        return Err(Failure::usage(format!(
            "the grant would end at {}, which is in the past; check --from and --for",
            text::moment(not_after_ms)
        )));
    }
    let udp = args.port.iter().any(|range| range.protocol == Protocol::Udp);
    if args.max_connections.is_some() && udp {
        return Err(Failure::usage(
            "--max-connections counts TCP connections; leave it out for UDP ports",
        ));
    }
    let requester = match &args.requester {
        Some(requester) => required("--requester", requester)?,
        None => default_requester().ok_or_else(|| {
            Failure::usage(
                "cannot find out who you are (no USER, no entry in /etc/passwd); add --requester \
                 NAME",
            )
        })?,
    };
    Ok(v1::Grant {
        id: id.0.to_vec().into(),
        hosts: args.host.iter().map(|host| required("--host", host)).collect::<Result<_, _>>()?,
        sources: args.source.iter().map(v1::Source::from).collect(),
        ports: args.port.iter().copied().map(v1::PortRange::from).collect(),
        issued_at_ms,
        not_before_ms,
        not_after_ms,
        requester,
        approvers: args.approver.clone(),
        justification: required("--why", &args.why)?,
        ticket: args.ticket.clone(),
        sessions: match args.sessions {
            None => v1::Sessions::Unspecified,
            Some(SessionsArg::Cut) => v1::Sessions::Cut,
            Some(SessionsArg::Drain) => v1::Sessions::Drain,
        }
        .into(),
        max_connections: args.max_connections.unwrap_or(0),
        replaces: args.replaces.map_or_else(Vec::new, |id| id.0.to_vec()).into(),
    })
}

/// What was done, for the report.
struct Done<'a> {
    id: GrantId,
    /// Milliseconds since the Unix epoch: start and end.
    window: (i64, i64),
    outcome: Option<Pushed>,
    written: Option<&'a PathBuf>,
}

/// An accepted push.
struct Pushed {
    outcome: v1::Outcome,
    agent: String,
    /// From the start of the connection to the answer.
    total: Duration,
    /// From the connected agent to the answer.
    push: Duration,
}

fn report(args: &GrantArgs, done: &Done<'_>) -> Result<Exit, Failure> {
    let Done { id, window: (not_before, not_after), outcome, written } = done;
    let (from, until) = (text::moment(*not_before), text::moment(*not_after));
    if args.json {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let mut value = json!({
            "grant_id": id.to_string(),
            "not_before": from,
            "not_before_ms": not_before,
            "not_after": until,
            "not_after_ms": not_after,
        });
        if let Some(map) = value.as_object_mut() {
            if let Some(Pushed { outcome, agent, total, push }) = outcome {
                map.insert("agent".into(), json!(agent));
                map.insert("reason".into(), json!(outcome.reason));
                map.insert("detail".into(), json!(outcome.detail));
                map.insert("took_ms".into(), json!(milliseconds(*total)));
                map.insert("push_ms".into(), json!(milliseconds(*push)));
            }
            if let Some(path) = written {
                map.insert("file".into(), json!(path));
            }
        }
        text::print_json(&value)?;
        return Ok(Exit::Success);
    }
    let result = match (outcome, written) {
        (Some(Pushed { outcome, agent, total, push }), _) => {
            let detail = match outcome.detail.as_str() {
                "" => String::new(),
                detail => format!(" ({})", text::printable(detail)),
            };
            format!(
                "{} on {agent}{detail}\ntook     {}, from push to answer {}",
                text::printable(&outcome.reason),
                text::took(*total),
                text::took(*push)
            )
        }
        (None, Some(path)) => {
            format!("written to {}; send it with: jitctl push", path.display())
        }
        (None, None) => String::new(),
    };
    text::print(&format!(
        "grant    {id}\nwindow   {from} to {until} ({})\nresult   {result}\n",
        text::duration(args.lifetime)
    ))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: GrantArgs,
    }

    const NOW: &str = "2027-03-01T08:00:00Z";

    fn parse(more: &[&str]) -> Result<GrantArgs, String> {
        let head = "x --signing-key k --host web-1 --why patching --for 1h".split(' ');
        let line = Line::try_parse_from(head.chain(more.iter().copied()));
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    fn built(more: &[&str]) -> Result<v1::Grant, Failure> {
        let base = ["--source", "203.0.113.7", "--port", "22"];
        let args = parse(&[&base, more].concat()).unwrap();
        build(&args, GrantId([7; 16]), NOW.parse().unwrap(), || Some("ana@build".into()))
    }

    #[test]
    fn a_grant_says_what_the_command_line_says() {
        let grant = built(&[
            "--source",
            "2001:db8:7::/64",
            "--port",
            "5985-5986/tcp",
            "3478/udp",
            "--ticket",
            "CHG-1",
            "--approver",
            "li@example.org",
            "--sessions",
            "cut",
            "--replaces",
            "01J9W7K3AAAAAAAAAAAAAAAAAA",
        ])
        .unwrap();
        let now = NOW.parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(grant.id.as_ref(), [7; 16]);
        assert_eq!(grant.hosts, ["web-1"]);
        assert_eq!(grant.sources[0].address.as_ref(), [203, 0, 113, 7]);
        assert_eq!(grant.sources[0].prefix_length, 32);
        assert_eq!(grant.sources[1].address.len(), 16);
        assert_eq!(grant.sources[1].prefix_length, 64);
        let ports: Vec<_> = grant.ports.iter().map(|p| (p.protocol(), p.first, p.last)).collect();
        let (tcp, udp) = (v1::Protocol::Tcp, v1::Protocol::Udp);
        assert_eq!(ports, [(tcp, 22, 22), (tcp, 5985, 5986), (udp, 3478, 3478)]);
        assert_eq!((grant.issued_at_ms, grant.not_before_ms), (now, now));
        assert_eq!(grant.not_after_ms, now + 3_600_000);
        assert_eq!(grant.requester, "ana@build");
        assert_eq!(grant.approvers, ["li@example.org"]);
        assert_eq!(grant.sessions(), v1::Sessions::Cut);
        let replaced = "01J9W7K3AAAAAAAAAAAAAAAAAA".parse::<GrantId>().unwrap();
        assert_eq!((grant.max_connections, grant.replaces.as_ref()), (0, &replaced.0[..]));
    }

    #[test]
    fn a_limit_is_from_1_to_1024_and_for_tcp() {
        assert_eq!(built(&["--max-connections", "1"]).unwrap().max_connections, 1);
        let most = jit_common::MAX_CONNECTIONS.to_string();
        assert_eq!(built(&["--max-connections", &most]).unwrap().max_connections, 1024);
        let source = ["--source", "203.0.113.7"];
        for bad in ["0", "1025", "-1", "x"] {
            let line = [&source[..], &["--port", "22", "--max-connections", bad]].concat();
            assert!(parse(&line).is_err(), "{bad}");
        }
        let udp = built(&["--port", "3478/udp", "--max-connections", "1"]).unwrap_err();
        assert_eq!(udp.exit, Exit::Usage);
    }

    #[test]
    fn a_window_counts_from_its_start() {
        let grant = built(&["--from", "2027-03-02T08:00:00Z"]).unwrap();
        assert_eq!(text::moment(grant.not_before_ms), "2027-03-02T08:00:00Z");
        assert_eq!(text::moment(grant.not_after_ms), "2027-03-02T09:00:00Z");
        assert_eq!(text::moment(grant.issued_at_ms), NOW);
        assert_eq!(built(&["--from", "2027-03-01T07:00:00Z"]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn host_bits_and_bad_ports_are_refused_on_the_command_line() {
        let error = parse(&["--port", "22", "--source", "203.0.113.7/24"]).unwrap_err();
        assert!(error.contains("203.0.113.0/24"), "{error}");
        for port in ["0", "65536", "22/sctp", "23-22", "22-", "ssh", "", "22/tcp/udp"] {
            assert!(parse(&["--source", "203.0.113.7", "--port", port]).is_err(), "{port}");
        }
    }

    #[test]
    fn an_empty_reason_requester_or_host_is_refused() {
        for (option, value) in [("--requester", " "), ("--host", "")] {
            let failure = built(&[option, value]).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{option}");
        }
    }
}
