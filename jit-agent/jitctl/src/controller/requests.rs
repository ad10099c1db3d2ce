//! `jitctl requests`: lists requests, and shows one with all that happened to it.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{RequestSummary, RequestView},
    },
    exit::Exit,
    status::Page,
};

use super::{Output, session::To, show, wait};
use crate::{
    failure::Failure,
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl requests --pending              what waits for somebody's approval
    jitctl requests --mine
    jitctl requests --state open --host web-1 --json
    jitctl requests show 01KPEXAMP1E000000000000001";

/// Arguments of `requests`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct RequestsArgs {
    #[command(subcommand)]
    command: Option<RequestsCommand>,
    /// Only your own
    #[arg(long)]
    mine: bool,
    /// Only those that wait for an approval
    #[arg(long, conflicts_with = "state")]
    pending: bool,
    /// Only in this state: open, partly, refused, ...
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only those for this host
    #[arg(long, value_name = "ID")]
    host: Option<String>,
    /// At most this number, the newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum RequestsCommand {
    /// Show a request: who decided and why, who is missing, what each host answered
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        output: Output,
    },
}

/// Lists requests, or shows one.
pub(super) fn run(to: To<'_>, args: &RequestsArgs) -> Result<Exit, Failure> {
    if let Some(RequestsCommand::Show { id, output }) = &args.command {
        let view: RequestView = to.call(async |session| session.fetch(wait::read(id)).await)?;
        if output.json {
            text::print_pretty(&view)?;
        } else {
            text::print(&show::request(&view, Page::of_stdout(output.colours.style())))?;
        }
        return Ok(Exit::Success);
    }
    let state = if args.pending { Some("pending") } else { args.state.as_deref() };
    let call = Call::get(["requests"])
        .query("state", state.unwrap_or_default())
        .query("host", args.host.as_deref().unwrap_or_default())
        .query("mine", if args.mine { "true" } else { "" })
        .query("limit", args.limit.clamp(1, 500));
    let list = async |session: &super::session::Session| {
        session.list::<RequestSummary>(call, Some(args.limit)).await
    };
    let found = to.call(list)?;
    if args.output.json {
        text::print_pretty(&found)?;
        return Ok(Exit::Success);
    }
    if found.is_empty() {
        text::print("no such requests\n")?;
        return Ok(Exit::Success);
    }
    let page = Page::of_stdout(args.output.colours.style());
    text::print(&table(&found, Timestamp::now().as_millisecond()).text(page))?;
    Ok(Exit::Success)
}

fn table(requests: &[RequestSummary], now_ms: i64) -> Table {
    let mut table = Table::new(&["ID", "STATE", "AGE", "WHO", "WHAT", "WHY"]);
    for one in requests {
        let hosts = usize::try_from(one.hosts_total).unwrap_or(usize::MAX);
        let why = if one.why.is_empty() { &one.reason } else { &one.why };
        let why = match (one.state.as_str(), one.needs_text.as_str()) {
            ("pending", needs) if !needs.is_empty() => format!("[{needs}] {}", one.reason),
            _ if one.ticket.is_empty() => why.clone(),
            _ => format!("{} {why}", one.ticket),
        };
        let what = format!(
            "{} on {} from {} for {}",
            one.ports.join(", "),
            show::first(&one.hosts, hosts),
            one.sources.join(", "),
            one.duration
        );
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            age(now_ms, one.created_ms).into(),
            one.requester.as_str().into(),
            what.into(),
            why.into(),
        ]);
    }
    table
}

/// Time since then, in one unit: `5m`.
pub(super) fn age(now_ms: i64, then_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(then_ms).max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use jit_client::status::Style;

    use super::*;

    #[test]
    fn a_list_shows_what_is_waited_for() {
        let pending = RequestSummary {
            id: "01KPEXAMP1E000000000000001".into(),
            state: "pending".into(),
            requester: "ana@example.org".into(),
            hosts: vec!["web-1".into()],
            hosts_total: 600,
            ports: vec!["22/tcp".into()],
            needs_text: "1 of sre".into(),
            reason: "disk full".into(),
            created_ms: 1_000_000,
            ..RequestSummary::default()
        };
        let text = table(&[pending], 1_000_000 + 300_000).text(Page::endless(Style::Plain));
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("pending  5m"), "{line}");
        assert!(line.contains("22/tcp on web-1 and 599 more from"), "{line}");
        assert!(line.ends_with("[1 of sre] disk full"), "{line}");
    }

    #[test]
    fn ages_have_one_unit_and_are_never_negative() {
        for (seconds, text) in [(-5, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (90_000, "1d")] {
            assert_eq!(age(seconds * 1000, 0), text);
        }
    }
}
