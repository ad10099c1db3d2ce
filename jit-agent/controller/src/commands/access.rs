//! `jit-controller access`: who could get in where at a moment.

use std::net::IpAddr;

use clap::Args;
use jit_client::{exit::Exit, text::printable};
use jit_proto::PortRange;
use serde_json::json;

use super::{
    Failure,
    output::{moment, print, print_json},
};
use crate::{
    audit::access::{Access, Filter, access},
    clock,
    config::Config,
    store::Store,
};

/// The most that is shown.
const MOST: usize = 100_000;

const EXAMPLES: &str = "\
Examples:
    jit-controller access --host db-1                             # now
    jit-controller access --at 2027-03-01T02:30:00Z --port 22     # then, on every host

`unsure` are hosts that have not answered: they may have opened. What was open on a host
without a grant (exemptions, break-glass, observe mode) is in that host's own audit.";

/// Arguments of `access`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct AccessArgs {
    /// The moment, RFC 3339; without it now
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub at: Option<i64>,
    /// Only on this host
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub host: String,
    /// Only these ports
    #[arg(long, value_name = "PORT")]
    pub port: Option<PortRange>,
    /// Only where this address was let in
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Only of this requester
    #[arg(long, value_name = "SUBJECT", default_value = "", hide_default_value = true)]
    pub requester: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_moment(text: &str) -> Result<i64, String> {
    let moment = jit_proto::toml_value::moment("--at", Some(text.to_owned()))?;
    moment.map(|time| time.0).ok_or_else(|| "a moment is needed".to_owned())
}

/// Shows who could get in.
///
/// # Errors
/// The database does not answer.
pub async fn run(config: &Config, args: &AccessArgs) -> Result<Exit, Failure> {
    let at_ms = args.at.unwrap_or_else(clock::now_ms);
    let filter = Filter {
        host: args.host.clone(),
        port: args.port,
        source: args.source,
        requester: args.requester.clone(),
    };
    let store = Store::connect(&config.store.url().map_err(Failure::files)?).await?;
    let found = access(&store, at_ms, &filter, MOST).await?;
    store.close().await;
    if args.json {
        print_json(&json!({ "schema_version": 1, "at": moment(at_ms), "access": found }))?;
    } else {
        print(&shown(at_ms, &found))?;
    }
    Ok(Exit::Success)
}

fn shown(at_ms: i64, found: &[Access]) -> String {
    if found.is_empty() {
        return format!("at {} no grant let anybody in\n", moment(at_ms));
    }
    let mut text = format!("who could get in at {}\n\n", moment(at_ms));
    let rows: Vec<[String; 6]> = found
        .iter()
        .map(|one| {
            let approvers = match one.approvers.is_empty() {
                true => "automatic".to_owned(),
                false => one.approvers.join(", "),
            };
            let sure = if one.certain { "" } else { " (unsure)" };
            [
                printable(&one.host),
                one.ports.join(", "),
                printable(&one.requester),
                one.sources.join(", "),
                format!("{} .. {}{sure}", moment(one.from_ms), moment(one.until_ms)),
                format!("{}  {}", one.grant, printable(&approvers)),
            ]
        })
        .collect();
    let heads = ["HOST", "PORTS", "REQUESTER", "SOURCES", "FROM .. UNTIL", "GRANT  APPROVED BY"]
        .map(str::to_owned);
    let all: Vec<_> = [heads].into_iter().chain(rows).collect();
    let mut widths = [0; 6];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &all {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
