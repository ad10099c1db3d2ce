//! `jitctl request`: asks for ports on hosts. Shows first what would become of it.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{HostView, NewRequest, Preview, RequestView},
    },
    exit::Exit,
    status::Page,
};
use jit_proto::{PortRange, SourcePrefix};

use super::{
    Output, hosts, outcome, preview,
    session::{Session, To},
    show,
    source::{self, Found, ME},
    wait,
};
use crate::{
    failure::{self, Failure},
    text,
};

const EXAMPLES: &str = "\
Examples:
  SSH on one host for an hour, from here; then wait until it is open:
    jitctl request web-1 --port 22 --why 'disk full' --ticket INC-4211 --wait
  Two ports on all web servers of the shop, from an office, tonight:
    jitctl request --label app=shop --label role=web --port 443 --port 8000-8010/tcp \\
      --source 198.51.100.0/28 --from 2027-03-01T22:00:00Z --for 2h --why 'release 4.2'
  Only see who would have to agree, and why:
    jitctl request db-1 --port 5432 --why 'slow query' --dry-run

Exit codes: 0 submitted, or with --wait: open on every host; 77 refused by a rule, a person or
a host; 69 with --wait: something has not answered in time.";

/// Arguments of `request`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RequestArgs {
    /// Exact ids of hosts: jitctl hosts
    #[arg(value_name = "HOST", required_unless_present = "label")]
    pub(super) hosts: Vec<String>,
    /// All hosts with this label, too; repeated: hosts that have all of them
    #[arg(long, value_name = "NAME=VALUE", value_parser = text::parse_label)]
    pub(super) label: Vec<(String, String)>,
    /// Port or range, tcp unless it ends in /udp: 22, 5985-5986/tcp; may be repeated
    #[arg(long, required = true, value_name = "PORTS", value_delimiter = ',')]
    pub(super) port: Vec<PortRange>,
    /// How long: 30m, 1h30m
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = text::parse_duration)]
    pub(super) lifetime: Duration,
    /// Why the ports must open, in words
    #[arg(long, value_name = "TEXT")]
    pub(super) why: String,
    /// Number of the ticket or change request
    #[arg(long, value_name = "TICKET", default_value = "", hide_default_value = true)]
    pub(super) ticket: String,
    /// Address or prefix that is let in; `me` is this machine's address as the hosts see it; may be
    /// repeated
    #[arg(long, value_name = "me|ADDR[/LEN]", default_value = ME, value_parser = parse_source, value_delimiter = ',')]
    pub(super) source: Vec<String>,
    /// Begin at this time instead of at the approval: 2027-03-01T08:00:00Z
    #[arg(long, value_name = "RFC3339")]
    pub(super) from: Option<Timestamp>,
    /// What happens to open sessions at the end [default: the port's own rule]
    #[arg(long, value_enum)]
    pub(super) sessions: Option<SessionsArg>,
    /// Let in at most N connections: 1 for one only. TCP ports only [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) max_connections: Option<u32>,
    /// End this request when the new one begins
    #[arg(long, value_name = "ID")]
    pub(super) replaces: Option<String>,
    /// A text that is used for this request only: the same command again is the same request
    #[arg(long, value_name = "TEXT")]
    pub(super) idempotency_key: Option<String>,
    /// Wait until every host has answered, or this long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "24h", value_parser = text::parse_duration)]
    pub(super) wait: Option<Duration>,
    /// Show what would become of it, and ask for nothing
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What happens to established sessions at the end.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SessionsArg {
    /// They end, too.
    Cut,
    /// They stay open; no new connection opens.
    Drain,
}

impl SessionsArg {
    const fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Drain => "drain",
        }
    }
}

pub(super) fn parse_source(text: &str) -> Result<String, String> {
    if text == ME {
        return Ok(text.to_owned());
    }
    let prefix: Result<SourcePrefix, _> = text.parse();
    prefix.map(|prefix| prefix.to_string()).map_err(|error| error.to_string())
}

/// Shows what would become of a request, and submits it.
pub(super) fn run(to: To<'_>, args: &RequestArgs) -> Result<Exit, Failure> {
    to.call(async |session| {
        let (ask, found) = prepare(session, args).await?;
        let preview = preview(session, &ask).await?;
        let page = Page::of_stdout(args.output.colours.style());
        let refused = preview::refused(&preview);
        if args.dry_run {
            if args.output.json {
                text::print_pretty(&preview)?;
            } else {
                text::print(&preview::text(
                    &preview,
                    found.as_ref().map(|found| found.how.as_str()),
                    page,
                ))?;
            }
            return Ok(if refused.is_some() { Exit::Permission } else { Exit::Success });
        }
        if !args.output.json {
            text::print(&preview::text(
                &preview,
                found.as_ref().map(|found| found.how.as_str()),
                page,
            ))?;
        }
        if let Some(refused) = refused {
            return Err(Failure::refused(format!("refused: {}", text::printable(&refused))));
        }
        let submitted = submit(session, &ask, args.idempotency_key.clone()).await?;
        let Some(most) = args.wait else {
            if args.output.json {
                text::print_pretty(&submitted)?;
            } else {
                text::print(&said(&submitted))?;
            }
            return Ok(Exit::Success);
        };
        if !args.output.json {
            text::print(&format!("request    {}\n", text::printable(&submitted.id)))?;
        }
        let view = wait::settled(session, submitted, most).await?;
        report(&view, args.output, page)
    })
}

