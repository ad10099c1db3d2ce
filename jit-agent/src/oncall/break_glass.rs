//! `jit-agent break-glass`: root on the host lets a source in for a short time, without a grant.

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::{
    GrantId, PortRange, SourcePrefix, WallTime, printable::clean, toml_value::duration, v1,
};
use serde_json::json;

use crate::oncall::{
    agent::{reach, undone},
    failure::Failure,
    output::{print, print_json},
};

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
    let mut client = reach(config).await?;
    let request = v1::BreakGlassRequest {
        source: Some(source.into()),
        ports: Some((*port).into()),
        lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        reason: reason.clone(),
    };
    let answer = client.break_glass(request).await;
    let answer = answer.map_err(|status| undone("break the glass", status))?.into_inner();
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
