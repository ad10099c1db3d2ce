//! `jit-agent close`: ends grants now, from the host itself.

mod offline;

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::{exit::Exit, local::LocalClient, revocation, status::IdBegin};
use jit_proto::{
    SourcePrefix,
    printable::clean,
    v1::{self, revoke_request::What},
};
use tonic::Response;

use crate::oncall::{
    agent::{reach, undone},
    failure::Failure,
    output::{complain, print, print_json},
};

/// How long the agent has for its answer. After that it counts as hung.
const PATIENCE: Duration = Duration::from_secs(3);

/// The reason that is recorded when the person gives none.
const NO_REASON: &str = "closed on the host";

/// Arguments of `close`.
#[derive(Args, Clone, Debug)]
pub struct CloseArgs {
    #[command(flatten)]
    what: CloseWhat,
    /// Also end open sessions, on ports where sessions outlive their grant, too; with --all, all
    /// that no exemption covers, your own included.
    #[arg(long)]
    cut: bool,
    /// Why; written to the audit and the log.
    #[arg(long, value_name = "TEXT", default_value = NO_REASON)]
    reason: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which grants to close: exactly one of these.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
struct CloseWhat {
    /// Every grant that opens something to this address, or to an address in this prefix.
    #[arg(long, value_name = "IP|PREFIX")]
    source: Option<SourcePrefix>,
    /// Every grant of this requester; what was signed until now and comes later is refused, too.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// This grant, by its id or the first letters of it (at least 4, if no other id begins with
    /// them).
    #[arg(long, value_name = "ID")]
    grant: Option<IdBegin>,
    /// Every grant; what was signed until now and comes later is refused, too.
    #[arg(long)]
    all: bool,
}

/// Ends grants and prints what that did.
pub async fn run(config: &Path, args: &CloseArgs) -> Result<ExitCode, Failure> {
    let answer = match tokio::time::timeout(PATIENCE, ask(config, args)).await {
        Ok(Err(Failure::NoAgent { .. })) => {
            return offline::close(config, args, "no agent answers");
        }
        Ok(answer) => answer?,
        Err(_) => return offline::close(config, args, "the agent hangs"),
    };
    // First: what was not done matters more than what was.
    if !answer.warning.is_empty() {
        complain(&format!("warning: {}", clean(&answer.warning, 1000)));
    }
    if args.json {
        print_json(&revocation::json(&answer))?;
    } else {
        print(&revocation::text(&answer, &words(&args.what), "this host", args.cut))?;
    }
    let found = revocation::found_something(&answer);
    Ok(if found { Exit::Success } else { Exit::Degraded }.into())
}

/// The agent's answer.
async fn ask(config: &Path, args: &CloseArgs) -> Result<v1::RevokeResponse, Failure> {
    let mut client = reach(config).await?;
    let what = asked(&mut client, &args.what).await?;
    let request =
        v1::RevokeRequest { what: Some(what), reason: args.reason.clone(), cut: args.cut };
    let answer = client.revoke(request).await;
    answer.map(Response::into_inner).map_err(|status| undone("close", status))
}

/// What the agent is asked to close. A short id is looked up in its list.
async fn asked(client: &mut LocalClient, what: &CloseWhat) -> Result<What, Failure> {
    Ok(match what {
        CloseWhat { source: Some(source), .. } => What::Source(source.into()),
        CloseWhat { user: Some(name), .. } => What::Requester(name.clone()),
        CloseWhat { grant: Some(id), .. } => {
            let listed = match id.whole() {
                Some(_) => Vec::new(),
                None => {
                    let answer = client.list(v1::ListRequest { include_ended: true }).await;
                    answer.map_err(|status| undone("list the grants", status))?.into_inner().grants
                }
            };
            let id = id.find(&listed).map_err(Failure::Usage)?;
            What::GrantId(id.0.to_vec().into())
        }
        CloseWhat { source: None, user: None, grant: None, all: _ } => What::All(true),
    })
}

/// The same for a person, after "no".
fn words(what: &CloseWhat) -> String {
    match what {
        CloseWhat { source: Some(source), .. } => format!("grant for {source}"),
        CloseWhat { user: Some(name), .. } => format!("grant of {}", clean(name, 200)),
        CloseWhat { grant: Some(_), .. } => "grant with this id".into(),
        CloseWhat { source: None, user: None, grant: None, all: _ } => "grant".into(),
    }
}
