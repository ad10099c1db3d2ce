//! `jitctl access`: who could get in where at a time.

use std::net::IpAddr;

use clap::Args;
use jiff::Timestamp;
use jit_client::{
    controller::{call::Call, types::AccessView},
    exit::Exit,
    status::Page,
};
use jit_proto::PortRange;

use super::{Output, session::To};
use crate::table::Table;
use crate::{
    failure::{self, Failure},
    text,
};

/// Arguments of `access`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
    jitctl access                                          who can get in now
    jitctl access --at 2027-03-01T10:00:00Z --host db-1 --port 5432")]
pub(crate) struct AccessArgs {
    /// At this time [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// Only on this host
    #[arg(long, value_name = "ID")]
    host: Option<String>,
    /// Only at this port, tcp unless it ends in /udp
    #[arg(long, value_name = "PORT")]
    port: Option<PortRange>,
    /// Only where this address is let in
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// Only of this person
    #[arg(long, value_name = "NAME")]
    requester: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Shows who could get in.
pub(super) fn run(to: To<'_>, args: &AccessArgs) -> Result<Exit, Failure> {
    let at = args.at.unwrap_or_else(Timestamp::now);
    let port = args.port.map(|port| port.to_string()).unwrap_or_default();
    let call = Call::get(["access"])
        .query("at", text::moment(at.as_millisecond()))
        .query("host", args.host.as_deref().unwrap_or_default())
        .query("port", port)
        .query("source", args.source.map(|source| source.to_string()).unwrap_or_default())
        .query("requester", args.requester.as_deref().unwrap_or_default());
    let view: AccessView = to.call(async |session| session.fetch(call).await)?;
    if args.output.json {
        text::print_pretty(&view)?;
        return Ok(Exit::Success);
    }
    if view.entries.is_empty() {
        text::print(&format!("nobody could get in at {}\n", text::printable(&view.at)))?;
        return Ok(Exit::Success);
    }
    text::print(&table(&view).text(Page::of_stdout(args.output.colours.style())))?;
    if view.cut {
        failure::warn("there is more than is shown: ask for one host with --host");
    }
    Ok(Exit::Success)
}

fn table(view: &AccessView) -> Table {
    let titles = ["HOST", "PORTS", "FROM", "WHO", "AGREED", "UNTIL", "HOST SAYS", "REQUEST"];
    let mut table = Table::new(&titles);
    for one in &view.entries {
        // Nobody knows whether a host that did not answer has opened.
        let says = match one.certain {
            true => one.answer.clone(),
            false => format!("{}, perhaps", one.answer),
        };
        table.row([
            one.host.as_str().into(),
            one.ports.join(", ").into(),
            one.sources.join(", ").into(),
            one.requester.as_str().into(),
            one.approvers.join(", ").into(),
            one.until.as_str().into(),
            says.into(),
            one.request.as_str().into(),
        ]);
    }
    table
}
