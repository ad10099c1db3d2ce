//! `jitctl tokens`: what programs and people show to the controller.

use std::time::Duration;

use clap::{Args, Subcommand};
use jit_client::{
    controller::{
        call::Call,
        types::{SCOPES, TokenInput, TokenMade, TokenView},
    },
    exit::Exit,
    status::Page,
};

use super::{
    Output,
    hosts::{done, set},
    session::To,
};
use crate::{
    failure::{self, Failure},
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl tokens
    jitctl tokens make --scope request --scope read --for 30d --label laptop
    jitctl tokens make --account ci --scope hosts --for 90d --label inventory > token
    jitctl tokens revoke 01KPEXAMP1E000000000000001

The token is printed once, alone on standard output. It may do only what its scopes name.";

/// Arguments of `tokens`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct TokensArgs {
    #[command(subcommand)]
    command: Option<TokensCommand>,
    /// Those of this account; `*`: of all, for administrators [default: your own]
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum TokensCommand {
    /// Make a token
    Make {
        /// What it may do; may be repeated
        #[arg(long, required = true, value_name = "SCOPE", value_delimiter = ',', value_parser = SCOPES)]
        scope: Vec<String>,
        /// How long it is valid: 12h, 30d
        #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
        lifetime: Duration,
        /// What it is for, in words
        #[arg(long, value_name = "TEXT", default_value = "made with jitctl")]
        label: String,
        /// The account that it acts for [default: your own]
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a token now
    Revoke {
        /// Its id: jitctl tokens
        id: String,
    },
}

/// Lists, makes and revokes tokens.
pub(super) fn run(to: To<'_>, args: &TokensArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => {
            let account = args.account.as_deref().unwrap_or_default();
            let call = Call::get(["tokens"]).query("account", account);
            let found: Vec<TokenView> = to.call(async |session| session.list(call, None).await)?;
            if args.output.json {
                text::print_pretty(&found)?;
            } else {
                let page = Page::of_stdout(args.output.colours.style());
                text::print(&table(&found).text(page))?;
            }
            Ok(Exit::Success)
        }
        Some(TokensCommand::Make { scope, lifetime, label, account, json }) => {
            let milliseconds = i64::try_from(lifetime.as_millis());
            let input = TokenInput {
                account: account.clone(),
                scopes: set(scope),
                label: label.clone(),
                duration_ms: Some(milliseconds.map_err(|_| Failure::usage("--for is too long"))?),
                duration: None,
            };
            let call = Call::post(["tokens"]).json(&input);
            let made: TokenMade = to.call(async |session| session.fetch(call).await)?;
            if *json {
                text::print_pretty(&made)?;
            } else {
                text::print(&format!("{}\n", text::printable(&made.token)))?;
                failure::note(&format!(
                    "token {} of {} until {}; it is shown this once",
                    made.view.id, made.view.account, made.view.ends
                ));
            }
            Ok(Exit::Success)
        }
        Some(TokensCommand::Revoke { id }) => {
            done(to, Call::delete(["tokens", id]), &format!("revoked {id}"))
        }
    }
}

fn table(tokens: &[TokenView]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "ACCOUNT", "SCOPES", "ENDS", "USED", "FOR"]);
    for one in tokens {
        let scopes: Vec<_> = one.scopes.iter().map(String::as_str).collect();
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            one.account.as_str().into(),
            scopes.join(" ").into(),
            one.ends.as_str().into(),
            one.used.as_deref().unwrap_or("never").into(),
            one.label.as_str().into(),
        ]);
    }
    table
}
