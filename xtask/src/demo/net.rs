//! Four hosts on one machine: network namespaces with a switch between them, and real TCP
//! connections from inside them. This file knows nothing of the gate.
//!
//! `ip netns exec` would hide bpffs. So threads enter a namespace and do the work there. Programs
//! that such a thread starts run in the namespace, too.

use std::{
    fmt,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shell;

/// The server.
pub(super) const HOST: Addresses = addresses(10, 0x10);
/// A second server, in the demo of the whole.
pub(super) const SECOND: Addresses = addresses(11, 0x11);
/// The host that gets a grant.
pub(super) const CLIENT: Addresses = addresses(7, 7);
/// The host that gets no grant.
pub(super) const STRANGER: Addresses = addresses(9, 9);
/// The host of the controller.
pub(super) const CONTROLLER: Addresses = addresses(2, 2);
/// All of them.
pub(super) const NETWORKS: [&str; 2] = ["203.0.113.0/24", "2001:db8::/64"];

const PREFIX: &str = "jit-demo-";
const NAMED: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

/// A host's two addresses.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Addresses {
    /// Both addresses, as sources of a grant.
    pub(super) fn sources(&self) -> [String; 2] {
        [self.v4.to_string(), self.v6.to_string()]
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.v4, self.v6)
    }
}

const fn addresses(v4: u8, v6: u16) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(203, 0, 113, v4),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, v6),
    }
}

/// A network namespace of this demo.
pub(super) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A namespace for this role in the demo.
    pub(super) fn new(role: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let path = Path::new(NAMED).join(&name);
        let opened = File::open(&path).with_context(|| format!("opening {}", path.display()));
        let file = opened.inspect_err(|_| drop(ip(&["netns", "del", &name])))?;
        let namespace = Self { name, file };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs this closure inside the namespace.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), network)
                    .with_context(|| format!("entering the namespace {}", self.name))?;
                Ok(work())
            });
            worker.join().map_err(|_| anyhow!("the work in {} panicked", self.name))?
        })
    }

    /// Runs a program inside the namespace until it ends.
    pub(super) fn output(&self, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null());
        let shown = shell::show(&command);
        self.inside(move || command.output())?.with_context(|| format!("cannot start `{shown}`"))
    }

    /// The same. Fails unless it ends well.
    pub(super) fn ended_well(&self, command: Command) -> Result<Output> {
        let shown = shell::show(&command);
        let output = self.output(command)?;
        ensure!(
            output.status.success(),
            "`{shown}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    fn address(&self, interface: &str, Addresses { v4, v6 }: Addresses) -> Result<()> {
        self.ip(&["address", "add", &format!("{v4}/24"), "dev", interface])?;
        self.ip(&["address", "add", &format!("{v6}/64"), "dev", interface, "nodad"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("not removed: namespace {}: {error:#}", self.name);
        }
    }
}

/// The hosts, each connected by its interface `eth0` to one switch.
pub(super) struct Network {
    pub(super) host: Namespace,
    pub(super) client: Namespace,
    pub(super) stranger: Namespace,
    /// The controller's namespace, which also has the switch.
    pub(super) controller: Namespace,
}

impl Network {
    /// Makes the namespaces and connects them.
    pub(super) fn new() -> Result<Self> {
        let network = Self {
            host: Namespace::new("host")?,
            client: Namespace::new("client")?,
            stranger: Namespace::new("stranger")?,
            controller: Namespace::new("controller")?,
        };
        let members = [
            ("host", &network.host, HOST),
            ("client", &network.client, CLIENT),
            ("stranger", &network.stranger, STRANGER),
        ];
        join(&network.controller, &members)?;
        Ok(network)
    }
}

/// Makes a switch in the controller's namespace, and connects hosts to it by their `eth0`.
pub(super) fn join(
    controller: &Namespace,
    members: &[(&str, &Namespace, Addresses)],
) -> Result<()> {
    controller.ip(&["link", "add", "switch", "type", "bridge", "mcast_snooping", "0"])?;
    for (port, namespace, addresses) in members {
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &namespace.name];
        controller.ip(&[&["link", "add", port][..], &peer].concat())?;
        controller.ip(&["link", "set", port, "master", "switch", "up"])?;
        namespace.address("eth0", *addresses)?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
    }
    controller.address("switch", CONTROLLER)?;
    controller.ip(&["link", "set", "switch", "up"])
}

/// Result of an attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A connection, and the first line that the server said.
    Open(String),
    /// No answer came.
    Silent,
    /// Something else, in words.
    Other(String),
}

/// Connects from inside a namespace, and waits this long for an answer.
pub(super) fn connect(from: &Namespace, to: SocketAddr, patience: Duration) -> Result<Seen> {
    from.inside(|| connect_here(to, patience))
}

/// Connects from the calling thread's namespace.
pub(super) fn connect_here(to: SocketAddr, patience: Duration) -> Seen {
    match TcpStream::connect_timeout(&to, patience) {
        Ok(connection) => Seen::Open(banner(connection)),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            Seen::Silent
        }
        Err(error) => Seen::Other(error.to_string()),
    }
}

/// Both addresses of the server's port.
pub(super) fn doors(port: u16) -> [SocketAddr; 2] {
    doors_of(HOST, port)
}

/// Both addresses of a host's port.
pub(super) fn doors_of(host: Addresses, port: u16) -> [SocketAddr; 2] {
    [IpAddr::V4(host.v4), IpAddr::V6(host.v6)].map(|address| SocketAddr::new(address, port))
}

/// The directory of the pins of this process's demo.
pub(super) fn pin_directory() -> String {
    format!("{BPFFS}/{PREFIX}{}", std::process::id())
}

/// Removes namespaces and pins of earlier demos that were killed before they could clean up.
pub(super) fn sweep() {
    let over = |name: &str| {
        name.strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for name in entries(NAMED).filter(|name| over(name)) {
        let members = shell::answer(&mut shell::program("ip", ["netns", "pids", &name]));
        for pid in members.unwrap_or_default().lines() {
            drop(shell::quiet(&mut shell::program("kill", ["-KILL", pid])));
        }
        drop(ip(&["netns", "del", &name]));
    }
    for name in entries(BPFFS).filter(|name| over(name)) {
        drop(fs::remove_dir_all(Path::new(BPFFS).join(name)));
    }
}

fn entries(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn banner(mut connection: TcpStream) -> String {
    drop(connection.set_read_timeout(Some(Duration::from_secs(1))));
    let mut bytes = [0; 64];
    match connection.read(&mut bytes) {
        Ok(count) => {
            let said = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            said.lines().next().unwrap_or_default().trim().to_owned()
        }
        Err(error) => format!("(connected; {error})"),
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    shell::quiet(&mut shell::program("ip", arguments)).map(drop)
}
