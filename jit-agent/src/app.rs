//! Wiring: from a configuration to a running agent.
//!
//! The gate goes up first (`start`). Around it each part is kept by a task of its own, fails by
//! itself and is tried again: the port for controllers (`control`) with the
//! process that serves it (`front_process`, `front`), the connection to a hub (`uplink`, `proxy`), the
//! local socket (`local`), the metrics (`metrics`), the configuration (`reload`), the host's id
//! (`identity`), the readers of what the kernel reports (`watchers`). What fails is a fault on the
//! gate's board. The end of the agent detaches nothing. `early` is the start alone, for the unit that
//! runs before the network.

mod control;
mod early;
pub mod front;
mod front_process;
mod identity;
mod local;
mod metrics;
mod proxy;
mod reach;
mod reload;
mod start;
mod uplink;
mod watchers;

use std::{io, path::Path, thread, time::Duration};

use jit_client::exit::Exit;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    config::{AuditConfig, Config, ConfigError},
    control::server::{Heartbeat, Service},
    disk::audit,
    gate::{Gate, GateHandle, Requests, StartError, channel, faults::Faults},
    kernel::{
        datapath::{DatapathError, kernel::KernelDatapath},
        netlink::nat_watch::Waker,
    },
    oncall::datapath_exit,
    rules::problem::ProblemKind,
    system::{
        service_manager,
        sys::{self, MissingCapabilities},
    },
};
use control::Keeper;
pub use early::early;
use identity::HostKeeper;
use reload::Reloader;
use start::{Bound, Parts, build};
use uplink::Dialler;

/// Time from a failure around the gate to the next try.
const RETRY: Duration = Duration::from_secs(2);
/// How often a part is looked at that works: if nobody reports that it has changed, and if the kernel
/// does.
const CHECK: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);
/// The longest wait for the audit's last record.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest wait for the end of the tasks around the gate.
const TASKS: Duration = Duration::from_millis(100);
/// The longest wait for the first try of each part, before the agent reports that it is ready.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// Why the agent did not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// This process lacks capabilities.
    #[error(transparent)]
    Capabilities(#[from] MissingCapabilities),
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gate in the kernel cannot be loaded.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A task ended that runs as long as the agent.
    #[error("{0} ended; the gate stays in force in the kernel")]
    Ended(&'static str),
    /// Neither the file nor the last good configuration can be used.
    #[error("{file}; the last good configuration cannot be used instead: {last}; {gate}")]
    NoGood {
        /// What is wrong with the file.
        file: String,
        /// What is wrong with the other.
        last: String,
        /// What holds without an agent.
        gate: &'static str,
    },
    /// The gate did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl AppError {
    /// The exit code.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Capabilities(_) => Exit::Permission,
            Self::Config(_) | Self::NoGood { .. } | Self::Start(StartError::Exemptions(_)) => {
                Exit::Configuration
            }
            Self::Datapath(error) | Self::Start(StartError::Datapath(error)) => {
                datapath_exit(error)
            }
            Self::Ended(_) | Self::Start(StartError::Store(_) | StartError::Thread(_)) => {
                Exit::Unavailable
            }
        }
    }

    /// Whether another configuration may start all the same.
    const fn is_of_the_configuration(&self) -> bool {
        matches!(self.exit(), Exit::Configuration)
    }
}

/// Runs the agent until SIGTERM or SIGINT. With `debug` the kernel programs log each decision.
pub async fn run(path: &Path, debug: bool) -> Result<(), AppError> {
    let faults = Faults::default();
    // Before anything that takes time: a signal meanwhile is served later.
    let signals = signals(&faults);
    build(path, debug, faults)?.run(signals).await
}

