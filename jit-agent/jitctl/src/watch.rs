//! `jitctl watch`: events as they happen. When the connection breaks, it resumes after the last
//! one.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jit_client::{Agent, CallError, Target, exit::Exit, status};
use jit_proto::printable::json_line;

use crate::{
    agent_args::WatchArgs,
    agents::{self, Listed},
    connect,
    failure::Failure,
    target::AgentArgs,
    text,
};

/// First wait before it connects again; each wait is twice the last, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Prints events until interrupted. Only the first connection may fail.
pub(crate) fn run(agent_args: &AgentArgs, args: &WatchArgs) -> Result<Exit, Failure> {
    if let Some(agents) = agents::of(agent_args)? {
        return many(&agents, args);
    }
    let target = connect::target(agent_args)?;
    let mut cursor = args.cursor.clone();
    connect::block_on(async {
        let mut agent = Agent::connect(&target).await?;
        loop {
            let failure = match follow(&mut agent, &mut cursor, args.json, None).await {
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
/// `name`: the agent's, where there are several.
async fn follow(
    agent: &mut Agent,
    cursor: &mut String,
    json: bool,
    name: Option<&str>,
) -> Result<(), Failure> {
    let mut events = agent.watch(cursor.clone(), false).await?;
    while let Some(event) = agent.next_event(&mut events).await? {
        if json {
            let mut value = status::event_json(&event);
            if let (Some(name), Some(map)) = (name, value.as_object_mut()) {
                map.insert("agent".into(), name.into());
            }
            text::follow(&format!("{}\n", json_line(&value)))?;
        } else {
            let name = name.map(|name| format!("{}  ", text::printable(name))).unwrap_or_default();
            text::follow(&format!("{name}{}\n", status::event_text(&event)))?;
        }
        *cursor = event.cursor;
    }
    Ok(())
}

/// The events of many agents. Each is followed on its own: one that cannot be reached is tried again, one
/// that refuses is left out; when none is left, this ends.
fn many(agents: &[Listed], args: &WatchArgs) -> Result<Exit, Failure> {
    if !args.cursor.is_empty() {
        return Err(Failure::usage("--cursor is of one agent: leave it out with --agents"));
    }
    connect::block_on(async {
        let one = |agent: &Listed| {
            let agent = agent.clone();
            async move {
                let failure = forever(&agent, args.json).await;
                if failure != Failure::output_closed() {
                    failure.report();
                }
                failure
            }
        };
        let mut running: FuturesUnordered<_> = agents.iter().map(one).collect();
        let mut last = Failure::output_closed();
        while let Some(failure) = running.next().await {
            if failure == Failure::output_closed() {
                return Ok(Exit::Success);
            }
            last = failure;
        }
        Ok(last.exit)
    })
}

/// Prints the events of one agent of many, until it refuses. Returns why it ended.
async fn forever(listed: &Listed, json: bool) -> Failure {
    let mut cursor = String::new();
    let mut wait = FIRST_WAIT;
    loop {
        let followed = async {
            let mut agent = Agent::connect(&listed.target).await?;
            wait = FIRST_WAIT;
            follow(&mut agent, &mut cursor, json, Some(&listed.address)).await
        };
        match followed.await {
            Ok(()) => {}
            Err(failure) if failure.exit == Exit::Unavailable => failure.report(),
            Err(failure) => return failure,
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
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
