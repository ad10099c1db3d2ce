//! Two hosts with an agent each, a client and a stranger.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        daemon::Daemon,
        interrupt,
        net::{self, Addresses, CLIENT, HOST, NETWORKS, Namespace, SECOND, STRANGER, Seen},
        service::{self, Service},
    },
    controller::{Controller, IDENTITY},
};
use crate::build::Programs;

/// Ids of the hosts.
pub(super) const NAMES: [&str; 2] = ["web-1", "web-2"];
const ADDRESSES: [Addresses; 2] = [HOST, SECOND];
/// Where agents listen.
const CONTROL: u16 = 7443;
/// How long to wait before a connection counts as closed.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long one try of many waits.
const KNOCK: Duration = Duration::from_millis(50);

/// Names of the hosts, and where their agents listen.
pub(super) fn addresses() -> impl Iterator<Item = (&'static str, String)> {
    let of = |(name, address): (_, Addresses)| (name, format!("{}:{CONTROL}", address.v4));
    NAMES.into_iter().zip(ADDRESSES).map(of)
}

/// The namespaces, joined by a switch.
pub(super) struct Places {
    hosts: [Namespace; 2],
    client: Namespace,
    stranger: Namespace,
    /// The controller's, which has the switch.
    pub(super) controller: Namespace,
}

impl Places {
    /// Makes and joins them.
    pub(super) fn new() -> Result<Self> {
        let places = Self {
            hosts: [Namespace::new("web1")?, Namespace::new("web2")?],
            client: Namespace::new("client")?,
            stranger: Namespace::new("stranger")?,
            controller: Namespace::new("controller")?,
        };
        let [first, second] = &places.hosts;
        let members = [
            ("web1", first, HOST),
            ("web2", second, SECOND),
            ("client", &places.client, CLIENT),
            ("stranger", &places.stranger, STRANGER),
        ];
        net::join(&places.controller, &members)?;
        Ok(places)
    }
}

/// The hosts: an agent and a service on each.
pub(super) struct Hosts<'a> {
    places: &'a Places,
    scratch: PathBuf,
    agents: Vec<Daemon<'a>>,
    _services: Vec<Service>,
}

impl<'a> Hosts<'a> {
    /// Directories for the agents, and the services that they protect.
    pub(super) fn new(programs: &'a Programs, places: &'a Places, scratch: &Path) -> Result<Self> {
        let (mut agents, mut services) = (Vec::new(), Vec::new());
        for ((name, host), address) in NAMES.into_iter().zip(&places.hosts).zip(ADDRESSES) {
            let directory = scratch.join(name);
            fs::create_dir(&directory).context("a directory for an agent")?;
            services.push(Service::start(host, address, &directory)?);
            let pins = format!("{}-{name}", net::pin_directory());
            agents.push(Daemon::new(&programs.agent, host, &directory, Path::new(&pins))?);
        }
        Ok(Self { places, scratch: scratch.to_owned(), agents, _services: services })
    }

    /// Gives each agent a certificate and a configuration, and starts it.
    pub(super) fn start(&mut self, controller: &Controller<'_>) -> Result<String> {
        let mut words = Vec::new();
        for ((agent, name), address) in self.agents.iter_mut().zip(NAMES).zip(ADDRESSES) {
            controller.issue(name, &address.v4.to_string())?;
            let text = configuration(name, address, controller) + &agent.paths();
            fs::write(agent.configuration(), text).context("writing a configuration")?;
            agent.says(&["check"])?;
            words.push(format!("{name} in force after {} ms", agent.start()?.as_millis()));
        }
        Ok(words.join(", "))
    }

    /// Who can connect to which host. Fails unless it is the client, if `open`, and nobody else.
    pub(super) fn observe(&self, open: bool) -> Result<String> {
        interrupt::check()?;
        for (name, door) in doors() {
            for (who, from, expected) in
                [("client", &self.places.client, open), ("stranger", &self.places.stranger, false)]
            {
                let seen = net::connect(from, door, PATIENCE)?;
                let is_open = matches!(seen, Seen::Open(_));
                ensure!(is_open == expected, "the {who} at {name}, {door}: {seen:?}");
            }
        }
        let client = if open { "open" } else { "no answer" };
        Ok(format!("client {client}, stranger no answer, on {} (IPv4, IPv6)", NAMES.join(" and ")))
    }

    /// Waits until the client gets in on every host.
    pub(super) fn wait_until_open(&self, longest: Duration) -> Result<()> {
        self.wait(longest, |seen| matches!(seen, Seen::Open(_)), "open")
    }

    /// Waits until the client gets in nowhere.
    pub(super) fn wait_until_closed(&self, longest: Duration) -> Result<()> {
        self.wait(longest, |seen| matches!(seen, Seen::Silent), "closed")
    }

    fn wait(&self, longest: Duration, is: fn(&Seen) -> bool, word: &str) -> Result<()> {
        let began = Instant::now();
        for (name, door) in doors() {
            loop {
                interrupt::check()?;
                let seen = net::connect(&self.places.client, door, KNOCK)?;
                if is(&seen) {
                    break;
                }
                ensure!(
                    began.elapsed() < longest,
                    "{name} is not {word} after {longest:?}: {seen:?}"
                );
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Each host's audit names the grant of this request: admitted and revoked; and its chain is whole.
    pub(super) fn audits(&self, id: &str) -> Result<String> {
        for (agent, name) in self.agents.iter().zip(NAMES) {
            let said = agent.says(&["audit", "show", "--json"])?;
            let of_grant = said.lines().filter(|line| line.contains(id));
            for event in ["grant_admitted", "grant_revoked"] {
                let there = of_grant.clone().any(|line| line.contains(event));
                ensure!(there, "{name}: no {event} of {id}:\n{said}");
            }
            agent.says(&["audit", "verify"])?;
        }
        Ok("the same grant admitted and revoked on both; both chains are whole".to_owned())
    }

    /// The last lines of the programs' logs.
    pub(super) fn log_ends(&self) -> String {
        let agents = self.agents.iter().map(Daemon::log_end).collect::<String>();
        let controller =
            fs::read_to_string(self.scratch.join("controller.log")).unwrap_or_default();
        format!("the agents' last words:\n{agents}the controller's:\n{controller}")
    }
}

/// The protected port of each host, by both families.
fn doors() -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let of = |(name, address)| net::doors_of(address, service::PORT).map(|door| (name, door));
    NAMES.into_iter().zip(ADDRESSES).flat_map(of)
}

fn configuration(name: &str, address: Addresses, controller: &Controller<'_>) -> String {
    let (pki, signer) = (controller.pki(), controller.signer());
    let (pki, signer, [v4, v6]) = (pki.display(), signer.display(), NETWORKS);
    let (address, port) = (address.v4, service::PORT);
    format!(
        r#"[host]
id = "{name}"

[gate]
mode = "enforce"
interfaces = ["eth0"]

[[port]]
port = {port}
protocol = "tcp"
sources = ["{v4}", "{v6}"]
max_duration = "3h"

[control]
listen = "{address}:{CONTROL}"
certificate = "{pki}/{name}.pem"
key = "{pki}/{name}.key"
client_ca = "{pki}/ca.pem"

[[controller]]
identity = "{IDENTITY}"
may = ["grant", "revoke", "read"]

[[signer]]
id = "controller"
public_key = "{signer}"
max_duration = "12h"

"#
    )
}
