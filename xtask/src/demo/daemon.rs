//! A real agent in a host's namespace: its process, what `status` says of it, and its end.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{interrupt, net::Namespace};

/// Longest wait for the gate.
const READY: Duration = Duration::from_secs(10);

/// An agent with its files, and its process while it runs.
pub(super) struct Daemon<'a> {
    program: &'a Path,
    host: &'a Namespace,
    directory: PathBuf,
    pins: PathBuf,
    process: Option<Child>,
}

impl<'a> Daemon<'a> {
    /// Makes the directories of an agent. Its configuration is written by the caller, with
    /// [`Daemon::paths`] in it.
    pub(super) fn new(
        program: &'a Path,
        host: &'a Namespace,
        directory: &Path,
        pins: &Path,
    ) -> Result<Self> {
        let daemon = Self {
            program,
            host,
            directory: directory.to_owned(),
            pins: pins.to_owned(),
            process: None,
        };
        for private in [directory.join("state"), directory.join("run"), pins.to_owned()] {
            DirBuilder::new()
                .mode(0o700)
                .create(&private)
                .with_context(|| format!("creating {}", private.display()))?;
        }
        Ok(daemon)
    }

    /// The section of the configuration that names its directories.
    pub(super) fn paths(&self) -> String {
        let (pins, directory) = (self.pins.display(), self.directory.display());
        format!(
            "[paths]\nstate = \"{directory}/state\"\nruntime = \"{directory}/run\"\npins = \"{pins}\"\n"
        )
    }

    /// The file of the configuration.
    pub(super) fn configuration(&self) -> PathBuf {
        self.directory.join("config.toml")
    }

    /// Starts the agent and waits until the gate is in force. Returns how long that took.
    pub(super) fn start(&mut self) -> Result<Duration> {
        let log = File::create(self.log()).context("creating the agent's log")?;
        let mut command = Command::new(self.program);
        command.arg("run").arg("--config").arg(self.configuration());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env_remove("NOTIFY_SOCKET");
        let started = Instant::now();
        let child = self.host.inside(move || command.spawn())?;
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

    /// The screen for the engineer on call.
    pub(super) fn status(&self) -> Result<String> {
        self.says(&["status"])
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
        let mut command = Command::new(self.program);
        command.args(["status", "--json", "--config"]).arg(self.configuration());
        let output = self.host.output(command)?;
        let said: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("status printed no JSON: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let state = said.get("state").and_then(Value::as_str).context("no state in the JSON")?;
        Ok((output.status.code(), state.to_owned()))
    }

    /// What the agent's program prints with these arguments. Fails unless it ends well.
    pub(super) fn says(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.program);
        command.args(arguments).arg("--config").arg(self.configuration());
        let output = self.host.ended_well(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }
}

impl Drop for Daemon<'_> {
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