/// What is asked for, with hosts and addresses in place of labels and `me`.
pub(super) async fn prepare(
    session: &Session,
    args: &RequestArgs,
) -> Result<(NewRequest, Option<Found>), Failure> {
    let mut named: BTreeSet<String> = args.hosts.iter().cloned().collect();
    if !args.label.is_empty() {
        let found: Vec<HostView> = session.list(hosts::with_labels(&args.label), None).await?;
        let found = found.into_iter().filter(|host| hosts::has_labels(host, &args.label));
        let before = named.len();
        named.extend(found.map(|host| host.id));
        if named.len() == before && before == 0 {
            return Err(Failure::usage("no host has these labels: jitctl hosts shows the labels"));
        }
    }
    let hosts: Vec<String> = named.into_iter().collect();
    let mut found = None;
    let mut sources = BTreeSet::new();
    for source in &args.source {
        if source != ME {
            sources.insert(source.clone());
            continue;
        }
        let first = hosts.first().map(String::as_str).unwrap_or_default();
        let mine = source::mine(session, first, &args.port).await?;
        source::warn_if_unsure(&mine);
        sources.insert(mine.address.clone());
        found = Some(mine);
    }
    let milliseconds = i64::try_from(args.lifetime.as_millis())
        .map_err(|_| Failure::usage("--for is too long"))?;
    let ask = NewRequest {
        hosts,
        sources: sources.into_iter().collect(),
        ports: args.port.iter().map(ToString::to_string).collect(),
        duration_ms: Some(milliseconds),
        start_ms: args.from.map(Timestamp::as_millisecond),
        reason: args.why.clone(),
        ticket: args.ticket.clone(),
        sessions: args.sessions.map(|sessions| sessions.word().to_owned()),
        max_connections: args.max_connections.unwrap_or(0),
        replaces: args.replaces.clone(),
        ..NewRequest::default()
    };
    Ok((ask, found))
}

/// What would become of it.
pub(super) async fn preview(session: &Session, ask: &NewRequest) -> Result<Preview, Failure> {
    // Nothing is stored: it may be asked twice.
    session.fetch(Call::post(["requests"]).query("preview", "true").json(ask)).await
}

/// Submits it; sent twice, it is one request.
pub(super) async fn submit(
    session: &Session,
    ask: &NewRequest,
    key: Option<String>,
) -> Result<RequestView, Failure> {
    let key = key.unwrap_or_else(|| ulid::Ulid::generate().to_string());
    session.fetch(Call::post(["requests"]).json(ask).key(key)).await
}

/// The id, the state, and what to do next.
fn said(view: &RequestView) -> String {
    let next = match view.state.as_str() {
        "pending" => format!(
            "{}\nsomebody who may agree: jitctl approve {}\n",
            wait::sentence(view),
            view.id
        ),
        _ => String::new(),
    };
    format!(
        "request    {}\nstate      {}\n{next}follow it with: jitctl requests show {}\n",
        text::printable(&view.id),
        text::printable(&view.state),
        text::printable(&view.id)
    )
}

/// What came of a request that was waited for; the exit code is that of the worst outcome.
pub(super) fn report(view: &RequestView, output: Output, page: Page) -> Result<Exit, Failure> {
    let exit = outcome::exit(view);
    if output.json {
        text::print_pretty(view)?;
        return Ok(exit);
    }
    let ends = view.ends.as_ref().map(|ends| format!(" until {ends}")).unwrap_or_default();
    let why = if view.why.is_empty() { String::new() } else { format!(": {}", view.why) };
    let mut out = format!("state      {}{ends}{why}\n", view.state);
    out = text::printable(out.trim_end()) + "\n";
    let others = view.answers.iter().filter(|answer| answer.answer != "open");
    if others.clone().next().is_some() {
        out += &show::answers(others, page);
    }
    text::print(&out)?;
    if exit == Exit::Unavailable {
        failure::warn(&format!("not settled in time ({}); it goes on", wait::sentence(view)));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RequestArgs,
    }

    fn parse(more: &str) -> Result<RequestArgs, String> {
        let line = Line::try_parse_from(format!("x --why w {more}").split_whitespace());
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_usual_request_is_short() {
        let args = parse("web-1 --port 22").unwrap();
        assert_eq!((args.source, args.lifetime), (vec![ME.to_owned()], Duration::from_secs(3600)));
        assert_eq!((args.wait, args.dry_run), (None, false));
        let args = parse("web-1 --port 22 --wait").unwrap();
        assert_eq!(args.wait, Some(Duration::from_secs(86_400)));
        let args = parse("web-1 web-2 --port 22,443 --port 53/udp --wait=5m").unwrap();
        assert_eq!((args.hosts.len(), args.port.len()), (2, 3));
        assert_eq!(args.wait, Some(Duration::from_secs(300)));
    }

    #[test]
    fn typing_errors_are_found_before_anything_is_sent() {
        for bad in [
            "--port 22",
            "web-1",
            "web-1 --port 22 --source 203.0.113.7/24",
            "web-1 --port 22 --source you",
            "web-1 --port 22 --label prod",
            "web-1 --port 22 --max-connections 0",
            "web-1 --port 22 --for 0s",
            "web-1 --port 22 --dry-run --wait",
            "web-1 --port ssh",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("--port 22 --label env=prod").is_ok());
        let args = parse("web-1 --port 22 --source 203.0.113.0/24,me").unwrap();
        assert_eq!(args.source, ["203.0.113.0/24", "me"]);
    }
}
