//! Arguments of the commands that go to agents.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use jiff::Timestamp;
use jit_client::{keys::KeySpec, status::IdBegin};
use jit_proto::{SourcePrefix, v1::revoke_request::What};

use crate::{colours::Colours, failure::Failure, text};

/// Arguments of `push`.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// Files, each with one encoded jit.v1.Envelope; several files are pushed as one batch
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `revoke`.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) what: RevokeWhat,
    /// Confirm --all
    #[arg(long)]
    pub(crate) yes: bool,
    /// Also end open sessions, on ports where sessions outlive their grant, too; with --all, all
    /// that no exemption covers, your own included
    #[arg(long)]
    pub(crate) cut: bool,
    /// Why the grants end; written to the agent's log
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) signed: SignedArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of a revocation that is signed.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignedArgs {
    /// Sign the revocation with this key (see `jitctl sign --help`), whose [[signer]] lists
    /// "revocation": then it needs no permission to revoke, and any way may carry it
    #[arg(long, value_name = "KEY")]
    pub(crate) sign: Option<KeySpec>,
    /// Exact id of a host that it is for; may be repeated
    #[arg(long, value_name = "ID", num_args = 1.., requires = "sign")]
    pub(crate) for_host: Vec<String>,
    /// It is for every host that trusts the key
    #[arg(long, requires = "sign", conflicts_with = "for_host")]
    pub(crate) every_host: bool,
    /// Revoke what was issued until this time [default: now]
    #[arg(long, value_name = "RFC3339", requires = "sign")]
    pub(crate) issued_before: Option<Timestamp>,
    /// How long it is worth delivering [default: 24h1m]
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, requires = "sign")]
    pub(crate) keep: Option<Duration>,
    /// Who revokes [default: user@hostname]
    #[arg(long, value_name = "NAME", requires = "sign")]
    pub(crate) author: Option<String>,
    /// Write the signed envelope to a new file instead of pushing it
    #[arg(long, value_name = "FILE", requires = "sign")]
    pub(crate) out: Option<PathBuf>,
}

/// Which grants to revoke: exactly one of these.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct RevokeWhat {
    /// This grant, by its id or the first letters of it (at least 4, as `list` shows them); the
    /// agent refuses a whole id from then on, also when it has never seen it
    #[arg(long, value_name = "ULID")]
    pub(crate) id: Option<IdBegin>,
    /// Every grant of this requester; what was signed until now and comes later is refused, too
    #[arg(long, value_name = "REQUESTER")]
    pub(crate) requester: Option<String>,
    /// Every grant that opens something to this address, or to an address in this prefix
    #[arg(long, value_name = "IP|PREFIX")]
    pub(crate) source: Option<SourcePrefix>,
    /// This request, on all its hosts; over the controller
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<String>,
    /// Every grant; what was signed until now and comes later is refused, too; needs --yes
    #[arg(long)]
    pub(crate) all: bool,
}

impl RevokeWhat {
    /// What is to be revoked where no id is named. Nothing but `--all` is all.
    pub(crate) fn but_id(&self) -> Result<What, Failure> {
        match self {
            Self { requester: Some(requester), .. } => Ok(What::Requester(requester.clone())),
            Self { source: Some(source), .. } => Ok(What::Source(source.into())),
            Self { all: true, .. } => Ok(What::All(true)),
            Self { .. } => Err(Failure::usage("say what to revoke: --requester, --source, --all")),
        }
    }
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Also show grants that have ended
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) colours: Colours,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Stay, and draw the screen anew each second; its last line says the keys
    #[arg(long, conflicts_with = "json")]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) colours: Colours,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Start after this event (the last `cursor` that --json printed) instead of now
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub(crate) cursor: String,
    /// Print each event as JSON on one line
    #[arg(long)]
    pub(crate) json: bool,
}
