//! A controller whose hosts dial its hub, and the simulated agents of all of them.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use jit_agent::config::Config;
use jit_client::ca::{Authority, Names};
use jit_controller::{
    model::Host,
    store::{Store, hosts},
};
use jit_tests::controller::Stage;
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

use super::{
    agent::Agent,
    board::Board,
    swarm::{HUB_NAME, Swarm},
};

/// Where the hub listens.
pub(crate) const HUB: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7444);
const DAY: Duration = Duration::from_secs(86_400);
/// What a stage sets for tests with few hosts: here what a controller does by itself is measured.
const OF_TESTS: &str = "follow_every = \"2s\"\ntimeout = \"5s\"\n";

/// The controller, the agents, and what they have seen.
pub(crate) struct Site {
    pub(crate) stage: Stage,
    pub(crate) swarm: Swarm,
    pub(crate) board: Arc<Board>,
    pub(crate) ids: Vec<String>,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
}

impl Site {
    /// With this number of hosts. Their agents are not connected yet.
    pub(crate) fn new(stage: Stage, count: usize) -> Self {
        Self::with(stage, count, &[], |stage, authority| {
            certify_hub(authority, &stage.own(""));
            format!("\n[hub]\nlisten = \"{HUB}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\n")
        })
    }

    /// The same for a controller with these roles, whose configuration gets what is made here.
    pub(crate) fn with(
        mut stage: Stage,
        count: usize,
        roles: &[&str],
        more: impl FnOnce(&Stage, &Authority) -> String,
    ) -> Self {
        stage.end_controller(Signal::TERM);
        let read = |name: &str| fs::read_to_string(stage.own(name)).unwrap();
        let ca = read("pki/ca.pem");
        let authority = Authority::from_pem(&ca, &read("pki/ca.key")).unwrap();
        configure(&stage, &more(&stage, &authority));
        let ids: Vec<_> = (0..count).map(|number| format!("h-{number:05}")).collect();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = Store::sqlite_url(&stage.own("controller.db"));
        let store = runtime.block_on(fill(&url, &ids));
        let (trust, board) = (Arc::new(trust(&stage)), Arc::new(Board::default()));
        let agents = ids.iter().enumerate();
        let agents = agents.map(|(number, id)| Agent::new(number, id.clone(), &trust, &board));
        let swarm = Swarm::new(agents.collect(), (&authority, &ca), &stage.hub);
        stage.start_controller(roles);
        Self { stage, swarm, board, ids, store, runtime }
    }

    /// The controller's database.
    pub(crate) fn url(&self) -> String {
        Store::sqlite_url(&self.stage.own("controller.db"))
    }

    /// Number of hosts that the inventory shows as enforcing.
    pub(crate) fn enforcing(&self) -> usize {
        let conditions = self.runtime.block_on(self.store.host_conditions()).unwrap();
        conditions.get("enforcing").map_or(0, |count| usize::try_from(*count).unwrap())
    }
}

/// Writes a certificate of a hub, with its key, into a directory.
pub(crate) fn certify_hub(authority: &Authority, directory: &Path) {
    let names = Names {
        dns: vec![HUB_NAME.into()],
        uri: vec!["spiffe://example.org/hub".into()],
        ..Names::default()
    };
    let pair = authority.issue("hub", &names, DAY).unwrap();
    fs::write(directory.join("hub.pem"), &pair.certificate).unwrap();
    fs::write(directory.join("hub.key"), &pair.key).unwrap();
}

/// Room for requests for all hosts, and more.
fn configure(stage: &Stage, more: &str) {
    let file = stage.own("controller.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(OF_TESTS), "{text}");
    let limits = "[signer.limits]\nhosts_a_request = 10000\n";
    let text = text.replacen(OF_TESTS, "", 1).replacen("[signer.limits]\n", limits, 1);
    fs::write(&file, text + more).unwrap();
}

/// Puts the hosts in, none of which has an address.
async fn fill(url: &str, ids: &[String]) -> Store {
    let store = Store::open(url).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    for id in ids {
        let labels = [("env".to_owned(), "dev".to_owned())].into();
        let host = Host { id: id.clone(), labels, ..Host::default() };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    tx.commit().await.unwrap();
    store
}

/// The controller's keys, and a policy that allows what is asked for.
fn trust(stage: &Stage) -> Config {
    let text = "[host]\nid = \"any\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
                sources = [\"0.0.0.0/0\"]\n[[signer]]\nid = \"controller\"\n\
                public_key = \"signer.pub.pem\"\n[[signer]]\nid = \"revocations\"\n\
                public_key = \"revocation.pub.pem\"\nsigns = [\"revocation\"]\n\
                [[signer]]\nid = \"freshness\"\npublic_key = \"freshness.pub.pem\"\n\
                signs = [\"checkpoint\"]\n";
    Config::parse(text, &stage.own("agent.toml")).unwrap()
}
