//! Three servers of the bus, a side with a store and a signer, and hubs that are processes of their own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::{
    HostUri,
    ca::{Authority, Names},
    signing::{Algorithm, SigningKey},
};
use jit_controller::{
    clock::now_ms,
    desk::{self, Desk},
    fleet::{Fleet, SignCheckpoint, SignError, SignPolicy, far::Freshness, import},
    model::{Host, host::Observed},
    signer::{self, AuthoritySettings, KeySettings, Signer},
    store::{Delivery, Request, Store},
};
use jit_proto::{uplink::ALPN, v1};
use prost::Message as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;

use crate::{
    cluster::{Cluster, Who},
    ports::free_port,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Many programs share the machine with this test.
const LONGEST: Duration = Duration::from_secs(90);

pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) desk: Desk,
    directory: TempDir,
    authority: Authority,
    ca: String,
    pub(super) signer: Signer,
    fleet: Option<Fleet>,
}

impl World {
    /// With these hosts.
    pub(super) async fn new(hosts: &[&str]) -> Self {
        let (cluster, bus) = Cluster::start().await;
        bus.close().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let made = Authority::create("test", DAY).unwrap();
        let authority = Authority::from_pem(&made.certificate, &made.key).unwrap();
        let store = Store::open(&Store::sqlite_url(&directory.path().join("c.db"))).await.unwrap();
        fs::write(directory.path().join("ca.pem"), &made.certificate).unwrap();
        fs::write(directory.path().join("ca.key"), &made.key).unwrap();
        let signer = signer(directory.path()).await;
        let desk = Desk::new(store, Some(signer.clone()), desk::Settings::default());
        let added = hosts.iter().map(|id| Host { id: (*id).into(), ..Host::default() });
        let plan = import::Plan { added: added.collect(), ..import::Plan::default() };
        let mut tx = desk.store().begin().await.unwrap();
        import::apply(&mut tx, &plan, "test", now_ms()).await.unwrap();
        tx.commit().await.unwrap();
        let fleet = Some(office(&cluster, &desk, &signer));
        Self { cluster, desk, directory, authority, ca: made.certificate, signer, fleet }
    }

    /// Ends the side with the store as SIGKILL does, and starts it again.
    pub(super) fn restart_office(&mut self) {
        self.fleet = None;
        self.fleet = Some(office(&self.cluster, &self.desk, &self.signer));
    }

    /// The hosts, as the side with the store calls them.
    pub(super) fn fleet(&self) -> &Fleet {
        self.fleet.as_ref().unwrap()
    }

    /// The directory of a hub, with its file.
    pub(super) fn hub_files(&self, name: &str) -> (PathBuf, [SocketAddr; 2]) {
        let directory = self.directory.path().join(name);
        fs::create_dir_all(&directory).unwrap();
        let names = Names {
            dns: vec!["hub.example.org".into()],
            uri: vec!["spiffe://example.org/hub".into()],
            ..Names::default()
        };
        let pair = self.authority.issue(name, &names, DAY).unwrap();
        for (file, text) in
            [("hub.pem", &pair.certificate), ("hub.key", &pair.key), ("hosts.pem", &self.ca)]
        {
            fs::write(directory.join(file), text).unwrap();
        }
        let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let [address, health] = addresses;
        let servers: Vec<_> = (0..3).map(|number| self.cluster.url(number)).collect();
        let file = |name| self.cluster.file(name).display().to_string();
        let text = format!(
            "[bus]\nservers = {servers:?}\nnkey = {:?}\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
             [hub]\nname = {name:?}\nlisten = \"{address}\"\nhealth = \"{health}\"\ncertificate = \"hub.pem\"\n\
             key = \"hub.key\"\nclient_ca = \"hosts.pem\"\n",
            file("hub.nk"),
            file("ca.pem"),
            file("client.pem"),
            file("client.key"),
        );
        fs::write(directory.join("controller.toml"), text).unwrap();
        (directory, addresses)
    }

