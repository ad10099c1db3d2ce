//! `jit-agent break-glass`: root on the host lets a source in for a short time, without a grant.

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::{
    GrantId, PortRange, SourcePrefix, WallTime, printable::clean, toml_value::duration, v1,
};
use serde_json::json;
use tonic::Response;

use crate::oncall::{
    agent::{reach, undone},
    failure::Failure,
    output::{complain, print, print_json},
};

/// What it does, for errors.
const WHAT: &str = "break the glass";
/// How long the agent has for its answer. After that it counts as hung.
const PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of `break-glass`.
#[derive(Args, Clone, Debug)]
pub struct BreakGlassArgs {
    /// The address that gets in, or a prefix no wider than a grant may have.
    #[arg(long, value_name = "IP|PREFIX")]
    source: SourcePrefix,
    /// The port, as 22/tcp; it must be protected.
    #[arg(long, value_name = "PORT")]
    port: PortRange,
    /// For how long, as 30m; the configuration says the most ([break_glass] max_duration, 1h).
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Duration,
    /// Why; written to the audit and the log, and shown by `status`.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    duration("--for", text)
}

/// Opens, and prints how to close it again.
pub async fn run(config: &Path, args: &BreakGlassArgs) -> Result<ExitCode, Failure> {
    let BreakGlassArgs { source, port, lasts, reason, json } = args;
    let request = v1::BreakGlassRequest {
        source: Some(source.into()),
        ports: Some((*port).into()),
        lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        reason: reason.clone(),
    };
    let answer = tokio::time::timeout(PATIENCE, ask(config, request)).await;
    let answer = answer.map_err(|_| Failure::Hung { what: WHAT })??;
    let v1::BreakGlassResponse { grant_id, not_after_ms } = answer;
    let id = GrantId::from_bytes(&grant_id).map(|id| id.to_string()).unwrap_or_default();
    let until = WallTime(not_after_ms);
    if *json {
        print_json(&json!({
            "grant_id": id,
            "source": source.to_string(),
            "port": port.to_string(),
            "not_after": until.to_string(),
            "not_after_ms": not_after_ms,
            "reason": reason,
        }))?;
    } else {
        print(&format!(
            "BREAK GLASS: {port} is open to {source} until {until} ({})\n\
             close it: jit-agent close --grant {id}\n",
            clean(reason, 200)
        ))?;
    }
    Ok(Exit::Success.into())
}

async fn ask(
    config: &Path,
    request: v1::BreakGlassRequest,
) -> Result<v1::BreakGlassResponse, Failure> {
    let reached = reach(config).await.inspect_err(|failure| {
        if matches!(failure, Failure::NoAgent { .. }) {
            complain("break-glass needs a running agent: `systemctl start jit-agent`");
        }
    });
    let answer = reached?.break_glass(request).await;
    answer.map(Response::into_inner).map_err(|status| undone(WHAT, status))
}
