//! `jit-agent doctor`: every precondition of the gate, what was seen of it, and what to do. It
//! changes nothing.
//!
//! Each file below looks at one kind of condition and gives [`Finding`]s; `page` prints them. A
//! finding has the name of a check. The names stand in [`CHECKS`] and in the runbook.

mod agent;
mod capabilities;
mod clock;
mod configuration;
mod host;
mod host_id;
mod interfaces;
mod kernel;
mod memory;
mod page;
mod places;
mod process;
mod trial;
mod uplink;
pub(in crate::oncall) mod ways;

use std::{path::Path, process::ExitCode};

use jit_client::exit::Exit;
use serde::Serialize;

use crate::oncall::{
    failure::Failure,
    finding::{self, Finding, Level},
    output::{Colours, print, print_json},
};
use host::Host;

/// Version of the JSON that `doctor --json` prints (docs/doctor.schema.json). Goes up when a field
/// goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// The names of all checks, by group (docs/runbook.md, section "What `doctor` finds").
pub const CHECKS: &[(&str, &[&str])] = &[
    ("Kernel", &["bpffs", "kernel", "bpf-jit", "lockdown", "sock-destroy"]),
    ("Agent", &["agent", "capabilities", "version", "status", "trial"]),
    ("Files", &["configuration", "host-id", "pins", "state", "disk"]),
    (
        "Interfaces",
        &["interface", "native-xdp", "virtual-function", "other-programs", "devices-above"],
    ),
    ("Clock", &["clock-floor", "boot-clock", "ntp"]),
    ("Memory", &["memory-limit", "memlock"]),
    ("Ports", &["listeners", "local-ports", "no-listener", "exemptions"]),
    ("Translation", &["redirects", "terminates", "published-ports", "route-localnet"]),
    ("Certificates", &["certificate", "private-key", "client-ca", "signers", "controllers"]),
    ("Uplink", &["uplink"]),
    ("Ways around", &["ways-around"]),
];

/// The command's options.
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    colours: Colours,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    version: &'static str,
    verdict: Level,
    failures: usize,
    warnings: usize,
    unseen: usize,
    findings: &'a [Finding],
}

impl<'a> Report<'a> {
    fn new(findings: &'a [Finding]) -> Self {
        let count = |level| findings.iter().filter(|one| one.level == level).count();
        Self {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            verdict: if is_wrong(findings) { worst(findings) } else { Level::Ok },
            failures: count(Level::Failure),
            warnings: count(Level::Warning),
            unseen: count(Level::Unseen),
            findings,
        }
    }
}

/// Looks at the host and prints what was found. Exit code 1: there is a failure or a warning.
pub async fn run(path: &Path, args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let host = Host::read(path).await;
    let findings = all(&host);
    if args.json {
        print_json(&Report::new(&findings))?;
    } else {
        print(&page::text(&findings, args.colours.page()))?;
    }
    Ok(if is_wrong(&findings) { Exit::Degraded } else { Exit::Success }.into())
}

fn all(host: &Host) -> Vec<Finding> {
    let kinds: &[fn(&Host) -> Vec<Finding>] = &[
        agent::findings,
        capabilities::findings,
        clock::findings,
        configuration::findings,
        host_id::findings,
        interfaces::findings,
        kernel::findings,
        memory::findings,
        places::findings,
        trial::findings,
        uplink::findings,
        ways::findings,
    ];
    kinds.iter().flat_map(|findings| findings(host)).collect()
}

fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|one| one.level).max().unwrap_or(Level::Ok)
}

fn is_wrong(findings: &[Finding]) -> bool {
    worst(findings) >= Level::Warning
}
