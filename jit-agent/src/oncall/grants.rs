//! `jit-agent grants`: the grants that this host holds, or those that the kernel enforces while no
//! agent answers. With `--end-outside` it ends those that the present configuration would refuse.

use std::{path::Path, process::ExitCode};

use clap::{Args, ValueEnum};
use jit_client::{
    local::LocalClient,
    status::{self, Filter, GrantsJson, Order, ShortIds},
};
use jit_proto::{
    PortRange, SourcePrefix,
    printable::clean,
    v1::{self, revoke_request::What},
};
use tonic::Status;

use crate::{
    config::Glimpse,
    oncall::{
        agent::{Asked, Silence, ask, reach, undone},
        failure::Failure,
        output::{Colours, complain, print_json},
        pager::print_paged,
        status::without_agent,
    },
};

/// What `grants` lists, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also list grants that have ended.
    #[arg(long)]
    all: bool,
    /// End the open grants that the present configuration would refuse, and list those. Only root
    /// and the agent's own user may.
    #[arg(long, conflicts_with = "all")]
    end_outside: bool,
    /// Only grants that open something to this address or prefix, or to a part of it.
    #[arg(long, value_name = "SOURCE")]
    source: Option<SourcePrefix>,
    /// Only grants of requesters whose name has this in it.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only grants that open this port or one of this range.
    #[arg(long, value_name = "PORT")]
    port: Option<PortRange>,
    /// Only grants for single addresses: those that take a host entry ([limits] hosts).
    #[arg(long)]
    host_entry: bool,
    /// The order; without it the oldest grant is first.
    #[arg(long, value_name = "ORDER")]
    sort: Option<Sort>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    colours: Colours,
}

/// The words of `--sort`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Most connections first.
    Hits,
    /// The next to end first.
    Left,
    /// By port.
    Port,
    /// By source.
    Source,
    /// By requester.
    User,
}

impl From<Sort> for Order {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Hits => Self::Hits,
            Sort::Left => Self::Left,
            Sort::Port => Self::Port,
            Sort::Source => Self::Source,
            Sort::User => Self::User,
        }
    }
}

/// Prints the grants.
pub async fn run(config: &Path, options: Options) -> Result<ExitCode, Failure> {
    let Options { all, end_outside, source, user, port, host_entry, sort, json, colours } = options;
    let mut grants = if end_outside { held(config).await? } else { listed(config, all).await? };
    let ids = ShortIds::of(&grants);
    Filter { source, user, port, host_entry }.apply(&mut grants);
    if end_outside {
        grants.retain(|state| !state.outside.is_empty());
        let mut client = reach(config).await?;
        for state in &mut grants {
            let ended = end(&mut client, state).await;
            ended.map_err(|status| undone("end a grant", status))?;
        }
    }
    if let Some(sort) = sort {
        Order::from(sort).sort(&mut grants);
    }
    if json {
        print_json(&GrantsJson(&grants))?;
    } else {
        let page = colours.page();
        print_paged(&status::grants_text(&grants, &ids, page), page)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The grants that the agent holds and that have not ended.
async fn held(config: &Path) -> Result<Vec<v1::GrantState>, Failure> {
    let mut client = reach(config).await?;
    let answer = client.list(v1::ListRequest::default()).await;
    Ok(answer.map_err(|status| undone("list the grants", status))?.into_inner().grants)
}

/// The same, with those that have ended if `ended`; while no agent answers, the grants in the kernel.
async fn listed(config: &Path, ended: bool) -> Result<Vec<v1::GrantState>, Failure> {
    let glimpse = Glimpse::of(config);
    let request = v1::ListRequest { include_ended: ended };
    let silence =
        match ask(&glimpse.paths.socket(), async |client| client.list(request).await).await? {
            Asked::Answered(answer) => return Ok(answer.grants),
            Asked::Refused(status) => return Err(undone("list the grants", status)),
            Asked::Closed => Silence::Closed,
            Asked::Silent(silence) => silence,
        };
    let status = without_agent(config, glimpse, silence)?;
    complain("no agent answers: these are the grants in the kernel now (`jit-agent status`)");
    for problem in status.problems {
        complain(&clean(&problem, 480));
    }
    Ok(status.grants)
}

/// Revokes one grant.
async fn end(client: &mut LocalClient, state: &mut v1::GrantState) -> Result<(), Status> {
    let id = state.signed().map(|grant| grant.id).unwrap_or_default();
    let reason = format!("outside the present configuration: {}", state.outside);
    let request = v1::RevokeRequest { what: Some(What::GrantId(id)), reason, cut: false };
    let answer = client.revoke(request).await?.into_inner();
    if !answer.warning.is_empty() {
        complain(&format!("warning: {}", clean(&answer.warning, 400)));
    }
    state.set_state(v1::State::Revoked);
    Ok(())
}
