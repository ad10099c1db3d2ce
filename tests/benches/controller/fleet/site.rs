//! A controller whose hosts dial its hub, and the simulated agents of all of them.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

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
pub(super) const HUB: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7444);
const DAY: Duration = Duration::from_secs(86_400);
/// What a stage sets for tests with few hosts: here what a controller does by itself is measured.
const OF_TESTS: &str = "follow_every = \"2s\"\ntimeout = \"5s\"\n";

/// The controller, the agents, and what they have seen.
pub(super) struct Site {
    pub(super) stage: Stage,
    pub(super) swarm: Swarm,
    pub(super) board: Arc<Board>,
    pub(super) ids: Vec<String>,
    pub(super) store: Store,
    pub(super) runtime: Runtime,
}

impl Site {
    /// With this number of hosts. Their agents are not connected yet.
    pub(super) fn new(mut stage: Stage, count: usize) -> Self {
        stage.end_controller(Signal::TERM);
        let read = |name: &str| fs::read_to_string(stage.own(name)).unwrap();
        let ca = read("pki/ca.pem");
        let authority = Authority::from_pem(&ca, &read("pki/ca.key")).unwrap();
        add_hub(&stage, &authority);
        let ids: Vec<_> = (0..count).map(|number| format!("h-{number:05}")).collect();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = Store::sqlite_url(&stage.own("controller.db"));
        let store = runtime.block_on(fill(&url, &ids));
        let (trust, board) = (Arc::new(trust(&stage)), Arc::new(Board::default()));
        let agents = ids.iter().enumerate();
        let agents = agents.map(|(number, id)| Agent::new(number, id.clone(), &trust, &board));
        let swarm = Swarm::new(agents.collect(), (&authority, &ca), &stage.hub);
        stage.start_controller(&[]);
        Self { stage, swarm, board, ids, store, runtime }
    }

    /// The controller's database.
    pub(super) fn url(&self) -> String {
        Store::sqlite_url(&self.stage.own("controller.db"))
    }

    /// Number of hosts that the inventory shows as enforcing.
    pub(super) fn enforcing(&self) -> usize {
        let conditions = self.runtime.block_on(self.store.host_conditions()).unwrap();
        conditions.get("enforcing").map_or(0, |count| usize::try_from(*count).unwrap())
    }
}

/// A hub with a certificate of its own, and room for requests for all hosts.
fn add_hub(stage: &Stage, authority: &Authority) {
    let names = Names {
        dns: vec![HUB_NAME.into()],
        uri: vec!["spiffe://example.org/hub".into()],
        ..Names::default()
    };
    let pair = authority.issue("hub", &names, DAY).unwrap();
    fs::write(stage.own("hub.pem"), &pair.certificate).unwrap();
    fs::write(stage.own("hub.key"), &pair.key).unwrap();
    let file = stage.own("controller.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(OF_TESTS), "{text}");
    let limits = "[signer.limits]\nhosts_a_request = 10000\n";
    let text = text.replacen(OF_TESTS, "", 1).replacen("[signer.limits]\n", limits, 1);
    let hub =
        format!("\n[hub]\nlisten = \"{HUB}\"\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\n");
    fs::write(&file, text + &hub).unwrap();
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
                public_key = \"revocation.pub.pem\"\nsigns = [\"revocation\"]\n";
    Config::parse(text, &stage.own("agent.toml")).unwrap()
}
