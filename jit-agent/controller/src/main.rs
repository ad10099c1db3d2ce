//! The program `jit-controller`.
//!
//! A new command is a variant of `Command` in `cli`, an arm in `perform` and a file in `commands`.

use std::{collections::BTreeSet, io, path::Path, process::ExitCode};

use clap::Parser as _;
use jit_client::exit::Exit;
use jit_controller::{
    app::{self, Role},
    cli::{Cli, Command, SIGNER, ServeArgs},
    commands::{
        Failure, access, accounts, backup, check, complain, export, health, init, report, restore,
        verify,
    },
    config::{Config, File},
    rules, signer,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

fn main() -> ExitCode {
    // Not a command for people: it has no options, and starts before any thread does.
    if std::env::args_os().nth(1).is_some_and(|command| command == SIGNER) {
        return signer::child();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _unprinted = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(perform(cli)),
        Err(error) => Err(Failure::unavailable(format!("cannot start its threads: {error}"))),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_silent() {
                complain(&failure.to_string());
            }
            failure.exit.into()
        }
    }
}

async fn perform(cli: Cli) -> Result<Exit, Failure> {
    let file = cli.file();
    let config = || Config::read(&file);
    match &cli.command {
        Command::Init(args) => init::run(&cli.dir, args).await,
        Command::Serve(args) => serve(&file, args).await,
        Command::Check(args) => check::run(&file, args).await,
        Command::Health(args) => health::run(&file, args).await,
        Command::Backup(args) => backup::run(&config()?, args).await,
        Command::Restore(args) => restore::run(&cli.dir, args).await,
        Command::Export(args) => export::run(&config()?, args).await,
        Command::Verify(args) => verify::run(&config()?, args).await,
        Command::Access(args) => access::run(&config()?, args).await,
        Command::Report(args) => report::run(&config()?, args).await,
        Command::Accounts(args) => accounts::run(&config()?, args).await,
        Command::Rules(args) => {
            let done = rules::command::run(args, &mut io::stdout(), &mut io::stderr());
            done.or_else(|error| match error.kind() {
                // The reader has closed it.
                io::ErrorKind::BrokenPipe => Ok(Exit::Success),
                _ => Err(Failure::files(format!("cannot write to standard output: {error}"))),
            })
        }
    }
}

async fn serve(file: &Path, args: &ServeArgs) -> Result<Exit, Failure> {
    let read = File::read(file)?;
    log();
    more_files();
    let roles: BTreeSet<Role> = match args.roles.is_empty() {
        true => Role::ALL.into(),
        false => args.roles.iter().copied().collect(),
    };
    let served = match read {
        File::Controller(config) => app::serve(*config, &roles).await,
        #[cfg(feature = "nats")]
        File::Hub(config) if roles == [Role::Hub].into() => app::serve_hub(*config).await,
        File::Hub(config) => {
            return Err(Failure::files(format!(
                "{} is the file of a hub, which has neither a database nor a key: start it with \
                 --roles hub",
                config.file.display()
            )));
        }
    };
    match served {
        Ok(()) => Ok(Exit::Success),
        Err(error) => Err(Failure::new(error.exit(), error.to_string())),
    }
}

/// As many open files as the system lets it have: each open page is one.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "the number of open files stays as it was; `ulimit -n` shows it");
    }
}

/// Starts the log on standard error (RUST_LOG, default info). A library has a word only when something
/// is wrong.
fn log() {
    let default = || {
        Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("jit_controller", LevelFilter::INFO)
            .with_target("jit_client", LevelFilter::INFO)
    };
    let chosen = std::env::var("RUST_LOG").ok().filter(|chosen| !chosen.trim().is_empty());
    let filter = chosen.and_then(|chosen| chosen.parse().ok()).unwrap_or_else(default);
    // Under systemd the journal has the time already.
    let plain = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(plain.without_time()).init();
    } else {
        registry.with(plain).init();
    }
}
