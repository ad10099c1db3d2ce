//! `jit-agent status`: the agent's answer, or what the kernel enforces while no agent answers.

use std::{path::Path, process::ExitCode};

use clap::{Args, ColorChoice};
use jit_client::{
    exit::Exit,
    status::{self, Page, StatusJson},
};
use jit_proto::v1;

use crate::{
    config::{Glimpse, Loaded},
    kernel::datapath::boot_clock,
    oncall::{
        agent::{Asked, Silence, ask},
        failure::Failure,
        names::Names,
        offline::{self, Absent},
        output::{page, print, print_json},
    },
    rules::problem::ProblemKind,
    system::sys,
};

/// What `status` shows, and how.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Show everything, however long it gets.
    #[arg(long)]
    all: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
    /// Colours: `auto` has them on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

/// Prints the status. The exit code is the state.
pub async fn run(config: &Path, options: Options) -> Result<ExitCode, Failure> {
    let Options { all, json, color } = options;
    let glimpse = Glimpse::of(config);
    let socket = glimpse.paths.socket();
    let asked = ask(&socket, async |client| client.status(v1::StatusRequest {}).await);
    let status = match asked.await? {
        Asked::Answered(status) => status,
        Asked::Closed => without_agent(config, glimpse, Silence::Closed)?,
        Asked::Refused(_) => without_agent(config, glimpse, Silence::Hung)?,
        Asked::Silent(silence) => without_agent(config, glimpse, silence)?,
    };
    if json {
        print_json(&StatusJson(&status))?;
    } else {
        let page = page(color);
        let page = if all { Page { height: None, grants: None, ..page } } else { page };
        print(&status::text(&status, page))?;
    }
    Ok(Exit::of_status(&status).into())
}

/// What the kernel enforces, with the names that the database has.
pub(super) fn without_agent(
    config: &Path,
    glimpse: Glimpse,
    silence: Silence,
) -> Result<v1::StatusResponse, Failure> {
    if sys::missing_capabilities().contains(&"CAP_BPF") {
        return Err(match silence {
            Silence::Closed => Failure::Closed,
            Silence::Dead | Silence::Hung => Failure::NotRoot,
        });
    }
    let Glimpse { paths, host, interfaces, unreadable, .. } = glimpse;
    // The deadlines in the tables are by the programs' boot clock.
    let aligned = boot_clock::align().err();
    let (names, nameless) = Names::read(&paths);
    let absent = Absent { agent: silence.text(), refused: refused(config, silence) };
    let mut status = offline::status(&paths.pins, &interfaces, &absent, &names, sys::now())
        .map_err(Failure::Unread)?;
    status.host = host;
    status.problems.extend(unreadable.map(|text| ProblemKind::Configuration.sentence(&text)));
    status.problems.extend(aligned.map(|error| {
        ProblemKind::UnreadableTables.sentence(&format!(
            "the kernel programs' boot clock cannot be read ({error}): times left may be wrong"
        ))
    }));
    let nameless = nameless.filter(|_| !status.grants.is_empty());
    status.problems.extend(nameless.map(|why| {
        ProblemKind::NoNames.sentence(&format!("the grants have no names here: {why}"))
    }));
    Ok(status)
}

/// Why the configuration is refused, if no agent runs: it may be why none does.
fn refused(config: &Path, silence: Silence) -> Option<String> {
    let refused = (silence == Silence::Dead).then(|| Loaded::read(config, &[]).err())??;
    Some(refused.brief().to_owned())
}
