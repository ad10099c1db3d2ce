//! Three servers, and who may connect to them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, Event};
use jit_controller::bus::{Bus, BusError, RawSettings, Settings};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::ports::free_port;

const NODE: &str = include_str!("../../../packaging/nats/nats-1.conf");
const COMMON: &str = include_str!("../../../packaging/nats/cluster.conf");
/// How long servers may take to agree on a leader.
const READY: Duration = Duration::from_secs(60);

/// Three servers. They end with this.
pub(crate) struct Cluster {
    directory: TempDir,
    ports: Vec<u16>,
    servers: Vec<Option<Child>>,
}

/// Who connects.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    Controller,
    Hub,
}

impl Who {
    fn seed_file(self) -> &'static str {
        match self {
            Self::Controller => "controller.nk",
            Self::Hub => "hub.nk",
        }
    }
}

impl Cluster {
    /// Starts them, and waits until they let the controller in.
    pub(crate) async fn start() -> (Self, Bus) {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        certificates(at);
        let mut common = COMMON.to_owned();
        for (who, placeholder) in [(Who::Controller, "CONTROLLER_NKEY"), (Who::Hub, "HUB_NKEY")] {
            let pair = KeyPair::new_user();
            write_secret(&at.join(who.seed_file()), &pair.seed().unwrap());
            assert!(common.contains(&format!("\"{placeholder}\"")));
            common = common.replace(&format!("\"{placeholder}\""), &pair.public_key());
        }
        fs::write(at.join("cluster.conf"), common).unwrap();
        let free: Vec<_> = (0..9).map(|_| free_port()).collect();
        let (clients, rest) = free.split_at(3);
        let (routes, monitors) = rest.split_at(3);
        for number in 0..3 {
            let mut text = NODE
                .replace(
                    "server_name: \"nats-1\"",
                    &format!("server_name: \"nats-{}\"", number + 1),
                )
                .replace("0.0.0.0:4222", &format!("127.0.0.1:{}", clients[number]))
                .replace("0.0.0.0:6222", &format!("127.0.0.1:{}", routes[number]))
                .replace("127.0.0.1:8222", &format!("127.0.0.1:{}", monitors[number]))
                .replace("/etc/nats/", &format!("{}/", at.display()))
                .replace("/var/lib/nats", &format!("{}/store-{number}", at.display()));
            for (other, port) in routes.iter().enumerate() {
                let name = format!("nats-{}.example.org:6222", other + 1);
                assert!(text.contains(&name));
                text = text.replace(&name, &format!("127.0.0.1:{port}"));
            }
            fs::write(at.join(format!("nats-{number}.conf")), text).unwrap();
        }
        let mut cluster = Self { ports: clients.to_vec(), servers: vec![], directory };
        for number in 0..3 {
            let child = cluster.spawn(number);
            cluster.servers.push(Some(child));
        }
        let begun = Instant::now();
        let bus = loop {
            match Bus::of_store(cluster.settings(Who::Controller)).await {
                Ok(bus) => break bus,
                Err(error) if begun.elapsed() > READY => {
                    panic!("{error}\n{}", cluster.logs());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        (cluster, bus)
    }

    fn spawn(&self, number: usize) -> Child {
        let at = self.directory.path();
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(at.join(format!("log-{number}")))
            .unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program());
        command.arg("--config").arg(at.join(format!("nats-{number}.conf")));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Kills a server.
    pub(crate) fn kill(&mut self, number: usize) {
        let mut child = self.servers[number].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts one that was killed.
    pub(crate) fn restart(&mut self, number: usize) {
        assert!(self.servers[number].is_none());
        self.servers[number] = Some(self.spawn(number));
    }

    /// A connection as a hub.
    pub(crate) async fn hub(&self) -> Bus {
        Bus::of_hub(self.settings(Who::Hub)).await.unwrap()
    }

    /// How somebody connects to all three.
    pub(crate) fn settings(&self, who: Who) -> Settings {
        self.settings_with(who, &[0, 1, 2])
    }

    /// How somebody connects to some of them.
    pub(crate) fn settings_with(&self, who: Who, numbers: &[usize]) -> Settings {
        let servers = numbers.iter().map(|number| self.url(*number)).collect();
        let raw = RawSettings {
            servers,
            nkey: who.seed_file().into(),
            ca: "ca.pem".into(),
            certificate: "client.pem".into(),
            key: "client.key".into(),
            stream: None,
            replicas: Some(3),
        };
        raw.check(self.directory.path()).unwrap()
    }

    pub(crate) fn url(&self, number: usize) -> String {
        format!("tls://127.0.0.1:{}", self.ports[number])
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A connection below the bus, and what the servers say on it.
    pub(crate) async fn raw(&self, who: Who) -> (Client, mpsc::UnboundedReceiver<String>) {
        let seed = fs::read_to_string(self.file(who.seed_file())).unwrap();
        let (said, says) = mpsc::unbounded_channel();
        let inbox = match who {
            Who::Controller => "_INBOX_api",
            Who::Hub => "_INBOX_hub",
        };
        let options = ConnectOptions::with_nkey(seed.trim().to_owned())
            .add_root_certificates(self.file("ca.pem"))
            .add_client_certificate(self.file("client.pem"), self.file("client.key"))
            .custom_inbox_prefix(inbox)
            .request_timeout(Some(Duration::from_secs(2)))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    drop(said.send(error.to_string()));
                }
                std::future::ready(())
            });
        (options.connect(self.url(0)).await.unwrap(), says)
    }

    fn logs(&self) -> String {
        let log = |number| fs::read_to_string(self.file(&format!("log-{number}")));
        (0..3).map(|number| log(number).unwrap_or_default()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// Whether an error is that of a stream that is without a leader now.
pub(crate) fn is_partial(error: &BusError) -> bool {
    matches!(error, BusError::Partial { .. })
}

/// The server that `cargo xtask setup` installs.
fn program() -> PathBuf {
    let installed = Path::new("target/nats-venv/bin/nats-server");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = above.map(|directory| directory.join(installed)).find(|file| file.exists());
    let given = std::env::var_os("JIT_NATS_SERVER").map(PathBuf::from).or(found);
    let program = given.unwrap_or_else(|| installed.to_owned());
    assert!(program.exists(), "no {}: `cargo xtask setup` installs it", program.display());
    program
}

/// Free ports, different ones.
fn write_secret(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A CA of clients and servers, one of routes, and a certificate each.
fn certificates(at: &Path) {
    let key = || rcgen::KeyPair::generate().unwrap();
    let issue = |ca: &str, leaves: &[&str]| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, ca);
        let ca_key = key();
        fs::write(at.join(ca), params.self_signed(&ca_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, ca_key);
        for leaf in leaves {
            let own = key();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let signed = params.signed_by(&own, &issuer).unwrap();
            fs::write(at.join(format!("{leaf}.pem")), signed.pem()).unwrap();
            write_secret(&at.join(format!("{leaf}.key")), &own.serialize_pem());
        }
    };
    issue("ca.pem", &["server", "client"]);
    issue("cluster-ca.pem", &["route"]);
}
