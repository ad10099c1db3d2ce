//! A hub with its certificates, its hosts, and requests that are signed already.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::{
    HostUri,
    ca::{Authority, Names},
};
use jit_controller::{
    clock::now_ms,
    desk::{self, Desk},
    fleet::{Fleet, HubSettings, Settings, SignError, SignPolicy, import},
    model::{Host, host::Observed},
    store::{Delivery, Request, Store},
};
use jit_proto::uplink::ALPN;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;

use super::signed;
use crate::{
    databases::Database,
    signers::{self, Signing},
};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct World {
    pub(super) desk: Desk,
    pub(super) fleet: Fleet,
    pub(super) hub: SocketAddr,
    pub(super) authority: Authority,
    /// The authority's certificate.
    pub(super) ca: String,
    directory: TempDir,
    settings: Settings,
    _signing: Signing,
    _database: Database,
}

/// An authority, and its certificate.
pub(super) fn authority() -> (Authority, String) {
    let ca = Authority::create("test", DAY).unwrap();
    (Authority::from_pem(&ca.certificate, &ca.key).unwrap(), ca.certificate)
}

/// The names of a host.
pub(super) fn of_host(id: &str) -> Names {
    let uri = HostUri::new("example.org", id).unwrap().to_string();
    Names { uri: vec![uri], ..Names::default() }
}

/// Names of DNS.
pub(super) fn of_dns(names: &[&str]) -> Names {
    Names { dns: names.iter().map(|name| (*name).to_owned()).collect(), ..Names::default() }
}

fn sign() -> SignPolicy {
    Arc::new(|_| Box::pin(async { Err(SignError::Refused("no key here".into())) }))
}

impl World {
    /// With these hosts, none of which has an address: id and server name.
    pub(super) async fn new(database: Database, hosts: &[(&str, &str)]) -> Self {
        Self::with(database, hosts, |_| {}).await
    }

    pub(super) async fn with(
        database: Database,
        hosts: &[(&str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (authority, ca) = authority();
        let names = Names {
            dns: vec!["hub.example.org".into()],
            uri: vec!["spiffe://example.org/hub".into()],
            ..Names::default()
        };
        let pair = authority.issue("hub", &names, DAY).unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mut settings = Settings::new(
            file("ca.pem", &ca),
            file("hub.pem", &pair.certificate),
            file("hub.key", &pair.key),
        );
        settings.timeout = Duration::from_secs(5);
        settings.follow_every = Duration::from_secs(5);
        settings.hub = Some(HubSettings::new(([127, 0, 0, 1], 0).into(), &settings));
        change(&mut settings);
        let store = Store::open(&database.url).await.unwrap();
        let signing = signers::pem().await;
        let desk = Desk::new(store, Some(signing.signer.clone()), desk::Settings::default());
        let host = |(id, server_name): &(&str, &str)| Host {
            id: (*id).into(),
            server_name: (*server_name).into(),
            ..Host::default()
        };
        let added: Vec<_> = hosts.iter().map(host).collect();
        added.iter().for_each(|host| import::check(host).unwrap());
        let plan = import::Plan { added, ..import::Plan::default() };
        let mut tx = desk.store().begin().await.unwrap();
        import::apply(&mut tx, &plan, "test", now_ms()).await.unwrap();
        tx.commit().await.unwrap();
        let fleet = Fleet::start(desk.clone(), &settings, sign()).unwrap();
        let hub = fleet.hub_address().unwrap();
        let (_signing, _database) = (signing, database);
        Self { desk, fleet, hub, authority, ca, directory, settings, _signing, _database }
    }

    /// Ends the hub as SIGKILL does, and starts it again at the same address.
    pub(super) fn restart(self) -> Self {
        let Self { desk, fleet, hub, mut settings, authority, ca, directory, _signing, _database } =
            self;
        drop(fleet);
        if let Some(of) = &mut settings.hub {
            of.listen = hub;
        }
        let fleet = loop {
            match Fleet::start(desk.clone(), &settings, sign()) {
                Ok(fleet) => break fleet,
                // The tasks of the one before end at their next step.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        Self { desk, fleet, hub, settings, authority, ca, directory, _signing, _database }
    }

    /// A client with a new certificate of these names.
    pub(super) fn client(&self, names: &Names) -> Arc<ClientConfig> {
        self.client_of(&self.authority, names)
    }

    pub(super) fn client_of(&self, authority: &Authority, names: &Names) -> Arc<ClientConfig> {
        let pair = authority.issue("agent", names, DAY).unwrap();
        self.config(Some((&pair.certificate, &pair.key)))
    }

    /// A client with the hub's own certificate.
    pub(super) fn thief(&self) -> Arc<ClientConfig> {
        let read = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap();
        self.config(Some((&read("hub.pem"), &read("hub.key"))))
    }

    pub(super) fn config(&self, pair: Option<(&str, &str)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(config)
    }

    pub(super) async fn observed(&self, host: &str) -> Observed {
        self.desk.store().host(host).await.unwrap().unwrap().observed
    }

    /// Waits until this host answers.
    pub(super) async fn up(&self, host: &str) {
        self.until("the host answers", async || {
            self.observed(host).await.condition.word() == "enforcing"
        })
        .await;
    }

    /// Waits until the hub has refused somebody with these words.
    pub(super) async fn refused(&self, words: &str) {
        self.until(words, async || {
            let report = self.fleet.hub_report().unwrap();
            report.refused.iter().any(|refused| refused.why.contains(words))
        })
        .await;
    }

    pub(super) async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is().await {
            let report = self.fleet.hub_report();
            assert!(began.elapsed() < Duration::from_secs(40), "not in time: {what}: {report:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A request that is signed and on its way to this host.
    pub(super) async fn request(&self, host: &str) -> Request {
        signed::request(&self.desk, host).await
    }

    /// Revokes a request, as the desk does.
    pub(super) async fn revoke(&self, id: &str) {
        signed::revoke(&self.desk, id).await;
    }

    /// What the only host of a request has answered.
    pub(super) async fn delivery(&self, request: &Request) -> Delivery {
        let rows = self.desk.store().deliveries_of(&request.proposal.id).await.unwrap();
        rows.into_iter().next().unwrap()
    }
}
