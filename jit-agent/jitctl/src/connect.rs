//! From the command line to a connected agent.

use std::ffi::OsString;

use jit_client::{Agent, Target, target::Way};

use crate::{
    failure::Failure,
    files,
    target::{self, AgentArgs},
};

/// Connects to the agent that the arguments name, and does `work` with it.
pub(crate) fn with<T>(
    args: &AgentArgs,
    work: impl AsyncFnOnce(&mut Agent) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let target = target(args)?;
    block_on(async { work(&mut Agent::connect(&target).await?).await })
}

/// The agent that the arguments or the environment name.
pub(crate) fn target(args: &AgentArgs) -> Result<Target, Failure> {
    let target = target::target(args, |name: &str| -> Option<OsString> { std::env::var_os(name) })?;
    if let Way::Tls(tls) = &target.way {
        files::warn_if_exposed(&tls.key, "the private key");
    }
    Ok(target)
}

/// Runs `work` to its end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::unavailable(format!("cannot start the command's runtime: {error}"))
        })?
        .block_on(work)
}
