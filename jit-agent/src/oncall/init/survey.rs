//! What `init` sees of this host: its name, who listens for administration, who is connected, its
//! interfaces and addresses. Only this file of `init` looks at the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use jit_common::{Family, PortKey, Protocol};
use jit_proto::{PortRange, SourcePrefix};
use nix::unistd::User;
use rustix::process::getuid;

use crate::{
    kernel::{
        datapath::rtnetlink,
        netlink::sock_diag::{DiagError, SockDiag, Wanted},
    },
    oncall::doctor::ways::{self, Administered},
    system::{addresses::addresses, metadata::Found, processes},
};

/// Begins of the names of interfaces that container engines and hypervisors make.
const CONTAINERS: [&str; 10] =
    ["br-", "cali", "cni", "docker", "flannel", "lxc", "lxdbr", "podman", "veth", "virbr"];
/// The most connected sources that are named for all ports together.
const MOST_PEERS: usize = 32;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// The host's name; `None`: it has none of its own.
    pub(super) name: Option<String>,
    /// Listeners by which it is administered.
    pub(super) listeners: Vec<Administered>,
    /// The interfaces but loopback.
    pub(super) interfaces: Vec<String>,
    /// Addresses by which others may reach it.
    pub(super) addresses: Vec<IpAddr>,
    /// What a metadata service says that this host is.
    pub(super) found: Option<Found>,
    /// Who runs this command, for the owner of exemptions.
    pub(super) caller: String,
    /// What could not be seen, and why.
    pub(super) unseen: Vec<String>,
}

/// Somebody who is connected to a port now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) source: String,
    pub(super) port: PortKey,
    /// This command was typed in the session.
    pub(super) own: bool,
}

impl Survey {
    pub(super) fn of_this_host() -> Self {
        let mut survey = Self { caller: caller(), ..Self::default() };
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        survey.name = Some(name.trim_end().to_owned()).filter(|name| is_own_name(name));
        match ways::for_administration() {
            Ok(listeners) => survey.listeners = listeners,
            Err(error) => survey.unseen.push(format!("who listens here is not known: {error}")),
        }
        match rtnetlink::devices() {
            Ok(devices) => {
                let devices = devices.into_iter().filter(|device| !device.loopback);
                survey.interfaces = devices.map(|device| device.name).collect();
            }
            Err(error) => survey.unseen.push(format!("the interfaces are not known: {error}")),
        }
        match addresses() {
            Ok(all) => {
                let all = all.into_iter().filter(|one| !is_of_containers(&one.interface));
                let all: BTreeSet<_> =
                    all.map(|one| one.ip).filter(|ip| is_reachable(*ip)).collect();
                survey.addresses = all.into_iter().collect();
            }
            Err(error) => survey.unseen.push(format!("the addresses are not known: {error}")),
        }
        survey
    }

    /// The ports to protect where nobody names one.
    pub(super) fn ports(&self) -> Vec<PortRange> {
        let range = |port: PortKey| PortRange {
            protocol: port.protocol,
            first: port.port,
            last: port.port,
        };
        let ports: Vec<_> = self.listeners.iter().map(|listener| range(listener.port)).collect();
        match ports.is_empty() {
            true => vec![range(PortKey { protocol: Protocol::Tcp, port: 22 })],
            false => ports,
        }
    }

    /// The interfaces of containers and virtual machines.
    pub(super) fn of_containers(&self) -> Vec<&str> {
        self.interfaces.iter().map(String::as_str).filter(|name| is_of_containers(name)).collect()
    }
}

/// Who is connected to these TCP ports now, each source once for a port; those of the session of this
/// command first. Handshakes that are not finished do not count: anybody can begin one.
pub(super) fn peers(ports: &[PortRange]) -> Result<Vec<Peer>, DiagError> {
    let session = processes::sockets_of_session(Path::new("/proc"), std::process::id());
    let mut diag = SockDiag::open()?;
    let mut peers: BTreeMap<(String, PortKey), bool> = BTreeMap::new();
    for PortRange { protocol, first, last } in ports.iter().copied() {
        if protocol != Protocol::Tcp {
            continue;
        }
        diag.list(first..=last, Wanted::Sessions, |socket| {
            if socket.half_open || socket.peer.is_loopback() {
                return;
            }
            let bits = if socket.peer.family == Family::V4 { 32 } else { 128 };
            let Ok(source) = SourcePrefix::new(socket.peer, bits) else { return };
            let port = PortKey { protocol, port: socket.port };
            let own = socket.inode != 0 && session.contains(&socket.inode);
            if own || peers.len() < MOST_PEERS {
                *peers.entry((source.to_string(), port)).or_default() |= own;
            }
        })?;
    }
    let peers = peers.into_iter().map(|((source, port), own)| Peer { source, port, own });
    let mut peers: Vec<_> = peers.collect();
    peers.sort_by_key(|peer| !peer.own);
    Ok(peers)
}

/// The person who runs this, also through sudo.
fn caller() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.trim().is_empty());
    let user = || User::from_uid(getuid().as_raw().into()).ok().flatten().map(|user| user.name);
    sudo.or_else(user).unwrap_or_else(|| format!("uid {}", getuid().as_raw()))
}

/// Names that many hosts have are no id.
fn is_own_name(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    !matches!(first, "" | "(none)" | "localhost") && name != "auto"
}

fn is_of_containers(interface: &str) -> bool {
    CONTAINERS.iter().any(|begin| interface.starts_with(begin))
}

/// Neither loopback nor link-local (RFC 3927, RFC 4291).
fn is_reachable(ip: IpAddr) -> bool {
    !ip.is_loopback()
        && match ip {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_unspecified(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_many_hosts_is_no_id() {
        for name in ["", "localhost", "localhost.localdomain", "(none)", "auto"] {
            assert!(!is_own_name(name), "{name}");
        }
        assert!(is_own_name("web-1") && is_own_name("localhosts"));
    }

    #[test]
    fn without_a_listener_the_port_of_ssh_is_protected() {
        let ports = Survey::default().ports();
        assert_eq!(ports, ["22/tcp".parse::<PortRange>().unwrap()]);
        let listener = Administered {
            port: PortKey { protocol: Protocol::Tcp, port: 3389 },
            what: "RDP",
            process: None,
        };
        let survey = Survey { listeners: vec![listener], ..Survey::default() };
        assert_eq!(survey.ports(), ["3389/tcp".parse::<PortRange>().unwrap()]);
    }

    #[test]
    fn addresses_that_nobody_else_reaches_are_left_out() {
        for ip in ["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "0.0.0.0"] {
            assert!(!is_reachable(ip.parse().unwrap()), "{ip}");
        }
        assert!(is_reachable("192.0.2.1".parse().unwrap()));
        assert!(is_reachable("2001:db8::1".parse().unwrap()));
        assert!(
            is_of_containers("docker0") && is_of_containers("veth12") && !is_of_containers("eth0")
        );
    }
}
