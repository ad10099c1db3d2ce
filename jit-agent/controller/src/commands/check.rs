//! `jit-controller check`: whether the controller would run, and what will go wrong soon. It changes
//! nothing.

mod certificates;
mod database;
mod enrolment;
mod files;
mod keys;

use std::path::Path;

use clap::Args;
use jit_client::exit::Exit;
use serde_json::json;

use super::{
    Failure,
    output::{print, print_json},
};
use crate::{
    clock,
    config::{File, HubConfig},
    health::{Finding, Findings, Level},
    people::oidc::Oidc,
};

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Looks at everything.
///
/// # Errors
/// Standard output cannot be written.
pub async fn run(file: &Path, args: &CheckArgs) -> Result<Exit, Failure> {
    let mut findings = Findings::default();
    match File::read(file) {
        Err(error) => {
            for line in error.to_string().lines() {
                findings.error("configuration", line);
            }
        }
        Ok(File::Hub(config)) => of_hub(&config, &mut findings),
        Ok(File::Controller(config)) => {
            let now_ms = clock::now_ms();
            findings.good("configuration", format!("{} is good", file.display()));
            of_bus(config.bus.as_ref(), &mut findings);
            files::check(&config, &mut findings);
            certificates::check(&config, now_ms, &mut findings);
            keys::check(&config, &mut findings);
            enrolment::check(&config, &mut findings);
            database::check(&config, now_ms, &mut findings).await;
            if let Some(oidc) = config.oidc {
                if oidc.creates_nobody() {
                    let text = "`create = true` makes no account: write groups of the provider into \
                                [oidc.roles], or `require = { hd = \"example.org\" }`: whoever has that claim \
                                gets an account";
                    findings.warn("oidc", text);
                }
                match Oidc::new(oidc) {
                    Ok(oidc) => findings.good("oidc", format!("people sign in at {}", oidc.name())),
                    Err(why) => findings.error("oidc", why),
                }
            }
        }
    }
    let worst = findings.worst();
    let all = findings.all();
    if args.json {
        print_json(&json!({ "schema_version": 1, "worst": worst, "findings": all }))?;
    } else {
        print(&shown(all))?;
    }
    Ok(if worst == Level::Error { Exit::Configuration } else { Exit::Success })
}

/// What a hub without a database has.
fn of_hub(config: &HubConfig, findings: &mut Findings) {
    let name = &config.hub.name;
    findings.good("configuration", format!("{} is that of the hub {name}", config.file.display()));
    of_bus(Some(&config.bus), findings);
    certificates::of_hub(&config.hub, clock::now_ms(), findings);
}

/// Whether the files of the bus can be used. Its servers are not asked.
#[cfg(feature = "nats")]
fn of_bus(bus: Option<&crate::bus::Settings>, findings: &mut Findings) {
    let Some(bus) = bus else { return };
    match crate::bus::Bus::check_files(bus) {
        Ok(()) => findings.good("bus", format!("{} servers, and good files", bus.servers.len())),
        Err(error) => findings.error("bus", error.to_string()),
    }
}

/// Without the feature `nats` no configuration has a bus.
#[cfg(not(feature = "nats"))]
fn of_bus(_: Option<&crate::bus::Settings>, _: &mut Findings) {}

pub(super) fn shown(all: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { level, about, text: sentence } in all {
        let mark = match level {
            Level::Error => "✗",
            Level::Warning => "!",
            Level::Good => "✓",
        };
        text.push_str(&format!(
            "{mark} {about}: {}\n",
            jit_proto::printable::clean_lines(sentence)
        ));
    }
    let count = |level: Level| all.iter().filter(|one| one.level == level).count();
    text.push_str(&match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => "\nEverything is in order.\n".to_owned(),
        (0, warnings) => format!("\nIt runs; warnings: {warnings}.\n"),
        (errors, warnings) => {
            format!("\nIt does not run like this. Errors: {errors}, warnings: {warnings}.\n")
        }
    });
    text
}
