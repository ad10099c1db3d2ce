//! The memory of the fleet: many hosts that are followed and have nothing to say. Their agents are stand-ins
//! in another process: nothing is measured of them, and no machine runs thousands of real ones. Real agents
//! are in `tests/tests/fleet`. `JIT_CROWD` says how many hosts; otherwise 300.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected panics")]

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream};
use jit_controller::{
    clock::now_ms,
    desk::{self, Desk},
    fleet::{Fleet, Settings, SignError, SignPolicy, import},
    model::{Host, host::Condition},
    store::Store,
};
use jit_proto::v1::{self, jit_agent_server as server};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, transport::server::Connected};

/// Names the directory of the certificates to the process of the stand-ins.
const DIRECTORY: &str = "JIT_CROWD_DIRECTORY";
const PORT_FILE: &str = "port";
/// The most that a host may cost, KiB: connection, tasks, and what is known of it.
const MOST_OF_HOST: u64 = 120;

/// The address of a host: all of 127.0.0.0/8 is this machine's.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 7, 0, 1)) + number)
}

fn id(ip: IpAddr) -> String {
    format!("crowd-{ip}")
}

/// The process of the stand-ins: it serves until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stand_ins_serve_when_the_measurement_asks() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let parent = rustix::process::getppid();
    tokio::spawn(async move {
        while rustix::process::getppid() == parent {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        std::process::exit(0);
    });
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&read("agent.pem")).unwrap()],
            PrivateKeyDer::from_pem_slice(&read("agent.key")).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    fs::write(directory.join("port.new"), port.to_string()).unwrap();
    fs::rename(directory.join("port.new"), directory.join(PORT_FILE)).unwrap();
    let (sender, connections) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { continue };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let at = tcp.local_addr().unwrap().ip();
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let _taken = sender.send(Ok::<_, std::io::Error>(Accepted { tls, at })).await;
                }
            });
        }
    });
    let incoming = tokio_stream::wrappers::ReceiverStream::new(connections);
    let service = server::JitAgentServer::new(StandIn);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

type Tls = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

struct Accepted {
    tls: Tls,
    at: IpAddr,
}

impl Connected for Accepted {
    type ConnectInfo = IpAddr;

    fn connect_info(&self) -> IpAddr {
        self.at
    }
}

impl tokio::io::AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

struct StandIn;

macro_rules! stand_in {
    ($($name:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl server::JitAgent for StandIn {
            type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

            async fn status(
                &self,
                request: Request<v1::StatusRequest>,
            ) -> Result<Response<v1::StatusResponse>, Status> {
                let at = *request.extensions().get::<IpAddr>().unwrap();
                let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 };
                let port = v1::Port { range: Some(port), mode: "enforce".into(), ..Default::default() };
                Ok(Response::new(v1::StatusResponse {
                    state: "enforcing".into(),
                    host: id(at),
                    version: "0.1.0".into(),
                    ports: vec![port],
                    ..Default::default()
                }))
            }

            async fn watch(
                &self,
                _request: Request<v1::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                Ok(Response::new(stream::pending().boxed()))
            }

            $(
                async fn $name(
                    &self,
                    _request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    Err(Status::unimplemented("a stand-in only answers"))
                }
            )*
        }
    };
}

stand_in! {
    push(PushRequest) -> PushResponse,
    push_batch(PushBatchRequest) -> PushBatchResponse,
    revoke(RevokeRequest) -> RevokeResponse,
    compare_mailbox(CompareMailboxRequest) -> CompareMailboxResponse,
    break_glass(BreakGlassRequest) -> BreakGlassResponse,
    enforce(EnforceRequest) -> EnforceResponse,
    confirm(ConfirmRequest) -> ConfirmResponse,
    list(ListRequest) -> ListResponse,
    show_policy(ShowPolicyRequest) -> ShowPolicyResponse,
    diff_policy(DiffPolicyRequest) -> DiffPolicyResponse,
    push_policy(PushPolicyRequest) -> PushPolicyResponse,
    confirm_policy(ConfirmPolicyRequest) -> ConfirmPolicyResponse,
    reconnect(ReconnectRequest) -> ReconnectResponse,
    request_certificate(RequestCertificateRequest) -> RequestCertificateResponse,
    install_certificate(InstallCertificateRequest) -> InstallCertificateResponse,
    set_policy_floor(SetPolicyFloorRequest) -> SetPolicyFloorResponse,
    denials(DenialsRequest) -> DenialsResponse,
    why(WhyRequest) -> WhyResponse,
}

/// Certificates of agents and controller, by one CA.
fn certificates(directory: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(directory.join("ca.pem"), params.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, ca_key);
    for name in ["agent", "controller"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{name}.example.org")]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// The other process; it ends with the value.
struct Crowd(Child);

impl Crowd {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["stand_ins_serve_when_the_measurement_asks", "--exact"]);
        command.env(DIRECTORY, directory).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// As many open files as the system lets this process have.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_followed_costs_little_memory() {
    let count: u32 = env::var("JIT_CROWD").map_or(300, |text| text.parse().unwrap());
    more_files();
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let _crowd = Crowd::start(directory.path());
    let port = loop {
        match fs::read_to_string(directory.path().join(PORT_FILE)) {
            Ok(port) => break port,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let url = Store::sqlite_url(&directory.path().join("controller.db"));
    let desk = Desk::new(Store::open(&url).await.unwrap(), None, desk::Settings::default());
    let host = |number: u32| Host {
        id: id(address(number).into()),
        address: format!("{}:{port}", address(number)),
        server_name: "agent.example.org".into(),
        ..Host::default()
    };
    let added = (0..count).map(host).collect();
    let mut tx = desk.store().begin().await.unwrap();
    let plan = import::Plan { added, ..import::Plan::default() };
    import::apply(&mut tx, &plan, "test", now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    let file = |name: &str| directory.path().join(name);
    let settings = Settings::new(file("ca.pem"), file("controller.pem"), file("controller.key"));
    let sign: SignPolicy =
        Arc::new(|_| Box::pin(async { Err(SignError::Refused("no key here".into())) }));
    let (before, began) = (resident(), Instant::now());
    let fleet = Fleet::start(desk.clone(), &settings, sign).unwrap();
    let enforcing = Condition::Enforcing.word();
    loop {
        let found = desk.store().hosts("", count, Some(enforcing)).await.unwrap();
        if found.len() == usize::try_from(count).unwrap() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "{} of {count}", found.len());
        // Each look reads all of them.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let all = began.elapsed();
    let later = env::var("JIT_CROWD_SECONDS").map_or(1, |text| text.parse().unwrap());
    tokio::time::sleep(Duration::from_secs(later)).await;
    let after = resident();
    let each = after.saturating_sub(before) / u64::from(count);
    println!(
        "{count} hosts known after {all:?}; resident {} MiB, before {} MiB: {each} KiB a host",
        after / 1024,
        before / 1024
    );
    assert!(each <= MOST_OF_HOST, "{each} KiB a host");
    drop(fleet);
}
