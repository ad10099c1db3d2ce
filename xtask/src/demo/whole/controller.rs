//! The controller's process, and people who use it with `jitctl`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::super::{
    interrupt,
    net::{CONTROLLER, Namespace},
};

/// Where the API listens.
const PORT: u16 = 8443;
/// How agents know it.
pub(super) const IDENTITY: &str = "spiffe://example.org/jit-controller";
/// Longest wait for its first answer.
const READY: Duration = Duration::from_secs(20);

/// A controller in its namespace.
pub(super) struct Controller<'a> {
    namespace: &'a Namespace,
    program: &'a Path,
    jitctl: &'a Path,
    scratch: PathBuf,
    process: Option<Child>,
}

impl<'a> Controller<'a> {
    /// Makes it: `jit-controller init`.
    pub(super) fn new(
        namespace: &'a Namespace,
        program: &'a Path,
        jitctl: &'a Path,
        scratch: &Path,
    ) -> Result<Self> {
        let made = Self { namespace, program, jitctl, scratch: scratch.to_owned(), process: None };
        let address = CONTROLLER.v4.to_string();
        let listen = format!("{address}:{PORT}");
        let mut command = made.command("init");
        command.args(["--name", &address, "--listen", &listen, "--identity", IDENTITY]);
        command.args(["--admin", "ana", "--subject", "ana@example.org", "--token-file"]);
        command.arg(made.token_file());
        namespace.ended_well(command)?;
        Ok(made)
    }

    /// Starts it, and waits for its first answer.
    pub(super) fn start(&mut self) -> Result<Duration> {
        let log = File::create(self.log()).context("creating the controller's log")?;
        let mut command = self.command("serve");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let child = self.namespace.inside(move || command.spawn())?;
        self.process = Some(child.context("starting the controller")?);
        loop {
            interrupt::check()?;
            let ended = self.process.as_mut().and_then(|child| child.try_wait().ok()?);
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            if let Some(status) = ended {
                bail!("the controller ended at once ({status}):\n{}", log());
            }
            let address = std::net::SocketAddr::from((CONTROLLER.v4, PORT));
            let open = self.namespace.inside(|| std::net::TcpStream::connect(address).is_ok())?;
            if open {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < READY, "it does not listen after {READY:?}:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The token that `init` made for ana.
    pub(super) fn first_token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.token_file()).context("the first token")?.trim().to_owned())
    }

    /// Somebody who logs in with a token, each with a configuration of his own.
    pub(super) fn person(&self, name: &'static str, token: &str) -> Result<Person<'_>> {
        let person = Person { controller: self, home: self.scratch.join(name) };
        let file = self.scratch.join(format!("{name}.token"));
        fs::write(&file, token).context("writing a token")?;
        let url = format!("https://{}:{PORT}", CONTROLLER.v4);
        let mut command = person.command(&["login", "--controller", &url, "--ca"]);
        command.arg(self.pki().join("ca.pem"));
        let token = File::open(&file).context("reading a token")?;
        command.stdin(token);
        let output = self.namespace.inside(move || command.output())?.context("starting jitctl")?;
        succeeded("login", &output)?;
        Ok(person)
    }

    /// `jit-controller verify`: the chain of its audit.
    pub(super) fn verify(&self) -> Result<()> {
        self.namespace.ended_well(self.command("verify")).map(drop)
    }

    /// A certificate for an agent at this address: `NAME.pem` and `NAME.key` in [`Controller::pki`].
    pub(super) fn issue(&self, name: &str, address: &str) -> Result<()> {
        let mut command = Command::new(self.jitctl);
        command.args(["pki", "issue", "--name", name, "--ip", address, "--dir"]).arg(self.pki());
        self.namespace.ended_well(command).map(drop)
    }

    /// The directory of its authority.
    pub(super) fn pki(&self) -> PathBuf {
        self.directory().join("pki")
    }

    /// The public key that its grants are signed with.
    pub(super) fn signer(&self) -> PathBuf {
        self.directory().join("signer.pub.pem")
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(self.program);
        command.arg(what).arg("--dir").arg(self.directory()).env_remove("NOTIFY_SOCKET");
        command
    }

    fn directory(&self) -> PathBuf {
        self.scratch.join("controller")
    }

    fn token_file(&self) -> PathBuf {
        self.scratch.join("first.token")
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("controller.log")
    }
}

impl Drop for Controller<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Somebody with a login.
pub(super) struct Person<'a> {
    controller: &'a Controller<'a>,
    home: PathBuf,
}

impl Person<'_> {
    /// What `jitctl` prints. Fails unless it ends well.
    pub(super) fn says(&self, arguments: &[&str]) -> Result<String> {
        interrupt::check()?;
        let output = self.controller.namespace.output(self.command(arguments))?;
        succeeded(&arguments.join(" "), &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Who the controller says that this is.
    pub(super) fn who(&self) -> Result<String> {
        let said = self.says(&["context", "show"])?;
        let you = said.lines().find_map(|line| line.strip_prefix("you"));
        Ok(you.map_or(said.clone(), |you| you.trim().to_owned()))
    }

    /// Fails unless the controller refuses with this word.
    pub(super) fn refused(&self, arguments: &[&str], word: &str) -> Result<String> {
        let output = self.controller.namespace.output(self.command(arguments))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(word), "it was not refused: {said}");
        Ok(format!("refused: {word}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.controller.jitctl);
        command.args(arguments).env("XDG_CONFIG_HOME", &self.home).env("NO_COLOR", "1");
        command
    }
}

fn succeeded(what: &str, output: &Output) -> Result<()> {
    ensure!(
        output.status.success(),
        "`jitctl {what}` failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
