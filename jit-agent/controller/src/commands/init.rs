//! `jit-controller init`: one directory with everything that a controller needs, and the lines that a
//! host needs to trust it.

mod args;
mod keys;
mod report;

use std::path::{Path, PathBuf};

use jit_client::exit::Exit;
use serde_json::json;

pub use self::args::InitArgs;
use self::{keys::Keys, report::Report};
use super::{
    Failure,
    files::{self, Draft, PRIVATE},
    output::person,
};
use crate::{
    api::token::Secret,
    audit::{self, Code, Record, sealing::sign_if_due},
    clock,
    config::{Config, Database, FILE},
    model::{Account, account::ADMINS},
    rules,
    store::{RulesVersion, Store, Token, accounts, rules as saved},
};

/// Scopes of the first administrator's token: all.
const SCOPES: [&str; 9] =
    ["admin", "approve", "audit", "hosts", "policy", "read", "request", "rules", "signatures"];
/// The most characters of a name.
const LONGEST_NAME: usize = 64;

/// Makes a controller in this directory.
///
/// # Errors
/// Something of it is there already, or cannot be made. Then nothing is left of it, except tables in a
/// database of Postgres.
pub async fn run(directory: &Path, args: &InitArgs) -> Result<Exit, Failure> {
    check_names(args)?;
    refuse_existing(directory, args)?;
    let draft = Draft::begin(directory)?;
    let text = configuration(args);
    // As it will be read: a mistake in an argument is found before anything is made.
    let config = Config::parse(&text, &directory.join(FILE))?;
    let keys = Keys::make(args)?;
    keys.write(draft.path())?;
    let (store, made) = open(&config, draft.path()).await?;
    let secret = Secret::generate();
    let filled = fill(&store, args, &keys, &secret).await;
    store.close().await;
    filled?;
    if let Some(file) = &args.token_file {
        files::write_new(file, format!("{}\n", secret.expose()).as_bytes(), PRIVATE)?;
    }
    drop(made);
    files::write_new(&draft.path().join(FILE), text.as_bytes(), PRIVATE)?;
    draft.finish(FILE)?;
    Report::new(directory, args, &config, &keys, &secret).print(args.json)?;
    Ok(Exit::Success)
}

/// What every controller's directory has.
const NAMES: [&str; 17] = [
    FILE,
    "controller.db",
    "pki",
    "controller.pem",
    "controller.key",
    "api.pem",
    "api.key",
    "signer.key",
    "signer.pub.pem",
    "signer.journal",
    "signer.journal.closing",
    "revocation.key",
    "revocation.pub.pem",
    "freshness.key",
    "freshness.pub.pem",
    "audit.key",
    "audit.pub.pem",
];

fn refuse_existing(directory: &Path, args: &InitArgs) -> Result<(), Failure> {
    let ours = NAMES.iter().map(|name| directory.join(name));
    for path in ours.chain(args.token_file.clone()) {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::files(format!(
                "{} exists already and is not replaced; is there a controller here? Look at it with \
                 `jit-controller check --dir {}`, or choose another --dir",
                path.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}

fn check_names(args: &InitArgs) -> Result<(), Failure> {
    let plain = |name: &str| {
        !name.is_empty()
            && name.chars().count() <= LONGEST_NAME
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c))
    };
    if !plain(&args.admin) {
        return Err(Failure::usage(format!(
            "--admin {:?}: an account has 1 to {LONGEST_NAME} letters, digits, and . _ - @",
            args.admin
        )));
    }
    let subject = args.subject.as_deref().unwrap_or(&args.admin);
    if subject.trim().is_empty() || subject.chars().any(char::is_control) || subject.len() > 256 {
        return Err(Failure::usage("--subject: 1 to 256 printable characters"));
    }
    Ok(())
}

fn configuration(args: &InitArgs) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let store = match &args.database {
        None => "url = \"sqlite:controller.db\"".to_owned(),
        Some(url) => {
            let password = args.password_file.as_ref().map(|file| {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                format!("\npassword_file = {}", quoted(&file.display().to_string()))
            });
            format!("url = {}{}", quoted(url), password.unwrap_or_default())
        }
    };
    // A name that is none is refused where its certificate is made.
    let public_url = match reqwest::Url::parse(&args.url()) {
        Ok(_) => format!(
            "# Where people reach it: links in messages lead there.\npublic_url = {}\n",
            quoted(&args.url())
        ),
        Err(_) => String::new(),
    };
    format!(
        "# The controller of jit-agent. `jit-controller check` says what is wrong here.\n\
         # Relative paths begin in the directory of this file.\n\n\
         [store]\n{store}\n\n\
         # Where people, jitctl and programs come in (HTTPS).\n\
         [api]\nlisten = {}\ncertificate = \"api.pem\"\nkey = \"api.key\"\n{public_url}\n\
         # How agents are reached: as {}\n\
         [agents]\nca = \"pki/ca.pem\"\ncertificate = \"controller.pem\"\nkey = \"controller.key\"\n\n\
         # Where agents connect that cannot be dialled ([uplink] in their configuration; take away the\n\
         # #). The certificate must bear the DNS name or address that they connect to.\n\
         # [hub]\n# listen = \"0.0.0.0:7444\"\n# certificate = \"hub.pem\"\n# key = \"hub.key\"\n\n\
         # With what grants are signed, and with what revocations are: that key closes, and opens nothing.\n\
         # limits: what is never signed, whoever has agreed.\n\
         [signer]\nkeys = [{{ kind = \"pem\", file = \"signer.key\" }}]\n\
         revocation_keys = [{{ kind = \"pem\", file = \"revocation.key\" }}]\n\n\
         [signer.limits]\nlongest = \"8h\"\n\
         # A policy says what hosts protect, and so can open all of a port to everybody. None is signed\n\
         # before this line is in force (take away the #, then: systemctl restart jit-controller):\n\
         # policies = true\n\n\
         # Signs checkpoints and nothing else: by them hosts notice what a hub withholds.\n\
         [signer.freshness]\nkey = {{ kind = \"pem\", file = \"freshness.key\" }}\n\n\
         # Signs the end of the audit.\n\
         [audit]\nkey = \"audit.key\"\n\n\
         # Receivers of the audit over TLS (RFC 5425); format: \"jsonl\" or \"ocsf\".\n\
         # [[syslog]]\n# server = \"siem.example.org:6514\"\n# ca = \"siem-ca.pem\"\n\
         # format = \"ocsf\"\n",
        quoted(&args.listen.to_string()),
        args.identity(),
    )
}

