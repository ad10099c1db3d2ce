//! The scene of a flood: an agent with a good and a bad controller, and what it uses while it is
//! flooded.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_client::{
    agent::Agent,
    target::{Target, Tls, Way},
};
use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, STRANGER, Site, TO_CLIENT, TO_STRANGER, address},
    process::{descriptors, status},
    programs::binary,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};

use crate::elsewhere::{self, Elsewhere};

const PORT: u16 = 7443;
/// Grants that do not end during a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// Half of the calls of a round must be served within this time, and all of them within the second.
/// On a machine that is slow already without a flood, five times its own time is soon.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(2);
/// Calls in a round, and rounds until one is quick enough: other programs need the machine too.
const CALLS: usize = 7;
const ROUNDS: usize = 4;
/// What a flood may add while it lasts: MiB, and descriptors (256 handshakes, 512 connections).
const MORE_MIB: u64 = 200;
const MORE_DESCRIPTORS: usize = 256 + 512 + 64;
/// Controllers that connect, and the places of each.
const CONTROLLERS: u64 = 4;
const PLACES: u64 = 16;
/// What may remain, and the longest time until no more remains. The first self-test, some seconds
/// after the start, loads the programs a second time: 25 descriptors.
const LEFT_MIB: u64 = 48;
const LEFT_DESCRIPTORS: usize = 64;
const RECOVERY: Duration = Duration::from_secs(30);

static FLOODING: Mutex<()> = Mutex::new(());

/// A number for the short form, and for the long one.
pub(crate) fn size(short: usize, long: usize) -> usize {
    if env::var("JIT_TEST_FLOODS").is_ok_and(|form| form == "long") { long } else { short }
}

/// An agent that listens for controllers. Certificates: `good` may grant, revoke and read, `bad` may
/// grant and read, `reader` and `granter` have one permission; `nobody` and `agent` are of the same
/// authority. A second `good` is of a foreign one.
pub(crate) struct Scene {
    place: Place,
}

enum Place {
    Here(Box<Site>),
    Elsewhere(Box<Elsewhere>),
}

/// Memory and descriptors of the agent, and controllers' connections.
#[derive(Clone, Copy, Debug)]
struct Usage {
    mib: u64,
    descriptors: usize,
    connections: u64,
}

/// Whether a flood goes on.
#[derive(Default)]
pub(crate) struct Flood {
    up: AtomicBool,
    over: AtomicBool,
}

