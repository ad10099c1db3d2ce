//! The real agent in the host's namespace, and `jitctl` as its controller. Makes keys, certificates
//! and the configuration, and pushes grants. All files are in one temporary directory.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    daemon::Daemon,
    net::{self, HOST, NETWORKS, Network},
    service,
};
use crate::build::Programs;

/// The port on which the agent listens for its controller.
const CONTROL: u16 = 7443;
const HOST_ID: &str = "web-1";
const CONTROLLER: &str = "spiffe://example.org/jit-controller";

/// The agent's files, and its process while it runs.
pub(super) struct Agent<'a> {
    programs: &'a Programs,
    network: &'a Network,
    directory: PathBuf,
    pub(super) daemon: Daemon<'a>,
}

/// A grant that was accepted.
pub(super) struct Granted {
    pub(super) id: String,
    /// When it ends.
    pub(super) not_after: SystemTime,
}

impl<'a> Agent<'a> {
    /// Makes keys, certificates and the configuration. The agent then checks the configuration.
    pub(super) fn new(
        programs: &'a Programs,
        network: &'a Network,
        directory: &Path,
    ) -> Result<Self> {
        let pins = PathBuf::from(net::pin_directory());
        let daemon = Daemon::new(&programs.agent, &network.host, directory, &pins)?;
        let agent = Self { programs, network, directory: directory.to_owned(), daemon };
        let key = agent.file("signer");
        agent.jitctl(["keygen", "--algorithm", "ed25519", "--out", &key])?;
        let pki = agent.file("pki");
        agent.jitctl(["pki", "init", "--dir", &pki])?;
        let host = HOST.v4.to_string();
        agent.jitctl(["pki", "issue", "--dir", &pki, "--name", "agent", "--ip", &host])?;
        agent.jitctl([
            "pki",
            "issue",
            "--dir",
            &pki,
            "--name",
            "controller",
            "--uri",
            CONTROLLER,
        ])?;
        fs::write(agent.daemon.configuration(), agent.configured())
            .context("writing a configuration")?;
        agent.daemon.says(&["check"])?;
        Ok(agent)
    }

    /// Pushes a grant for these sources, and fails unless the agent accepts it.
    pub(super) fn grant(&self, sources: &[String], duration: &str, why: &str) -> Result<Granted> {
        let key = self.file("signer.key");
        let port = format!("{}/tcp", service::PORT);
        let mut arguments = vec!["grant", "--json", "--signing-key", &key, "--host", HOST_ID];
        arguments.extend(sources.iter().flat_map(|source| ["--source", source]));
        arguments.extend(["--port", &port, "--for", duration, "--ticket", "INC-4211"]);
        arguments.extend(["--requester", "ana@example.org", "--why", why]);
        let output = self.control(&arguments)?;
        let said: Value = serde_json::from_slice(&output.stdout)
            .context("what `jitctl grant --json` printed is not JSON")?;
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        let id = text("grant_id").context("no id in it")?;
        let end: Timestamp = text("not_after").context("no end in it")?.parse()?;
        let not_after = SystemTime::from(end);
        Ok(Granted { id: id.to_owned(), not_after })
    }

    /// Revokes a grant.
    pub(super) fn revoke(&self, id: &str) -> Result<()> {
        self.control(&["revoke", "--id", id, "--reason", "the work is done"]).map(drop)
    }

    /// `jitctl` from the controller's namespace, with its certificate.
    fn control(&self, arguments: &[&str]) -> Result<Output> {
        let agent = SocketAddr::from((HOST.v4, CONTROL)).to_string();
        let [ca, certificate, key] =
            ["ca.pem", "controller.pem", "controller.key"].map(|name| self.file("pki/") + name);
        let globals = ["--agent", &agent, "--ca", &ca, "--cert", &certificate, "--key", &key];
        let mut command = Command::new(&self.programs.jitctl);
        command.args(globals).args(arguments);
        self.network.controller.ended_well(command)
    }

    fn jitctl<const N: usize>(&self, arguments: [&str; N]) -> Result<()> {
        let mut command = Command::new(&self.programs.jitctl);
        command.args(arguments);
        self.network.host.ended_well(command).map(drop)
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn configured(&self) -> String {
        let (directory, paths) = (self.directory.display(), self.daemon.paths());
        let [v4, v6] = NETWORKS;
        let (address, port) = (HOST.v4, service::PORT);
        format!(
            r#"[host]
id = "{HOST_ID}"

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
certificate = "{directory}/pki/agent.pem"
key = "{directory}/pki/agent.key"
client_ca = "{directory}/pki/ca.pem"

[[controller]]
identity = "{CONTROLLER}"
may = ["grant", "revoke", "read"]

[[signer]]
id = "demo"
public_key = "{directory}/signer.pub.pem"
max_duration = "12h"

{paths}"#
        )
    }
}
