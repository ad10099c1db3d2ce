//! The front: the process that talks to the network. The gate's process starts it as `jit-agent
//! front` with two sockets: the one to the gate as descriptor 0, and the listening port as 1. It gets
//! certificates, key and controllers from the gate, so it reads no file, and before it takes the first
//! byte from anybody it gives up all that it does not need. It ends when the gate's process does.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::ExitCode,
    sync::{Arc, mpsc},
    time::Duration,
};

use jit_client::exit::Exit;
use rustix::{net::sockopt::socket_domain, thread::set_name};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tracing::{Event, Level, field::Visit};
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{
    control::{
        link::{
            Logged, Order, Said, Setup, ToFront, ToGate,
            pipe::{Receiver, Sender, pipe},
        },
        server::{Trust, Upstream, serve_tcp},
        tls::{self, Handshaking},
    },
    system::{core_dumps, sandbox},
};

/// The command that starts it.
pub const COMMAND: &str = "front";
/// Number of threads that serve.
const WORKERS: usize = 2;
/// Time for the last line of the log to reach the gate.
const LAST_LINE: Duration = Duration::from_millis(100);
/// The kernel ends the front before the gate's process when memory runs out.
const OOM_SCORE: &str = "500";

/// Runs the front. `None`: the two sockets are not there, so it was not the agent that started it.
pub fn run() -> Option<ExitCode> {
    let (link, listener) = (io::stdin(), io::stdout());
    if socket_domain(link.as_fd()).is_err() || socket_domain(listener.as_fd()).is_err() {
        return None;
    }
    let ended = sockets(&link, &listener).and_then(serve);
    Some(if ended.is_ok() { ExitCode::SUCCESS } else { Exit::Unavailable.into() })
}

fn sockets(
    link: &io::Stdin,
    listener: &io::Stdout,
) -> io::Result<(UnixStream, std::net::TcpListener, Vec<&'static str>)> {
    let mut keeps = Vec::new();
    let mut note = |what, done: io::Result<()>| {
        if done.is_err() {
            keeps.push(what);
        }
    };
    note("descriptors", sandbox::close_descriptors());
    // The gate's end of the socket ends with its process, too. A front that hangs does not see that.
    let _follows = sandbox::end_with_parent();
    let _unnamed = set_name(c"jit-agent-front");
    let _unchanged = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    note("core dumps", core_dumps::off());
    note("capabilities", sandbox::drop_capabilities());
    note("files (Landlock)", sandbox::close_surroundings());
    let link = link.as_fd().try_clone_to_owned()?;
    let listener = listener.as_fd().try_clone_to_owned()?;
    Ok((link.into(), listener.into(), keeps))
}

fn serve(
    (link, listener, mut keeps): (UnixStream, std::net::TcpListener, Vec<&'static str>),
) -> io::Result<()> {
    // All threads start here: later none can. The filter of calls comes when they run, because what a
    // thread asks the kernel for while it starts is not in the filter.
    let (begun, begin) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .event_interval(4)
        .on_thread_start(move || {
            // Nobody counts those after the last.
            let _more = begun.send(());
        })
        .enable_all()
        .build()?;
    for () in begin.iter().take(WORKERS) {}
    runtime.block_on(async {
        // Whoever ends the agent with a signal to all of its processes ends the gate's: the front
        // follows it.
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
        let _ignored = kinds.map(signal);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (sender, receiver) = pipe(link)?;
        log_to(&sender);
        if let Err(error) = sandbox::close_calls() {
            tracing::warn!("the kernel takes no filter of calls: {error}");
            keeps.push("calls (seccomp)");
        }
        let front = Front {
            upstream: Upstream::new(sender.clone()),
            gate: sender.clone(),
            trust: None,
            listener: Some(listener),
            keeps: keeps.join(", "),
        };
        tokio::select! {
            ended = front.follow(receiver) => ended,
            error = sender.flush_forever() => Err(error),
        }
    })
}

struct Front {
    upstream: Upstream,
    gate: Sender<ToGate>,
    /// Data for the handshakes; `None`: the first setup has not come.
    trust: Option<watch::Sender<Trust>>,
    /// Until the first setup nobody is served.
    listener: Option<TcpListener>,
    keeps: String,
}

impl Front {
    /// Follows the gate's orders until its process ends.
    async fn follow(mut self, mut orders: Receiver<ToFront>) -> io::Result<()> {
        loop {
            let ToFront { order } = orders.next().await.map_err(io::Error::other)?;
            match order {
                Some(Order::Answer(answer)) => self.upstream.take(answer),
                Some(Order::Ping(number)) => self.say(Said::Pong(number)),
                Some(Order::Setup(setup)) => {
                    let problem = self.set_up(&setup).err().unwrap_or_default();
                    self.say(Said::Keeps(self.keeps.clone()));
                    self.say(Said::Ready(problem));
                }
                None => {}
            }
        }
    }

    fn set_up(&mut self, setup: &Setup) -> Result<(), String> {
        let (Handshaking { config, authorities }, controllers) = tls::of_setup(setup)?;
        self.upstream.set_controllers(&controllers, authorities);
        let config = Arc::new(config);
        match &self.trust {
            Some(trust) => {
                trust.send_replace(config);
            }
            None => self.trust = Some(watch::channel(config).0),
        }
        if let (Some(listener), Some(trust)) = (self.listener.take(), &self.trust) {
            let (upstream, trust) = (self.upstream.clone(), trust.subscribe());
            tokio::spawn(async move {
                let ended = serve_tcp(listener, upstream, trust).await;
                tracing::error!("the server for controllers ended: {ended:?}");
                sleep(LAST_LINE).await;
                // The gate starts another one.
                std::process::exit(Exit::Unavailable.code().into());
            });
        }
        Ok(())
    }

    fn say(&self, said: Said) {
        self.gate.send(&ToGate { said: Some(said) });
    }
}

/// From now on the log goes to the gate, which has one.
fn log_to(gate: &Sender<ToGate>) {
    let lines = Lines(gate.clone());
    tracing_subscriber::registry().with(lines.with_filter(LevelFilter::INFO)).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// Makes lines of events.
struct Lines(Sender<ToGate>);

impl Layer<Registry> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, Registry>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 0,
            Level::WARN => 1,
            _ => 2,
        };
        let Text { message, fields } = text;
        let line = Logged { level, text: format!("{message}{fields}") };
        let Self(gate) = self;
        gate.send_if_room(&ToGate { said: Some(Said::Logged(line)) });
    }
}

/// An event as a line has it: `message name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}
