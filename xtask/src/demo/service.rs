//! The service that the gate protects in the demo: sshd if it is installed, else a server that
//! greets like sshd. Never touches the machine's own sshd.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    interrupt,
    net::{self, Addresses, Namespace, Seen},
};
use crate::shell;

/// The service's port.
pub(super) const PORT: u16 = 22;
/// A directory that sshd needs and that the machine may lack.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A running service.
pub(super) struct Service {
    pub(super) name: String,
    sshd: Option<Child>,
    made_directory: bool,
}

impl Service {
    /// Starts the service in the host's namespace and waits until it answers.
    pub(super) fn start(host: &Namespace, addresses: Addresses, scratch: &Path) -> Result<Self> {
        let doors = net::doors_of(addresses, PORT);
        let service = match shell::find("sshd") {
            Some(sshd) => match Self::sshd(host, &sshd, doors, scratch) {
                Ok(service) => service,
                Err(error) => {
                    println!("  {} cannot be used here: {error:#}", sshd.display());
                    Self::greeter(host, doors)?
                }
            },
            None => Self::greeter(host, doors)?,
        };
        let [v4, _] = doors;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !matches!(net::connect(host, v4, Duration::from_secs(1))?, Seen::Open(_)) {
            interrupt::sleep_until(Instant::now() + Duration::from_millis(50))?;
            if Instant::now() > deadline {
                bail!("{} does not answer on {v4}", service.name);
            }
        }
        Ok(service)
    }

    fn sshd(
        host: &Namespace,
        sshd: &Path,
        [v4, v6]: [SocketAddr; 2],
        scratch: &Path,
    ) -> Result<Self> {
        let key = scratch.join("ssh_host_ed25519_key");
        let mut keygen = shell::program("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f"]);
        shell::quiet(keygen.arg(&key))?;
        let common = format!(
            "ListenAddress {v4}\nListenAddress {v6}\nHostKey {}\nPidFile none\nUsePAM no\n\
             MaxStartups 1000\nPasswordAuthentication no\n",
            key.display()
        );
        let made_directory = fs::create_dir(PRIVILEGE_SEPARATION).is_ok();
        // Newer versions of sshd refuse a source that makes many connections without a login.
        let configuration = ["PerSourcePenalties no\n", ""]
            .into_iter()
            .map(|penalties| (common.clone() + penalties, scratch.join("sshd_config")))
            .find(|(text, path)| fs::write(path, text).is_ok() && accepts(sshd, path));
        let started =
            configuration.context("it refuses its configuration").and_then(|(_, path)| {
                let mut command = Command::new(sshd);
                command.args(["-D", "-e", "-f"]).arg(path);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                host.inside(move || command.spawn())?.context("starting sshd")
            });
        match started {
            Ok(child) => Ok(Self { name: "sshd".to_owned(), sshd: Some(child), made_directory }),
            Err(error) => {
                remove_directory(made_directory);
                Err(error)
            }
        }
    }

    fn greeter(host: &Namespace, doors: [SocketAddr; 2]) -> Result<Self> {
        for door in doors {
            let listener = host
                .inside(|| TcpListener::bind(door))?
                .with_context(|| format!("listening on {door}"))?;
            thread::spawn(move || {
                for mut connection in listener.incoming().flatten() {
                    drop(connection.write_all(b"SSH-2.0-jit-agent-demo\r\n"));
                }
            });
        }
        Ok(Self { name: "a small TCP server".to_owned(), sshd: None, made_directory: false })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.sshd {
            drop(child.kill());
            drop(child.wait());
        }
        remove_directory(self.made_directory);
    }
}

fn accepts(sshd: &Path, configuration: &PathBuf) -> bool {
    shell::answer(shell::program(sshd, ["-t", "-f"]).arg(configuration)).is_some()
}

fn remove_directory(made: bool) {
    if made {
        drop(fs::remove_dir(PRIVILEGE_SEPARATION));
    }
}

/// The name of an address's family in the demo's lines.
pub(super) fn family(door: SocketAddr) -> &'static str {
    if door.is_ipv4() { "IPv4" } else { "IPv6" }
}
