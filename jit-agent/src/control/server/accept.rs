//! Accepts connections: controllers' in the front, and local ones. Their number and time are bounded before anything they say is believed.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, pki_types::ServerName};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    control::{
        server::{
            activity::Activity,
            handshake::{Handshakes, Proven, handshake},
            network::Network,
            peer::{Caller, Linked, Peer, Who},
            places::Place,
            service::Service,
            upstream::Upstream,
            verifier,
        },
        tls,
    },
    rules::clock::BootNanos,
    system::{memory, reports::Reports, sys},
};

/// Largest number of local connections: of root and the agent's own user, who may close, and of all
/// others, who may look. The others cannot take the places of the first.
const MAX_LOCAL_TRUSTED: usize = 16;
const MAX_LOCAL_OTHERS: usize = 16;
/// Pause after an error of accept, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// What such errors are counted as.
const ACCEPT: &str = "accept";
/// How often connections are looked at: those that are overdue are closed.
const TICK: Duration = Duration::from_secs(1);
/// For this time after the last connection that was accepted there may be something to look at, also
/// if no place is taken: its handshake, and the sum of failures of the last minute.
const AFTERWARDS: Duration = Duration::from_secs(70);
/// How often the sums of what local users may not do are written, if their minute has ended. An agent
/// without requests wakes for it, so it is seldom.
const SUMS: Duration = Duration::from_secs(60);

/// Data for each handshake. It is replaced when configuration or certificates are reloaded.
pub type Trust = Arc<ServerConfig>;

/// A controller's connection.
type Controlled = Peer<TlsStream<TcpStream>, Place>;

/// Serves the connections that come in by the entrance. For the front.
pub(crate) fn serve_network(
    upstream: Upstream,
) -> (Entrance, impl Future<Output = Result<(), tonic::transport::Error>>) {
    let (sender, connections) = mpsc::channel(16);
    let entrance = Entrance::new(upstream.clone(), sender);
    (entrance, upstream.router().serve_with_incoming(ReceiverStream::new(connections)))
}

/// What every handshake needs. Clones share everything.
#[derive(Clone)]
pub(crate) struct Entrance {
    upstream: Upstream,
    proven: Proven,
    reports: Reports,
    sender: mpsc::Sender<io::Result<Controlled>>,
}

/// Takes connections in until nobody serves any more.
pub(crate) async fn accept(
    listener: TcpListener,
    mut trust: watch::Receiver<Trust>,
    entrance: Entrance,
) {
    let authority = entrance.upstream.authority().clone();
    let mut table = authority.changes();
    let configured = |base: &Trust| verifier::for_controllers(base, &authority).map(Arc::new);
    let mut config = configured(&trust.borrow_and_update());
    let mut handshakes = Handshakes::default();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Instant> = None;
    let mut worked = false;
    loop {
        let lately = last.is_some_and(|last| last.elapsed() < AFTERWARDS);
        let watched = lately || entrance.upstream.places().taken() > 0;
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    (last, worked) = (Some(Instant::now()), true);
                    // A sender that is gone changes nothing more.
                    if table.has_changed().unwrap_or(false) || trust.has_changed().unwrap_or(false) {
                        table.mark_unchanged();
                        config = configured(&trust.borrow_and_update());
                    }
                    // Nobody vouches for anybody: the connection is closed.
                    let Some(config) = config.clone() else { continue };
                    entrance.begin(stream, address, config, &mut handshakes);
                }
                Err(error) => {
                    last = Some(Instant::now());
                    entrance.report_accept(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            },
            // An agent without connections sleeps.
            _ = tick.tick(), if watched => {
                entrance.look_after(Instant::now());
                let idle = entrance.upstream.places().taken() == 0 && handshakes.is_empty();
                if std::mem::replace(&mut worked, !idle) && idle {
                    // What much work took goes back to the kernel.
                    memory::give_back();
                }
            }
            // Nobody serves any more: the port is free again at once.
            () = entrance.sender.closed() => return,
        }
    }
}

impl Entrance {
    fn new(upstream: Upstream, sender: mpsc::Sender<io::Result<Controlled>>) -> Self {
        Self { upstream, proven: Proven::default(), reports: Reports::default(), sender }
    }

    fn begin(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        config: Arc<ServerConfig>,
        handshakes: &mut Handshakes,
    ) {
        let connected = sys::now().boot;
        let source = address.ip().to_canonical();
        let network = Network::of(source);
        let entrance = self.clone();
        let task = tokio::spawn(async move {
            match handshake(stream, config).await {
                Ok(stream) => {
                    let stream = TlsStream::from(stream);
                    let caller = identify(&stream, connected, None);
                    entrance.proven.note(network, &entrance.name(&caller), Instant::now());
                    let activity = Activity::new(Instant::now());
                    let admitted = entrance.admit(stream, caller, activity, None).await;
                    if let Err(why) = admitted {
                        entrance.report(source, &why);
                    }
                }
                Err(error) => entrance.report(source, &format!("TLS handshake failed: {error}")),
            }
        });
        let proven = self.proven.holds(network, Instant::now());
        handshakes.add(network, proven, task.abort_handle());
    }

