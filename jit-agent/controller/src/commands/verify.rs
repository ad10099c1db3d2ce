//! `jit-controller verify`: whether the audit is as it was written.

use std::{fs, path::PathBuf};

use clap::Args;
use jit_client::exit::Exit;
use jit_proto::words::counted;
use serde_json::json;

use super::{
    Failure,
    output::{moment, print, print_json},
    progress::Progress,
};
use crate::{
    audit::{
        head::{Head, HeadKey, PublicKey},
        verify::{Report, verify},
    },
    config::Config,
    store::Store,
};

const EXAMPLES: &str = "\
Examples:
    jit-controller verify
    jit-controller verify --against 1234:0a1b...   # a head that was kept elsewhere
    jit-controller verify --key audit.pub.pem      # only this key counts

Exit code 0: nothing was changed; 1: something was, and it is named. Who holds the key of the
audit could write it anew: only a head that was kept elsewhere shows that. `signed` of --json
is such a head.";

/// Arguments of `verify`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// A head that was kept elsewhere: SEQ:HASH, or a file with one; may be repeated
    #[arg(long, value_name = "HEAD|FILE")]
    pub against: Vec<String>,
    /// Public key that signs heads (PEM); without it those of the configuration; may be repeated
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks the audit.
///
/// # Errors
/// The database or a key cannot be read.
pub async fn run(config: &Config, args: &VerifyArgs) -> Result<Exit, Failure> {
    let keys = keys(config, args)?;
    let against: Vec<Head> =
        args.against.iter().map(|text| kept(text)).collect::<Result<_, _>>()?;
    let store = Store::connect(&config.store.url().map_err(Failure::files)?).await?;
    let (total, _) = store.audit_tip().await?;
    let bar = Progress::begin("checking records", u64::try_from(total).unwrap_or(0));
    let report =
        verify(&store, &keys, &against, |seq| bar.at(u64::try_from(seq).unwrap_or(0))).await?;
    drop(bar);
    let signed = store.last_signed_head().await?;
    store.close().await;
    if args.json {
        print_json(&json!({
            "schema_version": 1,
            "good": report.is_good(),
            "records": report.records,
            "head": format!("{}:{}", report.records, report.hash),
            "heads": report.heads,
            "signed_until": report.signed_until,
            "signed": signed,
            "broken": report.broken.iter()
                .map(|one| json!({ "seq": one.seq, "why": one.why })).collect::<Vec<_>>(),
        }))?;
    } else {
        let signed = signed.map_or(0, |head| head.time_ms);
        print(&shown(&report, signed))?;
    }
    Ok(if report.is_good() { Exit::Success } else { Exit::Degraded })
}

fn shown(report: &Report, signed_ms: i64) -> String {
    let Report { records, hash, heads, signed_until, broken } = report;
    if let Some(first) = broken.first() {
        let mut text = format!("The audit is NOT as it was written. {first}\n");
        for other in broken.iter().skip(1) {
            text.push_str(&format!("also {other}\n"));
        }
        text.push_str(&format!("Records up to {records} follow from each other.\n"));
        return text;
    }
    let mut text = format!(
        "{}, none changed, none missing\nhead  {records}:{hash}\n",
        counted(*records, "record")
    );
    if *heads == 0 {
        text.push_str("no head is signed: `serve` signs them\n");
    } else {
        text.push_str(&format!(
            "signed heads: {heads}, all good; the last is of record {signed_until}, signed {}\n",
            moment(signed_ms)
        ));
    }
    text
}

fn kept(text: &str) -> Result<Head, Failure> {
    match text.parse() {
        Ok(head) => Ok(head),
        Err(why) => match fs::read_to_string(text) {
            Ok(content) => {
                content.parse().map_err(|why| Failure::usage(format!("--against {text}: {why}")))
            }
            Err(_) => Err(Failure::usage(format!("--against: {why}"))),
        },
    }
}

fn keys(config: &Config, args: &VerifyArgs) -> Result<Vec<PublicKey>, Failure> {
    let read = |file: &PathBuf| {
        fs::read_to_string(file)
            .map_err(|error| error.to_string())
            .map_err(|why| Failure::files(format!("cannot use {}: {why}", file.display())))
    };
    let public = |file: &PathBuf| {
        PublicKey::from_pem(&read(file)?)
            .map_err(|why| Failure::files(format!("cannot use {}: {why}", file.display())))
    };
    if !args.key.is_empty() {
        return args.key.iter().map(public).collect();
    }
    let own = HeadKey::from_pem(&read(&config.audit.key)?)
        .and_then(|key| PublicKey::from_pem(&key.public_pem()))
        .map_err(|why| {
            Failure::files(format!("cannot use {}: {why}", config.audit.key.display()))
        })?;
    let former = config.audit.former_keys.iter().map(public);
    former.chain([Ok(own)]).collect()
}
