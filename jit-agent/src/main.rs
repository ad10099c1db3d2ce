//! The program `jit-agent`: the daemon (`run`), and the commands of the engineer on call.
//!
//! A new command is a variant of `OnCall` in `cli`, an arm in `on_call` and a file in `oncall`.

// These panic when the reader is gone: `complain` and the log write instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::{io::Write as _, path::Path, process::ExitCode, time::Duration};

use jit_agent::{
    app::{self, AppError},
    cli::{Arguments, Command, OnCall},
    config::Glimpse,
    oncall::{
        Failure, audit, break_glass, check, close, complain, confirm, denials, detach, doctor,
        enforce, enrol, grants, identity, init, policy, status, unless_closed, why,
    },
    system::{core_dumps, log, memory},
};
use jit_client::exit::Exit;
use jit_proto::printable;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The longest wait for the log's last lines.
const LAST_LINES: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    memory::set_up();
    if let Err(error) = core_dumps::off() {
        complain(&format!("warning: core dumps cannot be turned off: {error}"));
    }
    // Not a command for people: it has no options, and starts before any thread does.
    if std::env::args_os().nth(1).is_some_and(|command| command == app::front::COMMAND) {
        return app::front::run().unwrap_or_else(|| {
            complain("`front` is the part of the agent that talks to the network: `run` starts it");
            Exit::Usage.into()
        });
    }
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
    let Arguments { config, command } = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => {
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
        Command::Early => return logged(async |_| app::early(&config)).await,
        Command::Run => return logged(async |debug| app::run(&config, debug).await).await,
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

/// Runs the daemon, or its start. From here on only the log writes to standard error: it waits for
/// nobody. `runs` gets whether the kernel programs log each decision.
async fn logged(runs: impl AsyncFnOnce(bool) -> Result<(), AppError>) -> ExitCode {
    let debug = match log() {
        Ok(debug) => debug,
        Err(error) => {
            complain(&format!("cannot start the thread of the log: {error}"));
            return Exit::Unavailable.into();
        }
    };
    let ended = runs(debug).await;
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
        OnCall::Confirm(args) => confirm::run(config, &args).await,
        OnCall::Enforce(args) => enforce::run(config, &args).await,
        OnCall::Check(args) => check::run(config, &args),
        OnCall::Doctor(args) => doctor::run(config, &args).await,
        OnCall::Enrol(args) => enrol::run(config, &args).await,
        OnCall::Identity(args) => identity::run(&args).await,
        OnCall::Init(args) => init::run(config, *args).await,
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
    tracing_subscriber::registry().with(log::start()?).with(filter).init();
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
    use tracing::Level;

    use super::*;

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
