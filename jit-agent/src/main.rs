//! `jit-agent`: the daemon, and the command line of the engineer on call.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use jit_agent::{
    app::{self, AppError},
    audit::{self, Audit, EventCode, Record},
    client,
    config::{Config, DEFAULT_PATH},
    datapath::{
        DatapathError,
        pins::{Pins, Removed},
    },
    offline,
    owner::Owner,
    printable,
    status::{self, Style},
    sys,
    tls::Material,
};
use jit_proto::v1;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Usage errors (sysexits.h).
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const PERMISSION: u8 = 77;
const CONFIGURATION: u8 = 78;
/// How long `status` waits for an agent before it reads the kernel's tables instead.
const PATIENCE: Duration = Duration::from_secs(3);

/// A host-side port gate: protected ports are closed in the kernel to everybody, and open for one
/// source at a time by a signed grant that the kernel itself ends.
#[derive(Parser)]
#[command(
    version,
    after_help = "Is it in force?            jit-agent status\n\
                  Is the new file good?      jit-agent check\n\
                  Who got in, and why?       jit-agent audit show --since 1d\n\
                  Open everything again:     jit-agent detach\n\n\
                  Exit codes: status 0 enforcing, 1 degraded, 2 not enforcing; otherwise \
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
    /// Put the gate in force and serve controllers. Ending it (also by kill -9) opens nothing.
    Run,
    /// Is it in force, on what, for whom, how long still. Also with the agent dead: then it reads
    /// what the kernel enforces.
    Status {
        /// As JSON (docs/json.md).
        #[arg(long)]
        json: bool,
    },
    /// The grants that this host holds.
    Grants {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a configuration file and the keys and certificates that it names; change nothing.
    Check,
    /// What happened here: who opened what, why, and whether somebody changed the record of it.
    Audit {
        #[command(subcommand)]
        command: audit::command::Command,
    },
    /// Remove the gate from the kernel: every protected port is open to everybody afterwards.
    Detach {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _unprinted = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let config = &arguments.config;
    let result = match arguments.command {
        Command::Run => run(config).await,
        Command::Status { json } => print_status(config, json).await,
        Command::Grants { all, json } => print_grants(config, all, json).await,
        Command::Audit { command } => audit::command::run(&app::paths(config).state, &command)
            .map(ExitCode::from)
            .map_err(anyhow::Error::from),
        Command::Check => check(config),
        Command::Detach { yes } => detach(config, yes),
    };
    result.unwrap_or_else(|error| {
        eprintln!("jit-agent: {}", printable::clean_lines(&format!("{error:#}")));
        exit_code(&error).into()
    })
}

async fn run(config: &Path) -> Result<ExitCode> {
    let debug = log();
    app::run(config, debug).await?;
    Ok(ExitCode::SUCCESS)
}

async fn print_status(config: &Path, json: bool) -> Result<ExitCode> {
    let paths = app::paths(config);
    let asked = tokio::time::timeout(PATIENCE, ask_status(&paths.socket())).await;
    let agent = match asked {
        Ok(Ok(status)) => return show_status(&status, json),
        Ok(Err(AskError::Denied(error))) => return Err(denied(&paths.socket(), error)),
        Ok(Err(AskError::NotThere)) => "the agent is not running",
        Ok(Err(AskError::Closed)) => client::CLOSED,
        Ok(Err(AskError::NoAnswer)) | Err(_) => "the agent does not answer",
    };
    let missing = sys::missing_capabilities();
    if agent == client::CLOSED && missing.contains(&"CAP_BPF") {
        anyhow::bail!("{agent}");
    }
    anyhow::ensure!(
        !missing.contains(&"CAP_BPF"),
        Denied("no agent answers, and to read what the kernel enforces needs root".into())
    );
    let mut status = offline::status(&paths.pins, &app::interfaces(config), agent, sys::now())?;
    status.host = app::host(config);
    status.problems.extend(app::unreadable(config));
    show_status(&status, json)
}

enum AskError {
    Closed,
    Denied(std::io::Error),
    NoAnswer,
    NotThere,
}

async fn ask_status(socket: &Path) -> Result<v1::StatusResponse, AskError> {
    let mut client = client::connect(socket).await.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => AskError::Denied(error),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::NotThere,
        ErrorKind::Other => AskError::Closed,
        _ => AskError::NoAnswer,
    })?;
    let answer = client.status(v1::StatusRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        if client::is_closed(&status) { AskError::Closed } else { AskError::NoAnswer }
    })
}

