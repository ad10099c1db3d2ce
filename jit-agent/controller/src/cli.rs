//! The command line, as clap reads it. Nothing is opened or decided here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    app::Role,
    commands::{
        access::AccessArgs, accounts::AccountsArgs, backup::BackupArgs, check::CheckArgs,
        export::ExportArgs, health::HealthArgs, init::InitArgs, report::ReportArgs,
        restore::RestoreArgs, verify::VerifyArgs,
    },
    config::{DEFAULT_DIRECTORY, FILE},
    rules::command::RulesArgs,
};

/// The word of the signer's process, which the controller starts itself.
pub const SIGNER: &str = "signer";

const EXAMPLES: &str = "\
Examples:
  A controller, from nothing:
    jit-controller init --name jit.example.org --admin ana
    jit-controller serve

  Is everything in order?
    jit-controller check

  A copy every night, while it runs, and the way back on another machine:
    jit-controller backup --to /backup/jit-$(date +%F)
    jit-controller restore /backup/jit-2027-03-01 --dir /var/lib/jit-controller

  The audit: was it changed, who could get in, and all of it for a SIEM:
    jit-controller verify
    jit-controller access --host db-1 --at 2027-03-01T02:30:00Z
    jit-controller export --format ocsf --cursor /var/lib/ship/cursor

  The last week, for those who answer for access:
    jit-controller report --html > report.html

People ask, approve and see hosts with `jitctl login` and the other commands of jitctl.

Exit codes:
   0  success                        69  a database or another part does not answer
   1  `verify`: the audit was changed; `rules test`: a case fails
  64  wrong command line             78  a file, a key or the configuration is missing or wrong";

/// The controller of jit-agent: who may ask, who must agree, what is signed, and how it reaches hosts.
#[derive(Debug, Parser)]
#[command(name = "jit-controller", version, after_long_help = EXAMPLES, max_term_width = 100)]
#[command(after_help = "Examples and exit codes: jit-controller --help")]
pub struct Cli {
    /// Directory of the controller, with controller.toml in it
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    pub dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a controller: configuration, keys, certificates, database, first administrator
    Init(Box<InitArgs>),
    /// Run the controller
    Serve(ServeArgs),
    /// Look whether everything is in order: configuration, files, keys, database, rules, clock
    Check(CheckArgs),
    /// Ask the hub of a bus that runs here how it is
    Health(HealthArgs),
    /// Copy everything while the controller runs
    Backup(BackupArgs),
    /// Put a copy into an empty directory
    Restore(RestoreArgs),
    /// Print the audit: as stored, for a SIEM, or as syslog
    Export(ExportArgs),
    /// Check that the audit is as it was written
    Verify(VerifyArgs),
    /// Show who could get in where at a moment
    Access(AccessArgs),
    /// Show a week: access that nobody used, what was denied, exemptions, hosts that do not enforce
    Report(ReportArgs),
    /// Give an account a password, for the first sign-in at the pages
    Accounts(AccountsArgs),
    /// Check, test and compare files of rules
    Rules(RulesArgs),
}

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Parts that this process runs; without it all of them. Processes with different parts share one
    /// Postgres
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub roles: Vec<Role>,
}

impl Cli {
    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// A longer line is broken in the middle of a sentence, and examples cannot be copied.
    #[test]
    fn no_line_of_the_help_is_wider_than_its_widest_page() {
        let mut ahead = vec![Cli::command()];
        while let Some(command) = ahead.pop() {
            for help in [command.get_after_help(), command.get_after_long_help()] {
                let text = help.map(ToString::to_string).unwrap_or_default();
                let long = text.lines().find(|line| line.chars().count() > 98);
                assert_eq!(long, None, "{}", command.get_name());
            }
            ahead.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["jit-controller", "serve", "--roles", "api,hub"]).unwrap();
        assert_eq!(cli.file(), PathBuf::from("/var/lib/jit-controller/controller.toml"));
        let Command::Serve(ServeArgs { roles }) = cli.command else { panic!("serve") };
        assert_eq!(roles, [Role::Api, Role::Hub]);
    }
}
