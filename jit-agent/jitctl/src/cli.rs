//! The command line, as clap reads it. Nothing is opened or decided here.

use clap::{Parser, Subcommand};

use crate::{
    agent_args::{ListArgs, PushArgs, RevokeArgs, StatusArgs, WatchArgs},
    controller::{self, ControllerArgs},
    grant::GrantArgs,
    keygen::KeygenArgs,
    pki::PkiArgs,
    policy::PolicyArgs,
    sign::{InspectArgs, SignArgs},
    target::AgentArgs,
};

const EXAMPLES: &str = "\
Examples:
  A signing key and, for trying things out, a development CA with two certificates:
    jitctl keygen --algorithm ed25519 --out prod-2026
    jitctl pki init --dir pki
    jitctl pki issue --dir pki --name agent --dns web-1.example.org --ip 192.0.2.10
    jitctl pki issue --dir pki --name controller --uri spiffe://example.org/jit-controller

  Open SSH on web-1 to one address for an hour:
    jitctl --agent web-1.example.org:7443 --ca pki/ca.pem --cert pki/controller.pem \\
      --key pki/controller.key grant --signing-key prod-2026.key --host web-1 \\
      --source 203.0.113.7 --port 22 --for 1h --why 'disk full' --ticket INC-4211

  See what is open, and close it (JITCTL_AGENT, _CA, _CERT and _KEY replace the options):
    jitctl status
    jitctl list
    jitctl revoke --requester ana@example.org --reason 'incident over'

  Somebody must get out now, with every session that is open:
    jitctl revoke --all --yes --cut --reason 'stolen laptop'
    jitctl --agents agents.toml --select env=prod revoke --all --yes --cut --reason 'stolen key'

  Over a controller, which knows the hosts, the rules and who must agree:
    jitctl login --controller https://jit.example.org
    jitctl request web-1 web-2 --port 22 --for 1h --why 'disk full' --wait
    jitctl requests --pending
    jitctl approve 01KPEXAMP1E000000000000001
    jitctl ssh web-1 --why 'disk full' --end
    jitctl rollouts start policy.toml --why CHG-77 --wave env=canary --wave 10% --wave all

Exit codes:
   0  success                       69  no agent reached, or the connection broke
   1  `revoke` found nothing to end; `rules test`: a case failed; `import-defender`: something was
      left out
  64  wrong command line            77  refused by an agent, the controller or a person (the
                                        reason word is printed)
  78  a file is missing, unreadable or wrong, or exists and would be replaced
  status alone: 0 enforcing, 1 degraded, 2 not enforcing
  of many agents or hosts the worst; ssh alone: that of ssh";

/// The controller's side of jit-agent: makes keys, signs grants, and pushes them to agents.
#[derive(Debug, Parser)]
#[command(name = "jitctl", version, after_long_help = EXAMPLES, max_term_width = 100)]
#[command(after_help = "Examples and exit codes: jitctl --help")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) controller: ControllerArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key pair that signs grants
    Keygen(KeygenArgs),
    /// Make a small development CA and TLS certificates
    Pki(PkiArgs),
    /// Build a grant, sign it, and push it
    Grant(GrantArgs),
    /// Push signed grants from files that `grant --out` or another signer wrote
    Push(PushArgs),
    /// Show what an envelope says and add a signature to it
    Sign(SignArgs),
    /// Show what a host would check of an envelope
    Inspect(InspectArgs),
    /// End grants now: their ports close (--cut: open sessions end as well)
    Revoke(RevokeArgs),
    /// Show the grants that the agent holds
    List(ListArgs),
    /// Show what the agent enforces
    Status(StatusArgs),
    /// Show, compare, push and confirm what a host protects (over a controller: rollouts)
    Policy(PolicyArgs),
    /// Print the agent's events as they happen
    Watch(WatchArgs),
    #[command(flatten)]
    Controller(controller::Command),
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
    }

    /// Clap would give one the value of the other, and fail where their types differ.
    #[test]
    fn no_command_has_an_option_with_the_name_of_a_global_one() {
        fn walk(command: &clap::Command, global: &[String]) {
            for one in command.get_subcommands() {
                for argument in one.get_arguments().filter(|argument| !argument.is_global_set()) {
                    let id = argument.get_id().as_str();
                    assert!(!global.contains(&id.to_owned()), "{} {id}", one.get_name());
                }
                walk(one, global);
            }
        }
        let root = Cli::command();
        let global = root.get_arguments().filter(|argument| argument.is_global_set());
        let global: Vec<_> = global.map(|argument| argument.get_id().to_string()).collect();
        assert!(global.contains(&"key".to_owned()), "{global:?}");
        walk(&root, &global);
    }

    #[test]
    fn revoke_takes_exactly_one_target() {
        let parse = |args: &[&str]| {
            let head = ["jitctl", "revoke", "--reason", "x"];
            Cli::try_parse_from(head.iter().chain(args)).is_ok()
        };
        assert!(parse(&["--requester", "ana@example.org"]));
        assert!(parse(&["--all", "--yes"]));
        assert!(parse(&["--id", "01J9W7K3AAAAAAAAAAAAAAAAAA"]));
        assert!(!parse(&[]));
        assert!(!parse(&["--all", "--requester", "ana@example.org"]));
        assert!(parse(&["--id", "01j9w7"]));
        assert!(parse(&["--source", "192.0.2.0/28"]));
        assert!(!parse(&["--id", "not-a-ulid"]));
        assert!(!parse(&["--id", "01J"]));
        assert!(!parse(&["--source", "192.0.2.7", "--all"]));
    }
}
