//! Simulated agents that dial a hub: each has its own certificate and connection, and the pauses of an agent.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use jit_client::{
    HostUri,
    ca::{Authority, Names},
};
use jit_proto::{uplink::ALPN, v1::jit_agent_server::JitAgentServer};
use jit_tests::netns::Namespace;
use rustix::rand::{GetRandomFlags, getrandom};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::tokio_stream,
    transport::{Server, server::Connected},
};

use super::agent::{Agent, Service};

/// The name in the hub's certificate.
pub(crate) const HUB_NAME: &str = "hub.example.org";
/// Agents of one network, as the hub counts them.
const OF_A_NETWORK: usize = 100;
const DAY: Duration = Duration::from_secs(86_400);
// As an agent does (docs/uplink.md).
const ATTEMPT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const HELD: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_secs(30);

/// The agents. They run until it is dropped.
pub(crate) struct Swarm {
    pub(crate) agents: Vec<Arc<Agent>>,
    tls: Vec<Arc<ClientConfig>>,
    runtime: Runtime,
}

impl Swarm {
    /// Agents with certificates of this authority, in this namespace. None is connected yet.
    pub(crate) fn new(
        agents: Vec<Agent>,
        (authority, ca): (&Authority, &str),
        namespace: &Namespace,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let roots = Arc::new(roots);
        let tls = agents.iter().map(|agent| tls(authority, &roots, &agent.id)).collect();
        let runtime =
            namespace.run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
        Self { agents: agents.into_iter().map(Arc::new).collect(), tls, runtime: runtime.unwrap() }
    }

    /// From now on each keeps a connection to a hub: the first to the first, and so on in turn. After a
    /// connection that ended each tries the next hub.
    pub(crate) fn dial(&self, hubs: &[SocketAddr]) {
        for (first, (agent, tls)) in self.agents.iter().zip(&self.tls).enumerate() {
            let mut hubs = hubs.to_vec();
            let count = hubs.len();
            hubs.rotate_left(first % count);
            self.runtime.spawn(keep(Arc::clone(agent), Arc::clone(tls), hubs));
        }
    }
}

fn tls(authority: &Authority, roots: &Arc<RootCertStore>, id: &str) -> Arc<ClientConfig> {
    let uri = HostUri::new("example.org", id).unwrap().to_string();
    let names = Names { uri: vec![uri], ..Names::default() };
    let pair = authority.issue(id, &names, DAY).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(Arc::clone(roots));
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Keeps a connection, as the agent's dialler does.
async fn keep(agent: Arc<Agent>, tls: Arc<ClientConfig>, hubs: Vec<SocketAddr>) {
    let mut tries = 0_u32;
    for hub in hubs.into_iter().cycle() {
        match timeout(ATTEMPT, connect(agent.number, Arc::clone(&tls), hub)).await {
            Ok(Ok(stream)) => {
                let since = Instant::now();
                serve(&agent, stream).await;
                if since.elapsed() > HELD {
                    tries = 0;
                }
            }
            Ok(Err(error)) => agent.board.failed(error.to_string()),
            Err(_) => agent.board.failed("no connection within 15 s".into()),
        }
        let most = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
        tries = tries.saturating_add(1);
        sleep(most.mul_f64(f64::from(random()) / f64::from(u32::MAX))).await;
    }
}

async fn connect(
    number: usize,
    tls: Arc<ClientConfig>,
    hub: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    let [second, third] = u16::try_from(1 + number / OF_A_NETWORK).unwrap().to_be_bytes();
    let last = u8::try_from(1 + number % OF_A_NETWORK).unwrap();
    socket.bind(([127, 100 + second, third, last], 0).into())?;
    let tcp = socket.connect(hub).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(tls).connect(ServerName::try_from(HUB_NAME).unwrap(), tcp).await
}

/// Serves until the hub closes.
async fn serve(agent: &Arc<Agent>, stream: TlsStream<TcpStream>) {
    let (open, closed) = oneshot::channel();
    let incoming = tokio_stream::once(Ok::<_, io::Error>(Served { stream, _open: open }));
    let service = JitAgentServer::new(Service(Arc::clone(agent)));
    let server = Server::builder()
        .max_concurrent_streams(8)
        .http2_keepalive_interval(Some(PING))
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let _dropped = closed.await;
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).unwrap();
    u32::from_ne_bytes(bytes)
}

/// A connection. Whoever waits for its end hears when it is dropped.
struct Served {
    stream: TlsStream<TcpStream>,
    _open: oneshot::Sender<()>,
}

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Served {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
