//! `jit-agent doctor`: every precondition of the gate, what was seen of it, and what to do. It
//! changes nothing.
//!
//! Each file below looks at one kind of condition and gives [`Finding`]s; this one prints them.

mod finding;
mod host;
mod kernel;
mod ways;

use std::{fmt::Write as _, path::Path, process::ExitCode};

use serde::Serialize;

use crate::oncall::{
    failure::Failure,
    output::{print, print_json},
};
use finding::{Finding, Level};
use host::Host;

/// Version of the JSON that `doctor --json` prints.
const VERSION: u32 = 1;

/// The command's options.
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    version: u32,
    findings: Vec<Finding>,
}

/// Looks at the host and prints what was found. Exit code 1: something is wrong.
pub fn run(path: &Path, args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let host = Host::read(path);
    let mut findings = kernel::findings(&host);
    findings.extend(ways::findings(&host));
    let wrong = findings.iter().any(|one| one.level == Level::Failure);
    if args.json {
        print_json(&Report { version: VERSION, findings })?;
    } else {
        print(&text(&findings))?;
    }
    Ok(ExitCode::from(u8::from(wrong)))
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, level, about, seen, fix } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Unseen => "unseen",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        };
        let about = if about.is_empty() { String::new() } else { format!("{about}: ") };
        let _ = writeln!(text, "{level:<8} {check:<16} {about}{seen}");
        for command in fix {
            let _ = writeln!(text, "{:<25} {command}", "");
        }
    }
    text
}
