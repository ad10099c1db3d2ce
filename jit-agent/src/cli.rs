//! The command line of `jit-agent`, as clap reads it.

use std::path::PathBuf;

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use crate::{
    config::DEFAULT_PATH,
    oncall::{
        audit, break_glass, check, close, confirm, denials, doctor, enforce, enrol, grants,
        identity, init, policy, status, why,
    },
};

/// A host-side port gate: the kernel closes protected ports to everybody. A signed grant opens them
/// to the sources that it names, and the kernel itself ends it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Begin on a new host:       jit-agent init\n\
                  Is it in force?            jit-agent status\n\
                  What happens now?          jit-agent status --watch\n\
                  Is the new file good?      jit-agent check\n\
                  Is this host good?         jit-agent doctor\n\
                  Who was denied?            jit-agent denials --since 1h\n\
                  Why can they not get in?   jit-agent why 203.0.113.7 22\n\
                  Who got in, and why?       jit-agent audit show --since 1d\n\
                  Somebody must get out now: jit-agent close --user NAME --cut\n\
                  Open everything again:     jit-agent detach\n\n\
                  Exit codes: status 0 enforcing, 1 degraded, 2 not enforcing; why 0 open, 1 closed;\n\
                  doctor 0 good, 1 something to do; otherwise 64 usage, 69 unavailable, 77 permission, 78 configuration."
)]
pub struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Put the gate in force from what this host has, and end: for the unit that runs before the
    /// network. It needs no controller, no certificate and no audit. A gate that is in force is left
    /// as it is.
    Early,
    /// Put the gate in force and serve controllers. The end of the agent (also kill -9) opens
    /// nothing.
    Run,
    /// The others.
    #[command(flatten)]
    OnCall(OnCall),
}