fn show_status(status: &v1::StatusResponse, json: bool) -> Result<ExitCode> {
    if json {
        print(&format!("{}\n", printable::json_pretty(&status::json(status))));
    } else {
        print(&status::text(status, Style::of_stdout()));
    }
    Ok(status::exit_code(status).into())
}

async fn print_grants(config: &Path, all: bool, json: bool) -> Result<ExitCode> {
    let socket = app::paths(config).socket();
    let mut client = client::connect(&socket).await.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => denied(&socket, error),
        ErrorKind::Other => anyhow::anyhow!("{}", client::CLOSED),
        _ => anyhow::anyhow!(
            "no agent answers on {}: {error}; `jit-agent status` reads what the kernel enforces",
            socket.display()
        ),
    })?;
    let request = v1::ListRequest { include_ended: all };
    let answer = client.list(request).await.map_err(|status| {
        if client::is_closed(&status) {
            anyhow::anyhow!("{}", client::CLOSED)
        } else {
            status.into()
        }
    });
    let grants = answer.context("cannot list the grants")?.into_inner().grants;
    if json {
        print(&format!("{}\n", printable::json_pretty(&status::grants_json(&grants))));
    } else {
        print(&status::grants_text(&grants, Style::of_stdout()));
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path) -> Result<ExitCode> {
    let read = || -> Result<Config, AppError> {
        let config = Config::read(path)?;
        config.control.as_ref().map(Material::read).transpose()?;
        Ok(config)
    };
    // Root sees more than the service will.
    let config = match Owner::of(&app::paths(path).state) {
        None => read()?,
        Some(owner) => {
            let denied = owner.unreadable(app::files(path))?;
            if let Some(first) = denied.first() {
                let all: Vec<_> = denied.iter().map(|path| path.display().to_string()).collect();
                let (all, first) = (all.join(" "), first.display());
                anyhow::bail!(Denied(format!(
                    "the service runs as {owner}, which may not read {all}: give each to its group, as \
                     in `chgrp jit-agent {first} && chmod g+r {first}`, and their directories with \
                     g+x"
                )));
            }
            owner.act(read)?.with_context(|| format!("as the service sees it, as {owner}"))?
        }
    };
    let ports: Vec<_> =
        config.policy.sections().iter().map(|section| section.range.to_string()).collect();
    print(&format!(
        "{} is good: host {:?}, ports {}, {} signers, {} controllers\n",
        path.display(),
        config.host,
        if ports.is_empty() { "none".into() } else { ports.join(" ") },
        config.keyring.signers().len(),
        config.controllers.len()
    ));
    Ok(ExitCode::SUCCESS)
}