impl Flood {
    /// The flood has its full height.
    pub(crate) fn is_up(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    /// Whether it must go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Holds something until the flood ends.
    pub(crate) fn hold<T>(&self, held: T) -> T {
        self.is_up();
        while self.goes_on() {
            thread::sleep(Duration::from_millis(20));
        }
        held
    }
}

/// Ends the flood, also after a panic.
struct End<'a>(&'a Flood);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let Self(flood) = self;
        flood.is_up();
        flood.over.store(true, Ordering::Relaxed);
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        if let Some(elsewhere) = Elsewhere::from_environment() {
            return Self { place: Place::Elsewhere(Box::new(elsewhere)) };
        }
        let mut site = Site::new();
        let [v4, v6] = TO_CLIENT;
        let ours = format!("pki issue --dir pki --name agent --ip {v4} --ip {v6}");
        let controller = |directory, name| {
            format!("pki issue --dir {directory} --name {name} --uri spiffe://example.org/{name}")
        };
        let known = ["good", "bad", "reader", "granter", "nobody"];
        let mut calls = vec!["pki init --dir pki".to_owned(), ours];
        calls.extend(known.map(|name| controller("pki", name)));
        calls.extend(["pki init --dir foreign".to_owned(), controller("foreign", "good")]);
        for arguments in calls {
            let mut jitctl = Command::new(binary("jitctl"));
            jitctl.args(arguments.split(' ')).current_dir(site.path(""));
            let output = jitctl.output().unwrap();
            assert!(output.status.success(), "{arguments}: {output:?}");
        }
        site.configure(&format!(
            r#"
[control]
listen = "[::]:{PORT}"
certificate = "pki/agent.pem"
key = "pki/agent.key"
client_ca = "pki/ca.pem"
[[controller]]
identity = "spiffe://example.org/good"
may = ["grant", "revoke", "read"]
[[controller]]
identity = "spiffe://example.org/bad"
may = ["grant", "read"]
[[controller]]
identity = "spiffe://example.org/reader"
may = ["read"]
[[controller]]
identity = "spiffe://example.org/granter"
may = ["grant"]
"#
        ));
        site.start();
        Self { place: Place::Here(Box::new(site)) }
    }

    /// The agent and its networks here.
    pub(crate) fn site(&self) -> &Site {
        match &self.place {
            Place::Here(site) => site,
            Place::Elsewhere(_) => panic!("this flood needs an agent of its own"),
        }
    }

    /// Does something where strangers are.
    pub(crate) fn stranger<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.place {
            Place::Here(site) => site.stranger.run(work),
            Place::Elsewhere(_) => work(),
        }
    }

    /// Runs a flood. It must report when it is up, and go on until it may end.
    pub(crate) fn under<T: Send>(&self, body: impl FnOnce(&Flood) -> T + Send) -> T {
        // One at a time: what one flood takes must not count as another's.
        let _alone = FLOODING.lock().unwrap_or_else(PoisonError::into_inner);
        let unloaded = self.assert_served("before the flood", Duration::MAX);
        let soon = match &self.place {
            Place::Here(_) => SOON.max(5 * unloaded),
            // An emulated processor has other work than the flood's: each call within `LATE` is soon.
            Place::Elsewhere(_) => LATE,
        };
        let before = self.usage();
        if before.is_some() {
            // From now on the kernel remembers the most memory anew (proc(5), clear_refs).
            for pid in self.site().processes() {
                fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
            }
        }
        let flood = Flood::default();
        let value = thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                let _up = End(&flood);
                body(&flood)
            });
            let end = End(&flood);
            let began = Instant::now();
            while !end.0.up.load(Ordering::Relaxed) {
                assert!(began.elapsed() < 2 * RECOVERY, "the flood does not come up");
                thread::sleep(Duration::from_millis(5));
            }
            self.assert_served("during the flood", soon);
            if let Some((before, during)) = before.zip(self.usage()) {
                let most = self.most_mib();
                println!("before {before:?}, during {during:?}, at most {most} MiB");
                assert!(during.descriptors < before.descriptors + MORE_DESCRIPTORS, "{during:?}");
                assert!(most < before.mib + MORE_MIB, "{most} MiB, before {before:?}");
                assert!(during.connections <= CONTROLLERS * PLACES, "{during:?}");
            }
            drop(end);
            flooding.join()
        });
        let value = value.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match before {
            Some(before) => self.assert_recovers(before),
            None => drop(self.assert_served("after the flood", soon)),
        }
        value
    }

    /// Fails unless a good controller that connects and pushes a grant, and root who revokes, are
    /// served soon. Returns how soon.
    #[track_caller]
    fn assert_served(&self, when: &str, soon: Duration) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let target = self.target("good");
        let controller = format!("{when}: a controller");
        let site = match &self.place {
            Place::Here(site) => site,
            Place::Elsewhere(there) => {
                let pushed = assert_soon(&controller, soon, || there.push(&runtime, &target));
                let revoked = || there.revoke(&runtime, &target);
                return pushed.max(assert_soon(
                    &format!("{controller} who revokes"),
                    soon,
                    revoked,
                ));
            }
        };
        let push = || {
            let grant = site.envelope(&CLIENT, Duration::from_secs(60));
            let pushed = runtime.block_on(async {
                let mut agent = Agent::connect(&target).await.map_err(|error| error.to_string())?;
                agent.push(grant).await.map_err(|error| error.to_string())
            });
            pushed.unwrap_or_else(|error| panic!("{when}: {error}\n{}", site.log()));
        };
        let served = site.client.run(|| assert_soon(&controller, soon, push));
        let revoke = || {
            site.revoke_all();
        };
        served.max(assert_soon(&format!("{when}: root"), soon, revoke))
    }

    /// Fails unless memory and descriptors are about what they were, and all places are free.
    #[track_caller]
    fn assert_recovers(&self, before: Usage) {
        let began = Instant::now();
        loop {
            let after = self.usage().expect("an agent here");
            if after.mib <= before.mib + LEFT_MIB
                && after.descriptors <= before.descriptors + LEFT_DESCRIPTORS
                && after.connections == 0
            {
                return println!("{:?} afterwards {after:?}", began.elapsed());
            }
            assert!(began.elapsed() < RECOVERY, "before {before:?}, {RECOVERY:?} later {after:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the agent uses; `None`: it runs elsewhere.
    fn usage(&self) -> Option<Usage> {
        let Place::Here(site) = &self.place else { return None };
        let descriptors = descriptors(&site.processes());
        let mib = memory_kib(site, "VmRSS:") / 1024;
        Some(Usage { mib, descriptors, connections: self.connections() })
    }

    /// The most memory since the flood began, MiB.
    fn most_mib(&self) -> u64 {
        memory_kib(self.site(), "VmHWM:") / 1024
    }

    /// Controllers' connections that the agent reports.
    pub(crate) fn connections(&self) -> u64 {
        self.site().status().0["control"]["connections"].as_u64().unwrap()
    }

    /// The agent for a controller.
    pub(crate) fn target(&self, name: &str) -> Target {
        let agent = Self::for_clients();
        let file = |file: &str| self.path(&format!("pki/{file}"));
        let tls = Tls {
            host: agent.ip().to_string(),
            port: agent.port(),
            name: Self::server_name(),
            ca: file("ca.pem"),
            cert: file(&format!("{name}.pem")),
            key: file(&format!("{name}.key")),
        };
        Target { way: Way::Tls(Box::new(tls)), timeout: Duration::from_secs(20) }
    }

    /// The agent's address on the client's side.
    pub(crate) fn for_clients() -> SocketAddr {
        elsewhere::address().unwrap_or_else(|| address(TO_CLIENT, 0, PORT))
    }

    /// The address in the agent's certificate: that on the client's side.
    pub(crate) fn server_name() -> ServerName<'static> {
        ServerName::from(Self::for_clients().ip())
    }

    /// The stranger's address.
    pub(crate) fn source() -> SocketAddr {
        match elsewhere::address() {
            Some(_) => elsewhere::stranger(),
            None => address(STRANGER, 0, 0),
        }
    }

    /// A file with a key or a certificate.
    fn path(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Here(site) => site.path(name),
            Place::Elsewhere(there) => there.keys().join(name),
        }
    }

    /// The agent's address on the stranger's side.
    pub(crate) fn for_strangers(family: usize) -> SocketAddr {
        elsewhere::address().unwrap_or_else(|| address(TO_STRANGER, family, PORT))
    }

    /// For TLS with this certificate of the agent's authority.
    pub(crate) fn credentials(&self, name: &str) -> Arc<rustls::ClientConfig> {
        Arc::new(self.credentials_of("pki", name))
    }

    /// The same of an authority, `pki` or `foreign`.
    pub(crate) fn credentials_of(&self, authority: &str, name: &str) -> rustls::ClientConfig {
        let pem = |file: &str| fs::read(self.path(file)).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("pki/ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let own = |end: &str| pem(&format!("{authority}/{name}.{end}"));
        let chain = CertificateDer::from_pem_slice(&own("pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&own("key")).unwrap();
        let mut config = config.with_client_auth_cert(vec![chain], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Routes 2001:db8:f::/48 to the stranger, who may use each of its addresses.
    pub(crate) fn route_site(&self) {
        self.site().host.ip(&["-6", "route", "add", "2001:db8:f::/48", "via", "2001:db8:2::2"]);
        self.site().stranger.ip(&["-6", "route", "add", "local", "2001:db8:f::/48", "dev", "lo"]);
        self.site().stranger.sysctl("ipv6/ip_nonlocal_bind", "1");
    }

    /// More IPv4 addresses of the stranger.
    pub(crate) fn strangers(&self, count: u8) -> Vec<IpAddr> {
        let Place::Here(site) = &self.place else { return elsewhere::strangers(count) };
        let addresses = (100..100 + count).map(|last| IpAddr::from([203, 0, 113, last]));
        let addresses: Vec<_> = addresses.collect();
        for address in &addresses {
            site.stranger.address("p0", &format!("{address}/24"));
        }
        addresses
    }
}

/// A line of proc(5), status, of all processes of the agent together, KiB.
pub(crate) fn memory_kib(site: &Site, line: &str) -> u64 {
    status(&site.processes(), line)
}

/// An address of its own for each number.
pub(crate) fn numbered(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("10.{high}.{middle}.{low}")
}

/// With these many grants: a list is long then.
pub(crate) fn granted(site: &Site, count: u32) {
    let envelopes: Vec<_> =
        (0..count).map(|number| site.envelope(&[&numbered(number)], LONG)).collect();
    for part in envelopes.chunks(2_000) {
        let request = v1::PushBatchRequest { envelopes: part.to_vec(), revoke_ids: Vec::new() };
        let outcomes = site.call(async |mut client| client.push_batch(request).await);
        assert!(outcomes.unwrap().into_inner().outcomes.iter().all(|outcome| outcome.accepted));
    }
}

/// Fails unless calls are soon enough in one of several rounds. Returns their median.
#[track_caller]
fn assert_soon(who: &str, soon: Duration, call: impl Fn()) -> Duration {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut round: Vec<_> = (0..CALLS)
            .map(|_| {
                let began = Instant::now();
                call();
                began.elapsed()
            })
            .collect();
        round.sort_unstable();
        let (median, worst) = (round[CALLS / 2], round[CALLS - 1]);
        rounds.push((median, worst));
        if median < soon && worst < LATE {
            println!("{who}: median and worst {rounds:?}");
            return median;
        }
    }
    panic!("{who}: median and worst {rounds:?}");
}
