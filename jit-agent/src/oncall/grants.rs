//! `jit-agent grants`: the grants that this host holds.

use std::{path::Path, process::ExitCode};

use jit_client::{
    local,
    status::{self, Style},
};
use jit_proto::v1;

use crate::{
    config::Glimpse,
    oncall::{
        agent::{Unreached, connect},
        failure::Failure,
        output::{print, print_json},
    },
};

/// Prints the grants; with `ended`, also those that have ended.
pub async fn run(config: &Path, ended: bool, json: bool) -> Result<ExitCode, Failure> {
    let socket = Glimpse::of(config).paths.socket();
    let mut client = connect(&socket).await.map_err(|unreached| match unreached {
        Unreached::Closed => Failure::Closed,
        Unreached::Denied(error) => Failure::DeniedSocket { socket, error },
        Unreached::NoAnswer(error) | Unreached::NotThere(error) => {
            Failure::NoAgent { socket, error }
        }
    })?;
    let answer = client.list(v1::ListRequest { include_ended: ended }).await;
    let answer = answer.map_err(|status| {
        if local::is_closed(&status) {
            Failure::List(Box::new(Failure::Closed))
        } else {
            Failure::List(Box::new(status))
        }
    })?;
    let grants = answer.into_inner().grants;
    if json {
        print_json(&status::grants_json(&grants))?;
    } else {
        print(&status::grants_text(&grants, Style::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}
