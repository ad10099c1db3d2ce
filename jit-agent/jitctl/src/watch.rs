//! `jitctl watch`: events as they happen. When the connection breaks, it resumes after the last
//! one.

use std::time::Duration;

use jit_client::{Agent, CallError, Target, exit::Exit, status};
use jit_proto::printable::json_line;

use crate::{cli::WatchArgs, connect, failure::Failure, target::AgentArgs, text};

/// First wait before it connects again; each wait is twice the last, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Prints events until interrupted. Only the first connection may fail.
pub(crate) fn run(agent_args: &AgentArgs, args: &WatchArgs) -> Result<Exit, Failure> {
    let target = connect::target(agent_args)?;
    let mut cursor = args.cursor.clone();
    connect::block_on(async {
        let mut agent = Agent::connect(&target).await?;
        loop {
            let failure = match follow(&mut agent, &mut cursor, args.json).await {
                Ok(()) => Failure::unavailable(format!("{} ended the stream", target.way)),
                Err(failure) if failure.exit == Exit::Unavailable => failure,
                Err(failure) => return Err(failure),
            };
            failure.report();
            agent = reconnect(&target).await?;
        }
    })
}

/// Prints events until the stream ends; `cursor` is that of the last event printed.
async fn follow(agent: &mut Agent, cursor: &mut String, json: bool) -> Result<(), Failure> {
    let mut events = agent.watch(cursor.clone()).await?;
    while let Some(event) = agent.next_event(&mut events).await? {
        if json {
            text::follow(&format!("{}\n", json_line(&status::event_json(&event))))?;
        } else {
            text::follow(&format!("{}\n", status::event_text(&event)))?;
        }
        *cursor = event.cursor;
    }
    Ok(())
}

async fn reconnect(target: &Target) -> Result<Agent, Failure> {
    let mut wait = FIRST_WAIT;
    loop {
        tokio::time::sleep(wait).await;
        match Agent::connect(target).await {
            Ok(agent) => return Ok(agent),
            Err(error @ CallError::Unavailable(_)) => Failure::from(error).report(),
            Err(error) => return Err(error.into()),
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
