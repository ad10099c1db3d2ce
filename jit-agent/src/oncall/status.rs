//! `jit-agent status`: the agent's answer, or what the kernel enforces while no agent answers.

use std::{io, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::{
    exit::Exit,
    local::LocalClient,
    status::{self, Page, StatusJson},
    watch,
};
use jit_proto::v1;

use crate::{
    config::{Glimpse, Loaded},
    kernel::datapath::boot_clock,
    oncall::{
        agent::{Asked, PATIENCE, Silence, ask_within},
        failure::Failure,
        identity,
        names::Reading,
        offline::{self, Absent},
        output::{Colours, print, print_json},
    },
    rules::problem::ProblemKind,
    system::sys,
};

/// The wait of the live view: it says within two seconds that the agent does not answer.
const SHORT_PATIENCE: Duration = Duration::from_millis(700);

/// What `status` shows, and how.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Show everything, however long it gets.
    #[arg(long)]
    all: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
    /// Stay, and draw the screen anew each second; also while no agent answers. Its last line says
    /// the keys.
    #[arg(long, conflicts_with_all = ["all", "json"])]
    watch: bool,
    #[command(flatten)]
    colours: Colours,
}

/// Prints the status. The exit code is the state.
pub async fn run(config: &Path, options: Options) -> Result<ExitCode, Failure> {
    let Options { all, json, watch, colours } = options;
    if watch && let Some(why) = watch::unusable() {
        return Err(Failure::Usage(why.into()));
    }
    let status = now(config, PATIENCE).await?;
    let status = if watch {
        watch::watch(colours.style(), status, async || refreshed(config).await).await?
    } else {
        status
    };
    if json {
        print_json(&StatusJson(&status))?;
    } else if !watch {
        let page = colours.page();
        let page = if all { Page { height: None, grants: None, ..page } } else { page };
        print(&status::text(&status, page))?;
    }
    Ok(Exit::of_status(&status).into())
}

/// The next status of the live view. What cannot be read is unknown, and says why.
async fn refreshed(config: &Path) -> v1::StatusResponse {
    now(config, SHORT_PATIENCE)
        .await
        .unwrap_or_else(|failure| watch::unknown(Glimpse::of(config).host, failure.to_string()))
}

/// The agent's status, or what the kernel enforces if none answers.
async fn now(config: &Path, patience: Duration) -> Result<v1::StatusResponse, Failure> {
    let glimpse = Glimpse::of(config);
    let socket = glimpse.paths.socket();
    let request = async |client: &mut LocalClient| client.status(v1::StatusRequest {}).await;
    let silence = match ask_within(patience, &socket, request).await? {
        Asked::Answered(status) => return Ok(status),
        Asked::Closed => Silence::Closed,
        Asked::Refused(_) => Silence::Hung,
        Asked::Silent(silence) => silence,
    };
    let config = config.to_owned();
    // The live view draws meanwhile.
    let read = tokio::task::spawn_blocking(move || without_agent(&config, glimpse, silence));
    read.await.map_err(io::Error::other)?
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
    let host = identity::known(&glimpse, config);
    let Glimpse { paths, interfaces, unreadable, .. } = glimpse;
    // The deadlines in the tables are by the programs' boot clock.
    let aligned = boot_clock::align().err();
    let (names, nameless) = Reading::begin(&paths).end();
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