impl Bound {
    /// Serves until a signal ends the agent, or until one of its tasks ends.
    async fn run(self, signals: [Option<Signal>; 3]) -> Result<(), AppError> {
        let Self { beginning, parts, faults, identity } = self;
        let Parts { gate, journal, kernel, links } = parts;
        let (handle, mut requests) = channel(journal);
        let trials = requests.take_trials();
        let translations = Waker::new();
        let service = Service::new(handle.clone());
        let woken = (translations.clone(), service.heartbeat().clone());
        let ended = spawn_gate(gate, requests, woken);
        let [hangup, mut terminate, mut interrupt] = signals;
        let mut tasks = JoinSet::new();
        watchers::start(kernel, links, translations, &handle, &faults);
        let socket = beginning.loaded.config.paths.socket();
        let host = if beginning.loaded.config.auto_host {
            let keeper = HostKeeper::new(&beginning, identity, &handle, &faults);
            let host = keeper.host();
            tasks.spawn(async {
                keeper.run().await;
                "the keeper of the host's id"
            });
            host
        } else {
            beginning.loaded.config.host.clone()
        };
        let metrics = watch::Sender::new(beginning.loaded.config.metrics.clone());
        let scraped = metrics.subscribe();
        let (reloader, wanted) =
            Reloader::new(beginning, handle.clone(), faults.clone(), metrics, trials);
        let keeper = Keeper::new(service.clone(), handle.clone(), faults.clone());
        let renewing = service.renewals().take().ok_or(AppError::Ended("the way to the keeper"))?;
        let dialler = Dialler::new(service.uplinks().clone(), faults.clone());
        let dialling = keeper.dialling();
        tasks.spawn(async {
            dialler.run(dialling).await;
            "the keeper of the uplink"
        });
        let (sender, listens) = oneshot::channel();
        tasks.spawn(async {
            keeper.run(wanted, sender, renewing).await;
            "the keeper of the listening port"
        });
        // Most often this takes no time, and `status` then says how it went.
        let _late = timeout(FIRST_TRY, listens).await;
        let (of_metrics, board) = (service.clone(), faults.clone());
        let (sender, serves) = oneshot::channel();
        let of_local = socket.clone();
        tasks.spawn(async {
            local::keep(of_local, service, faults, sender).await;
            "the keeper of the local socket"
        });
        let _late = timeout(FIRST_TRY, serves).await;
        tasks.spawn(async {
            metrics::keep(scraped, of_metrics, board).await;
            "the keeper of the metrics"
        });
        tasks.spawn(async {
            reloader.run(hangup).await;
            "the keeper of the configuration"
        });
        tracing::info!(host, "the gate is in force");
        notify(&[sd_notify::NotifyState::Ready]);
        let signal = tokio::select! {
            _ = ended => return Err(AppError::Ended("the gate's task")),
            Some(task) = tasks.join_next() => {
                return Err(AppError::Ended(task.unwrap_or("a task around the gate")));
            }
            () = received(&mut terminate) => "SIGTERM",
            () = received(&mut interrupt) => "SIGINT",
        };
        stop(&handle, signal).await;
        // The keeper of the socket would make it again.
        tasks.abort_all();
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _late = timeout(TASKS, ended).await;
        drop(std::fs::remove_file(socket));
        Ok(())
    }
}

async fn stop(handle: &GateHandle, signal: &str) {
    tracing::info!("ending; the gate stays in force in the kernel");
    notify(&[sd_notify::NotifyState::Stopping]);
    // A disk that hangs must not stop the agent from ending.
    let why = format!("{signal}; the gate stays in force in the kernel");
    drop(timeout(LAST_WORDS, handle.stop(&why)).await);
}

/// SIGHUP, SIGTERM and SIGINT. One that cannot be listened for ends the agent, which opens nothing.
fn signals(faults: &Faults) -> [Option<Signal>; 3] {
    let kinds = [
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
    ];
    kinds.map(|(kind, name)| {
        let report = |error: &io::Error| {
            let text = format!("cannot listen for {name}: {error}; it would end the agent");
            tracing::error!("{text}");
            faults.set(ProblemKind::Signal.of(name), Some(text));
        };
        signal(kind).inspect_err(report).ok()
    })
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Runs the gate on a thread of its own, so that a slow disk delays no handshake. With each of its
/// ticks the reader of translations is woken, too, and every few of them whoever asks the front whether
/// it answers, instead of by timers of their own.
fn spawn_gate(
    gate: Gate<KernelDatapath>,
    requests: Requests,
    (translations, heartbeat): (Waker, Heartbeat),
) -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        // Dropped at the end of the thread, also in a panic: the receiver then notices.
        let _sender = sender;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(gate.run(requests, sys::now, || {
                notify(&[sd_notify::NotifyState::Watchdog]);
                translations.wake();
                heartbeat.tick();
            })),
            Err(error) => tracing::error!("cannot start the gate's runtime: {error}"),
        }
    });
    ended
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    service_manager::notify(states);
}

/// The audit's settings from the configuration.
pub fn audit_settings(config: &Config) -> audit::Settings {
    let AuditConfig { max_size, keep } = config.audit;
    audit::Settings { host: config.host.clone(), max_size, keep }
}
