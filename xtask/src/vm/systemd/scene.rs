//! Everything that a step works with: the machine, the stranger, the controller, and the moments in
//! which nobody without a grant may get in.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use serde_json::Value;

use super::{
    link::{Addresses, CLIENT, Link, MACHINE},
    machine::{Done, Machine},
    packages::Packages,
    probe::{PORT, Probe},
    session::{Ends, Session},
};
use crate::shell;

/// How long a client waits for a connection. Emulation is slow.
const PATIENCE: Duration = Duration::from_secs(10);
/// The host's name in grants.
pub(super) const HOST_ID: &str = "web-1";
/// The controller's name in its certificate.
pub(super) const CONTROLLER: &str = "spiffe://example.org/jit-controller";
/// The port for controllers.
pub(super) const CONTROL: u16 = 7443;

/// What the steps share.
pub(super) struct Scene {
    // Dropped in this order: the stranger leaves before the link goes.
    pub(super) probe: Probe,
    pub(super) machine: Machine,
    pub(super) packages: Packages,
    /// The program of the floods, if a step needs it.
    pub(super) floods: Option<PathBuf>,
    /// A folder on this host for keys and certificates.
    pub(super) scratch: PathBuf,
    /// Since when nobody may get in.
    pub(super) closed_since: Option<Instant>,
    /// The session that is to live through what happens.
    pub(super) session: Option<Session>,
    pub(super) link: Link,
}

impl Scene {
    /// The stranger must have tried, and not got in, since this moment. Returns a sentence.
    pub(super) fn nobody_since(&self, from: Instant) -> Result<String> {
        self.nobody(from, Instant::now())
    }

    /// As `nobody_since`, up to a moment.
    pub(super) fn nobody(&self, from: Instant, to: Instant) -> Result<String> {
        let passed = self.probe.passed(from, to)?;
        let first = passed.first().map(ToString::to_string).unwrap_or_default();
        ensure!(passed.is_empty(), "{} attempts got past the gate, first: {first}", passed.len());
        Ok(format!("0 opened in {:.0} s", to.duration_since(from).as_secs_f64()))
    }

    /// Waits until the stranger gets in, by both addresses.
    pub(super) fn stranger_gets_in(&self, patience: Duration) -> Result<String> {
        let from = Instant::now();
        while from.elapsed() < patience {
            let passed = self.probe.passed(from, Instant::now())?;
            if MACHINE.both().iter().all(|to| passed.iter().any(|one| one.connected_to(*to))) {
                return Ok("the stranger gets in by both addresses".to_owned());
            }
            thread::sleep(Duration::from_millis(200));
        }
        let passed = self.probe.passed(from, Instant::now())?;
        anyhow::bail!("the stranger does not get in by both addresses: {} answers", passed.len())
    }