/// The commands of the engineer on call.
#[derive(Subcommand)]
pub enum OnCall {
    /// Show whether the gate is in force, on which interfaces and ports, and the grants with the
    /// time left. When no agent runs, shows what the kernel enforces.
    Status(status::Options),
    /// List the grants that this host holds. When no agent answers, those in force in the kernel.
    Grants(grants::Options),
    /// List who was denied lately: dropped packets by source, port and reason, and refused pushes
    /// of grants with their word. The history is kept over restarts.
    #[command(after_help = "Who knocks most?            jit-agent denials --since 1h\n\
                            Was ana's grant refused?    jit-agent denials --user ana@example.org\n\
                            Does this address arrive?   jit-agent denials --source 203.0.113.7 \
                            --follow\n\n\
                            `~` marks an estimate: under a flood the kernel reports some packets \
                            one by one and counts all. tcpdump does not see what XDP drops.")]
    Denials(denials::Options),
    /// Say whether a connection would get in, and by which grant, or what is missing. The loaded
    /// programs answer, also when no agent runs; nothing is counted. Exit code 0 open, 1 closed.
    ///
    /// The kernel drops a packet before tcpdump sees it: ask here instead.
    #[command(after_help = "Does 203.0.113.7 get in?      jit-agent why 203.0.113.7 22\n\
                            Why can ana not get in?       jit-agent why 203.0.113.7 22 --user ana@example.org\n\
                            By one interface, over UDP:   jit-agent why 203.0.113.7 51820 --udp --interface eth1")]
    Why(why::WhyArgs),
    /// Let a source in for a short time without a grant: for root on this host, when no controller
    /// can give one. `status`, the log and the audit show it loudly. The kernel ends it. With the agent
    /// dead or hung, root opens in the kernel's tables, and the agent takes it over.
    BreakGlass(break_glass::BreakGlassArgs),
    /// End grants now, from the host itself: their ports close (--cut: open sessions end as well).
    /// Only root and the agent's own user may. With the agent dead or hung, root closes in the
    /// kernel's tables, and the agent carries it on. Exit code 1: there was nothing to end.
    Close(close::CloseArgs),
    /// Keep the configuration that is on trial: in an SSH session that was opened after the trial
    /// began. Only for root.
    Confirm(confirm::ConfirmArgs),
    /// Enforce, on trial, what the configuration only observes. Shows who would be shut out, asks, and
    /// waits: without `jit-agent confirm` from a new SSH session in time, the kernel itself observes
    /// again. Only for root. Exit code 0: confirmed; 1: not confirmed.
    Enforce(enforce::EnforceArgs),
    /// Check a configuration file and the keys and certificates that it names; change nothing. Shows
    /// everything that is wrong or doubtful, and what the file says. Exit code 0: good, also with
    /// warnings; 78: there is an error.
    #[command(after_help = "As the service reads it:   sudo jit-agent check\n\
                            In CI, without the keys:   jit-agent check --syntax-only --config web-1.toml\n\
                            In an image of a host:     jit-agent check --root image/\n\
                            For scripts:               jit-agent check --json --strict")]
    Check(check::CheckArgs),
    /// Look at everything that the gate needs on this host and at what gets around it, with the
    /// command that mends it; change nothing. Exit code 0: nothing is wrong; 1: there is a failure or
    /// a warning.
    ///
    /// It works before the installation, with the agent dead or hung, and without root: then it says
    /// what only root would see. docs/runbook.md has a heading for each check.
    Doctor(doctor::DoctorArgs),
    /// Prove to a controller which host this is, and get its certificate: with a token of an
    /// administrator, or with what EC2 or Azure has signed. The key is made here and stays here. Exit
    /// code 0: `[uplink]` can be written; 1: a person must decide first (--no-wait).
    #[command(
        after_help = "With a token:   jit-agent enrol --controller https://jit.example.org --token-file token\n\
                            On EC2:         jit-agent enrol --controller https://jit.example.org --identity ec2\n\
                            In a script:    jit-agent enrol --controller https://jit.example.org --token-file - --no-wait < token\n\n\
                            A host enrols once. The second time a person decides: this waits for him, and the same\n\
                            command goes on where it stopped."
    )]
    Enrol(Box<enrol::EnrolArgs>),
    /// Ask the metadata services (Azure Arc, Azure, EC2, GCP) which host this is, and show what each
    /// answers: what `[host] id = "auto"` would use. Takes at most 3 seconds. Exit code 0: one gives the
    /// id; 69: none does, or two clouds do.
    Identity(identity::IdentityArgs),
    /// Look at this host, ask what to protect, and write a configuration in observe mode that `check`
    /// accepts; make the host's TLS key and a request for its certificate. It shuts nobody out.
    #[command(after_help = "Ask each thing:           jit-agent init\n\
                            Ask nothing:              jit-agent init --yes\n\
                            See what it would write:  jit-agent init --yes --dry-run\n\
                            For another host's image: jit-agent init --yes --host-id web-2 --output image/etc/jit-agent/")]
    Init(Box<init::InitArgs>),
    /// The pushed policies (docs/policies.md).
    Policy {
        /// What to do with them.
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Read the audit: who opened what, and why; and whether somebody changed it.
    Audit {
        /// What to read.
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Remove the gate from the kernel: every protected port is then open to everybody.
    Detach {
        /// Do not ask for a confirmation.
        #[arg(long)]
        yes: bool,
    },
}

impl Arguments {
    /// Reads the arguments of this process. An error is a mistake, or a wish for help; it can be
    /// printed.
    pub fn read() -> Result<Self, clap::Error> {
        Self::try_parse().map_err(without_detach)
    }
}

/// A mistyped command must not suggest the one that opens every port.
fn without_detach(mut error: clap::Error) -> clap::Error {
    let suggested = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => return error,
    };
    let (detach, others): (Vec<_>, Vec<_>) =
        suggested.into_iter().partition(|name| name == "detach");
    if detach.is_empty() {
        return error;
    }
    if others.is_empty() {
        error.remove(ContextKind::SuggestedSubcommand);
    } else {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(others));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_mistyped_command_never_suggests_detach() {
        for typed in ["detahc", "detac", "detatch", "detach-", "deatch", "statsu", "clsoe"] {
            let Err(error) = Arguments::try_parse_from(["jit-agent", typed]) else {
                panic!("{typed} is a command");
            };
            let said = without_detach(error).to_string();
            assert!(!said.contains("'detach'"), "{typed}: {said}");
            let similar = matches!(typed, "statsu" | "clsoe");
            assert_eq!(said.contains("similar"), similar, "{typed}: {said}");
        }
    }
}
