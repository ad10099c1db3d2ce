//! `jitctl status --watch`: the status of an agent, drawn anew each second.

use std::time::Duration;

use jit_client::{Agent, CallError, Target, exit::Exit, status::Style, watch};
use jit_proto::v1;
use tokio::time::timeout;

use crate::{connect, failure::Failure, target::AgentArgs};

/// The wait for an answer: within two seconds the view says that none comes.
const PATIENCE: Duration = Duration::from_millis(900);

/// Shows the status until a person ends it. Only the first connection may fail.
pub(crate) fn run(agent_args: &AgentArgs, style: Style) -> Result<Exit, Failure> {
    if let Some(why) = watch::unusable() {
        return Err(Failure::usage(why));
    }
    let target = connect::target(agent_args)?;
    let shown = connect::block_on(async {
        let mut agent = Agent::connect(&target).await?;
        let first = agent.status().await?;
        let mut connected = Some(agent);
        let ask = async || {
            let asked = timeout(PATIENCE, refresh(&target, &mut connected)).await;
            let late = |_| Err(CallError::Unavailable("it does not answer".into()));
            asked.unwrap_or_else(late).unwrap_or_else(|error| {
                connected = None;
                watch::unknown(target.way.to_string(), error.to_string())
            })
        };
        let shown = watch::watch(style, first, ask).await;
        shown.map_err(|error| Failure::unavailable(format!("the terminal: {error}")))
    })?;
    Ok(Exit::of_status(&shown))
}

/// The agent's status, over a new connection if there is none.
async fn refresh(
    target: &Target,
    connected: &mut Option<Agent>,
) -> Result<v1::StatusResponse, CallError> {
    let agent = match connected {
        Some(agent) => agent,
        None => connected.insert(Agent::connect(target).await?),
    };
    agent.status().await
}
