//! The command line of `jit-agent`: the daemon (`run`), and the commands of the engineer on call.
//!
//! A new command is a variant of `OnCall`, an arm in `on_call` and a file in `oncall`.

// These panic when the reader is gone: `complain` and the log write instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use jit_agent::{
    app,
    config::{DEFAULT_PATH, Glimpse},
    oncall::{
        Failure, audit, break_glass, check, close, complain, denials, detach, grants, policy,
        status, unless_closed, why,
    },
    system::{log, memory},
};
use jit_client::exit::Exit;
use jit_proto::printable;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The longest wait for the log's last lines.
const LAST_LINES: Duration = Duration::from_millis(300);

/// A host-side port gate: the kernel closes protected ports to everybody. A signed grant opens them
/// to the sources that it names, and the kernel itself ends it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Is it in force?            jit-agent status\n\
                  What happens now?          jit-agent status --watch\n\
                  Is the new file good?      jit-agent check\n\
                  Who was denied?            jit-agent denials --since 1h\n\
                  Why can they not get in?   jit-agent why 203.0.113.7 22\n\
                  Who got in, and why?       jit-agent audit show --since 1d\n\
                  Somebody must get out now: jit-agent close --user NAME --cut\n\
                  Open everything again:     jit-agent detach\n\n\
                  Exit codes: status 0 enforcing, 1 degraded, 2 not enforcing; why 0 open, 1 closed; otherwise \
                  64 usage, 69 unavailable, 77 permission, 78 configuration."
)]
struct Arguments {
    /// Configuration file.
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put the gate in force and serve controllers. The end of the agent (also kill -9) opens
    /// nothing.
    Run,
    #[command(flatten)]
    OnCall(OnCall),
}

#[derive(Subcommand)]
enum OnCall {
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
    /// can give one. It needs a running agent. `status`, the log and the audit show it loudly. The
    /// kernel ends it.
    BreakGlass(break_glass::BreakGlassArgs),
    /// End grants now, from the host itself: their ports close (--cut: open sessions end as well).
    /// Only root and the agent's own user may. With the agent dead or hung, root closes in the
    /// kernel's tables, and the agent carries it on. Exit code 1: there was nothing to end.
    Close(close::CloseArgs),
    /// Check a configuration file and the keys and certificates that it names; change nothing.
    Check,
    /// The pushed policies (docs/policies.md).
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Read the audit: who opened what, and why; and whether somebody changed it.
    Audit {
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

fn main() -> ExitCode {
    memory::set_up();
    // The kernel is asked for news of the sockets after every few turns of tasks. So connections
    // that always have something to do cannot keep the others waiting.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .event_interval(4)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(perform()),
        Err(error) => {
            let _unprinted =
                writeln!(std::io::stderr(), "jit-agent: cannot start its threads: {error}");
            Exit::Unavailable.into()
        }
    }
}

async fn perform() -> ExitCode {
    let Arguments { config, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            forget_detach(&mut error);
            let printed = error.print();
            if error.use_stderr() {
                return Exit::Usage.into();
            }
            // The help was asked for.
            return match unless_closed(printed) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&format!("cannot write to standard output: {error}"));
                    Exit::Unavailable.into()
                }
            };
        }
    };
    let result = match command {
        Command::Run => return run(&config).await,
        Command::OnCall(command) => {
            let done = on_call(command, &config).await;
            done.map_err(|failure| (failure.exit(), failure.into()))
        }
    };
    result.unwrap_or_else(|(exit, error): (Exit, anyhow::Error)| {
        complain(&format!("{error:#}"));
        exit.into()
    })
}

/// A mistyped command must not suggest the one that opens every port.
fn forget_detach(error: &mut clap::Error) {
    let suggested = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => return,
    };
    let (detach, others): (Vec<_>, Vec<_>) =
        suggested.into_iter().partition(|name| name == "detach");
    if detach.is_empty() {
        return;
    }
    if others.is_empty() {
        error.remove(ContextKind::SuggestedSubcommand);
    } else {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(others));
    }
}

