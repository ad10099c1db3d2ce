//! `jit-controller export`: the audit, from a record on, in three forms.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jit_client::exit::Exit;

use super::{Failure, output::follow};
use crate::{audit::export::Format, config::Config, store::Store};

/// Records that are read at once.
const PAGE: u32 = 1000;
/// How often `--follow` looks.
const LOOK: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
    jit-controller export > audit.jsonl              # everything, as it is stored
    jit-controller export --after 1200 --format ocsf # for a SIEM
    jit-controller export --cursor /var/lib/ship/seq # goes on where it ended last time
    jit-controller export --follow | your-shipper    # as it happens

With --cursor a record can come twice after a crash, and is never left out.";

/// Arguments of `export`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// Only records after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: i64,
    /// File that says where to go on; it is written after what it counts. Replaces --after
    #[arg(long, value_name = "FILE", conflicts_with = "after")]
    pub cursor: Option<PathBuf>,
    /// The form of a record
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: FormatArg,
    /// At most this number of records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Go on with new records until the reader or you end it
    #[arg(long)]
    pub follow: bool,
}

/// Forms of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// As stored: one line of JSON, whose hash is in the next
    Jsonl,
    /// JSON with the names of OCSF
    Ocsf,
    /// RFC 5424, with the record as it is stored
    SyslogLines,
}

impl From<FormatArg> for Format {
    fn from(argument: FormatArg) -> Self {
        match argument {
            FormatArg::Jsonl => Self::Jsonl,
            FormatArg::Ocsf => Self::Ocsf,
            FormatArg::SyslogLines => Self::SyslogLines,
        }
    }
}

/// Prints records.
///
/// # Errors
/// The database or the cursor cannot be read, or standard output not be written.
pub async fn run(config: &Config, args: &ExportArgs) -> Result<Exit, Failure> {
    let store = Store::connect(&config.store.url().map_err(Failure::files)?).await?;
    let format = Format::from(args.format);
    let mut last = match &args.cursor {
        Some(file) => read_cursor(file)?,
        None => args.after,
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let most = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = if most == 0 { Vec::new() } else { store.audit_after(last, most).await? };
        let mut text = String::new();
        for line in &page {
            text.push_str(&format.line(line));
            text.push('\n');
            last = line.seq;
        }
        if !page.is_empty() {
            follow(text.as_bytes())?;
            if let Some(file) = &args.cursor {
                write_cursor(file, last)?;
            }
        }
        left -= page.len() as u64;
        if left == 0 || (page.is_empty() && !args.follow) {
            store.close().await;
            return Ok(Exit::Success);
        }
        if page.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn read_cursor(file: &Path) -> Result<i64, Failure> {
    let wrong = |why: &str| {
        Failure::files(format!(
            "{} is no cursor: {why}; remove it to begin with the first record",
            file.display()
        ))
    };
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map_err(|_| wrong("a cursor is a number")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(wrong(&error.to_string())),
    }
}

/// Whole or not at all.
fn write_cursor(file: &Path, seq: i64) -> Result<(), Failure> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(out, "{seq}")?;
        out.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|error| {
        Failure::files(format!("cannot write the cursor {}: {error}", file.display()))
    })
}
