//! `jit-agent break-glass`: root on the host lets a source in for a short time, without a grant.

mod past;

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::{
    GrantId, PortRange, SourcePrefix, WallTime, printable::clean, toml_value::duration, v1,
};
use serde_json::{Value, json};
use tonic::Response;

use crate::{
    config::Glimpse,
    oncall::{
        agent::{Asked, ask, reach, undone},
        failure::Failure,
        output::{print, print_json},
    },
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
    let socket = Glimpse::of(config).paths.socket();
    // An agent that hangs must not find the request when it goes on.
    let probe = ask(&socket, async |client| client.status(v1::StatusRequest {}).await);
    if let Asked::Silent(silence) = probe.await? {
        return past::open(config, args, silence);
    }
    let BreakGlassArgs { source, port, lasts, reason, json } = args;
    let request = v1::BreakGlassRequest {
        source: Some(source.into()),
        ports: Some((*port).into()),
        lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        reason: reason.clone(),
    };
    let answer = tokio::time::timeout(PATIENCE, ask_to_open(config, request)).await;
    let answer = answer.map_err(|_| Failure::Hung { what: WHAT })??;
    let v1::BreakGlassResponse { grant_id, not_after_ms } = answer;
    let id = GrantId::from_bytes(&grant_id).unwrap_or(GrantId([0; 16]));
    let until = WallTime(not_after_ms);
    if *json {
        print_json(&opened_json(args, id, until))?;
    } else {
        print(&opened_text(args, id, until))?;
    }
    Ok(Exit::Success.into())
}

fn opened_json(args: &BreakGlassArgs, id: GrantId, until: WallTime) -> Value {
    let BreakGlassArgs { source, port, reason, .. } = args;
    json!({
        "grant_id": id.to_string(),
        "source": source.to_string(),
        "port": port.to_string(),
        "not_after": until.to_string(),
        "not_after_ms": until.0,
        "reason": reason,
    })
}

fn opened_text(args: &BreakGlassArgs, id: GrantId, until: WallTime) -> String {
    let BreakGlassArgs { source, port, reason, .. } = args;
    format!(
        "BREAK GLASS: {port} is open to {source} until {until} ({})\n\
         close it: jit-agent close --grant {id}\n",
        clean(reason, 200)
    )
}

async fn ask_to_open(
    config: &Path,
    request: v1::BreakGlassRequest,
) -> Result<v1::BreakGlassResponse, Failure> {
    let answer = reach(config).await?.break_glass(request).await;
    answer.map(Response::into_inner).map_err(|status| undone(WHAT, status))
}
