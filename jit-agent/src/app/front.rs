//! The front: the process that talks to the network. The gate's process starts it as `jit-agent
//! front` with two sockets: the one to the gate as descriptor 0, and as 1 the one over which the gate
//! hands it open sockets: the listening port, and connections to hubs. It gets certificates, key and
//! controllers from the gate, so it reads no file, and before it takes the first byte from anybody it
//! gives up all that it does not need. It ends when the gate's process does.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
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
            Handed, Logged, Order, Said, Setup, ToFront, ToGate,
            hand::Taker,
            pipe::{Receiver, Sender, pipe},
        },
        server::{Entrance, Trust, Trusted, Upstream, accept, serve_network, uplink},
        tls::{self, Calling},
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
    let (link, hand) = (io::stdin(), io::stdout());
    if socket_domain(link.as_fd()).is_err() || socket_domain(hand.as_fd()).is_err() {
        return None;
    }
    let ended = sockets(&link, &hand).and_then(serve);
    Some(if ended.is_ok() { ExitCode::SUCCESS } else { Exit::Unavailable.into() })
}

fn sockets(
    link: &io::Stdin,
    hand: &io::Stdout,
) -> io::Result<(UnixStream, OwnedFd, Vec<&'static str>)> {
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
    Ok((link.into(), hand.as_fd().try_clone_to_owned()?, keeps))
}

fn serve((link, hand, mut keeps): (UnixStream, OwnedFd, Vec<&'static str>)) -> io::Result<()> {
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
        let hand = Taker::new(hand)?;
        let (sender, receiver) = pipe(link)?;
        log_to(&sender);
        if let Err(error) = sandbox::close_calls() {
            tracing::warn!("the kernel takes no filter of calls: {error}");
            keeps.push("calls (seccomp)");
        }
        let upstream = Upstream::new(sender.clone());
        let (entrance, served) = serve_network(upstream.clone());
        let front = Front {
            upstream,
            entrance,
            gate: sender.clone(),
            trust: None,
            calling: None,
            uplinks: HashMap::new(),
            listener: None,
            keeps: keeps.join(", "),
        };
        tokio::spawn(async {
            let ended = served.await;
            tracing::error!("the server for controllers ended: {ended:?}");
            sleep(LAST_LINE).await;
            // The gate starts another one.
            std::process::exit(Exit::Unavailable.code().into());
        });
        tokio::select! {
            ended = front.follow(receiver, hand) => ended,
            error = sender.flush_forever() => Err(error),
        }
    })
}

struct Front {
    upstream: Upstream,
    entrance: Entrance,
    gate: Sender<ToGate>,
    /// Data for the handshakes; `None`: no setup with one has come.
    trust: Option<watch::Sender<Trust>>,
    /// The same with hubs.
    calling: Option<Calling>,
    /// Whether each is used. Dropped: it is to end.
    uplinks: HashMap<u64, watch::Sender<bool>>,
    /// Until there is trust nobody is served.
    listener: Option<TcpListener>,
    keeps: String,
}

impl Front {
    /// Follows the gate's orders until its process ends.
    async fn follow(mut self, mut orders: Receiver<ToFront>, hand: Taker) -> io::Result<()> {
        loop {
            let order = tokio::select! {
                order = orders.next() => order.map_err(io::Error::other)?.order,
                taken = hand.next() => {
                    let (handed, socket) = taken?;
                    self.take(handed, socket)?;
                    continue;
                }
            };
            match order {
                Some(Order::Answer(answer)) => self.upstream.take(answer),
                Some(Order::Ping(number)) => self.say(Said::Pong(number)),
                Some(Order::Setup(setup)) => {
                    let problem = self.set_up(&setup).err().unwrap_or_default();
                    self.say(Said::Keeps(self.keeps.clone()));
                    self.say(Said::Ready(problem));
                }
                Some(Order::Unlink(number)) => {
                    self.uplinks.remove(&number);
                }
                Some(Order::Use(number)) => {
                    if let Some(used) = self.uplinks.get(&number) {
                        used.send_replace(true);
                    }
                }
                None => {}
            }
        }
    }

    fn set_up(&mut self, setup: &Setup) -> Result<(), String> {
        let tls::Read { handshaking, calling, controllers } = tls::of_setup(setup)?;
        let authorities = handshaking.as_ref().map(|made| made.authorities.clone());
        let hubs = calling.as_ref().map(|calling| calling.hubs.clone());
        self.upstream.set_controllers(&controllers, Trusted { authorities, hubs });
        self.calling = calling;
        if let Some(config) = handshaking.map(|made| Arc::new(made.config)) {
            match &self.trust {
                Some(trust) => {
                    trust.send_replace(config);
                }
                None => self.trust = Some(watch::channel(config).0),
            }
        }
        self.listen();
        Ok(())
    }

    /// Takes a socket that the gate hands over.
    fn take(&mut self, handed: Handed, socket: OwnedFd) -> io::Result<()> {
        if handed.uplink == 0 {
            self.listener = Some(TcpListener::from_std(socket.into())?);
            self.listen();
            return Ok(());
        }
        self.uplinks.retain(|_, used| !used.is_closed());
        let (used, orders) = watch::channel(!handed.spare);
        self.uplinks.insert(handed.uplink, used);
        let (entrance, calling) = (self.entrance.clone(), self.calling.clone());
        tokio::spawn(uplink(entrance, (handed, socket), calling, orders));
        Ok(())
    }

    /// Serves the listening port, as soon as it and the certificates are there.
    fn listen(&mut self) {
        if let Some(trust) = &self.trust
            && let Some(listener) = self.listener.take()
        {
            tokio::spawn(accept(listener, trust.subscribe(), self.entrance.clone()));
        }
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
