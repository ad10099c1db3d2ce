//! The real agent in the host's namespace, and `jitctl` as its controller. Makes keys, certificates
//! and the configuration, starts and kills the agent, and pushes grants. All files are in one
//! temporary directory.

use std::{
    fs::{self, DirBuilder, File},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    interrupt,
    net::{self, HOST, NETWORKS, Namespace, Network},
    service,
};
use crate::build::Programs;

/// The port on which the agent listens for its controller.
const CONTROL: u16 = 7443;
const HOST_ID: &str = "web-1";
const CONTROLLER: &str = "spiffe://example.org/jit-controller";
const READY: Duration = Duration::from_secs(10);

/// The agent's files, and its process while it runs.
pub(super) struct Agent<'a> {
    programs: &'a Programs,
    network: &'a Network,
    directory: PathBuf,
    pins: PathBuf,
    process: Option<Child>,
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
        let agent =
            Self { programs, network, directory: directory.to_owned(), pins, process: None };
        for private in [agent.directory.join("state"), agent.directory.join("run"), agent.pins()] {
            DirBuilder::new()
                .mode(0o700)
                .create(&private)
                .with_context(|| format!("creating {}", private.display()))?;
        }
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
        fs::write(agent.configuration(), agent.configured()).context("writing a configuration")?;
        agent.succeed(&agent.programs.agent, &["check", "--config", &agent.configuration()])?;
        Ok(agent)
    }

    /// Starts the agent and waits until the gate is in force. Returns how long that took.
    pub(super) fn start(&mut self) -> Result<Duration> {
        let log = File::create(self.log()).context("creating the agent's log")?;
        let mut command = Command::new(&self.programs.agent);
        command.args(["run", "--config", &self.configuration()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env_remove("NOTIFY_SOCKET");
        let started = Instant::now();
        let child = self.network.host.inside(move || command.spawn())?;
        let child = self.process.insert(child.context("starting the agent")?);
        let pid = child.id();
        loop {
            interrupt::check()?;
            if let Some(status) = self.process.as_mut().and_then(|child| child.try_wait().ok()?) {
                bail!("the agent ended at once ({status}):\n{}", self.log_end());
            }
            if self.state().is_ok_and(|(code, state)| code == Some(0) && state == "enforcing") {
                return Ok(started.elapsed());
            }
            if started.elapsed() > READY {
                bail!(
                    "the agent (pid {pid}) is not enforcing after {READY:?}:\n{}",
                    self.log_end()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the agent with SIGKILL, as the kernel would. Returns its process id.
    pub(super) fn kill(&mut self) -> Result<u32> {
        let mut child = self.process.take().context("the agent does not run")?;
        child.kill().context("killing the agent")?;
        child.wait().context("waiting for the agent's end")?;
        Ok(child.id())
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

    /// The screen for the engineer on call.
    pub(super) fn status(&self) -> Result<String> {
        let output =
            self.succeed(&self.programs.agent, &["status", "--config", &self.configuration()])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The state that `status` shows when the agent is dead: the gate is in force, but degraded.
    pub(super) fn status_of_the_dead(&self) -> Result<String> {
        const DEGRADED: i32 = 1;
        let (code, state) = self.state()?;
        ensure!(
            code == Some(DEGRADED) && state == "degraded",
            "it says {state} with exit code {code:?}"
        );
        Ok(format!("{state}, exit code {DEGRADED}"))
    }

    /// The last lines of the agent's log.
    pub(super) fn log_end(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        end.iter().map(|line| format!("    {line}\n")).collect()
    }

    /// Exit code and state of `jit-agent status`.
    fn state(&self) -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&self.programs.agent);
        command.args(["status", "--json", "--config", &self.configuration()]);
        let output = self.output(&self.network.host, command)?;
        let said: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("status printed no JSON: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let state = said.get("state").and_then(Value::as_str).context("no state in the JSON")?;
        Ok((output.status.code(), state.to_owned()))
    }

    /// `jitctl` from the controller's namespace, with its certificate.
    fn control(&self, arguments: &[&str]) -> Result<Output> {
        let agent = SocketAddr::from((HOST.v4, CONTROL)).to_string();
        let [ca, certificate, key] =
            ["ca.pem", "controller.pem", "controller.key"].map(|name| self.file("pki/") + name);
        let globals = ["--agent", &agent, "--ca", &ca, "--cert", &certificate, "--key", &key];
        let mut command = Command::new(&self.programs.jitctl);
        command.args(globals).args(arguments);
        self.ended_well(&self.network.controller, command)
    }

    fn jitctl<const N: usize>(&self, arguments: [&str; N]) -> Result<()> {
        self.succeed(&self.programs.jitctl, &arguments).map(drop)
    }

    fn succeed(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments);
        self.ended_well(&self.network.host, command)
    }

    fn ended_well(&self, from: &Namespace, command: Command) -> Result<Output> {
        let shown = crate::shell::show(&command);
        let output = self.output(from, command)?;
        ensure!(
            output.status.success(),
            "`{shown}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output)
    }

    fn output(&self, from: &Namespace, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null());
        let shown = crate::shell::show(&command);
        from.inside(move || command.output())?.with_context(|| format!("cannot start `{shown}`"))
    }

    fn pins(&self) -> PathBuf {
        self.pins.clone()
    }

    fn configuration(&self) -> String {
        self.file("config.toml")
    }

    fn log(&self) -> String {
        self.file("agent.log")
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn configured(&self) -> String {
        let (pins, directory) = (self.pins.display(), self.directory.display());
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

[paths]
state = "{directory}/state"
runtime = "{directory}/run"
pins = "{pins}"
"#
        )
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            drop(child.kill());
            drop(child.wait());
        }
        // The pins are the last references to the programs: without them the kernel removes the
        // programs from the interface.
        if let Err(error) = fs::remove_dir_all(&self.pins) {
            eprintln!("not removed: {}: {error}", self.pins.display());
        }
    }
}
