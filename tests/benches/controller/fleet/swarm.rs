//! Simulated agents that dial a hub: each has its own certificate and connection, the pauses of an agent, and
//! with several hubs its spare connection.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jit_client::{
    HostUri,
    ca::{Authority, Names},
};
use jit_proto::{
    uplink::{ALPN, IN_USE, SPARE},
    v1::jit_agent_server::JitAgentServer,
};
use jit_tests::netns::Namespace;
use rustix::rand::{GetRandomFlags, getrandom};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    runtime::{self, Runtime},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::codegen::Service as _;

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
const SPARE_AFTER: Duration = Duration::from_secs(5);
const SPARE_PAUSE: Duration = Duration::from_secs(300);
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
        let runtime = namespace
            .run(|| runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build());
        Self { agents: agents.into_iter().map(Arc::new).collect(), tls, runtime: runtime.unwrap() }
    }

    /// From now on each keeps a connection to a hub: the first to the first, and so on in turn. After a
    /// connection that ended each tries the next hub, unless it has a spare one to another hub.
    pub(crate) fn dial(&self, hubs: &[SocketAddr]) {
        for (first, (agent, tls)) in self.agents.iter().zip(&self.tls).enumerate() {
            let mut hubs = hubs.to_vec();
            let count = hubs.len();
            hubs.rotate_left(first % count);
            let mut spare = ClientConfig::clone(tls);
            spare.alpn_protocols = vec![SPARE.to_vec()];
            let tls = Tls { used: Arc::clone(tls), spare: Arc::new(spare) };
            self.runtime.spawn(keep(Arc::clone(agent), tls, hubs));
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

/// What connections are made by: those in use, and spare ones.
struct Tls {
    used: Arc<ClientConfig>,
    spare: Arc<ClientConfig>,
}

/// A spare connection that waits, and which hub has it.
type Spare = Option<(usize, TlsStream<TcpStream>)>;

/// Keeps a connection, as the agent's dialler does.
async fn keep(agent: Arc<Agent>, tls: Tls, hubs: Vec<SocketAddr>) {
    let (mut tries, mut next, mut spare) = (0_u32, 0, Spare::None);
    loop {
        let made = match spare.take() {
            Some((at, mut stream)) => {
                agent.board.spare_down();
                stream.write_all(&[IN_USE]).await.map(|()| (at, stream))
            }
            None => {
                let made = connect(agent.number, Arc::clone(&tls.used), hub_at(&hubs, next));
                made.await.map(|stream| (next, stream))
            }
        };
        match made {
            Ok((at, stream)) => {
                let since = Instant::now();
                tokio::select! {
                    () = serve(&agent, stream) => {}
                    never = keep_spare(&agent, &tls, (&hubs, at), &mut spare) => match never {},
                }
                if since.elapsed() > HELD {
                    tries = 0;
                }
                next = at + 1;
                if spare.is_some() {
                    continue;
                }
            }
            Err(error) => {
                agent.board.failed(error.to_string());
                next += 1;
            }
        }
        let most = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
        tries = tries.saturating_add(1);
        sleep(most.mul_f64(part())).await;
    }
}

/// Keeps a spare connection to another hub than the one in use.
async fn keep_spare(
    agent: &Agent,
    tls: &Tls,
    (hubs, used): (&[SocketAddr], usize),
    spare: &mut Spare,
) -> Infallible {
    let others = hubs.len() - 1;
    let (mut tries, mut next) = (0_u32, 0);
    loop {
        if let Some((_, stream)) = spare {
            let _ended = stream.read(&mut [0]).await;
            *spare = None;
            agent.board.spare_down();
            tries = 0;
        }
        let least = SPARE_AFTER.saturating_mul(1 << tries.min(16)).min(SPARE_PAUSE / 2);
        sleep(least + least.mul_f64(part())).await;
        if others == 0 {
            return pending().await;
        }
        let at = used + 1 + next % others;
        match connect(agent.number, Arc::clone(&tls.spare), hub_at(hubs, at)).await {
            Ok(stream) => {
                *spare = Some((at, stream));
                agent.board.spare_up();
            }
            Err(_) => (next, tries) = (next + 1, tries.saturating_add(1)),
        }
    }
}

/// The hub with this number, counted around.
fn hub_at(hubs: &[SocketAddr], number: usize) -> SocketAddr {
    *hubs.get(number % hubs.len()).unwrap()
}

async fn connect(
    number: usize,
    tls: Arc<ClientConfig>,
    hub: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let made = timeout(ATTEMPT, attempt(number, tls, hub)).await;
    made.unwrap_or_else(|_| Err(io::Error::other("no connection within 15 s")))
}

async fn attempt(
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

/// Serves until the hub closes. Thousands do on one machine: without the layers of a server for more services.
async fn serve(agent: &Arc<Agent>, stream: TlsStream<TcpStream>) {
    let service = JitAgentServer::new(Service(Arc::clone(agent)));
    let mut http2 = Builder::new(TokioExecutor::new());
    http2.timer(TokioTimer::new()).max_concurrent_streams(8).keep_alive_interval(PING);
    let calls = service_fn(move |call| service.clone().call(call));
    // Why it ended is the hub's to say.
    let _ended = http2.serve_connection(TokioIo::new(stream), calls).await;
}

/// From 0 to 1, by chance.
fn part() -> f64 {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).unwrap();
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
