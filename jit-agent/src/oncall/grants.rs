//! `jit-agent grants`: the grants that this host holds. With `--end-outside` it ends those that the
//! present configuration would refuse.

use std::{path::Path, process::ExitCode};

use jit_client::{
    local::LocalClient,
    status::{self, GrantsJson, Style},
};
use jit_proto::{
    printable::clean,
    v1::{self, revoke_request::What},
};
use tonic::Status;

use crate::oncall::{
    agent::{reach, undone},
    failure::Failure,
    output::{complain, print, print_json},
};

/// What `grants` lists, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Also grants that have ended.
    pub ended: bool,
    /// End the open grants that the present configuration would refuse; print those.
    pub end_outside: bool,
    /// As JSON.
    pub json: bool,
}

/// Prints the grants.
pub async fn run(config: &Path, options: Options) -> Result<ExitCode, Failure> {
    let Options { ended, end_outside, json } = options;
    let mut client = reach(config).await?;
    let answer = client.list(v1::ListRequest { include_ended: ended }).await;
    let mut grants =
        answer.map_err(|status| undone("list the grants", status))?.into_inner().grants;
    if end_outside {
        grants.retain(|state| !state.outside.is_empty());
        for state in &mut grants {
            let ended = end(&mut client, state).await;
            ended.map_err(|status| undone("end a grant", status))?;
        }
    }
    if json {
        print_json(&GrantsJson(&grants))?;
    } else {
        print(&status::grants_text(&grants, Style::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
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
