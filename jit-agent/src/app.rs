//! Wiring: from a configuration to a running agent.
//!
//! What can fail without touching the kernel comes first; the programs are attached last. What an
//! earlier run pinned stays in force when a start fails; after a reboot nothing is pinned. The end of
//! the agent detaches nothing.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use jit_client::exit::Exit;
use jit_common::Event;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    config::{AuditConfig, Config, ConfigError},
    control::{
        server::{self, Service, Trust},
        tls::{Material, TlsError},
    },
    disk::{
        audit::{self, Audit, EventCode, Record},
        store::{Store, StoreError},
    },
    gate::{Gate, GateHandle, Requests, StartError, channel, faults::Faults, journal::Journal},
    kernel::{
        clock_watch,
        datapath::{
            DatapathError, bpf,
            kernel::{KernelDatapath, KernelEvents},
        },
        netlink::{nat_watch, watch::LinkWatch},
    },
    oncall::{datapath_exit, file_exit},
    system::sys::{self, FileError, MissingCapabilities},
};

/// The longest wait for the audit's last record.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the agent did not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The agent cannot listen: on a socket, for a signal, or for messages of the kernel.
    #[error("cannot {verb} {place}: {error}")]
    Listen {
        /// What was tried: "listen on".
        verb: &'static str,
        /// The socket, signal or source.
        place: String,
        /// The kernel's error.
        error: io::Error,
    },
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
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The gate did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys or certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AppError {
    /// The exit code.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Capabilities(_) => Exit::Permission,
            Self::Config(_) | Self::Tls(_) | Self::Start(StartError::Exemptions(_)) => {
                Exit::Configuration
            }
            Self::Datapath(error) | Self::Start(StartError::Datapath(error)) => {
                datapath_exit(error)
            }
            Self::File(error) => file_exit(error),
            _ => Exit::Unavailable,
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT. With `debug` the kernel programs log each decision.
pub async fn run(path: &Path, debug: bool) -> Result<(), AppError> {
    build(path, debug)?.run().await
}

/// An agent with its gate in force and its sockets bound. It serves nobody yet.
struct Bound {
    path: PathBuf,
    config: Config,
    material: Option<Material>,
    gate: Gate<KernelDatapath>,
    journal: Arc<Journal>,
    kernel: KernelEvents,
    links: LinkWatch,
    signals: Signals,
    unix: UnixListener,
    tcp: Option<TcpListener>,
}

fn build(path: &Path, debug: bool) -> Result<Bound, AppError> {
    let config = Config::read(path)?;
    sys::check_capabilities()?;
    let material = Material::of(&config)?;
    let boot_id = sys::boot_id()?;
    sys::private_directory(&config.paths.runtime, 0o750)?;
    // This takes the lock on the pins: from here on no other agent runs this gate.
    let (datapath, kernel) = KernelDatapath::load(config.paths.pins.clone(), config.limits, debug)?;
    let stored = Store::open(&config.paths.state, sys::now().wall)?;
    let audit = Audit::open(&config.paths.state, audit_settings(&config), sys::now())?;
    let (unix, tcp) = bind(&config)?;
    let signals = Signals::new()?;
    // Opened before the gate lists the links, so that every later change is reported.
    let links = LinkWatch::open().map_err(|error| AppError::Listen {
        verb: "listen for",
        place: "changes of the network interfaces (netlink)".into(),
        error,
    })?;
    let now = sys::now();
    let journal = Arc::new(Journal::new(format!("{:x}", now.wall.0)));
    let boards = (Arc::clone(&journal), Faults::default());
    let mut gate = Gate::start(config.clone(), datapath, stored, audit, boards, boot_id, now)?;
    gate.set_certificate_end(material.as_ref().map(|material| material.not_after), now);
    let path = path.to_owned();
    Ok(Bound { path, config, material, gate, journal, kernel, links, signals, unix, tcp })
}

impl Bound {
    /// Serves until a signal ends the agent, or until one of its tasks ends.
    async fn run(self) -> Result<(), AppError> {
        let Self { path, config, material, gate, journal, kernel, links, mut signals, unix, tcp } =
            self;
        let (handle, requests) = channel(journal);
        let ended = spawn_gate(gate, requests);
        let mut tasks = JoinSet::new();
        watch_kernel(kernel, links, &handle, &mut tasks);
        let service = Service::new(handle.clone());
        let authorities = material.as_ref().map(|material| material.authorities.clone());
        service.set_controllers(&config.controllers, authorities);
        tasks.spawn(serve_unix(unix, service.clone()));
        let trust = serve_controllers(tcp, material, &service, &mut tasks);
        tracing::info!(host = config.host, "the gate is in force");
        notify(&[sd_notify::NotifyState::Ready]);
        tokio::pin!(ended);
        let signal = loop {
            tokio::select! {
                _ = &mut ended => return Err(AppError::Ended("the gate's task")),
                Some(task) = tasks.join_next() => {
                    return Err(AppError::Ended(task.unwrap_or("a task")));
                }
                _ = signals.reload.recv() => {
                    reload(&path, &handle, &service, trust.as_ref()).await;
                }
                _ = signals.terminate.recv() => break "SIGTERM",
                _ = signals.interrupt.recv() => break "SIGINT",
            }
        };
        stop(&handle, signal).await;
        drop(std::fs::remove_file(config.paths.socket()));
        Ok(())
    }
}

async fn stop(handle: &GateHandle, signal: &str) {
    tracing::info!("ending; the gate stays in force in the kernel");
    notify(&[sd_notify::NotifyState::Stopping]);
    // A disk that hangs must not stop the agent from ending.
    let why = format!("{signal}; the gate stays in force in the kernel");
    drop(tokio::time::timeout(LAST_WORDS, handle.stop(&why)).await);
}

struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let listen = |kind, place: &str| {
            signal(kind).map_err(|error| AppError::Listen {
                verb: "listen for",
                place: place.into(),
                error,
            })
        };
        Ok(Self {
            reload: listen(SignalKind::hangup(), "SIGHUP")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
        })
    }
}