    /// Gives a controller's connection a place, whose number is returned. `uplink`: its number, if it
    /// is one.
    pub(super) async fn admit(
        &self,
        stream: TlsStream<TcpStream>,
        caller: Caller,
        activity: Activity,
        uplink: Option<u64>,
    ) -> Result<u64, String> {
        let identity = self.upstream.authority().identity(&caller);
        let boot = sys::now().boot;
        let of_uplink = uplink.map(|number| (number, activity.clone()));
        let register = |number| Some(self.upstream.register(&caller, number, of_uplink, boot));
        let taken = self.upstream.places().take(&identity, activity.clone(), register);
        let Some((place, closed)) = taken else {
            // Well-behaved peers try again.
            return Err(format!("too many connections of {}: one is closed", identity.name));
        };
        let number = place.number();
        let linked = Linked { caller, activity, connection: Some(number) };
        let peer = Peer::new(stream, linked, place, Some(closed));
        let _gone = self.sender.send(Ok(peer)).await;
        Ok(number)
    }

    /// Where calls go, and who may make them.
    pub(super) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn name(&self, caller: &Caller) -> String {
        self.upstream.authority().identity(caller).name
    }

    /// Writes one line a network and minute.
    fn report(&self, source: IpAddr, what: &str) {
        self.upstream.report_failed();
        let network = Network::of(source).wide.to_string();
        if self.reports.writes(&network, sys::now().boot) {
            tracing::info!(%source, "{what}");
        }
    }

    /// Writes one line a minute about what keeps connections from being accepted.
    fn report_accept(&self, error: &io::Error) {
        if self.reports.writes(ACCEPT, sys::now().boot) {
            tracing::warn!("cannot accept a connection: {error}");
        }
    }

    fn look_after(&self, now: Instant) {
        let boot = sys::now().boot;
        for (controller, why) in self.upstream.places().close_overdue(now) {
            if self.reports.writes(&controller, boot) {
                tracing::info!(controller, ?why, "a connection is closed");
            }
        }
        for (peer, more) in self.reports.sums(boot) {
            tracing::info!(peer, more, "more connections failed or were closed within a minute");
        }
    }
}

/// Serves the command line until the listener fails for good.
pub async fn serve_unix(
    listener: UnixListener,
    service: Service,
) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(16);
    let authority = service.authority().clone();
    tokio::spawn(async move {
        let (places, reports) = (LocalPlaces::default(), Reports::default());
        let mut tick = interval(SUMS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = tick.tick() => {
                    authority.write_sums(sys::now().boot);
                    for (peer, more) in reports.sums(sys::now().boot) {
                        tracing::warn!(peer, more, "as often as this again");
                    }
                    continue;
                }
                () = sender.closed() => return,
            };
            let connected = sys::now().boot;
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if reports.writes(ACCEPT, sys::now().boot) {
                        tracing::warn!("cannot accept a local connection: {error}");
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(caller) = identify_local(&stream, connected) else { continue };
            // The connection is closed at once. The command line explains that.
            let Some(permit) = places.permit(&caller.who) else { continue };
            let activity = Activity::new(Instant::now());
            let linked = Linked { caller, activity, connection: None };
            let peer = Peer::new(stream, linked, permit, None);
            let _closed = sender.send(Ok::<_, io::Error>(peer)).await;
        }
    });
    service.router().serve_with_incoming(ReceiverStream::new(connections)).await
}

/// The peer of a handshake. `hub`: its name, if the agent connected to it.
pub(super) fn identify(
    stream: &TlsStream<TcpStream>,
    connected: BootNanos,
    hub: Option<ServerName<'static>>,
) -> Caller {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain.first().map(tls::names).unwrap_or_default();
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Caller { who: Who::Certificate { names, chain, hub }, connected }
}

fn identify_local(stream: &UnixStream, connected: BootNanos) -> Option<Caller> {
    let uid = stream.peer_cred().ok()?.uid();
    let own = rustix::process::geteuid().as_raw();
    Some(Caller { who: Who::Local { uid, own }, connected })
}

/// The places of local connections.
#[derive(Debug)]
struct LocalPlaces {
    trusted: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for LocalPlaces {
    fn default() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self { trusted: places(MAX_LOCAL_TRUSTED), others: places(MAX_LOCAL_OTHERS) }
    }
}

impl LocalPlaces {
    fn permit(&self, who: &Who) -> Option<OwnedSemaphorePermit> {
        let places = if who.is_trusted() { &self.trusted } else { &self.others };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_leave_the_places_of_root_and_of_the_agents_user_free() {
        let places = LocalPlaces::default();
        let local = |uid| Who::Local { uid, own: 990 };
        let mut others: Vec<_> =
            (1_000..).take(MAX_LOCAL_OTHERS).map(|uid| places.permit(&local(uid))).collect();
        assert!(others.iter().all(Option::is_some));
        assert!(places.permit(&local(65_534)).is_none(), "all of theirs are taken");
        let root = places.permit(&local(0));
        assert!(root.is_some() && places.permit(&local(990)).is_some());
        others.pop();
        assert!(places.permit(&local(65_534)).is_some(), "one became free");
    }
}
