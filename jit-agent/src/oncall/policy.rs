//! `jit-agent policy`: what only root on the host may do about pushed policies.

use std::{path::Path, process::ExitCode};

use clap::Subcommand;
use jit_proto::v1;

use crate::{
    oncall::{
        agent::{reach, undone},
        failure::Failure,
        output::print,
    },
    rules::commit::MAX_VERSION,
};

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Set the version that the next policy must be higher than, also to a lower one. Only for root.
    /// Signed policies with a version above it can then be pushed again: choose the highest version
    /// that your signers have really signed. The policy in force stays.
    ResetVersion {
        /// The next policy must be higher than this.
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_VERSION))]
        version: u64,
    },
}

/// Sets the version that the next policy must be higher than.
pub async fn reset_version(config: &Path, version: u64) -> Result<ExitCode, Failure> {
    let mut client = reach(config).await?;
    let answer = client.set_policy_floor(v1::SetPolicyFloorRequest { version }).await;
    let answer = answer.map_err(|status| undone("set the version back", status))?.into_inner();
    print(&format!(
        "policy   the next version must be higher than {version}; before: {}\n",
        answer.previous
    ));
    Ok(ExitCode::SUCCESS)
}
