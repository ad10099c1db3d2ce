//! Where agents connect: TLS 1.3 with a certificate on both sides, in bounded time and number.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use jit_client::{
    Agent, CallError,
    files::read_text,
    pem::{self, Holds},
};
use jit_proto::uplink::{ALPN, IN_USE, SPARE};
use rustix::net::sockopt;
use rustls::{
    RootCertStore, ServerConfig, pki_types::CertificateDer, server::WebPkiClientVerifier,
    version::TLS13,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    super::connection::{Connection, Shown},
    HubSettings, Reception, Uplinks,
    identity::{Names, Own},
    places::{Held, Places},
};
use crate::sites::Place;

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The kernel asks the silent machine of a spare connection after this time, and as often.
const ASK: Duration = Duration::from_secs(30);
/// No spare connection is older: an agent ends one after 23 hours.
const OLDEST: Duration = Duration::from_secs(25 * 3600);
/// Connections that wait in the kernel: after a restart all agents come back at about the same time.
const BACKLOG: i32 = 4096;
/// After a failed accept(2), such as one without a free file.
const PAUSE: Duration = Duration::from_millis(100);

/// A hub: where it listens, and by which files.
pub(in super::super) struct Hub {
    settings: HubSettings,
    /// Where it listens.
    pub(in super::super) address: SocketAddr,
    /// Connections.
    pub(in super::super) uplinks: Uplinks,
    tls: Mutex<Arc<Tls>>,
}

/// What handshakes are made by.
struct Tls {
    config: Arc<ServerConfig>,
    own: Own,
}

