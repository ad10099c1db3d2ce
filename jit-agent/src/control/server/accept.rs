//! Accepts connections. Their number and time are bounded before anything they say is believed.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    control::{
        server::{
            peer::{Caller, Peer, Who},
            service::Service,
        },
        tls,
    },
    rules::clock::BootNanos,
    system::sys,
};

/// A TLS handshake that takes longer is cut off.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Largest number of handshakes at once. Nothing is known of these peers yet, so they do not count
/// as connections.
const MAX_HANDSHAKES: usize = 256;
/// Largest number of connections with a good certificate: in all, and from one address.
const MAX_CONNECTIONS: usize = 512;
const MAX_PER_SOURCE: usize = 32;
/// Largest number of local connections: of root and the agent's own user, who may close, and of all
/// others, who may look. The others cannot take the places of the first.
const MAX_LOCAL_TRUSTED: usize = 16;
const MAX_LOCAL_OTHERS: usize = 16;
/// Largest number of connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after an error of accept, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Data for each handshake. It is replaced when configuration or certificates are reloaded.
pub type Trust = Arc<ServerConfig>;

/// Opens the listening port, also on an address that no interface has yet (IP_FREEBIND): at boot
/// the gate is in force before the network is configured.
pub fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    rustix::net::sockopt::set_ip_freebind(&socket, true)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens the unix socket: 0660, so that the group of the runtime directory may ask.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // The lock on the pins shows that no other agent runs: an existing socket is an earlier one's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves controllers until the listener fails for good.
pub async fn serve_tcp(
    listener: TcpListener,
    service: Service,
    trust: watch::Receiver<Trust>,
) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(16);
    let all = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Arc::new(Sources::default());
    tokio::spawn(async move {
        let mut handshakes = Handshakes::default();
        while !sender.is_closed() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Nobody serves any more: the port is free again at once.
                () = sender.closed() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let connected = sys::now().boot;
            let source = address.ip().to_canonical();
            let network = network(source);
            let config = trust.borrow().clone();
            let (sender, all, sources) = (sender.clone(), Arc::clone(&all), Arc::clone(&sources));
            let task = tokio::spawn(async move {
                let stream = match handshake(stream, config).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        return tracing::info!(%source, "TLS handshake failed: {error}");
                    }
                };
                // Over a limit, the connection is closed at once. Well-behaved peers try again.
                let of_source = sources.permit(network);
                let (Ok(of_all), Some(of_source)) = (all.try_acquire_owned(), of_source) else {
                    return tracing::warn!(%source, "too many connections: one more is closed");
                };
                let caller = identify(&stream, connected);
                let peer = Peer::new(stream, caller, vec![of_all, of_source]);
                let _closed = sender.send(Ok::<_, io::Error>(peer)).await;
            });
            handshakes.add(network, task.abort_handle());
        }
    });
    service.router().serve_with_incoming(ReceiverStream::new(connections)).await
}

/// Serves the command line until the listener fails for good.
pub async fn serve_unix(
    listener: UnixListener,
    service: Service,
) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(16);
    let places = LocalPlaces::default();
    tokio::spawn(async move {
        while !sender.is_closed() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let connected = sys::now().boot;
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a local connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(caller) = identify_local(&stream, connected) else { continue };
            // The connection is closed at once. The command line explains that.
            let Some(permit) = places.permit(&caller.who) else { continue };
            let peer = Peer::new(stream, caller, vec![permit]);
            let _closed = sender.send(Ok::<_, io::Error>(peer)).await;
        }
    });
    service.router().serve_with_incoming(ReceiverStream::new(connections)).await
}

async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "not done within 5 s"))?
}

fn identify(stream: &TlsStream<TcpStream>, connected: BootNanos) -> Caller {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain.first().map(tls::names).unwrap_or_default();
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Caller { who: Who::Certificate { names, chain }, connected }
}

fn identify_local(stream: &UnixStream, connected: BootNanos) -> Option<Caller> {
    let uid = stream.peer_cred().ok()?.uid();
    let own = rustix::process::geteuid().as_raw();
    Some(Caller { who: Who::Local { uid, own }, connected })
}

/// The network of a sender. One sender can have many addresses of an IPv6 /64, so it counts as one
/// source.
fn network(source: IpAddr) -> IpAddr {
    let prefix = jit_proto::SourcePrefix::from(source);
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(_) => jit_proto::prefix::ip(prefix.widened(64).address()),
    }
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

/// The handshakes that have not ended, oldest first.
#[derive(Debug, Default)]
struct Handshakes(VecDeque<(IpAddr, AbortHandle)>);

impl Handshakes {
    /// Adds a handshake. If there are too many, it cuts off the oldest one of the network with the
    /// most handshakes. So a sender with many silent ones loses them, and a newcomer gets its turn.
    fn add(&mut self, network: IpAddr, task: AbortHandle) {
        let Self(running) = self;
        running.retain(|(_, task)| !task.is_finished());
        if running.len() >= MAX_HANDSHAKES
            && let Some((_, oldest)) = busiest(running).and_then(|at| running.remove(at))
        {
            oldest.abort();
        }
        running.push_back((network, task));
    }
}

/// Index of the first handshake of the most frequent network.
fn busiest<T>(of: &VecDeque<(IpAddr, T)>) -> Option<usize> {
    let mut counts = HashMap::new();
    for (network, _) in of {
        *counts.entry(*network).or_insert(0_usize) += 1;
    }
    let most = counts.values().copied().max()?;
    of.iter().position(|(network, _)| counts.get(network) == Some(&most))
}

/// Connections by source network.
#[derive(Debug, Default)]
struct Sources {
    by_network: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Sources {
    fn permit(&self, source: IpAddr) -> Option<OwnedSemaphorePermit> {
        let mut sources = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        // Addresses without a connection are forgotten, so the table is never longer than the
        // number of connections.
        sources.retain(|_, semaphore| semaphore.available_permits() < MAX_PER_SOURCE);
        let semaphore =
            sources.entry(source).or_insert_with(|| Arc::new(Semaphore::new(MAX_PER_SOURCE)));
        Arc::clone(semaphore).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_handshakes_loses_the_oldest_of_them() {
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        for (networks, expected) in [
            (&[][..], None),
            (&[one], Some(0)),
            (&[one, two, two], Some(1)),
            (&[two, one, three, three, one], Some(1)),
            (&[three, one, two, one], Some(1)),
        ] {
            let of = networks.iter().map(|network| (*network, ())).collect();
            assert_eq!(busiest(&of), expected, "{networks:?}");
        }
    }

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