/// Opens the database. SQLite's file is made in the draft.
async fn open(config: &Config, draft: &Path) -> Result<(Store, Option<PathBuf>), Failure> {
    match &config.store {
        Database::Sqlite(file) => {
            let name = file.file_name().unwrap_or_default();
            let file = draft.join(name);
            files::write_new(&file, b"", PRIVATE)?;
            Ok((Store::open(&Store::sqlite_url(&file)).await?, Some(file)))
        }
        Database::Postgres { .. } => {
            let store = Store::open(&config.store.url().map_err(Failure::usage)?).await?;
            if !store.accounts().await?.is_empty() || store.rules_in_force().await?.is_some() {
                return Err(Failure::files(format!(
                    "{} belongs to a controller already; name an empty database",
                    config.store
                )));
            }
            Ok((store, None))
        }
    }
}

/// The default rules, the administrator and his token, and their records.
async fn fill(store: &Store, args: &InitArgs, keys: &Keys, secret: &Secret) -> Result<(), Failure> {
    let now_ms = clock::now_ms();
    let by = person();
    let lifetime = i64::try_from(args.token_for.as_millis()).unwrap_or(i64::MAX);
    let account = Account {
        name: args.admin.clone(),
        subject: args.subject.clone().unwrap_or_else(|| args.admin.clone()),
        groups: [ADMINS.to_owned()].into(),
        disabled: false,
        created_ms: now_ms,
    };
    let token = Token {
        id: ulid::Ulid::generate().to_string(),
        hash: secret.hash(),
        account: account.name.clone(),
        scopes: SCOPES.iter().map(|scope| (*scope).to_owned()).collect(),
        label: "made by init".into(),
        created_ms: now_ms,
        ends_ms: now_ms.saturating_add(lifetime),
        used_ms: 0,
        revoked_ms: 0,
    };
    let version = RulesVersion {
        version: 1,
        text: rules::DEFAULT.to_owned(),
        author: by.clone(),
        note: "the default rules".into(),
        saved_ms: now_ms,
    };
    let records = [
        Record::new(
            Code::AccountChanged,
            "",
            &by,
            json!({ "account": account.name, "subject": account.subject, "groups": account.groups }),
        ),
        Record::new(
            Code::TokenMade,
            "",
            &by,
            json!({ "token": token.id, "account": token.account, "scopes": token.scopes,
                    "ends_ms": token.ends_ms }),
        ),
        Record::new(Code::RulesSaved, "", &by, json!({ "version": 1, "note": version.note })),
    ];
    let mut tx = store.begin().await?;
    accounts::put(&mut tx, &account).await?;
    accounts::add_token(&mut tx, &token).await?;
    saved::save(&mut tx, &version).await?;
    for record in &records {
        audit::append(&mut tx, now_ms, record).await?;
    }
    tx.commit().await?;
    sign_if_due(store, &keys.audit, now_ms, true).await?;
    Ok(())
}
