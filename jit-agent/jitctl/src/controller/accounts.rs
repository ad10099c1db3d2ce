//! `jitctl accounts`: who may use the controller.

use clap::{Args, Subcommand};
use jit_client::{
    controller::{
        call::Call,
        types::{AccountInput, AccountView, PasswordInput},
    },
    exit::Exit,
    status::Page,
};

use super::{
    Output,
    account_keys::{self, KeysArgs},
    account_passkeys::{self, PasskeysArgs},
    hosts::done,
    secret,
    session::To,
};
use crate::{
    failure::Failure,
    table::{Cell, Table},
    text,
};

const EXAMPLES: &str = "\
Examples:
    jitctl accounts
    jitctl accounts set li --subject li@example.org --group sre --group dba
    jitctl accounts set li --group dba-            takes a group away
    jitctl accounts disable li
    jitctl accounts password li                    for the sign-in at the pages
    jitctl accounts keys add li --public-key li.pub.pem
    jitctl accounts passkeys list li
    jitctl tokens make --account li --scope request --scope approve --scope read --for 90d

Accounts with the same subject are one person: nobody approves what the same person asks for.";

/// Arguments of `accounts`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct AccountsArgs {
    #[command(subcommand)]
    command: Option<AccountsCommand>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum AccountsCommand {
    /// Make an account, or change one; what is not named stays
    Set {
        /// Its name
        name: String,
        /// The person or program; needed for a new account
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
        /// A group that rules speak of; NAME- takes it away; may be repeated
        #[arg(long, value_name = "GROUP")]
        group: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Let an account do nothing any more; it stays in the records
    Disable {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List and change the public keys of a person, for a second signature
    Keys(KeysArgs),
    /// List and remove the passkeys of a person, and print what hosts need of them
    Passkeys(PasskeysArgs),
    /// Give an account a password for the sign-in at the pages; it is typed, or read from standard
    /// input
    Password {
        /// Its name
        name: String,
        /// It is your own account: the password that it has now is asked first
        #[arg(long)]
        own: bool,
    },
    /// Let a disabled account work again
    Enable {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

/// Lists accounts, or changes one.
pub(super) fn run(to: To<'_>, args: &AccountsArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => {
            let call = Call::get(["accounts"]);
            let found = to.call(async |session| session.list(call, None).await)?;
            show(&found, args.output)
        }
        Some(AccountsCommand::Set { name, subject, group, output }) => {
            change(to, name, *output, |before| set(before, name, subject.as_deref(), group))
        }
        Some(AccountsCommand::Disable { name, output }) => {
            change(to, name, *output, |before| disabled(before, name, true))
        }
        Some(AccountsCommand::Keys(args)) => account_keys::run(to, args),
        Some(AccountsCommand::Passkeys(args)) => account_passkeys::run(to, args),
        Some(AccountsCommand::Password { name, own }) => password(to, name, *own),
        Some(AccountsCommand::Enable { name, output }) => {
            change(to, name, *output, |before| disabled(before, name, false))
        }
    }
}

fn change(
    to: To<'_>,
    name: &str,
    output: Output,
    change: impl FnOnce(Option<AccountView>) -> Result<AccountInput, Failure>,
) -> Result<Exit, Failure> {
    let view: AccountView = to.call(async |session| {
        let before = session.find(Call::get(["accounts", name])).await?;
        session.fetch(Call::put(["accounts", name]).json(&change(before)?)).await
    })?;
    show(&[view], output)
}

/// Two lines of standard input with `own`: the password now, and the new one.
fn password(to: To<'_>, name: &str, own: bool) -> Result<Exit, Failure> {
    let shown = text::printable(name);
    let ask = |what: &str| secret::read_password(&format!("{what} password of {shown}"));
    let current = if own { Some(ask("present")?) } else { None };
    let input = PasswordInput { password: ask("new")?, current };
    let call = Call::put(["accounts", name, "password"]).json(&input);
    done(to, call, &format!("{name} has a new password; its sessions have ended"))
}

/// The account with these changes.
fn set(
    before: Option<AccountView>,
    name: &str,
    subject: Option<&str>,
    groups: &[String],
) -> Result<AccountInput, Failure> {
    let mut input = match (before, subject) {
        (Some(before), _) => input_of(before),
        (None, Some(_)) => AccountInput::default(),
        (None, None) => {
            return Err(Failure::usage(format!(
                "{name} is a new account: say --subject, who it is: {name}@example.org"
            )));
        }
    };
    if let Some(subject) = subject {
        input.subject = subject.to_owned();
    }
    for group in groups {
        match group.strip_suffix('-') {
            Some(gone) => input.groups.remove(gone),
            None => input.groups.insert(group.clone()),
        };
    }
    Ok(input)
}

fn disabled(
    before: Option<AccountView>,
    name: &str,
    disabled: bool,
) -> Result<AccountInput, Failure> {
    let before = before.ok_or_else(|| {
        Failure::refused(format!(
            "refused: not_found: there is no account {}: jitctl accounts",
            text::printable(name)
        ))
    })?;
    Ok(AccountInput { disabled, ..input_of(before) })
}

fn input_of(view: AccountView) -> AccountInput {
    AccountInput { subject: view.subject, groups: view.groups, disabled: view.disabled }
}

fn show(accounts: &[AccountView], output: Output) -> Result<Exit, Failure> {
    if output.json {
        text::print_pretty(&accounts)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["NAME", "PERSON", "GROUPS", "STATE", "CREATED"]);
    for one in accounts {
        let groups: Vec<_> = one.groups.iter().map(String::as_str).collect();
        table.row([
            one.name.as_str().into(),
            one.subject.as_str().into(),
            groups.join(", ").into(),
            Cell::word(if one.disabled { "disabled" } else { "ok" }),
            one.created.as_str().into(),
        ]);
    }
    text::print(&table.text(Page::of_stdout(output.colours.style())))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let li = AccountView {
            subject: "li@example.org".into(),
            groups: ["sre".to_owned(), "dba".to_owned()].into(),
            ..AccountView::default()
        };
        let groups = ["dba-".to_owned(), "oncall".to_owned()];
        let input = set(Some(li.clone()), "li", None, &groups).unwrap();
        assert_eq!(input.subject, "li@example.org");
        assert_eq!(input.groups, ["oncall".to_owned(), "sre".to_owned()].into());
        let off = disabled(Some(li), "li", true).unwrap();
        assert!(off.disabled && off.groups.len() == 2);
        assert!(set(None, "bo", None, &[]).is_err());
        assert!(disabled(None, "bo", true).is_err());
    }
}
