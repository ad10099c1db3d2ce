//! `jit-controller accounts`: the first sign-in at the pages, before anybody can set a password
//! over the API, and the way back when nobody can sign in any more.

use std::{io::Write as _, path::PathBuf};

use clap::{Args, Subcommand};
use jit_client::{exit::Exit, secret, text::printable};
use zeroize::Zeroizing;

use super::{
    Failure,
    output::{person, print},
};
use crate::{
    clock,
    config::Config,
    desk::{self, Desk},
    people::{People, password},
    store::Store,
};

const EXAMPLES: &str = "\
Examples:
    jit-controller accounts password ana                      # typed, without being shown
    jit-controller accounts password ana --file /run/secrets/ana

It needs the controller's database, not its API: it works while the controller runs, and while
nobody can sign in. All sessions of the account end.";

/// Arguments of `accounts`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct AccountsArgs {
    #[command(subcommand)]
    command: AccountsCommand,
}

#[derive(Debug, Subcommand)]
enum AccountsCommand {
    /// Give an account a password, or another one, for the sign-in at the pages
    Password {
        /// Name of the account
        name: String,
        /// Read it from the first line of this file, in place of asking
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Changes how accounts sign in.
///
/// # Errors
/// There is no such account, the password is too weak, or the database does not answer.
pub async fn run(config: &Config, args: &AccountsArgs) -> Result<Exit, Failure> {
    let AccountsCommand::Password { name, file } = &args.command;
    let store = Store::connect(&config.store.url().map_err(Failure::files)?).await?;
    let account = store.account(name).await?.ok_or_else(|| {
        Failure::usage(format!(
            "there is no account {name}: `jitctl accounts` lists them, `jit-controller init --admin` \
             made the first"
        ))
    })?;
    let wanted = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map(Zeroizing::new);
            let text = text
                .map_err(|why| Failure::files(format!("cannot read {}: {why}", file.display())))?;
            Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
        }
        None => typed(name)?,
    };
    password::check(name, &wanted)
        .map_err(|why| Failure::usage(format!("the password is refused: {why}")))?;
    let desk = Desk::new(store, None, desk::Settings::default());
    let people = People::default();
    let set = people.set_password(&desk, &account, wanted, &person(), clock::now_ms()).await;
    set.map_err(|why| Failure::unavailable(why.to_string()))?;
    desk.store().close().await;
    print(&format!("{} has a password; sign in at the controller's address\n", printable(name)))?;
    Ok(Exit::Success)
}

/// The password that a person types, or the first line of standard input.
fn typed(name: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |why: std::io::Error| Failure::usage(format!("cannot read the password: {why}"));
    let mut asked = false;
    let line = secret::line(|| {
        asked = true;
        let _gone = write!(std::io::stderr(), "new password of {}: ", printable(name));
    });
    if asked {
        let _gone = writeln!(std::io::stderr());
    }
    let line = line.map_err(failed)?.map(Zeroizing::new);
    let line = line.ok_or_else(|| Failure::usage("no password was typed"))?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}
