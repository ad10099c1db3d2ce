//! `jitctl enrolments`: machines that ask to be hosts, and the tokens with which they do.

use std::time::Duration;

use clap::{Args, Subcommand};
use jit_client::{
    controller::{
        call::Call,
        types::{
            EnrolmentDecisionInput, EnrolmentTokenInput, EnrolmentTokenMade, EnrolmentTokenView,
            EnrolmentView,
        },
    },
    exit::Exit,
    status::Page,
};

use super::{Output, hosts::done, session::To};
use crate::{
    failure::{self, Failure},
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl enrolments                                         # those that wait for a decision
    jitctl enrolments --state issued
    jitctl enrolments accept 01KPEXAMP1E000000000000001
    jitctl enrolments refuse 01KPEXAMP1E000000000000001
    jitctl enrolments token create --label env=test --uses 20 --for 1h > token
    jitctl enrolments token list
    jitctl enrolments token withdraw 01KPEXAMP1E000000000000001

A host enrols once. Who comes second, with the same id or from the same machine, waits here: it
may be a machine that was installed anew, or somebody who wants to be this host. Compare CSR with
what the machine shows before you accept it: it takes the place of the one before.";

/// Arguments of `enrolments`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct EnrolmentsArgs {
    #[command(subcommand)]
    command: Option<EnrolmentsCommand>,
    /// Only those in this state
    #[arg(long, default_value = "waiting", value_parser = ["waiting", "issued", "refused", "all"])]
    state: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum EnrolmentsCommand {
    /// Let a machine in that waits: it takes the place of the one before
    Accept {
        /// Its id: jitctl enrolments
        id: String,
    },
    /// Refuse a machine that waits
    Refuse {
        /// Its id: jitctl enrolments
        id: String,
    },
    /// Tokens with which hosts enrol
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is printed once, alone on standard output
    Create {
        /// Label of the hosts that come with it; may be repeated
        #[arg(long, required = true, value_name = "NAME=VALUE", value_parser = text::parse_label)]
        label: Vec<(String, String)>,
        /// How many hosts may come with it
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        uses: u32,
        /// How long it counts: 30m, 1h
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = text::parse_duration)]
        lifetime: Duration,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List them, without their texts
    List {
        #[command(flatten)]
        output: Output,
    },
    /// No host enrols with it any more; those that have stay
    Withdraw {
        /// Its id
        id: String,
    },
}

/// Lists machines, decides on them, and makes tokens.
pub(super) fn run(to: To<'_>, args: &EnrolmentsArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => list(to, args),
        Some(EnrolmentsCommand::Accept { id }) => decide(to, id, "accept"),
        Some(EnrolmentsCommand::Refuse { id }) => decide(to, id, "refuse"),
        Some(EnrolmentsCommand::Token { command }) => token(to, command),
    }
}

fn list(to: To<'_>, args: &EnrolmentsArgs) -> Result<Exit, Failure> {
    let state = if args.state == "all" { "" } else { &args.state };
    let call = Call::get(["enrolments"]).query("state", state);
    let found: Vec<EnrolmentView> = to.call(async |session| session.list(call, None).await)?;
    if args.output.json {
        text::print_pretty(&found)?;
    } else if found.is_empty() {
        text::print("no such machines\n")?;
    } else {
        let page = Page::of_stdout(args.output.colours.style());
        text::print(&machines(&found).text(page))?;
    }
    Ok(Exit::Success)
}

fn decide(to: To<'_>, id: &str, ruling: &str) -> Result<Exit, Failure> {
    let input = EnrolmentDecisionInput { ruling: ruling.to_owned() };
    let call = Call::post(["enrolments", id, "decision"]).json(&input);
    let one: EnrolmentView = to.call(async |session| session.fetch(call).await)?;
    let said = format!("{}: {} is {}", one.id, one.host, one.state);
    text::print(&format!("{}\n", text::printable(&said)))?;
    Ok(Exit::Success)
}

fn token(to: To<'_>, command: &TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { label, uses, lifetime, json } => {
            let milliseconds = i64::try_from(lifetime.as_millis());
            let input = EnrolmentTokenInput {
                labels: label.iter().cloned().collect(),
                uses: Some(*uses),
                duration: None,
                duration_ms: Some(milliseconds.map_err(|_| Failure::usage("--for is too long"))?),
            };
            let call = Call::post(["enrolments", "tokens"]).json(&input);
            let made: EnrolmentTokenMade = to.call(async |session| session.fetch(call).await)?;
            if *json {
                text::print_pretty(&made)?;
            } else {
                text::print(&format!("{}\n", text::printable(&made.token)))?;
                failure::note(&format!(
                    "token {} for {} hosts until {}; it is shown this once",
                    made.view.id, made.view.uses_left, made.view.ends
                ));
            }
            Ok(Exit::Success)
        }
        TokenCommand::List { output } => {
            let call = Call::get(["enrolments", "tokens"]);
            let found: Vec<EnrolmentTokenView> =
                to.call(async |session| session.list(call, None).await)?;
            if output.json {
                text::print_pretty(&found)?;
            } else {
                let page = Page::of_stdout(output.colours.style());
                text::print(&tokens(&found).text(page))?;
            }
            Ok(Exit::Success)
        }
        TokenCommand::Withdraw { id } => {
            done(to, Call::delete(["enrolments", "tokens", id]), &format!("withdrew {id}"))
        }
    }
}

fn machines(found: &[EnrolmentView]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "HOST", "BY", "CAME", "CSR", "WHY"]);
    for one in found {
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            one.host.as_str().into(),
            one.method.as_str().into(),
            one.created.as_str().into(),
            one.csr_sha256.get(..16).unwrap_or_default().into(),
            one.why.as_str().into(),
        ]);
    }
    table
}

fn tokens(found: &[EnrolmentTokenView]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "LEFT", "LABELS", "ENDS", "BY"]);
    for one in found {
        let labels: Vec<_> =
            one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            one.uses_left.to_string().into(),
            labels.join(" ").into(),
            one.ends.as_str().into(),
            one.created_by.as_str().into(),
        ]);
    }
    table
}
