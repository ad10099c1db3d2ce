//! Many hosts with real agents, each in a namespace of its own, on one bridge with the controller.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_client::signing::{Algorithm, SigningKey};
use jit_tests::{
    netns::{Namespace, unique},
    process::{assert_end, children},
    programs::binary,
};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tempfile::TempDir;

/// The controller's address, as the hosts see it.
pub(crate) const CONTROLLER: &str = "198.18.0.1";
/// The name that all agents' certificates bear.
pub(crate) const NAME: &str = "agents.example.org";
/// The port where agents listen.
const PORT: u16 = 7443;
/// The port of the controller where agents dial in.
pub(crate) const HUB_PORT: u16 = 7444;
const START: Duration = Duration::from_secs(60);

/// The hosts, and the place of the controller.
pub(crate) struct Yard {
    pub(crate) hub: Namespace,
    pub(crate) grants: SigningKey,
    pub(crate) policies: SigningKey,
    directory: TempDir,
    hosts: Vec<Host>,
}

struct Host {
    namespace: Namespace,
    directory: PathBuf,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Yard {
    pub(crate) fn new() -> Self {
        let hub = Namespace::new();
        hub.ip(&["link", "add", "br0", "type", "bridge"]);
        hub.ip(&["addr", "add", "198.18.0.1/15", "dev", "br0"]);
        hub.ip(&["link", "set", "br0", "up"]);
        let directory = tempfile::tempdir().unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let key = || SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
        let (grants, policies) = (key(), key());
        fs::write(directory.path().join("grants.pem"), grants.public_pem()).unwrap();
        fs::write(directory.path().join("policies.pem"), policies.public_pem()).unwrap();
        let yard = Self { hub, grants, policies, directory, hosts: Vec::new() };
        let controller = "spiffe://example.org/jit-controller";
        for arguments in [
            &["init", "--dir", "pki", "--name", "ours"][..],
            &["issue", "--dir", "pki", "--name", "agent", "--dns", NAME],
            &[
                "issue",
                "--dir",
                "pki",
                "--name",
                "controller",
                "--uri",
                controller,
                "--ip",
                CONTROLLER,
            ],
        ] {
            yard.pki(arguments);
        }
        yard
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds a host whose agent has this id; it does not run yet. Returns its number.
    pub(crate) fn add(&mut self, id: &str) -> usize {
        let number = self.hosts.len();
        let namespace = Namespace::new();
        let port = format!("v{number}");
        let address = format!("{}/15", ip(number));
        self.hub.connect(&port, &[], &namespace, "e0", &[&address]);
        self.hub.ip(&["link", "set", &port, "master", "br0"]);
        let directory = self.path(&format!("host-{number}"));
        fs::create_dir(&directory).unwrap();
        let pins = format!("/sys/fs/bpf/jit-test-{}-{}", std::process::id(), unique());
        let host = Host { namespace, directory, pins: pins.into(), agent: None };
        self.hosts.push(host);
        self.configure(number, id, "", "");
        number
    }

    /// Writes the configuration of a host: port 22 protected, with these more lines of the section, and
    /// with more sections.
    pub(crate) fn configure(&self, number: usize, id: &str, port: &str, more: &str) {
        let (shared, address) = (self.directory.path().display(), ip(number));
        let listens = format!(
            r#"
[control]
listen = "{address}:{PORT}"
certificate = "{shared}/pki/agent.pem"
key = "{shared}/pki/agent.key"
client_ca = "{shared}/pki/ca.pem"
"#
        );
        self.write(number, id, port, &(listens + more));
    }

    /// Writes the configuration of a host whose agent listens nowhere, and dials the controller.
    pub(crate) fn configure_uplink(&self, number: usize, id: &str, more: &str) {
        let shared = self.directory.path().display();
        let uri = format!("spiffe://example.org/host/{id}");
        self.pki(&["issue", "--dir", "pki", "--name", id, "--uri", &uri]);
        let dials = format!(
            r#"
[uplink]
hubs = ["{CONTROLLER}:{HUB_PORT}"]
certificate = "{shared}/pki/{id}.pem"
key = "{shared}/pki/{id}.key"
ca = "{shared}/pki/ca.pem"
"#
        );
        self.write(number, id, "", &(dials + more));
    }

    fn pki(&self, arguments: &[&str]) {
        let mut jitctl = Command::new(binary("jitctl"));
        jitctl.arg("pki").args(arguments).current_dir(self.directory.path()).stdout(Stdio::null());
        assert!(jitctl.status().unwrap().success(), "{arguments:?}");
    }

    fn write(&self, number: usize, id: &str, port: &str, more: &str) {
        let host = &self.hosts[number];
        let (shared, own) = (self.directory.path().display(), host.directory.display());
        let pins = host.pins.display();
        let text = format!(
            r#"
[host]
id = "{id}"
[gate]
interfaces = ["e0"]
confirm_within = "off"
[[port]]
port = 22
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
{port}
[[signer]]
id = "grants"
public_key = "{shared}/grants.pem"
[[signer]]
id = "policies"
public_key = "{shared}/policies.pem"
signs = ["policy"]
[[controller]]
identity = "spiffe://example.org/jit-controller"
may = ["grant", "revoke", "read", "policy"]
[limits]
hosts = 1024
prefixes = 256
[paths]
state = "{own}/state"
runtime = "{own}/run"
pins = "{pins}"
{more}
"#
        );
        fs::write(host.directory.join("config.toml"), text).unwrap();
    }

    /// Starts an agent without waiting.
    pub(crate) fn spawn(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(host.directory.join("log")).unwrap();
        let mut command = Command::new(binary("jit-agent"));
        command.arg("run").arg("--config").arg(host.directory.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env("NO_COLOR", "1");
        host.agent = Some(host.namespace.start(&mut command));
    }

    /// Starts an agent, and waits until it listens.
    pub(crate) fn start(&mut self, number: usize) {
        self.spawn(number);
        let end = Instant::now() + START;
        let address = format!("{}:{PORT}", ip(number)).parse().unwrap();
        let listens = || {
            let patience = Duration::from_millis(300);
            std::net::TcpStream::connect_timeout(&address, patience).is_ok()
        };
        while !self.hub.run(listens) {
            assert!(Instant::now() < end, "host {number} does not listen:\n{}", self.log(number));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends an agent and its children.
    pub(crate) fn stop(&mut self, number: usize, signal: Signal) {
        let Some(mut child) = self.hosts[number].agent.take() else { return };
        let below = children(child.id());
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        assert_end(&below, START);
    }

    /// Sends a signal to an agent alone.
    pub(crate) fn signal_agent(&self, number: usize, signal: Signal) {
        let child = self.hosts[number].agent.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Sends a signal to an agent and to its children.
    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        let child = self.hosts[number].agent.as_ref().unwrap();
        for below in children(child.id()) {
            pidfd_send_signal(below, signal).unwrap();
        }
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Runs a command of a host's own person on call.
    #[track_caller]
    pub(crate) fn command(&self, number: usize, arguments: &[&str]) {
        let host = &self.hosts[number];
        let mut command = Command::new(binary("jit-agent"));
        command.args(arguments).arg("--config").arg(host.directory.join("config.toml"));
        let output = host.namespace.run(|| command.output().unwrap());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Makes a host whose agent does not run what it was before its first start.
    pub(crate) fn forget(&self, number: usize) {
        fs::remove_dir_all(self.state(number)).unwrap();
        remove(&self.hosts[number].pins);
    }

    pub(crate) fn state(&self, number: usize) -> PathBuf {
        self.hosts[number].directory.join("state")
    }

    pub(crate) fn log(&self, number: usize) -> String {
        fs::read_to_string(self.hosts[number].directory.join("log")).unwrap_or_default()
    }

    /// Where an agent listens.
    pub(crate) fn address(&self, number: usize) -> String {
        assert!(number < self.hosts.len());
        format!("{}:{PORT}", ip(number))
    }

    /// Starts a server on port 22 of a host.
    pub(crate) fn serve(&self, number: usize) {
        let listener =
            self.hosts[number].namespace.run(|| TcpListener::bind(("0.0.0.0", 22)).unwrap());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _greeted = std::io::Write::write_all(&mut stream, b"hi");
            }
        });
    }

    /// Whether the controller's address gets in at port 22 of a host.
    pub(crate) fn opens(&self, number: usize) -> bool {
        let address = format!("{}:22", ip(number)).parse().unwrap();
        self.hub.run(|| jit_tests::agent::opens(address, jit_tests::agent::PATIENCE))
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            if let Some(mut child) = host.agent.take() {
                let _ended = child.kill();
                let _reaped = child.wait();
            }
            remove(&host.pins);
        }
    }
}

fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        } else {
            let _gone = fs::remove_file(entry.path());
        }
    }
    let _gone = fs::remove_dir(directory);
}

/// The address of a host.
fn ip(number: usize) -> String {
    format!("198.18.{}.{}", 1 + number / 200, 1 + number % 200)
}
