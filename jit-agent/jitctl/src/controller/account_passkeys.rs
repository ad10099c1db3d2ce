//! `jitctl accounts passkeys`: passkeys of people, which they register at the controller's pages.

use clap::{Args, Subcommand};
use jit_client::{
    controller::{call::Call, types::PasskeyView},
    exit::Exit,
    public_key::PublicKey,
    status::Page,
};

use super::{Output, hosts::done, session::To};
use crate::{
    approvers,
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
own configuration lists the key: ask its owner for the id over another way, and not the
controller. The key that is printed has the id that you give, and the section is made here, for
pages of the host that jitctl calls: name others with --origin. Its first line has the whole
SHA-256 of the key: an id is 8 bytes of it. `jit-agent check` prints both of each key that the
configuration of a host lists.";

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
        /// The pages are at this origin too, and not only at the controller that is called; may be
        /// repeated
        #[arg(long, value_name = "https://HOST[:PORT]")]
        origin: Vec<String>,
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
    let of = |name: &str| -> Result<(Vec<PasskeyView>, String), Failure> {
        let call = Call::get(["accounts", name, "passkeys"]);
        to.call(async |session| Ok((session.list(call, None).await?, session.host().to_owned())))
    };
    match &args.command {
        PasskeysCommand::Approver { name, key_id, public_key, origin } => {
            let (found, host) = of(name)?;
            let found = found.into_iter().find(|one| one.key_id == *key_id);
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
            let Checked { pem, section } =
                checked(&found, name, key_id, (host.as_str(), origin.as_slice()))?;
            text::print(if *public_key { &pem } else { &section })?;
            Ok(Exit::Success)
        }
        PasskeysCommand::List { name, output } => show(&of(name)?.0, *output),
        PasskeysCommand::Remove { name, key_id } => {
            let call = Call::delete(["accounts", name, "passkeys", key_id]);
            done(to, call, &format!("removed the passkey {key_id} of {name}"))
        }
    }
}

/// What a host needs of a passkey.
struct Checked {
    pem: String,
    section: String,
}

/// Checks what the controller says of a passkey, and writes both parts anew. Of its texts only the
/// relying party and the origins reach a host: each page is at the host that was called, or is one
/// that the caller has named; and the relying party is that host, or a domain that it is in.
fn checked(
    found: &PasskeyView,
    name: &str,
    key_id: &str,
    (host, named): (&str, &[String]),
) -> Result<Checked, Failure> {
    let lies = |why: &str| {
        Failure::refused(format!(
            "what the controller says of the passkey {key_id} is not printed: {}; somebody may have taken \
             over the controller: ask who runs it, and add nothing to a host",
            text::printable(why)
        ))
    };
    let key = PublicKey::from_pem(&found.public_key);
    let key = key.map_err(|why| lies(&format!("its public key: {why}")))?;
    if key.key_id() != *key_id {
        return Err(lies(&format!("its public key has the id {}", key.key_id())));
    }
    let party = approvers::party(&found.approver);
    let party = party.map_err(|why| lies(&format!("its section for hosts: {why}")))?;
    let is_called = |origin: &str| host_of(origin) == Some(host);
    let is_known = |origin: &&String| is_called(origin) || named.contains(origin);
    if let Some(other) = party.origins().iter().find(|origin| !is_known(origin)) {
        return Err(Failure::refused(format!(
            "what the controller says of the passkey {key_id} is not printed: it names pages at {other}, and \
             jitctl calls {host}. If people approve there, add --origin {other}; otherwise somebody may have \
             taken over the controller: ask who runs it, and add nothing to a host",
            other = text::printable(other)
        )));
    }
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let origins: Vec<_> = party.origins().iter().map(|origin| quoted(origin)).collect();
    let section = format!(
        "# SHA-256 of the key: {}\n[[approver]]\nid = {}\npublic_key = {}\nrp_id = {}\norigins = [{}]\n",
        key.sha256(),
        quoted(&format!("{name}-{key_id}")),
        quoted(&format!("{key_id}.pem")),
        quoted(party.id()),
        origins.join(", "),
    );
    Ok(Checked { pem: key.pem(), section })
}

/// The host of an origin, as browsers write it.
fn host_of(origin: &str) -> Option<&str> {
    origin.strip_prefix("https://")?.split(':').next()
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
