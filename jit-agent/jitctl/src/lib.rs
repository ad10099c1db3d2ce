//! `jitctl`: the controller's side as a command line. It makes keys and certificates, builds and
//! signs grants, and talks to agents.
//!
//! It decides nothing: only the agent decides whether a grant opens anything.

// These panic when the reader is gone: `text.rs` writes instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod agent_args;
mod agents;
mod approvers;
mod cli;
mod colours;
mod connect;
mod controller;
mod failure;
mod files;
mod grant;
mod keygen;
mod live;
mod many;
mod order;
mod pki;
mod policy;
mod requester;
mod sign;
mod signed_revocation;
mod signing;
mod table;
mod target;
mod text;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use jit_client::exit::Exit;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
};

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                return Exit::Usage.into();
            }
            // The help was asked for.
            return match text::written(printed) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) if failure == Failure::output_closed() => ExitCode::SUCCESS,
                Err(failure) => {
                    failure.report();
                    failure.exit.into()
                }
            };
        }
    };
    match perform(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report();
            failure.exit.into()
        }
    }
}

fn perform(cli: Cli) -> Result<Exit, Failure> {
    let Cli { agent, controller, command } = cli;
    match command {
        Command::Keygen(args) => keygen::run(&args),
        Command::Pki(args) => pki::run(&args),
        Command::Grant(args) => grant::run(&agent, &args),
        Command::Push(args) => order::push(&agent, &args),
        Command::Revoke(args) => match &args.what.request {
            Some(id) => controller::revoke(&agent, &controller, id, &args),
            None => order::revoke(&agent, &args),
        },
        Command::Sign(args) => sign::sign(&args),
        Command::Inspect(args) => sign::inspect(&args),
        Command::List(args) => order::list(&agent, &args),
        Command::Status(args) => order::status(&agent, &args),
        Command::Policy(_) if controller.is_named() => Err(Failure::usage(
            "`policy` talks to one agent directly; over a controller a policy comes to hosts by a \
             rollout: jitctl rollouts start FILE --why TEXT --wave env=canary --wave all",
        )),
        Command::Policy(args) => policy::run(&agent, &args),
        Command::Watch(args) => watch::run(&agent, &args),
        Command::Controller(command) => controller::run(&agent, &controller, &command),
    }
}

/// The command line, for its man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}