fn bind(config: &Config) -> Result<(UnixListener, Option<TcpListener>), AppError> {
    let socket = config.paths.socket();
    let unix = server::bind_unix(&socket).map_err(|error| AppError::Listen {
        verb: "listen on",
        place: socket.display().to_string(),
        error,
    })?;
    let Some(control) = &config.control else { return Ok((unix, None)) };
    let tcp = server::bind_tcp(control.listen).map_err(|error| AppError::Listen {
        verb: "listen on",
        place: format!("[control] listen = \"{}\"", control.listen),
        error,
    })?;
    Ok((unix, Some(tcp)))
}

/// Runs the gate on a thread of its own, so that a slow disk delays no handshake.
fn spawn_gate(gate: Gate<KernelDatapath>, requests: Requests) -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        // Dropped at the end of the thread, also in a panic: the receiver then notices.
        let _sender = sender;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(gate.run(requests, sys::now, alive)),
            Err(error) => tracing::error!("cannot start the gate's runtime: {error}"),
        }
    });
    ended
}

/// Starts the readers of what the kernel reports: events, log lines, links, and a clock that is
/// set.
fn watch_kernel(
    kernel: KernelEvents,
    links: LinkWatch,
    gate: &GateHandle,
    tasks: &mut JoinSet<&'static str>,
) {
    tasks.spawn(read_events(kernel.events, gate.clone()));
    if let Some(log) = kernel.log {
        tasks.spawn(read_log(log));
    }
    let of_clock = gate.clone();
    if let Err(error) = clock_watch::watch(move || of_clock.clock_was_set()) {
        tracing::warn!("cannot watch for a clock that is set: {error}; the gate checks every 2 s");
    }
    let of_nat = gate.clone();
    thread::spawn(move || {
        nat_watch::run(|read| of_nat.saw_translations(read.map_err(|error| error.to_string())));
    });
    let watching = spawn_watch(links, gate.clone());
    tasks.spawn(async {
        let _ended = watching.await;
        "the watch over the network interfaces"
    });
}

