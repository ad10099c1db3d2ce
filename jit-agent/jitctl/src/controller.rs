//! What goes over the controller: who asks, who agrees, and what hosts answered. It decides nothing:
//! the controller's rules do, and each host for itself.

mod access;
mod account_keys;
mod account_passkeys;
mod accounts;
mod ask;
mod audit;
mod change;
mod context;
mod decide;
mod defender;
mod enrolments;
mod hosts;
mod inventory;
mod login;
mod outcome;
mod policies;
mod preview;
mod request;
mod requests;
mod revocations;
mod rollout;
mod rollouts;
mod rules;
mod secret;
mod session;
mod show;
mod signature;
mod source;
mod ssh;
mod tokens;
mod wait;

use clap::{Args, Subcommand};
use jit_client::exit::Exit;

pub(crate) use self::change::revoke;
use crate::{colours::Colours, failure::Failure, target::AgentArgs};

/// Which controller to talk to.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Controller")]
pub(crate) struct ControllerArgs {
    /// Name of a login, for the commands that go over the controller [default: the one in use: jitctl
    /// context list]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Controller to talk to over HTTPS, for the same commands; its token comes from a login there or
    /// from JITCTL_TOKEN, its CA from a login, --ca or this machine [env: JITCTL_CONTROLLER]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) controller: Option<String>,
}

impl ControllerArgs {
    /// Whether the command line names a controller.
    pub(crate) const fn is_named(&self) -> bool {
        self.context.is_some() || self.controller.is_some()
    }
}

/// Options of every command that shows something.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    colours: Colours,
}

/// The commands that go over the controller.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in to a controller with a token, and use it from then on
    Login(login::LoginArgs),
    /// Forget the token of a login
    Logout(login::LogoutArgs),
    /// List, choose and remove logins
    Context(login::ContextArgs),
    /// Ask for ports on hosts, and see before who must agree
    Request(request::RequestArgs),
    /// List requests, or show one with all that happened to it
    Requests(requests::RequestsArgs),
    /// End what was granted on many hosts at once, and show which hosts have carried it out
    Revocations(revocations::RevocationsArgs),
    /// Agree to a request, after reading it
    Approve(decide::ApproveArgs),
    /// Refuse a request
    Deny(decide::DenyArgs),
    /// Take back a request of your own
    Withdraw(change::WithdrawArgs),
    /// Ask for more time for a request
    Extend(change::ExtendArgs),
    /// Let a request end earlier
    Shorten(change::ShortenArgs),
    /// List and change the hosts that the controller knows
    Hosts(hosts::HostsArgs),
    /// Machines that ask to be hosts: list those that wait, let them in or refuse them, make tokens
    Enrolments(enrolments::EnrolmentsArgs),
    /// Show, test and change the rules: who may ask, and who must agree
    Rules(rules::RulesArgs),
    /// List, show, keep and compare the policies that the controller keeps
    Policies(policies::PoliciesArgs),
    /// Bring a policy to hosts in waves, and watch, resume or abort that
    Rollouts(rollouts::RolloutsArgs),
    /// List and change accounts: who may use the controller
    Accounts(accounts::AccountsArgs),
    /// List, make and revoke tokens
    Tokens(tokens::TokensArgs),
    /// Print what happened on the controller
    Audit(audit::AuditArgs),
    /// Show who could get in where at a time
    Access(access::AccessArgs),
    /// Take over policies of Microsoft Defender's just-in-time access from a file
    ImportDefender(defender::ImportArgs),
    /// Print the policies as Microsoft Defender has them
    ExportDefender(defender::ExportArgs),
    /// Open SSH on a host, wait until it is open, and run ssh
    Ssh(ssh::SshArgs),
}

/// Does what the command line says.
pub(crate) fn run(
    agent: &AgentArgs,
    controller: &ControllerArgs,
    command: &Command,
) -> Result<Exit, Failure> {
    let to = session::To { agent, controller };
    match command {
        Command::Login(args) => login::login(to, args),
        Command::Logout(args) => login::logout(to, args),
        Command::Context(args) => login::context(to, args),
        Command::Request(args) => request::run(to, args),
        Command::Requests(args) => requests::run(to, args),
        Command::Revocations(args) => revocations::run(to, args),
        Command::Approve(args) => decide::approve(to, args),
        Command::Deny(args) => decide::deny(to, args),
        Command::Withdraw(args) => change::withdraw(to, args),
        Command::Extend(args) => change::extend(to, args),
        Command::Shorten(args) => change::shorten(to, args),
        Command::Hosts(args) => hosts::run(to, args),
        Command::Enrolments(args) => enrolments::run(to, args),
        Command::Rules(args) => rules::run(to, args),
        Command::Policies(args) => policies::run(to, args),
        Command::Rollouts(args) => rollouts::run(to, args),
        Command::Accounts(args) => accounts::run(to, args),
        Command::Tokens(args) => tokens::run(to, args),
        Command::Audit(args) => audit::run(to, args),
        Command::Access(args) => access::run(to, args),
        Command::ImportDefender(args) => defender::import(to, args),
        Command::ExportDefender(args) => defender::export(to, args),
        Command::Ssh(args) => ssh::run(to, args),
    }
}
