//! A hub: it waits for agents that connect, and calls them over their own connections.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use jit_client::{Agent, Budget};
use jit_proto::uplink::{ALPN, IN_USE, SPARE};
use jit_tests::{agent::Site, sockets};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{io::AsyncReadExt as _, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

/// The longest time for a call.
const CALL: Duration = Duration::from_secs(10);

/// A hub in the client's namespace. It runs until the process of the test ends.
pub(crate) struct Hub {
    runtime: Arc<Runtime>,
    agents: Receiver<Agent>,
    connections: Arc<AtomicUsize>,
}

/// The certificates of a hub, and what it speaks.
pub(crate) struct Shows<'a> {
    pub(crate) authority: &'a str,
    pub(crate) name: &'a str,
    pub(crate) alpn: &'a [u8],
    /// It takes spare connections, too, and waits until they are used.
    pub(crate) spares: bool,
}

impl<'a> Shows<'a> {
    pub(crate) fn name(name: &'a str) -> Self {
        Self { authority: "pki", name, alpn: ALPN, spares: false }
    }
}

impl Hub {
    pub(crate) fn start(site: &Site, address: &str, shows: &Shows<'_>) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = Arc::new(runtime.worker_threads(2).enable_all().build().unwrap());
        let config = config(&site.path(""), shows);
        let listener = listen(site, address);
        let (sender, agents) = channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, spares) = (Arc::clone(&connections), shows.spares);
        runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve((stream, peer), Arc::clone(&config), spares, sender.clone()));
            }
        });
        Self { runtime, agents, connections }
    }

    /// The next agent that connects.
    #[track_caller]
    pub(crate) fn agent(&self, within: Duration) -> Agent {
        self.agents.recv_timeout(within).expect("an agent connects")
    }

    pub(crate) fn try_agent(&self, within: Duration) -> Option<Agent> {
        self.agents.recv_timeout(within).ok()
    }

    pub(crate) fn run<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }

    /// Begins calls that go on beside others.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        calls: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(calls)
    }

    /// Number of TCP connections that were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    (stream, peer): (tokio::net::TcpStream, SocketAddr),
    config: Arc<ServerConfig>,
    spares: bool,
    sender: Sender<Agent>,
) {
    // What the agent does not like, it closes.
    let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    if spares && stream.get_ref().1.alpn_protocol() == Some(SPARE) {
        let mut said = [0];
        match stream.read_exact(&mut said).await {
            Ok(_) => assert_eq!(said, [IN_USE]),
            Err(_) => return,
        }
    }
    let budget = Arc::new(Budget::new(usize::MAX));
    let Ok(agent) = Agent::over_uplink(peer, stream, CALL, &budget).await else { return };
    let _gone = sender.send(agent);
}

fn config(directory: &Path, shows: &Shows<'_>) -> Arc<ServerConfig> {
    let Shows { authority, name, alpn, spares } = shows;
    let path = |file: String| directory.join(authority).join(file);
    let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&directory.join("pki/ca.pem")) {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(path(format!("{name}.key"))).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates(&path(format!("{name}.pem"))), key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.alpn_protocols.extend(spares.then(|| SPARE.to_vec()));
    Arc::new(config)
}

pub(crate) fn listen(site: &Site, address: &str) -> TcpListener {
    site.client.run(|| sockets::listen(address.parse().unwrap()))
}

/// Somebody in the client's namespace who is no hub: each connection is treated by this function.
/// Returns the number of connections so far.
pub(crate) fn stranger(
    site: &Site,
    address: &str,
    treat: impl Fn(TcpStream) + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let listener = listen(site, address);
    let (count, treat) = (Arc::new(AtomicUsize::new(0)), Arc::new(treat));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let treat = Arc::clone(&treat);
            thread::spawn(move || treat(stream));
        }
    });
    count
}

/// A proxy (RFC 9110 section 9.3.6) that lets in who shows these credentials, in base64; it passes
/// bytes on in both directions.
pub(crate) fn proxy(site: &Site, address: &str, login: &str) -> Arc<AtomicUsize> {
    let (login, namespace) = (login.to_owned(), site.client.name().to_owned());
    let (wanted, asked) = channel::<(String, Sender<TcpStream>)>();
    // Who connects must be in the namespace.
    let _connects = site.client.spawn(move || {
        for (target, answer) in asked {
            if let Ok(stream) = TcpStream::connect(&target) {
                let _gone = answer.send(stream);
            }
        }
    });
    let wanted = std::sync::Mutex::new(wanted);
    stranger(site, address, move |mut stream| {
        let head = head(&mut stream);
        let first = head.lines().next().unwrap_or_default().to_owned();
        let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
        let target = target.unwrap_or_else(|| panic!("{namespace}: {first}")).to_owned();
        let shown = format!("Proxy-Authorization: Basic {login}\r\n");
        if !login.is_empty() && !head.contains(&shown) {
            let _gone = stream.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            );
            return;
        }
        let (sender, made) = channel();
        wanted.lock().unwrap().send((target, sender)).unwrap();
        let Ok(hub) = made.recv_timeout(CALL) else {
            let _gone = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
            return;
        };
        stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").unwrap();
        let (there, back) = (stream.try_clone().unwrap(), hub.try_clone().unwrap());
        let back = thread::spawn(move || pass(back, stream));
        pass(there, hub);
        back.join().unwrap();
    })
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _broken = std::io::copy(&mut from, &mut to);
    let _gone = to.shutdown(std::net::Shutdown::Both);
}

/// Waits until the agent's status says so of its uplink.
#[track_caller]
pub(crate) fn assert_uplink(
    site: &Site,
    within: Duration,
    is_so: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let end = Instant::now() + within;
    loop {
        let (status, _) = site.status();
        if is_so(&status["uplink"]) {
            return status;
        }
        assert!(Instant::now() < end, "{:#}\n{}", status["uplink"], site.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Replaces a file.
pub(crate) fn write(site: &Site, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(site.path(name), text).unwrap();
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}