    /// Whether a host on the link gets a connection to the protected port, by each address.
    pub(super) fn gets_in(&self, who: Addresses) -> Result<bool> {
        for (from, to) in who.both().into_iter().zip(MACHINE.both()) {
            if self.link.inside(|| connects(from, to))?.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `jitctl` from the controller's address.
    pub(super) fn jitctl(&self, arguments: &[&str]) -> Result<Output> {
        self.jitctl_with(&self.scratch.join("pki"), arguments)
    }

    /// The same with the certificates of this folder.
    pub(super) fn jitctl_with(&self, pki: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.packages.jitctl);
        command.args(["--agent", &SocketAddr::new(MACHINE.v4.into(), CONTROL).to_string()]);
        for (option, name) in
            [("--ca", "ca.pem"), ("--cert", "controller.pem"), ("--key", "controller.key")]
        {
            command.arg(option).arg(pki.join(name));
        }
        command.args(arguments).stdin(Stdio::null());
        self.link.output(&mut command)
    }

    /// Grants the client the protected port, for this long.
    pub(super) fn grant(&self, duration: &str) -> Result<()> {
        let key = self.scratch.join("signer.key").display().to_string();
        let mut arguments = vec!["grant", "--json", "--signing-key", &key, "--host", HOST_ID];
        let sources = CLIENT.both().map(|address| address.to_string());
        arguments.extend(sources.iter().flat_map(|source| ["--source", source]));
        arguments.extend(["--port", "22/tcp", "--for", duration, "--why", "disk full"]);
        arguments.extend(["--requester", "ana@example.org", "--ticket", "INC-4211"]);
        let output = self.jitctl(&arguments)?;
        ensure!(
            output.status.success(),
            "jitctl grant ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Exit code and content of `jit-agent status --json` in the machine.
    pub(super) fn status(&mut self) -> Result<(i32, Value)> {
        let done = self.machine.attempt("jit-agent status --json", Duration::from_secs(30))?;
        let value = serde_json::from_str(&done.output)
            .with_context(|| format!("status printed no JSON: {}", done.output.trim()))?;
        Ok((done.code, value))
    }

    /// The agent's last lines in the machine's journal.
    pub(super) fn agent_log(&mut self) -> String {
        const SCRIPT: &str = "journalctl --boot --no-pager --lines 30 --output short-monotonic \
                              --unit jit-agent --unit jit-agent-early";
        match self.machine.attempt(SCRIPT, Duration::from_secs(60)) {
            Ok(done) => done.output.lines().map(|line| format!("    | {line}\n")).collect(),
            Err(error) => format!("    the machine's journal: {error:#}"),
        }
    }

    /// Waits until `status` is as wanted. A failure shows the last one.
    pub(super) fn wait_status(
        &mut self,
        what: &str,
        wanted: impl Fn(i32, &Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (code, status) = self.status()?;
            if wanted(code, &status) {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "{what}: status ends with {code}, state {}, problems {}",
                status.get("state").unwrap_or(&Value::Null),
                status.get("problems").unwrap_or(&Value::Null)
            );
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until the gate is in force and nothing is amiss.
    pub(super) fn wait_enforcing(&mut self) -> Result<()> {
        self.wait_status("not ENFORCING", |code, _| code == 0).map(drop)
    }

    /// An SSH session of the client, with an echo at the other end.
    pub(super) fn open_session(&mut self) -> Result<()> {
        let mut session = self.ssh(Ends::Pipes, "cat")?;
        session.echo().context("the session has only begun")?;
        self.session = Some(session);
        Ok(())
    }

    /// A new SSH session of the client, as root, with this command.
    pub(super) fn ssh(&self, ends: Ends, command: &str) -> Result<Session> {
        Session::open(&self.link, CLIENT.v4, &self.scratch.join("ssh"), ends, command)
    }

    /// The client, who is exempt by IPv4, must get a new SSH session.
    pub(super) fn exempt_gets_in(&self) -> Result<()> {
        let done = self.ssh(Ends::Pipes, "echo in")?.answers(|_| "", PATIENCE * 6)?;
        let Done { code, output } = done;
        ensure!(code == 0 && output == "in\n", "the exempt client is shut out: {code}, {output}");
        Ok(())
    }

    /// The session must still answer.
    pub(super) fn session_lives(&mut self) -> Result<()> {
        self.session.as_mut().context("no session was opened")?.echo()
    }

    /// Makes keys and certificates on this host.
    pub(super) fn make_keys(&self) -> Result<()> {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&self.packages.jitctl);
            shell::quiet(command.args(arguments).current_dir(&self.scratch)).map(drop)
        };
        let ip = MACHINE.v4.to_string();
        run(&["keygen", "--algorithm", "ed25519", "--out", "signer"])?;
        run(&["pki", "init", "--dir", "pki"])?;
        run(&["pki", "issue", "--dir", "pki", "--name", "agent", "--ip", &ip])?;
        run(&["pki", "issue", "--dir", "pki", "--name", "other", "--ip", &ip])?;
        run(&["pki", "issue", "--dir", "pki", "--name", "controller", "--uri", CONTROLLER])?;
        let mut ssh = shell::program("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f"]);
        shell::quiet(ssh.arg(self.scratch.join("ssh"))).map(drop)
    }

    /// Puts a file from the scratch folder into the machine.
    pub(super) fn put(&mut self, from: &str, to: &str, owner: &str, mode: &str) -> Result<()> {
        let content =
            fs::read(self.scratch.join(from)).with_context(|| format!("reading {from}"))?;
        self.machine.put(to, owner, mode, &content)
    }
}

fn connects(from: IpAddr, to: IpAddr) -> Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).context("making a socket")?;
    // The limit for `connect`, too.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))
        .context("limiting a socket")?;
    bind(&socket, &SocketAddr::new(from, 0)).context("binding the client's address")?;
    connect(&socket, &SocketAddr::new(to, PORT)).context("connecting")
}