impl Hub {
    /// Begins to listen.
    ///
    /// # Errors
    /// A file cannot be used, or the address is taken.
    pub(in super::super) fn bind(
        settings: &HubSettings,
    ) -> Result<(Arc<Self>, TcpListener), CallError> {
        let tls = Mutex::new(Arc::new(Tls::read(settings)?));
        let failed =
            |why: io::Error| CallError::Files(format!("hub.listen, {}: {why}", settings.listen));
        let listener = std::net::TcpListener::bind(settings.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let uplinks = Uplinks::new(settings);
        Ok((Arc::new(Self { settings: settings.clone(), address, uplinks, tls }), listener))
    }

    /// Reads certificate, key and CA again; connections that are there stay.
    ///
    /// # Errors
    /// A file cannot be used: the old ones stay.
    pub(in super::super) fn reload(&self) -> Result<(), CallError> {
        let read = Arc::new(Tls::read(&self.settings)?);
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    fn tls(&self) -> Arc<Tls> {
        Arc::clone(&self.tls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tls {
    fn read(settings: &HubSettings) -> Result<Self, CallError> {
        let HubSettings { certificate, key, client_ca, .. } = settings;
        let unusable = |name: &str, file: &Path, why: &dyn std::fmt::Display| {
            CallError::Files(format!("hub.{name}, {}: {why}", file.display()))
        };
        let mut roots = RootCertStore::empty();
        for root in certificates("client_ca", client_ca)? {
            roots.add(root).map_err(|why| unusable("client_ca", client_ca, &why))?;
        }
        let chain = certificates("certificate", certificate)?;
        let names = chain.first().map(|leaf| Names::of(leaf)).unwrap_or_default();
        let own = Own { names, trust_domain: settings.trust_domain.clone() };
        let text = read_text(key, "the hub's private key")?;
        let private =
            pem::private_key(&text, Holds::Both).map_err(|why| unusable("key", key, &why))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()
                .map_err(|why| unusable("client_ca", client_ca, &why))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|why| unusable("certificate", certificate, &why))?;
        config.alpn_protocols = vec![ALPN.to_vec(), SPARE.to_vec()];
        // Each connection proves itself anew, and nothing is kept of those that ended.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), own })
    }
}

fn certificates(name: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let text = read_text(file, "the certificate")?;
    pem::certificates(&text, Holds::Both)
        .map_err(|why| CallError::Files(format!("hub.{name}, {}: {why}", file.display())))
}

/// Takes connections until the task is ended.
pub(in super::super) async fn run<R: Reception>(
    shared: Arc<R>,
    hub: Arc<Hub>,
    listener: TcpListener,
) {
    // Before, every agent would be none of the inventory.
    shared.opens().await;
    let mut draining = shared.draining();
    loop {
        let next = async {
            hub.uplinks.places.free().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = draining.wait_for(|draining| *draining) => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the hub cannot take a connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        match hub.uplinks.places.wait(peer.ip()) {
            Ok(waits) => {
                let (shared, hub) = (Arc::clone(&shared), Arc::clone(&hub));
                tokio::spawn(async move {
                    let place = hub.uplinks.places.handshake(peer.ip()).await;
                    drop(waits);
                    let taken = match place {
                        Ok(place) => take(&shared, &hub, tcp, peer, place).await,
                        Err(why) => Err(why.to_owned()),
                    };
                    if let Err(why) = taken {
                        hub.uplinks.refusals.add(peer, &why);
                    }
                });
            }
            Err(why) => hub.uplinks.refusals.add(peer, why),
        }
    }
    // Another hub gets the agents now. The end of a part would be a defect.
    drop(listener);
    pending::<()>().await;
}

/// Makes the handshake, and gives the connection to its host's follower; a spare one when it is used.
async fn take<R: Reception>(
    shared: &Arc<R>,
    hub: &Hub,
    tcp: TcpStream,
    peer: SocketAddr,
    place: Place,
) -> Result<(), String> {
    let tls = hub.tls();
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let accepting = TlsAcceptor::from(Arc::clone(&tls.config)).accept(tcp);
    let stream = timeout(HANDSHAKE, accepting)
        .await
        .map_err(|_| "its TLS handshake was not complete within 5 s".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    let (_, session) = stream.get_ref();
    let spare = session.alpn_protocol() == Some(SPARE);
    if !spare && session.alpn_protocol() != Some(ALPN) {
        let wanted = String::from_utf8_lossy(ALPN);
        return Err(format!("it does not offer the protocol {wanted} (ALPN): it is no agent"));
    }
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or("it shows no certificate")?;
    let names = Names::of(leaf);
    let mut host = shared.host(&names, &tls.own)?;
    let shown = Shown::of(leaf);
    let held = places(hub).hold(Sha256::digest(leaf).into(), spare)?;
    let mut stream = Counted { inner: stream, _held: held };
    if spare {
        drop(place);
        if !is_used(&mut stream, &mut shared.draining()).await? {
            return Ok(());
        }
        // Meanwhile it may be none any more.
        host = shared.host(&names, &hub.tls().own)?;
    }
    let turn = shared.begins(&host).await;
    let agent = Agent::over_uplink(peer, stream, shared.timeout(), shared.room());
    let agent = agent.await.map_err(|error| error.to_string())?;
    if *shared.draining().borrow() {
        return Err("this hub ends".into());
    }
    let mut connection = Connection::arrived(agent, peer, shown);
    connection.turn = turn;
    shared.arrive(&host, connection)
}

/// Waits until the agent takes a spare connection into use. `false`: it has ended, or this hub ends.
async fn is_used(
    stream: &mut Counted,
    draining: &mut watch::Receiver<bool>,
) -> Result<bool, String> {
    let (tcp, _) = stream.inner.get_ref();
    sockopt::set_socket_keepalive(tcp, true)
        .and_then(|()| sockopt::set_tcp_keepidle(tcp, ASK))
        .and_then(|()| sockopt::set_tcp_keepintvl(tcp, ASK))
        .map_err(|error| error.to_string())?;
    let mut said = [0];
    tokio::select! {
        read = timeout(OLDEST, stream.read(&mut said)) => match read {
            Ok(Ok(1)) if said == [IN_USE] => Ok(true),
            Ok(Ok(1)) => Err("it spoke on its spare connection, and did not take it into use".into()),
            Ok(_) | Err(_) => Ok(false),
        },
        _ = draining.wait_for(|draining| *draining) => Ok(false),
    }
}

fn places(hub: &Hub) -> &Arc<Places> {
    &hub.uplinks.places
}

/// A stream that has a place until it is closed.
struct Counted {
    inner: TlsStream<TcpStream>,
    _held: Held,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
