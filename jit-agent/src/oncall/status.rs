//! `jit-agent status`: the agent's answer, or what the kernel enforces while no agent answers.

use std::{path::Path, process::ExitCode, time::Duration};

use jit_client::{
    exit::Exit,
    local,
    status::{self, StatusJson, Style},
};
use jit_proto::v1;

use crate::{
    config::Glimpse,
    kernel::datapath::boot_clock,
    oncall::{
        agent::{Unreached, connect},
        failure::Failure,
        offline,
        output::{print, print_json},
    },
    system::sys,
};

/// The longest wait for an agent; then the kernel's tables are read.
const PATIENCE: Duration = Duration::from_secs(3);

/// The result of the request to the agent.
enum Asked {
    /// The agent answered.
    Answered(Box<v1::StatusResponse>),
    /// The agent closed the connection without an answer.
    Closed,
    /// No agent answers. The text begins a sentence for a person.
    Silent(&'static str),
}

/// Prints the status. The exit code is the state.
pub async fn run(config: &Path, json: bool) -> Result<ExitCode, Failure> {
    let glimpse = Glimpse::of(config);
    let status = match ask(&glimpse.paths.socket()).await? {
        Asked::Answered(status) => *status,
        Asked::Closed if !may_read_tables() => return Err(Failure::Closed),
        Asked::Closed => offline(glimpse, local::CLOSED)?,
        Asked::Silent(_) if !may_read_tables() => return Err(Failure::NotRoot),
        Asked::Silent(agent) => offline(glimpse, agent)?,
    };
    if json {
        print_json(&StatusJson(&status))?;
    } else {
        print(&status::text(&status, Style::of_stdout()))?;
    }
    Ok(Exit::of_status(&status).into())
}

async fn ask(socket: &Path) -> Result<Asked, Failure> {
    const NO_ANSWER: Asked = Asked::Silent("the agent does not answer");
    let asked = tokio::time::timeout(PATIENCE, async {
        let mut client = connect(socket).await?;
        Ok(client.status(v1::StatusRequest {}).await)
    });
    match asked.await {
        Ok(Ok(Ok(answer))) => Ok(Asked::Answered(Box::new(answer.into_inner()))),
        Ok(Ok(Err(status))) if local::is_closed(&status) => Ok(Asked::Closed),
        Ok(Err(Unreached::Closed)) => Ok(Asked::Closed),
        Ok(Err(Unreached::Denied(error))) => {
            Err(Failure::DeniedSocket { socket: socket.to_owned(), error })
        }
        Ok(Err(Unreached::NotThere(_))) => Ok(Asked::Silent("no agent answers")),
        Ok(Ok(Err(_)) | Err(Unreached::NoAnswer(_))) | Err(_) => Ok(NO_ANSWER),
    }
}

fn may_read_tables() -> bool {
    !sys::missing_capabilities().contains(&"CAP_BPF")
}

fn offline(glimpse: Glimpse, agent: &str) -> Result<v1::StatusResponse, Failure> {
    let Glimpse { paths, host, interfaces, unreadable, .. } = glimpse;
    // The deadlines in the tables are by the programs' boot clock.
    let aligned = boot_clock::align().err();
    let mut status =
        offline::status(&paths.pins, &interfaces, agent, sys::now()).map_err(Failure::Unread)?;
    status.host = host;
    status.problems.extend(unreadable);
    status.problems.extend(aligned.map(|error| {
        format!("the kernel programs' boot clock cannot be read ({error}): times left may be wrong")
    }));
    Ok(status)
}