/// Waits for the kernel's messages about links on a thread of its own, so that the gate gets them
/// at once, however busy the agent is.
fn spawn_watch(links: LinkWatch, gate: GateHandle) -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        let _sender = sender;
        let error = links.run(|| gate.saw_links());
        tracing::error!("cannot listen for changes of the network interfaces any more: {error}");
    });
    ended
}

fn alive() {
    notify(&[sd_notify::NotifyState::Watchdog]);
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify the service manager: {error}");
    }
}

fn serve_controllers(
    tcp: Option<TcpListener>,
    material: Option<Material>,
    service: &Service,
    tasks: &mut JoinSet<&'static str>,
) -> Option<watch::Sender<Trust>> {
    let (tcp, material) = (tcp?, material?);
    let (sender, receiver) = watch::channel(material.config);
    let service = service.clone();
    tasks.spawn(async move {
        if let Err(error) = server::serve_tcp(tcp, service, receiver).await {
            tracing::error!("the server for controllers failed: {error}");
        }
        "the server for controllers"
    });
    Some(sender)
}

/// The audit's settings from the configuration.
pub fn audit_settings(config: &Config) -> audit::Settings {
    let AuditConfig { max_size, keep } = config.audit;
    audit::Settings { host: config.host.clone(), max_size, keep }
}

async fn serve_unix(listener: UnixListener, service: Service) -> &'static str {
    if let Err(error) = server::serve_unix(listener, service).await {
        tracing::error!("the local server failed: {error}");
    }
    "the local server"
}

/// Handles SIGHUP: reads the configuration again. A file with an error changes nothing and is
/// logged.
async fn reload(
    path: &Path,
    gate: &GateHandle,
    service: &Service,
    sender: Option<&watch::Sender<Trust>>,
) {
    let read = || -> Result<_, AppError> {
        let config = Config::read(path)?;
        let material = Material::of(&config)?;
        Ok((config, material))
    };
    let (config, material) = match read() {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("reload: nothing changed: {error}");
            let record = Record::new(EventCode::ConfigurationRefused).by("agent");
            let _gone = gate.record(record.detail(&error.to_string())).await;
            return;
        }
    };
    let controllers = config.controllers.clone();
    match gate.reconfigure(config).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return tracing::error!("reload: nothing changed: {error}"),
        Err(gone) => return tracing::error!("reload: {gone}"),
    }
    let authorities = material.as_ref().map(|material| material.authorities.clone());
    service.set_controllers(&controllers, authorities);
    if let (Some(sender), Some(material)) = (sender, material) {
        let _gone = gate.set_certificate_end(Some(material.not_after)).await;
        sender.send_replace(material.config);
    }
    tracing::info!("reloaded");
}

async fn read_events(events: RingBuf<MapData>, gate: GateHandle) -> &'static str {
    let mut events = match bpf::watch_events(events) {
        Ok(events) => events,
        Err(error) => {
            tracing::error!("cannot wait for kernel events: {error}");
            return "the event reader";
        }
    };
    while let Ok(mut ready) = events.readable_mut().await {
        while let Some(bytes) = ready.get_inner_mut().next() {
            if let Some(event) = Event::from_bytes(&bytes) {
                gate.saw_packet(event);
            }
        }
        ready.clear_ready();
    }
    "the event reader"
}

async fn read_log(log: bpf::Logger) -> &'static str {
    let mut log = match bpf::watch_log(log) {
        Ok(log) => log,
        Err(error) => {
            tracing::error!("cannot wait for the kernel programs' log: {error}");
            return "the log reader";
        }
    };
    while let Ok(mut ready) = log.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
    "the log reader"
}
