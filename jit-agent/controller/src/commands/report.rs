//! `jit-controller report`: a week for those who answer for access: what was open and unused, what
//! was denied, what lets people in without a grant, which hosts do not enforce.
//!
//! It claims only what is known: what no host has said is counted as not known.

mod gather;
mod period;
mod show;

use std::path::PathBuf;

use clap::Args;
use jit_client::exit::Exit;

use self::{gather::gather, period::Period};
use super::{
    Failure,
    output::{print, print_json},
};
use crate::{clock, config::Config, store::Store};

const EXAMPLES: &str = "\
Examples:
    jit-controller report                              # the last whole week
    jit-controller report --week 2026-W48 --html > report.html
    jit-controller report --from 2026-11-01 --to 2026-12-01 --csv november

Weeks begin on Monday, and days at 00:00 UTC. Hosts and exemptions are shown as they are now.";

/// Arguments of `report`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// The week, as ISO 8601 writes it: 2026-W48; without it the last whole one
    #[arg(long, value_name = "WEEK", value_parser = period::week, conflicts_with = "from")]
    pub week: Option<Period>,
    /// The first day, or moment
    #[arg(long, value_name = "TIME", value_parser = period::moment, requires = "to")]
    pub from: Option<i64>,
    /// The day, or moment, with which it ends; it does not belong to the report
    #[arg(long, value_name = "TIME", value_parser = period::moment, requires = "from")]
    pub to: Option<i64>,
    /// Print a page of HTML that needs nothing else
    #[arg(long, conflicts_with_all = ["csv", "json"])]
    pub html: bool,
    /// Write each table as a new file NAME.csv into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub csv: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows a week.
///
/// # Errors
/// The database does not answer, or a file cannot be written.
pub async fn run(config: &Config, args: &ReportArgs) -> Result<Exit, Failure> {
    let now_ms = clock::now_ms();
    let period = match (args.week, args.from, args.to) {
        (Some(week), ..) => week,
        (None, Some(from_ms), Some(to_ms)) if from_ms < to_ms => Period { from_ms, to_ms },
        (None, Some(_), Some(_)) => {
            return Err(Failure::usage("--from must be before --to"));
        }
        _ => period::last_week(now_ms).map_err(Failure::usage)?,
    };
    let store = Store::connect(&config.store.url().map_err(Failure::files)?).await?;
    let report = gather(&store, period, now_ms).await?;
    store.close().await;
    if args.html {
        print(&show::html(&report)?)?;
    } else if let Some(directory) = &args.csv {
        show::csv(&report, directory)?;
    } else if args.json {
        print_json(&show::json(&report))?;
    } else {
        print(&show::text(&report))?;
    }
    Ok(Exit::Success)
}