fn detach(config: &Path, yes: bool) -> Result<ExitCode> {
    let missing = sys::missing_capabilities();
    if !missing.is_empty() {
        return Err(AppError::Capabilities(missing).into());
    }
    if let Some(why) = app::unreadable(config) {
        return Err(Unreadable(why).into());
    }
    let pins = Pins::new(&app::paths(config).pins);
    let empty = pins.is_empty().map_err(AppError::from)?;
    if empty && pins.classifiers().map_err(AppError::from)?.is_empty() {
        print(&format!("nothing is pinned in {}: there is no gate\n", pins.root().display()));
        return Ok(ExitCode::SUCCESS);
    }
    // Classifiers of a gate whose pins somebody removed, with their directory.
    let made = !pins.root().exists();
    if made {
        pins.prepare().map_err(AppError::from)?;
    }
    let _lock = sys::lock_directory(pins.root()).map_err(AppError::from)?.ok_or_else(|| {
        anyhow::anyhow!(
            "the agent is running and would put the gate back; stop it first: \
             `systemctl stop jit-agent`"
        )
    })?;
    if !yes && !confirmed(pins.root())? {
        print("nothing changed\n");
        return Ok(ExitCode::FAILURE);
    }
    let by = sys::caller();
    let record = Record::new(EventCode::GateDetached).by(&by);
    let detail = "every protected port is open to everybody; asked for on the command line";
    record_detach(config, record.with("done", true).detail(detail));
    let Removed { interfaces, guard } =
        pins.remove().map_err(AppError::from).inspect_err(|error| {
            let record = Record::new(EventCode::GateDetached).by(&by).with("done", false);
            record_detach(config, record.detail(&error.to_string()));
        })?;
    if made {
        // It is root's, and of no use to the service's user: systemd-tmpfiles makes the right one.
        drop(std::fs::remove_dir(pins.root()));
    }
    let interfaces = interfaces.len();
    tracing::warn!(interfaces, guard, "gate detached");
    let guard = if guard { " and the socket guard is off" } else { "" };
    print(&format!(
        "the gate is gone from {interfaces} interfaces{guard}: protected ports are open to all\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Puts a record into the audit of the agent that is not running, as the user whose audit it is. What
/// must be opened is opened also when that fails, with a warning.
fn record_detach(config: &Path, record: Record) {
    let (state, now) = (app::paths(config).state, sys::now());
    // Without limits: a new file is for the agent to begin.
    let settings = audit::Settings { host: app::host(config), max_size: u64::MAX, keep: u32::MAX };
    let write = || -> Result<()> {
        let mut audit = Audit::open(&state, settings, now)?;
        audit.append(record, now);
        Ok(audit.sync(now)?)
    };
    let written = match Owner::of(&state) {
        Some(owner) => owner.act(write).map_err(anyhow::Error::from).flatten(),
        None => write(),
    };
    if let Err(error) = written {
        eprintln!("jit-agent: warning: this is not in the audit: {error}");
    }
}

fn confirmed(pins: &Path) -> Result<bool> {
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "detach opens every protected port to everybody; say --yes to do it without a terminal"
    );
    eprint!(
        "This opens every protected port to everybody ({}). Type `open` to go on: ",
        pins.display()
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "open")
}

/// Sets the log up (RUST_LOG, default info); says whether the kernel programs are to log as well.
fn log() -> bool {
    let filter = log_filter(&std::env::var("RUST_LOG").unwrap_or_default());
    let most: Option<LevelFilter> = Layer::<Registry>::max_level_hint(&filter);
    let debug = most.is_some_and(|level| level >= LevelFilter::DEBUG);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Under systemd the journal has the time already.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = if journal { lines.without_time().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines).with(filter).init();
    debug
}

/// What is logged: `debug`, or `jit_agent=debug,info`; `info` where that is empty or has a mistake.
fn log_filter(directives: &str) -> Targets {
    let chosen = Some(directives).filter(|text| !text.trim().is_empty());
    let chosen = chosen.and_then(|text| text.parse().ok());
    chosen.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// Prints; a reader that has gone away (`| head`) is no error.
fn print(text: &str) {
    let _gone = std::io::stdout().write_all(text.as_bytes());
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Denied(String);

/// A configuration that does not tell where the pins are.
#[derive(Debug, thiserror::Error)]
#[error("{0}: nothing was detached")]
struct Unreadable(String);

fn denied(socket: &Path, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(Denied("permission denied; use sudo, or join the group jit-agent".into()))
        .context(format!("cannot open {}: {error}", socket.display()))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<AppError>() {
        return error.exit_code();
    }
    if let Some(error) = error.downcast_ref::<audit::command::CommandError>() {
        return error.exit_code();
    }
    if error.downcast_ref::<Unreadable>().is_some() {
        return CONFIGURATION;
    }
    if error.downcast_ref::<Denied>().is_some() {
        return PERMISSION;
    }
    let _unavailable: Option<&DatapathError> = error.downcast_ref();
    UNAVAILABLE
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
        for nothing in ["", " ", "jit_agent=loud"] {
            assert_eq!(enables(nothing, "jit_agent::gate"), [true, false], "{nothing:?}");
        }
        assert_eq!(enables("debug", "h2"), [true, true]);
        assert_eq!(enables("jit_agent=debug,warn", "jit_agent::gate"), [true, true]);
        assert_eq!(enables("jit_agent=debug,warn", "h2"), [false, false]);
    }
}