/// Runs the daemon. From here on only the log writes to standard error: it waits for nobody.
async fn run(config: &Path) -> ExitCode {
    let debug = match log() {
        Ok(debug) => debug,
        Err(error) => {
            complain(&format!("cannot start the thread of the log: {error}"));
            return Exit::Unavailable.into();
        }
    };
    let ended = app::run(config, debug).await;
    let exit = match &ended {
        Ok(()) => Exit::Success,
        Err(error) => {
            log::line(&format!("jit-agent: {}", printable::clean_lines(&error.to_string())));
            error.exit()
        }
    };
    log::flush(LAST_LINES);
    exit.into()
}

async fn on_call(command: OnCall, config: &Path) -> Result<ExitCode, Failure> {
    match command {
        OnCall::Status(options) => status::run(config, options).await,
        OnCall::Grants(options) => grants::run(config, options).await,
        OnCall::Why(args) => why::run(config, &args).await,
        OnCall::Policy { command: policy::Command::ResetVersion { version } } => {
            policy::reset_version(config, version).await
        }
        OnCall::Denials(options) => denials::run(config, options).await,
        OnCall::BreakGlass(args) => break_glass::run(config, &args).await,
        OnCall::Close(args) => close::run(config, &args).await,
        OnCall::Check => check::run(config),
        OnCall::Audit { command } => {
            Ok(audit::run(&Glimpse::of(config).paths.state, &command)?.into())
        }
        OnCall::Detach { yes } => detach::run(config, yes),
    }
}

/// Starts the log (RUST_LOG, default info). Returns whether the kernel programs log as well.
fn log() -> std::io::Result<bool> {
    let filter = log_filter(&std::env::var("RUST_LOG").unwrap_or_default());
    let most: Option<LevelFilter> = Layer::<Registry>::max_level_hint(&filter);
    let debug = most.is_some_and(|level| level >= LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log::start()?)
        .with_ansi(std::io::stderr().is_terminal());
    // Under systemd the journal has the time already.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if journal { lines.without_time().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines).with(filter).init();
    // The usual hook writes to standard error, where it could hang.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(debug)
}

/// What is logged, as RUST_LOG says: `debug`, or `jit_agent=debug,info`. Empty, or with a mistake:
/// `info`.
fn log_filter(directives: &str) -> Targets {
    let parts: Vec<_> =
        directives.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    // The parser takes a mistake for the name of a target, or for one without a level.
    let is_target = |one: &str| one.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    let good = |one: &&str| match one.split_once('=') {
        Some((target, level)) => is_target(target) && !level.is_empty(),
        None => is_target(one),
    };
    let all_good = !parts.is_empty() && parts.iter().all(good);
    let chosen = all_good.then(|| parts.join(",").parse().ok()).flatten();
    chosen.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use tracing::Level;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_mistyped_command_never_suggests_detach() {
        for typed in ["detahc", "detac", "detatch", "detach-", "deatch", "statsu", "clsoe"] {
            let Err(mut error) = Arguments::try_parse_from(["jit-agent", typed]) else {
                panic!("{typed} is a command");
            };
            forget_detach(&mut error);
            let said = error.to_string();
            assert!(!said.contains("'detach'"), "{typed}: {said}");
            let similar = matches!(typed, "statsu" | "clsoe");
            assert_eq!(said.contains("similar"), similar, "{typed}: {said}");
        }
    }

    #[test]
    fn the_log_is_as_rust_log_says_and_info_where_that_says_nothing() {
        let enables = |directives: &str, target: &str| {
            let filter = log_filter(directives);
            [Level::INFO, Level::DEBUG].map(|level| filter.would_enable(target, &level))
        };
        for nothing in ["", " ", ",", "jit_agent=loud", "jit_agent=", "*", "[gate]=debug", "info,"]
        {
            assert_eq!(enables(nothing, "jit_agent::gate"), [true, false], "{nothing:?}");
        }
        assert_eq!(enables("debug", "h2"), [true, true]);
        assert_eq!(enables("debug,", "h2"), [true, true]);
        assert_eq!(enables("jit_agent=debug,warn", "jit_agent::gate"), [true, true]);
        assert_eq!(enables("jit_agent=debug,warn", "h2"), [false, false]);
    }
}
