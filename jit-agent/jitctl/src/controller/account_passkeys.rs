//! `jitctl accounts passkeys`: passkeys of people, which they register at the controller's pages.

use clap::{Args, Subcommand};
use jit_client::{
    controller::{call::Call, types::PasskeyView},
    exit::Exit,
    status::Page,
};

use super::{Output, hosts::done, session::To};
use crate::{
    failure::Failure,
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl accounts passkeys list cy
    jitctl accounts passkeys approver cy 3b7f0d2c9a415e68 >> /etc/jit-agent/config.toml
    jitctl accounts passkeys approver cy 3b7f0d2c9a415e68 --public-key \\
        > /etc/jit-agent/3b7f0d2c9a415e68.pem
    jitctl accounts passkeys remove cy 3b7f0d2c9a415e68

People add passkeys themselves, at the page /me. A host counts an approval by passkey only if its
own configuration lists the key: compare the key's id with its owner over another way.";

/// Arguments of `accounts passkeys`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct PasskeysArgs {
    #[command(subcommand)]
    command: PasskeysCommand,
}

#[derive(Debug, Subcommand)]
enum PasskeysCommand {
    /// Print the [[approver]] section of a host's configuration for a passkey
    Approver {
        /// The account
        name: String,
        /// Id of its key: jitctl accounts passkeys list
        key_id: String,
        /// Print the public key in PEM instead, for the file that the section names
        #[arg(long)]
        public_key: bool,
    },
    /// List the passkeys of an account
    List {
        /// The account
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let nothing count any more that a lost passkey signs, and sign its owner out everywhere
    Remove {
        /// The account
        name: String,
        /// Id of its key: jitctl accounts passkeys list
        key_id: String,
    },
}

/// Lists and removes passkeys.
pub(super) fn run(to: To<'_>, args: &PasskeysArgs) -> Result<Exit, Failure> {
    let of = |name: &str| -> Result<Vec<PasskeyView>, Failure> {
        let call = Call::get(["accounts", name, "passkeys"]);
        to.call(async |session| session.list(call, None).await)
    };
    match &args.command {
        PasskeysCommand::Approver { name, key_id, public_key } => {
            let found = of(name)?.into_iter().find(|one| one.key_id == *key_id);
            let found = found.ok_or_else(|| {
                Failure::refused(format!(
                    "{name} has no passkey {key_id}; `jitctl accounts passkeys list {name}` lists them"
                ))
            })?;
            if found.approver.is_empty() {
                return Err(Failure::refused(format!(
                    "the passkey {key_id} was made for {}, and the controller's pages are elsewhere \
                     now: {name} adds another one at the page /me",
                    text::printable(&found.rp_id)
                )));
            }
            text::print(if *public_key { &found.public_key } else { &found.approver })?;
            Ok(Exit::Success)
        }
        PasskeysCommand::List { name, output } => show(&of(name)?, *output),
        PasskeysCommand::Remove { name, key_id } => {
            let call = Call::delete(["accounts", name, "passkeys", key_id]);
            done(to, call, &format!("removed the passkey {key_id} of {name}"))
        }
    }
}

fn show(passkeys: &[PasskeyView], output: Output) -> Result<Exit, Failure> {
    if output.json {
        text::print_pretty(&passkeys)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["KEY", "NAME", "ACCOUNT", "ALGORITHM", "FOR", "ADDED", "USED"]);
    for one in passkeys {
        table.row([
            Cell::from(one.key_id.as_str()),
            one.name.as_str().into(),
            one.account.as_str().into(),
            one.algorithm.as_str().into(),
            one.rp_id.as_str().into(),
            one.created.as_str().into(),
            one.used.as_deref().unwrap_or("never").into(),
        ]);
    }
    text::print(&table.text(Page::of_stdout(output.colours.style())))?;
    Ok(Exit::Success)
}
