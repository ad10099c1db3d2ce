//! `jitctl accounts keys`: public keys of people, for hosts that ask for a second signature.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jit_client::{
    controller::{
        call::Call,
        types::{AccountKeyInput, AccountKeyView},
    },
    exit::Exit,
    files::read_text,
    keys::{Key, KeySpec},
    public_key::PublicKey,
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
    jitctl accounts keys list cy
    jitctl accounts keys show ssh-agent:cy@laptop > cy.pub.pem
    jitctl accounts keys add cy --public-key cy-2026.pub.pem
    jitctl accounts keys remove cy 3b7f0d2c9a415e68

Only administrators change keys: whoever has a person's token alone cannot sign for him. Compare
the key's id with its owner over another way. Hosts need the key too, as a [[signer]].";

/// Arguments of `accounts keys`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Register the public half of a person's key
    Add {
        /// The account whose key it is
        name: String,
        /// The public key in PEM, as `jitctl keygen` writes it
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// List the keys of an account
    List {
        /// The account
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let nothing count any more that a key signs; it stays in the records
    Remove {
        /// The account
        name: String,
        /// Id of the key: jitctl accounts keys list
        key_id: String,
    },
    /// Print the public half of a key of your own in PEM, to give it to an administrator
    Show {
        /// A PEM file, ssh-agent:KEY or pkcs11:URI
        #[arg(value_name = "KEY")]
        signing_key: KeySpec,
    },
}

/// Lists, registers and revokes keys.
pub(super) fn run(to: To<'_>, args: &KeysArgs) -> Result<Exit, Failure> {
    match &args.command {
        KeysCommand::Add { name, public_key, output } => {
            let pem = read_text(public_key, "the public key")?;
            let key = PublicKey::from_pem(&pem).map_err(|why| {
                Failure::files(format!("{} is no public key: {why}", public_key.display()))
            })?;
            let id = key.key_id();
            let input = AccountKeyInput { public_key: key.pem() };
            let call = Call::put(["accounts", name, "keys", &id]).json(&input);
            let added: AccountKeyView = to.call(async |session| session.fetch(call).await)?;
            show(&[added], *output)
        }
        KeysCommand::List { name, output } => {
            let call = Call::get(["accounts", name, "keys"]);
            let found: Vec<AccountKeyView> =
                to.call(async |session| session.list(call, None).await)?;
            show(&found, *output)
        }
        KeysCommand::Remove { name, key_id } => {
            let call = Call::delete(["accounts", name, "keys", key_id]);
            done(to, call, &format!("revoked the key {key_id} of {name}"))
        }
        KeysCommand::Show { signing_key } => {
            let key = Key::open(signing_key).map_err(|error| Failure::files(error.to_string()))?;
            text::print(&key.public().pem())?;
            Ok(Exit::Success)
        }
    }
}

fn show(keys: &[AccountKeyView], output: Output) -> Result<Exit, Failure> {
    if output.json {
        text::print_pretty(&keys)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["KEY", "STATE", "ACCOUNT", "ALGORITHM", "ADDED", "BY"]);
    for one in keys {
        table.row([
            one.key_id.as_str().into(),
            Cell::word(&one.state),
            one.account.as_str().into(),
            one.algorithm.as_str().into(),
            one.added.as_str().into(),
            one.added_by.as_str().into(),
        ]);
    }
    text::print(&table.text(Page::of_stdout(output.colours.style())))?;
    Ok(Exit::Success)
}
