//! The command lines of both.

use std::path::PathBuf;

use clap::Args;

use super::super::Output;
use crate::text;

const IMPORT: &str = "\
The file is what one of these prints (UTF-8 or UTF-16):
    az security jit-policy list > policies.json
    az rest --url '/subscriptions/ID/providers/Microsoft.Security/jitNetworkAccessPolicies
      ?api-version=2020-01-01' > policies.json
    Get-AzJitNetworkAccessPolicy | ConvertTo-Json -Depth 10 > policies.json
    jitctl export-defender > policies.json

A machine is the host whose label azure_resource_id has the machine's id, otherwise the host whose
id is the last part of it. --host gives a host that label.

Examples:
    jitctl import-defender policies.json --dry-run            changes nothing
    jitctl import-defender policies.json --host vm1=web-1.example.org --yes

Exit codes: 0 all of it was taken over; 1 something was left out, and is listed; 77 refused;
78 the file cannot be read";

/// Arguments of `import-defender`.
#[derive(Args, Debug)]
#[command(after_help = IMPORT)]
pub(crate) struct ImportArgs {
    /// The policies, JSON
    pub(super) file: PathBuf,
    /// A machine (its name, or its whole id) and the host that it is; may be repeated
    #[arg(long, value_name = "MACHINE=HOST", value_parser = text::parse_label)]
    pub(super) host: Vec<(String, String)>,
    /// Subscription of policies whose path is not in the file
    #[arg(long, value_name = "ID")]
    pub(super) subscription: Option<String>,
    /// Resource group of the same
    #[arg(long, value_name = "NAME")]
    pub(super) resource_group: Option<String>,
    /// Only show what would be put, and what is left out
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Ask nothing
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Arguments of `export-defender`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n    jitctl export-defender > policies.json\n    \
    jitctl export-defender --subscription 20ff7fc3-e762-44dd-bd96-b71116dcdc23")]
pub(crate) struct ExportArgs {
    /// Only policies of this subscription; may be repeated
    #[arg(long, value_name = "ID")]
    pub(super) subscription: Vec<String>,
}
