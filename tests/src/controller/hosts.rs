//! A host with a real agent that listens for the controller, and servers on its protected ports.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{CONTROLLER, START, said};
use crate::{
    agent::{greet, new_pins, opens, remove_pins},
    netns::Namespace,
    process::{assert_end, children},
    programs::binary,
};

/// The name that all agents' certificates bear.
pub const CERTIFICATE_NAME: &str = "agents.example.org";
/// The protected ports. A server listens on each.
pub const PORTS: [u16; 2] = [22, 443];
/// Where agents listen.
const AGENT_PORT: u16 = 7443;

/// A host.
pub struct Host {
    number: usize,
    id: String,
    namespace: Namespace,
    /// The controller's directory.
    controller: PathBuf,
    directory: PathBuf,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Host {
    /// Makes a host on the bridge of `hub`. Its servers listen, its agent does not run yet.
    pub(super) fn new(
        number: usize,
        id: &str,
        hub: &Namespace,
        controller: &Path,
        below: &Path,
    ) -> Self {
        let namespace = Namespace::new();
        let port = format!("v{number}");
        hub.connect(&port, &[], &namespace, "e0", &[&format!("{}/15", ip(number))]);
        hub.ip(&["link", "set", &port, "master", "br0"]);
        let directory = below.join(format!("host-{number}"));
        fs::create_dir(&directory).expect("a directory for a host");
        let (controller, id) = (controller.to_owned(), id.to_owned());
        let host =
            Self { number, id, namespace, controller, directory, pins: new_pins(), agent: None };
        for port in PORTS {
            host.serve(port);
        }
        host.configure(&host.id, "\"0.0.0.0/0\", \"::/0\"", "");
        host
    }

    /// Writes the agent's configuration: this id, sources that the ports may open to, more sections.
    pub fn configure(&self, id: &str, sources: &str, more: &str) {
        let (shared, address) = (self.controller.display(), self.address());
        let listens = format!(
            r#"
[control]
listen = "{address}"
certificate = "{shared}/pki/agent.pem"
key = "{shared}/pki/agent.key"
client_ca = "{shared}/pki/ca.pem"
{more}"#
        );
        self.write(id, sources, &listens);
    }

    /// Writes the configuration of an agent that listens nowhere, and dials a hub by this section.
    pub fn configure_uplink(&self, uplink: &str) {
        self.write(&self.id, "\"0.0.0.0/0\", \"::/0\"", uplink);
    }

    fn write(&self, id: &str, sources: &str, more: &str) {
        let (shared, own) = (self.controller.display(), self.directory.display());
        let pins = self.pins.display();
        let ports = PORTS.map(|port| {
            format!("[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [{sources}]\n")
        });
        let text = format!(
            r#"
[host]
id = "{id}"
[gate]
interfaces = ["e0"]
confirm_within = "off"
{}
[[signer]]
id = "controller"
public_key = "{shared}/signer.pub.pem"
signs = ["grant", "policy"]
[[controller]]
identity = "spiffe://{CONTROLLER}/jit-controller"
may = ["grant", "policy", "read", "revoke"]
[limits]
hosts = 1024
prefixes = 256
[paths]
state = "{own}/state"
runtime = "{own}/run"
pins = "{pins}"
{more}"#,
            ports.concat(),
        );
        fs::write(self.config(), text).expect("write the configuration");
    }

    /// Has a server listen on another port of it.
    pub fn serve(&self, port: u16) {
        greet(self.namespace.run(|| TcpListener::bind(("0.0.0.0", port)).expect("listen")));
    }

    /// Its id, as it was made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its agent listens.
    pub fn address(&self) -> String {
        format!("{}:{AGENT_PORT}", ip(self.number))
    }

    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        format!("{}:{port}", ip(self.number)).parse().expect("an address")
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// What its agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts its agent and returns at once.
    pub fn spawn(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        // The socket of a killed agent must not look like an answer.
        drop(fs::remove_file(self.path("run/agent.sock")));
        let log = fs::File::options().create(true).append(true).open(self.path("log"));
        let mut command = Command::new(binary("jit-agent"));
        command.arg("run").arg("--config").arg(self.config()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("open the log"));
        self.agent = Some(self.namespace.start(&mut command));
    }

    /// Waits until its agent listens.
    pub fn wait(&mut self) {
        let end = Instant::now() + START;
        while !self.path("run/agent.sock").exists() {
            let child = self.agent.as_mut().expect("an agent");
            let ended = child.try_wait().expect("wait for the agent");
            assert!(ended.is_none(), "the agent ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "{} does not start:\n{}", self.id, self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts its agent, and waits until it listens.
    pub fn start(&mut self) {
        self.spawn();
        self.wait();
    }

    /// Ends its agent by a signal.
    pub fn end(&mut self, signal: Signal) {
        let mut child = self.agent.take().expect("an agent");
        let below = children(child.id());
        kill_process(Pid::from_child(&child), signal).expect("signal the agent");
        child.wait().expect("wait for the agent");
        assert_end(&below, START);
    }

    /// Whether a connection from there to a port of it opens within a time.
    pub fn opens_from(&self, there: &Namespace, port: u16, within: Duration) -> bool {
        there.run(|| opens(self.at(port), within))
    }

    /// Runs a command of its agent's program.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("jit-agent"));
        command.args(arguments).arg("--config").arg(self.config()).env("NO_COLOR", "1");
        self.namespace.run(|| command.output().expect("run jit-agent"))
    }

    /// The lines of JSON that a command of its agent's program prints.
    pub fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The agent's audit.
    pub fn audit(&self) -> Vec<Value> {
        self.lines(&["audit", "show", "--json"])
    }

    /// `status --json`, whatever its exit code is.
    pub fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        remove_pins(&self.pins);
    }
}

/// The address of a host.
fn ip(number: usize) -> String {
    format!("198.18.{}.{}", 1 + number / 200, 1 + number % 200)
}