    /// Starts the real program as a hub.
    pub(super) async fn hub(&self, name: &str) -> Hub {
        let (directory, [address, health]) = self.hub_files(name);
        let log = directory.join("log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_jit-controller")]);
        command.args(["serve", "--roles", "hub", "--dir"]).arg(&directory);
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let hub = Hub { child: command.spawn().unwrap(), address, health, directory, log };
        until(&format!("{name} listens"), async || hub.said().contains("listens to the bus")).await;
        hub
    }

    /// A client with a new certificate of this host.
    pub(super) fn client(&self, host: &str) -> Arc<ClientConfig> {
        let uri = HostUri::new("example.org", host).unwrap().to_string();
        let names = Names { uri: vec![uri], ..Names::default() };
        let pair = self.authority.issue("agent", &names, DAY).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    }

    pub(super) async fn observed(&self, host: &str) -> Observed {
        self.desk.store().host(host).await.unwrap().unwrap().observed
    }

    /// What the only host of a request has answered.
    pub(super) async fn delivery(&self, request: &Request) -> Delivery {
        let rows = self.desk.store().deliveries_of(&request.proposal.id).await.unwrap();
        rows.into_iter().next().unwrap()
    }

    /// Waits until the host is known to be at this hub.
    pub(super) async fn is_at(&self, host: &str, hub: &str) {
        until(&format!("{host} is at {hub}"), async || {
            let observed = self.observed(host).await;
            observed.condition.word() == "enforcing" && observed.uplink.ends_with(hub)
        })
        .await;
    }
}

fn office(cluster: &Cluster, desk: &Desk, signer: &Signer) -> Fleet {
    let freshness = Freshness { every: Duration::from_secs(2), sign: unsigned() };
    let settings = cluster.settings(Who::Controller);
    let signs = signer.clone();
    let policies: SignPolicy = Arc::new(move |payload| {
        let signer = signs.clone();
        Box::pin(async move {
            signer.sign_policy(payload).await.map_err(|error| SignError::Refused(error.to_string()))
        })
    });
    Fleet::over_bus(desk.clone(), signer.clone(), settings, Some(freshness), policies)
}

/// Numbers checkpoints. Nobody verifies here who signs.
fn unsigned() -> SignCheckpoint {
    Arc::new(move |wish| {
        let checkpoint = v1::Checkpoint {
            epoch: 1,
            number: u64::try_from(wish.issued_at_ms).unwrap(),
            issued_at_ms: wish.issued_at_ms,
            valid_for_ms: 25_000,
            root: wish.root.into(),
            hosts: wish.hosts,
        };
        let payload = checkpoint.encode_to_vec().into();
        Box::pin(async move { Ok(v1::Envelope { payload, ..v1::Envelope::default() }) })
    })
}

/// The real signer, with a key of each kind and the authority of hosts.
async fn signer(directory: &Path) -> Signer {
    let provider = rustls::crypto::ring::default_provider();
    for name in ["signing.key", "closing.key"] {
        let key = SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
        fs::write(directory.join(name), key.to_pem()).unwrap();
    }
    let mut settings = signer::Settings::of_pem(Path::new("signing.key"));
    settings.revocation_keys = vec![KeySettings::Pem { file: "closing.key".into() }];
    settings.authority = Some(AuthoritySettings {
        certificate: "ca.pem".into(),
        key: "ca.key".into(),
        trust_domain: "example.org".into(),
        lifetime: DAY / 24,
        certificates_a_minute: 100,
    });
    settings.resolve(directory);
    settings.limits.signatures_a_minute = 100_000;
    settings.limits.policies = true;
    let program = Path::new(env!("CARGO_BIN_EXE_jit-controller"));
    Signer::start_program(program, &settings).await.unwrap()
}

/// A hub. It is killed with the value.
pub(super) struct Hub {
    pub(super) child: Child,
    pub(super) address: SocketAddr,
    pub(super) health: SocketAddr,
    pub(super) directory: PathBuf,
    log: PathBuf,
}

impl Hub {
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

pub(super) async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < LONGEST, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs the real program.
pub(super) fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jit-controller")).args(args).output().unwrap()
}
